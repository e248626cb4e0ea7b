"""The global half of a fit: a grid over the shape parameters, exact least squares over the coefficients at each point.

With the shapes fixed a law is linear (variable projection, Golub & Pereyra 1973), so the search has as many dimensions as there
are shape parameters, none to three, and covers them whole. Where the loss is not a square in the link's scale (a floor under
log loss, Huber) the projection minimises its square to first order, and the polish does the rest on the true objective.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.solver.problem import Problem

_RIDGE = 1e-13
"""Keeps a resample that misses a whole direction solvable in the search; the fit's own test finds it unidentified afterwards."""

_CELLS = 50_000
"""Draws times grid points worked on at once: few enough to stay in the processor's cache."""


def shape_grid(problem: Problem, refine: float = 1.0) -> tuple[Float[np.ndarray, "points shapes"], tuple[int, ...]]:
    """Every combination of the shape parameters' grid points, and how many each has. Times `refine` points along each."""
    axes: list[Float[np.ndarray, "points"]] = []
    for shape, (low, high) in zip(problem.law.shapes, problem.limits, strict=True):
        count = max(2, round(shape.points * refine))
        axes.append(np.geomspace(low, high, count) if shape.spacing == "log" else np.linspace(low, high, count))
    if not axes:
        return np.zeros((1, 0)), ()
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([axis.ravel() for axis in mesh], axis=-1), tuple(len(axis) for axis in axes)


def _weighted_basis(
    problem: Problem, theta: Float[np.ndarray, "points shapes"]
) -> tuple[
    Float[np.ndarray, "points runs features"],
    Float[np.ndarray, "points features features"],
    Float[np.ndarray, "points runs"],
]:
    """Orthonormal basis and triangle of the weighted features at each point (QR), and the weights."""
    omega = problem.working_weights(theta)
    basis, triangle = np.linalg.qr(omega[..., None] * problem.law.features(theta, problem.data))
    return basis, triangle, omega


def project(
    problem: Problem,
    theta: Float[np.ndarray, "batch shapes"],
    weights: Float[np.ndarray, "#batch runs"] | None = None,
    observed: Float[np.ndarray, "#batch runs"] | None = None,
) -> Float[np.ndarray, "batch features"]:
    """Least-squares coefficients at each `theta`, each with its own weights and observations. Rank-deficient: the least-norm ones."""
    observed = problem.observed[None] if observed is None else observed
    root = problem.working_weights(theta)
    if weights is not None:
        root = root * np.sqrt(weights)
    features = root[..., None] * problem.law.features(theta, problem.data)
    target = root * problem.law.link.of_loss(10**observed, theta)
    basis, triangle = np.linalg.qr(features)
    return _solve_triangle(triangle, np.einsum("brf,br->bf", basis, target))


def _solve_triangle(
    triangle: Float[np.ndarray, "batch features features"], target: Float[np.ndarray, "batch features"]
) -> Float[np.ndarray, "batch features"]:
    """R beta = target, with a rank-deficient R solved in the least-norm sense."""
    diagonal = np.abs(np.einsum("bii->bi", triangle))
    regular = diagonal.min(axis=-1) > 1e-12 * diagonal.max(axis=-1)
    beta = np.empty_like(target)
    if regular.any():
        beta[regular] = np.linalg.solve(triangle[regular], target[regular][..., None])[..., 0]
    if not regular.all():
        inverse = np.linalg.pinv(triangle[~regular], rcond=1e-12)
        beta[~regular] = (inverse @ target[~regular][..., None])[..., 0]
    return beta


