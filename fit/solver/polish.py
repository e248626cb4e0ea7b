"""Levenberg-Marquardt on coefficients and shape parameters together, within the bounds, for a batch of fits at once.

From the projection's start it converges in a few steps to where float64 ends: the step itself says how far the optimum still is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.solver.problem import Problem

_NEWTON = 1e-9
"""Below this predicted relative gain a step is taken as it is: the objective's own rounding could no longer judge it."""


_CELLS = 20_000
"""Residuals differentiated at once: few enough that their derivatives stay in the processor's cache."""


@dataclass(frozen=True)
class Solutions:
    """Optima of a batch of fits, with the loss's objective and how much a further step would still gain (relative)."""

    theta: Float[np.ndarray, "batch shapes"]
    beta: Float[np.ndarray, "batch features"]
    objective: Float[np.ndarray, "batch"]
    remaining: Float[np.ndarray, "batch"]

    def at(self, index: Int[np.ndarray, "picked"]) -> "Solutions":
        """The fits picked by `index`."""
        return Solutions(*(value[index] for value in vars(self).values()))

    def replaced(self, where: Bool[np.ndarray, "batch"], others: "Solutions") -> "Solutions":
        """These fits with those at `where` replaced by `others`, in their order."""
        values = [value.copy() for value in vars(self).values()]
        for value, other in zip(values, vars(others).values(), strict=True):
            value[where] = other
        return Solutions(*values)


@dataclass
class _State:
    """Where each fit of the batch stands: coordinates, coefficients, objective, damping, residuals and derivatives."""

    q: Float[np.ndarray, "batch shapes"]
    beta: Float[np.ndarray, "batch features"]
    objective: Float[np.ndarray, "batch"]
    damping: Float[np.ndarray, "batch"]
    remaining: Float[np.ndarray, "batch"]
    gradient: Float[np.ndarray, "batch unknowns"]
    hessian: Float[np.ndarray, "batch unknowns unknowns"]

    def take(self, index: Bool[np.ndarray, "batch"]) -> "_State":
        """The fits at `index`."""
        return _State(**{name: value[index] for name, value in vars(self).items()})

    def put(self, index: Bool[np.ndarray, "batch"], other: "_State", where: Bool[np.ndarray, "some"]) -> None:
        """Write those of `other` picked by `where` back to the fits at `index` that it was taken from."""
        rows = np.flatnonzero(index)[where]
        for name, value in vars(self).items():
            value[rows] = getattr(other, name)[where]


