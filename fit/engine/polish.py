"""The last part of a fit: descent on the shape parameters alone, within their bounds, for a batch of fits at once.

At every step the coefficients are at their best for the shapes (variable projection), so that the objective has two or three
dimensions and the long curved valleys of (b, c, E_max) do not exist. The first steps are Levenberg-Marquardt with Kaufman's (1975)
derivative; fits that these leave unfinished go on with the true second derivative of the projected objective, by central differences
of its exact gradient, which converges quadratically wherever the optimum is regular.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.engine.problem import ROUNDING, Problem
from fit.engine.project import Batch, back_substituted, project_batch, solved
from fit.engine.rows import Betas, PerFit, Rows, Thetas

TOLERANCE = 1e-12
"""Relative gain of the objective that a further step predicts, below which a fit counts as converged: its parameters are then
within 1e-6 sqrt(n - p) of their standard errors of the optimum."""

_JUDGED = 1e-9
"""Below this predicted relative gain a step is taken as it is: the objective's own rounding could no longer judge it."""

_CELLS = 20_000
"""Residuals differentiated at once: few enough that their derivatives stay in the processor's cache."""

_DAMPINGS = np.array([0.0, 1.0, 32.0, 1024.0])
"""Multiples of its damping that a step with the true second derivative tries at once: far from an optimum the undamped one overshoots."""

_DIFFERENCE = 1e-5
"""Step of the differences, as a part of each shape's range (on its coordinate): right to about 1e-8."""


@dataclass
class Solutions(Rows):
    """Optima of a batch of fits, with the objective and how much a further step would still gain (relative)."""

    theta: Thetas
    beta: Betas
    objective: PerFit
    remaining: PerFit

    @property
    def converged(self) -> Bool[np.ndarray, "batch"]:
        """Which fits ended at an optimum, inside or at a bound."""
        return np.isfinite(self.objective) & (self.remaining <= TOLERANCE)


@dataclass
class _State(Rows):
    """Where each fit of the batch stands: coordinates, coefficients, objective, reduced gradient and second derivative.

    `follow` says how the coefficients follow a step of the shapes, to first order; `inner` what their own next step would gain (relative).
    """

    q: Thetas
    beta: Betas
    objective: PerFit
    gradient: Thetas
    hessian: Float[np.ndarray, "batch shapes shapes"]
    follow: Float[np.ndarray, "batch features shapes"]
    inner: PerFit