def search_resampled(
    problem: Problem,
    grid: Float[np.ndarray, "points shapes"],
    weights: Float[np.ndarray, "batch runs"],
) -> Float[np.ndarray, "batch points"]:
    """Projected objective at every grid point for every resample of the runs (`weights`: their multiplicities)."""
    basis, _, omega = _weighted_basis(problem, grid)
    target = omega * problem.law.link.of_loss(10**problem.observed, grid)
    # What the whole data's fit leaves is all that a resample can still explain; subtracting it first saves digits.
    target = target - _within(basis, target)
    columns = np.concatenate([basis, target[..., None]], axis=-1)
    out = np.empty((len(weights), len(grid)))
    size = max(1, _CELLS // len(weights))
    for start in range(0, len(grid), size):
        part = slice(start, start + size)
        out[:, part] = _unexplained(columns[part], weights)
    return out


def _unexplained(
    columns: Float[np.ndarray, "points runs columns"], weights: Float[np.ndarray, "batch runs"]
) -> Float[np.ndarray, "batch points"]:
    """Weighted square of the last column less what the others explain of it: the last pivot when their products are eliminated."""
    last = columns.shape[-1] - 1
    product = {(i, j): weights @ (columns[..., i] * columns[..., j]).T for i in range(last + 1) for j in range(i, last + 1)}
    for k in range(last):
        pivot = product[k, k] + _RIDGE
        for i in range(k + 1, last + 1):
            factor = product[k, i] / pivot
            for j in range(i, last + 1):
                product[i, j] -= factor * product[k, j]
    return product[last, last]


def _within(basis: Float[np.ndarray, "points runs features"], target: Float[np.ndarray, "points runs"]) -> Float[np.ndarray, "points runs"]:
    """The part of each target that its basis explains."""
    return np.einsum("grf,gf->gr", basis, np.einsum("grf,gr->gf", basis, target))


def search_observed(
    problem: Problem,
    grid: Float[np.ndarray, "points shapes"],
    observed: Float[np.ndarray, "batch runs"],
) -> Float[np.ndarray, "batch points"]:
    """Projected objective at every grid point for every set of observed log10 losses of the same runs."""
    basis, _, omega = _weighted_basis(problem, grid)
    loss = 10**observed
    out = np.empty((len(observed), len(grid)))
    for points in _same_link(problem, grid):
        target = omega[points[0]] * problem.law.link.of_loss(loss, grid[points[:1]])
        explained = target @ basis[points].transpose(1, 0, 2).reshape(target.shape[-1], -1)
        explained = (explained**2).reshape(len(observed), len(points), -1).sum(axis=-1)
        out[:, points] = (target**2).sum(axis=-1, keepdims=True) - explained
    return out


def _same_link(problem: Problem, grid: Float[np.ndarray, "points shapes"]) -> list[Int[np.ndarray, "alike"]]:
    """The grid's points in groups in which the link, and with it the target of the projection, is the same."""
    _, group = np.unique(grid[:, : problem.law.link.num_shapes], axis=0, return_inverse=True)
    return [np.flatnonzero(group == which) for which in range(int(group.max()) + 1)]


def local_minima(
    values: Float[np.ndarray, "batch points"], counts: tuple[int, ...], most: int
) -> tuple[Int[np.ndarray, "starts"], Int[np.ndarray, "starts"]]:
    """Starts for the polish: for each row the grid's local minima, diagonal neighbours compared too, the `most` lowest of them.

    Returns the row and the grid point of each start. A row's lowest point is always among them.
    """
    table = values.reshape(len(values), *counts)
    around = table
    for axis in range(1, table.ndim):
        # A valley that runs across the grid is a chain of minima along the axes: the diagonals show that it goes on falling.
        low, high = [slice(None)] * table.ndim, [slice(None)] * table.ndim
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        wider = around.copy()
        wider[tuple(low)] = np.minimum(wider[tuple(low)], around[tuple(high)])
        wider[tuple(high)] = np.minimum(wider[tuple(high)], around[tuple(low)])
        around = wider
    lowest: Bool[np.ndarray, "..."] = table <= around
    masked = np.where(lowest.reshape(values.shape), values, np.inf)
    masked[np.arange(len(values)), values.argmin(axis=-1)] = values.min(axis=-1)
    most = min(most, values.shape[-1])
    order = np.argpartition(masked, most - 1, axis=-1)[:, :most] if most < values.shape[-1] else np.argsort(masked, axis=-1)
    rows, columns = np.nonzero(np.isfinite(np.take_along_axis(masked, order, axis=-1)))
    return rows, order[rows, columns]
