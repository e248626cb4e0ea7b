"""The linear half of a fit: the best coefficients at given shape parameters (variable projection, Golub & Pereyra 1973).

For a squared error of the link's scale this is one least-squares solution. Elsewhere (a floor under log loss, Huber) it is a convex or
nearly convex problem in a handful of coefficients: Newton steps in an orthonormal basis, with the exact curvature where that descends
and one that always descends where it does not. For Huber on a linear law exact Newton steps end after finitely many. Bounds on
coefficients are met exactly: those that hold are exchanged until none is violated and the objective falls away from none.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fit.engine.problem import ROUNDING, Problem
from fit.engine.rows import Betas, PerFit, PerRun, Picked, Rows, Thetas

_DEAD = 1e-13
"""A column that loses all but this part of its length to those before it is a combination of them."""

_ALIGNED = 1e-7
"""Cosine between a column and the residuals beyond which its coefficient leaves its bound: what it would gain is the square of it."""

_BLENDS = (1e-3, 3e-2, 1.0)
"""Shares of the majorising curvature that are added to an exact one that fails alone, as Huber's does where fewer runs than coefficients
lie within delta; the last always descends."""


@dataclass
class Projected(Rows):
    """Coefficients at given shape parameters, and what a step of the shapes needs to know: one fit a row.

    `basis` are orthonormal rows that span the weighted features (zero where a column is fixed, held at a bound, or spanned by others);
    `triangle` leads back to the coefficients; `root` weights the features; `slope` is dr/deta; `held` coefficients are at a bound.
    """

    beta: Betas
    eta: PerRun
    r: PerRun
    slope: PerRun
    objective: PerFit
    basis: Float[np.ndarray, "batch features runs"]
    triangle: Float[np.ndarray, "batch features features"]
    root: PerRun
    held: Bool[np.ndarray, "batch features"]


@dataclass(frozen=True)
class Batch:
    """Fits of one problem, or of its resamples, solved together: their shape parameters and features."""

    problem: Problem
    theta: Thetas
    features: Float[np.ndarray, "batch features runs"]

    @classmethod
    def of(cls, problem: Problem, theta: Thetas) -> "Batch":
        """The fits at these shape parameters."""
        return cls(problem, theta, problem.law.features(theta, problem.data).swapaxes(-1, -2))

    def take(self, rows: Picked) -> "Batch":
        """Some of the fits."""
        return Batch(self.problem.take(rows), self.theta[rows], self.features[rows])

    def evaluated(self, at: Projected, beta: Betas) -> Projected:
        """The same basis with these coefficients, and what follows from them."""
        with np.errstate(invalid="ignore", over="ignore"):
            eta = np.matmul(beta[:, None], self.features)[:, 0]
        r, slope = self.problem.along_eta(eta, self.theta)
        return Projected(beta, eta, r, slope, self.problem.objective(r), at.basis, at.triangle, at.root, at.held)

    def moved(self, at: Projected, step: Betas) -> Projected:
        """Where a step in the basis leads; coefficients that a bound holds stay."""
        return self.evaluated(at, np.where(at.held, at.beta, at.beta + back_substituted(at.triangle, step)))

    def equations(
        self, at: Projected, exact: bool, along: Float[np.ndarray, "batch more runs"] | None = None
    ) -> tuple[Float[np.ndarray, "batch unknowns"], Float[np.ndarray, "batch unknowns unknowns"]]:
        """Half the gradient and half the second derivative of the objective, in the basis and, after it, `along` derivatives of residuals.

        Directions of the basis that are not there get a diagonal of 1. Zero where a residual is not finite.
        """
        problem = self.problem
        share = problem.weights / problem.weights.sum(axis=-1, keepdims=True)
        curvature = problem.curvature(at.eta, at.r, at.slope, self.theta, exact)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            rows = at.basis * np.where(at.root > 0, at.slope / at.root, 0.0)[:, None]
            rows = rows if along is None else np.concatenate([rows, along], axis=1)
            gradient = np.matmul(rows, (share * problem.loss.psi(at.r))[..., None])[..., 0]
            hessian = np.matmul(rows * (share * curvature)[:, None], rows.swapaxes(-1, -2))
        lost = ~np.isfinite(hessian).all(axis=(1, 2)) | ~np.isfinite(gradient).all(axis=1)
        gradient[lost], hessian[lost] = 0.0, np.eye(gradient.shape[1])
        dead, index = np.einsum("bfr,bfr->bf", at.basis, at.basis) == 0, np.arange(at.basis.shape[1])
        hessian[:, index, index] = np.where(dead, 1.0, hessian[:, index, index])
        return gradient, hessian

    def gain(self, at: Projected, gradient: Betas, step: Betas) -> PerFit:
        """What the step in the basis would lower the objective by, relatively.

        At least what the majorising curvature promises, which is at most 1 over the weights in this basis: an exact one that is singular
        would promise nothing along the directions that it does not see.
        """
        with np.errstate(over="ignore"):
            promised = np.abs(np.einsum("bf,bf->b", step, gradient))
            least = self.problem.weights.sum(axis=-1) * np.einsum("bf,bf->b", gradient, gradient)
            return np.maximum(promised, least) / np.maximum(at.objective, ROUNDING)


def orthonormalised(
    columns: Float[np.ndarray, "batch features runs"],
) -> tuple[Float[np.ndarray, "batch features runs"], Float[np.ndarray, "batch features features"]]:
    """Orthonormal rows and the triangle R with columns = R' rows: Gram-Schmidt, done twice for full precision, for a batch at once.

    A column that the ones before it span gets a row of zeros and a diagonal of 1, so that its coefficient becomes zero.
    """
    basis, count = columns.copy(), columns.shape[1]
    triangle = np.zeros((len(columns), count, count))
    for k in range(count):
        row = basis[:, k]
        whole = np.sqrt(np.einsum("br,br->b", row, row))
        for _ in range(2 if k else 0):
            share = np.matmul(basis[:, :k], row[..., None])[..., 0]
            row = row - np.matmul(share[:, None], basis[:, :k])[:, 0]
            triangle[:, :k, k] += share
        length = np.sqrt(np.einsum("br,br->b", row, row))
        dead = ~(length > _DEAD * whole)
        triangle[:, k, k] = np.where(dead, 1.0, length)
        basis[:, k] = np.where(dead[:, None], 0.0, row / triangle[:, k, k][:, None])
    return basis, triangle


def back_substituted(triangle: Float[np.ndarray, "batch features features"], z: Betas) -> Betas:
    """The solution of R beta = z."""
    beta = np.empty_like(z)
    with np.errstate(over="ignore", invalid="ignore"):  # where the steps of a hopeless fit diverge
        for k in reversed(range(z.shape[1])):
            beta[:, k] = (z[:, k] - np.einsum("bj,bj->b", triangle[:, k, k + 1 :], beta[:, k + 1 :])) / triangle[:, k, k]
    return beta


def solved(
    matrix: Float[np.ndarray, "batch unknowns unknowns"], right: Float[np.ndarray, "batch unknowns sides"]
) -> Float[np.ndarray, "batch unknowns sides"]:
    """The solution of symmetric equations; of singular ones that of least length."""
    ridge = 1e-14 * np.abs(np.einsum("bii->b", matrix))[:, None, None] * np.eye(matrix.shape[1])
    try:
        return np.linalg.solve(matrix + ridge, right)
    except np.linalg.LinAlgError:
        # Entries near the smallest float would make the inverse overflow; scaled to 1 they do not.
        scale = np.maximum(np.abs(matrix).max(axis=(1, 2), keepdims=True), np.finfo(np.float64).tiny)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.linalg.pinv(matrix / scale, rcond=1e-13, hermitian=True) @ right / scale


def project(problem: Problem, theta: Thetas, start: Betas | None = None, *, steps: int = 0, exact: bool = False) -> Projected:
    """The coefficients of least objective at each `theta`, bounds respected.

    Without a `start` the first guess is the least-squares solution in the link's scale, which is exact where the objective is quadratic;
    up to `steps` Newton steps follow.
    """
    return project_batch(Batch.of(problem, theta), start, steps, exact)


def project_batch(batch: Batch, start: Betas | None, steps: int, exact: bool) -> Projected:
    """The same for a batch."""
    problem, (low, high) = batch.problem, batch.problem.box.T
    pinned = np.where(problem.free_coefficients, np.nan, low)[None].repeat(len(batch.theta), axis=0)
    if not problem.bounded:
        return _solve(batch, pinned, start, steps, exact)
    if start is not None:
        pinned = np.where(start <= low, low, np.where(start >= high, high, pinned))
    found, rows = _solve(batch, pinned, start, steps, exact), np.arange(len(pinned))
    # Coefficients let go again and again are few, and where the steps end far from an optimum not worth the time.
    count = len(low)
    letting_go = count + 2**count if exact or problem.quadratic else count
    for turn in range(letting_go + count):
        exchanged = _exchanged(batch.take(rows), found.take(rows), pinned[rows], one=turn >= count, let_go=turn < letting_go)
        changed = (exchanged != pinned[rows]) & ~(np.isnan(exchanged) & np.isnan(pinned[rows]))
        rows, exchanged = rows[changed.any(axis=-1)], exchanged[changed.any(axis=-1)]
        if not len(rows):
            break
        pinned[rows] = exchanged
        found.put(rows, _solve(batch.take(rows), exchanged, None, max(steps, 3), exact))
    return found


def _exchanged(batch: Batch, at: Projected, pinned: Betas, *, one: bool, let_go: bool) -> Betas:
    """The bounds that hold in the next turn: those that coefficients are beyond, less those that the objective falls away from.

    All are exchanged at once; in fits that this has not ended after as many turns as coefficients the last `one` alone, which ends for a
    least-squares problem (Murty 1974; Portugal et al. 1994). At the very end none is `let_go`, so that what is returned is within bounds.
    """
    problem, (low, high) = batch.problem, batch.problem.box.T
    count = len(low)
    slack = 1e-12 * np.maximum(np.abs(at.beta), 1e-300)
    nearest = np.where(at.beta < low - slack, low, np.where(at.beta > high + slack, high, np.nan))
    with np.errstate(invalid="ignore", over="ignore"):
        pull, columns = np.sqrt(problem.weights) * problem.loss.psi(at.r), np.sqrt(problem.weights) * at.slope
        # The cosine between a column and what is left: its square is the relative gain of letting the coefficient go.
        cosine = np.einsum("bfr,br,br->bf", batch.features, columns, pull)
        cosine = cosine / np.sqrt(np.einsum("bfr,br->bf", batch.features**2, columns**2) * np.sum(pull**2, axis=-1)[:, None] + 1e-300)
    falls = np.where(pinned == low, cosine < -_ALIGNED, (pinned == high) & (cosine > _ALIGNED)) & problem.free_coefficients
    wrong = (at.held & falls & let_go) | (~at.held & ~np.isnan(nearest))
    if one:
        last = count - 1 - np.argmax(wrong[:, ::-1], axis=-1)
        wrong = wrong & (np.arange(count) == last[:, None])
    return np.where(wrong, np.where(at.held, np.nan, nearest), pinned)


def _solve(batch: Batch, pinned: Betas, start: Betas | None, steps: int, exact: bool) -> Projected:
    """The same with these coefficients held at these values, NaN for those that are free, and no other bounds."""
    problem, held = batch.problem, ~np.isnan(pinned)
    offset = np.zeros((len(pinned), batch.features.shape[-1]))
    if held.any():
        offset = np.matmul(np.where(held, pinned, 0.0)[:, None], batch.features)[:, 0]
    root = np.sqrt(problem.weights) * problem.working_weights(batch.theta)
    with np.errstate(invalid="ignore", over="ignore"):
        basis, triangle = orthonormalised(np.where(held[..., None], 0.0, root[:, None] * batch.features))
        if start is None or problem.quadratic:
            target = root * (problem.law.link.of_loss(10**problem.observed, batch.theta) - offset)
            beta = back_substituted(triangle, np.einsum("bfr,br->bf", basis, target))
        else:
            beta = start
    beta = np.where(held, pinned, beta)
    nothing = np.empty_like(offset)
    found = batch.evaluated(Projected(beta, offset, nothing, nothing, nothing[:, 0], basis, triangle, root, held), beta)
    if not problem.quadratic:
        _newton(batch, found, steps, exact)
    return found


def _newton(batch: Batch, out: Projected, steps: int, exact: bool) -> None:
    """Newton steps on the coefficients, in place: with the exact curvature, blended with one that always descends where it fails alone."""
    active, enough = np.isfinite(out.objective), 1e-20 if exact else 1e-15
    for _ in range(steps):
        if not active.any():
            break
        index = np.flatnonzero(active)
        here, now = batch.take(index), out.take(index)
        gradient, hessian = here.equations(now, exact)
        step = -solved(hessian, gradient[..., None])[..., 0]
        gain = here.gain(now, gradient, step)
        trial = here.moved(now, step)
        if exact and (failed := ~(trial.objective < now.objective) & (gain > enough)).any():
            part, at = here.take(failed), now.take(failed)
            _, major = part.equations(at, exact=False)
            for share in _BLENDS:
                blended = part.moved(at, -solved(hessian[failed] + share * major, gradient[failed][..., None])[..., 0])
                better = np.flatnonzero(failed)[blended.objective < trial.objective[failed]]
                trial.put(better, blended.take(np.isin(np.flatnonzero(failed), better)))
        better = trial.objective < now.objective
        out.put(index[better], trial.take(better))
        active[index[~better | (gain < enough)]] = False