def _evaluate(problem: Problem, q: Thetas, start: Betas | None, exact: bool) -> _State:
    """The state of each fit at these shapes, coefficients at their best, a cacheful of rows after the other."""
    size = max(1, _CELLS // len(problem.measured))
    if len(q) > size:
        parts = [slice(first, first + size) for first in range(0, len(q), size)]
        return _State.joined([_evaluate(problem.take(part), q[part], None if start is None else start[part], exact) for part in parts])
    theta = problem.unclipped(q)
    batch = Batch.of(problem, theta)
    at = project_batch(batch, start, 60 if exact else 2, exact)
    gradient, hessian = batch.equations(at, exact, problem.shape_derivatives(theta, at.beta, at.eta, at.slope))
    count = at.beta.shape[1]
    inner, cross = hessian[:, :count, :count], hessian[:, :count, count:]
    inward = solved(inner, np.concatenate([gradient[:, :count, None], cross], axis=-1))
    gain = batch.gain(at, gradient[:, :count], inward[..., 0])
    gradient = gradient[:, count:] - np.einsum("bfs,bf->bs", cross, inward[..., 0])
    hessian = hessian[:, count:, count:] - np.matmul(cross.swapaxes(-1, -2), inward[..., 1:])
    follow = np.stack([-back_substituted(at.triangle, inward[..., 1 + k]) for k in range(q.shape[1])], axis=-1) if q.shape[1] else cross
    return _State(q, at.beta, at.objective, gradient, hessian, follow, gain)


def _true_hessian(problem: Problem, state: _State, reach: Float[np.ndarray, "shapes"]) -> Float[np.ndarray, "batch shapes shapes"]:
    """Central differences of the projected objective's exact gradient."""
    batch, count = state.q.shape
    moves = np.array([sign * _DIFFERENCE * reach[k] * (np.arange(count) == k) for k in range(count) for sign in (1, -1)])
    q = (state.q[None] + moves[:, None]).reshape(-1, count)
    start = (state.beta[None] + np.einsum("bfs,ms->mbf", state.follow, moves)).reshape(-1, state.beta.shape[1])
    gradient = _evaluate(problem.tiled(len(moves)), q, start, exact=True).gradient.reshape(count, 2, batch, count)
    width = np.where(problem.free_shapes, 2 * _DIFFERENCE * reach, np.inf)
    out = np.einsum("kbs,k->bks", gradient[:, 0] - gradient[:, 1], 1 / width)
    return (out + out.swapaxes(-1, -2)) / 2


def _steps(
    state: _State,
    hessian: Float[np.ndarray, "batch shapes shapes"],
    damping: Float[np.ndarray, "tried batch"],
    moving: Bool[np.ndarray, "shapes"],
    limits: Float[np.ndarray, "2 shapes"],
) -> tuple[Float[np.ndarray, "tried batch shapes"], PerFit]:
    """The damped steps of each fit, bounds respected, and the relative gain that the undamped model predicts.

    A direction in which the model does not rise is followed as if it rose as steeply as it falls.
    """
    low, high = limits
    leaving = np.where(state.gradient > 0, state.q <= low, (state.q >= high) & (state.gradient < 0))
    frozen = np.asarray(leaving | ~moving, dtype=bool)
    diagonals = np.maximum(np.abs(np.einsum("bii->bi", state.hessian)), np.abs(np.einsum("bii->bi", hessian)))
    scale = np.sqrt(np.maximum(diagonals, 1e-300))
    scale = np.where(frozen, 1.0, scale)
    gradient = np.where(frozen, 0.0, state.gradient / scale)
    free = ~frozen
    scaled = np.where(free[:, :, None] & free[:, None, :], hessian / (scale[:, :, None] * scale[:, None, :]), np.eye(scale.shape[1]))
    finite = np.asarray(np.isfinite(scaled).all(axis=(1, 2)))
    values, vectors = np.linalg.eigh(np.where(finite[:, None, None], scaled, np.eye(scale.shape[1])))
    along = np.einsum("bij,bi->bj", vectors, gradient)
    rise = np.maximum(np.abs(values), 1e-14)
    gain = np.sum(along**2 / rise, axis=-1) / np.maximum(state.objective, ROUNDING)
    damped = np.einsum("bij,tbj,bkj->tbik", vectors, rise + damping[..., None], vectors)
    return bounded_steps(
        damped, gradient, np.broadcast_to(frozen, damping.shape + frozen.shape[1:]), low - state.q, high - state.q, scale
    ), gain


def bounded_steps(
    matrix: Float[np.ndarray, "tried batch shapes shapes"],
    gradient: Thetas,
    frozen: Bool[np.ndarray, "tried batch shapes"],
    low: Thetas,
    high: Thetas,
    scale: Thetas,
) -> Float[np.ndarray, "tried batch shapes"]:
    """The least of each quadratic model, in scaled coordinates, within the bounds: what would leave them stays there, and the others
    follow; cutting a step off instead would leave the valley that it goes along."""
    pinned, step = frozen.copy(), np.zeros(matrix.shape[:-1])
    identity = np.eye(matrix.shape[-1])
    for _ in range(matrix.shape[-1]):
        free = ~pinned
        right = np.where(pinned, step, -gradient - np.einsum("tbij,tbj->tbi", matrix, np.where(pinned, step, 0.0)))
        both = free[..., :, None] & free[..., None, :]
        blocks = np.where(both, matrix, identity)
        try:
            step = np.linalg.solve(blocks, right[..., None])[..., 0]
        except np.linalg.LinAlgError:
            # A model that is flat in a direction, to rounding.
            step = solved(blocks.reshape(-1, *identity.shape), right.reshape(-1, len(identity), 1)).reshape(right.shape)
        kept = np.clip(step, low * scale, high * scale)
        leaves = free & (kept != step)
        if not leaves.any():
            break
        pinned, step = pinned | leaves, np.where(leaves, kept, step)
    return np.clip(step, low * scale, high * scale) / scale


def _best_move(
    problem: Problem, now: _State, moves: Float[np.ndarray, "tried batch shapes"], limits: Float[np.ndarray, "2 shapes"], exact: bool
) -> tuple[_State, Int[np.ndarray, "batch"]]:
    """Where each fit's best move leads, all of them evaluated at once, and which one it is."""
    tried, batch, _ = moves.shape
    q = np.clip(now.q + moves, *limits)
    start = now.beta + np.einsum("bfs,tbs->tbf", now.follow, q - now.q)
    moved = _evaluate(problem.tiled(tried), q.reshape(tried * batch, -1), start.reshape(tried * batch, -1), exact)
    best = np.argmin(moved.objective.reshape(tried, batch), axis=0)
    return (moved, best) if tried == 1 else (moved.take(best * batch + np.arange(batch)), best)


def polish(
    problem: Problem, theta: Thetas, beta: Betas | None = None, *, tolerance: float = TOLERANCE, max_steps: int = 30, newton: bool = False
) -> Solutions:
    """Optima near the given starts, one fit a row, each step with the coefficients at their best.

    A fit ends when a step would lower the objective by less than `tolerance` of itself. `newton`: with the true second derivative, from
    the first step on. One that has not ended after `max_steps` shows it in `remaining`.
    """
    limits = problem.to_coordinates(problem.limits.T)
    state = _evaluate(problem, np.clip(problem.to_coordinates(theta), *limits), beta, newton)
    remaining = np.where(problem.free_shapes.any(), np.inf, state.inner)
    damping = np.full(len(theta), 1e-4)
    active = np.isfinite(state.objective) & problem.free_shapes.any()
    remaining[~np.isfinite(state.objective)] = np.inf
    tried = _DAMPINGS if newton else np.ones(1)
    for _ in range(max_steps):
        if not active.any():
            break
        index = np.flatnonzero(active)
        now, own = state.take(index), problem.take(index)
        hessian = _true_hessian(own, now, limits[1] - limits[0]) if newton else now.hessian
        moves, gain = _steps(now, hessian, damping[index] * tried[:, None], problem.free_shapes, limits)
        gain = gain + now.inner
        moved, best = _best_move(own, now, moves, limits, newton)
        small = gain < _JUDGED
        accepted = (moved.objective < now.objective) | (small & (moved.objective <= now.objective * (1 + 1e-12)))
        remaining[index] = gain
        state.put(index[accepted], moved.take(accepted))
        better = np.where(small, 0.0, np.maximum(damping[index] * np.maximum(tried[best], tried[1] / 8 if newton else 1.0) * 0.04, 1e-12))
        damping[index] = np.where(accepted, better, np.maximum(damping[index], 1e-8) * 8 * tried[-1])
        stuck = ~accepted & ((gain < 1e-13) | (damping[index] > 1e12))
        active[index[(accepted & (gain < tolerance)) | stuck]] = False
    return Solutions(problem.from_coordinates(state.q), state.beta, state.objective, remaining)