def _evaluate(
    problem: Problem,
    q: Float[np.ndarray, "batch shapes"],
    beta: Float[np.ndarray, "batch features"],
    damping: Float[np.ndarray, "batch"],
    weights: Float[np.ndarray, "#batch runs"] | None,
    observed: Float[np.ndarray, "#batch runs"],
) -> _State:
    """The state of each fit at these coordinates and coefficients, a cacheful of rows after the other."""
    unknowns = q.shape[-1] + beta.shape[-1]
    objective = np.empty(len(q))
    gradient, hessian = np.empty((len(q), unknowns)), np.empty((len(q), unknowns, unknowns))
    size = max(1, _CELLS // len(problem.observed))
    for start in range(0, len(q), size):
        rows = slice(start, start + size)
        own_weights = weights if weights is None or len(weights) == 1 else weights[rows]
        own_observed = observed if len(observed) == 1 else observed[rows]
        r, jacobian = problem.linearise(problem.from_coordinates(q[rows]), beta[rows], own_observed)
        objective[rows] = problem.objective(r, own_weights)
        gradient[rows], hessian[rows] = _normal_equations(problem, r, jacobian, own_weights)
    return _State(q, beta, objective, damping, np.full(len(q), np.inf), gradient, hessian)


def _normal_equations(
    problem: Problem,
    r: Float[np.ndarray, "batch runs"],
    jacobian: Float[np.ndarray, "batch runs unknowns"],
    weights: Float[np.ndarray, "#batch runs"] | None,
) -> tuple[Float[np.ndarray, "batch unknowns"], Float[np.ndarray, "batch unknowns unknowns"]]:
    """Half the objective's gradient, and the matrix of a Gauss-Newton step. Nought where a residual is not finite."""
    share = np.full((1, r.shape[-1]), 1 / r.shape[-1]) if weights is None else weights / weights.sum(axis=-1, keepdims=True)
    transposed = np.swapaxes(jacobian, -1, -2)
    with np.errstate(invalid="ignore", over="ignore"):
        gradient = np.matmul(transposed, (share * problem.loss.psi(r))[..., None])[..., 0]
        hessian = np.matmul(transposed * (share * problem.loss.curvature(r))[:, None], jacobian)
    lost = ~np.isfinite(hessian).all(axis=(1, 2)) | ~np.isfinite(gradient).all(axis=1)
    gradient[lost], hessian[lost] = 0.0, 0.0
    return gradient, hessian


def _steps(
    state: _State, low: Float[np.ndarray, "shapes"], high: Float[np.ndarray, "shapes"], features: int
) -> tuple[Float[np.ndarray, "batch unknowns"], Float[np.ndarray, "batch"]]:
    """The damped step of each fit, bounds respected, and the relative gain that the undamped model predicts."""
    gradient, hessian = state.gradient, state.hessian
    scale = np.sqrt(np.maximum(np.einsum("bii->bi", hessian), 1e-300))
    frozen = np.zeros(gradient.shape, dtype=bool)
    along_shapes = gradient[:, features:]
    frozen[:, features:] = ((state.q <= low) & (along_shapes > 0)) | ((state.q >= high) & (along_shapes < 0))
    g = np.where(frozen, 0.0, gradient / scale)
    free = ~frozen
    h = np.where(free[:, :, None] & free[:, None, :], hessian / (scale[:, :, None] * scale[:, None, :]), 0.0)
    identity = np.eye(g.shape[-1])
    # Rounding sets the least damping that keeps a singular direction from exploding; it costs a regular one nothing.
    damped = h + np.where(free, np.maximum(state.damping, 1e-15)[:, None], 1.0)[:, :, None] * identity
    step = -np.linalg.solve(damped, g[..., None])[..., 0]
    gain = -np.einsum("bi,bi->b", g, step) / np.maximum(state.objective, 1e-300)
    return np.where(frozen, 0.0, step / scale), gain


def polish(
    problem: Problem,
    theta: Float[np.ndarray, "batch shapes"],
    beta: Float[np.ndarray, "batch features"],
    weights: Float[np.ndarray, "#batch runs"] | None = None,
    observed: Float[np.ndarray, "#batch runs"] | None = None,
    *,
    tolerance: float = 1e-24,
    max_steps: int = 300,
) -> Solutions:
    """Optima near the given starts, one fit a row.

    `weights` are the runs' multiplicities in a resample, `observed` log10 losses in place of the problem's. A fit ends when
    a step would lower the objective by less than `tolerance` of itself; 1e-24 is where float64 ends, since the gain is
    quadratic in the distance. One that has not ended after `max_steps` shows it in `remaining`.
    """
    observed = problem.observed[None] if observed is None else observed
    limits = problem.to_coordinates(problem.limits.T)
    low, high = limits[0], limits[1]
    state = _evaluate(problem, problem.to_coordinates(theta), beta.copy(), np.full(len(theta), 1e-4), weights, observed)
    active = np.isfinite(state.objective)
    for _ in range(max_steps):
        if not active.any():
            break
        now = state.take(active)
        step, gain = _steps(now, low, high, beta.shape[-1])
        moved = _evaluate(
            problem,
            np.clip(now.q + step[:, beta.shape[-1] :], low, high),
            now.beta + step[:, : beta.shape[-1]],
            now.damping,
            weights if weights is None or len(weights) == 1 else weights[active],
            observed if len(observed) == 1 else observed[active],
        )
        accepted = (moved.objective < now.objective) | ((gain < _NEWTON) & (moved.objective <= now.objective * (1 + 1e-12)))
        moved.damping = np.where(gain < _NEWTON, 0.0, now.damping * 0.04)
        now.damping = np.maximum(now.damping, 1e-8) * 8
        moved.remaining = now.remaining = gain
        stuck = ~accepted & ((gain < 1e-13) | (now.damping > 1e12))
        state.put(active, moved, accepted)
        state.put(active, now, ~accepted)
        active[np.flatnonzero(active)[(accepted & (gain < tolerance)) | stuck]] = False
    return Solutions(problem.from_coordinates(state.q), state.beta, state.objective, state.remaining)
