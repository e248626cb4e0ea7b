"""The global half of a fit: points spread over the shape parameters, exact least squares over the coefficients at each.

With the shapes fixed a law is linear, so the search has as many dimensions as there are shape parameters. Up to three it is a grid that
covers them whole; above, scattered points of a low-discrepancy sequence, of which the lowest are polished. Where the loss is not a square
in the link's scale (a floor under log loss, Huber) the projection minimises its square to first order, and the polish does the rest on the
true objective.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.engine.problem import Problem
from fit.engine.project import project

MOST_GRID_SHAPES = 3
"""Laws of more free shapes are searched by scattered points: a grid's number of points is a power of the number of shapes."""

SCATTERED = 2048
"""Scattered points of a search."""

_RIDGE = 1e-13
"""Keeps a resample that misses a whole direction solvable in the search; the fit's own test finds it unidentified afterwards."""

_CELLS = 50_000
"""Draws times grid points worked on at once: few enough to stay in the processor's cache."""


def spread(problem: Problem, which: int = 0, refine: float = 1.0) -> tuple[Float[np.ndarray, "points shapes"], tuple[int, ...]]:
    """Points to search, and how many there are along each shape of a grid (none for scattered points).

    The grid of `which` = 0 has every shape's own points, times `refine`; 1 is the grid of its cells' centres, 2 and on finer ones.
    Scattered points are a new block of the sequence for every `which`.
    """
    free = problem.free_shapes
    if free.sum() > MOST_GRID_SHAPES:
        return _scattered(problem, which), ()
    axes: list[Float[np.ndarray, "points"]] = []
    for shape, (low, high), moves in zip(problem.law.shapes, problem.limits, free, strict=True):
        count = max(2, round(shape.points * refine * 1.37 ** (which // 2))) if moves else 1
        axis = np.geomspace(low, high, count) if shape.spacing == "log" else np.linspace(low, high, count)
        if which % 2 and moves:
            axis = np.sqrt(axis[1:] * axis[:-1]) if shape.spacing == "log" else (axis[1:] + axis[:-1]) / 2
        axes.append(axis)
    if not axes:
        return np.zeros((1, 0)), ()
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([axis.ravel() for axis in mesh], axis=-1), tuple(len(axis) for axis in axes)


def _scattered(problem: Problem, which: int) -> Float[np.ndarray, "points shapes"]:
    """Points of the additive sequence with the generalised golden ratio (Roberts 2018): deterministic, and no two blocks share one."""
    count = len(problem.law.shapes)
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (count + 1))
    steps = (1 / ratio) ** np.arange(1, count + 1)
    unit = (0.5 + np.arange(which * SCATTERED + 1, (which + 1) * SCATTERED + 1)[:, None] * steps) % 1
    low, high = problem.limits.T
    logarithmic = np.array([shape.spacing == "log" for shape in problem.law.shapes], dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        spaced = np.exp(np.log(low) + unit * (np.log(high) - np.log(low)))
    return np.where(logarithmic, spaced, low + unit * (high - low))


def _weighted(
    problem: Problem, theta: Float[np.ndarray, "points shapes"]
) -> tuple[Float[np.ndarray, "points features runs"], Float[np.ndarray, "points runs"], Float[np.ndarray, "points runs"]]:
    """Orthonormal rows of the free weighted features at each point, the weights, and what the other coefficients give.

    Those are the fixed ones, and those that a bound holds in the fit of the measured losses there: a resample's search does not look again.
    """
    at, features = project(problem, theta), problem.law.features(theta, problem.data)
    return at.basis, at.root, np.einsum("prf,pf->pr", features, np.where(at.held, at.beta, 0.0))


def search_resampled(
    problem: Problem, grid: Float[np.ndarray, "points shapes"], weights: Float[np.ndarray, "batch runs"]
) -> Float[np.ndarray, "batch points"]:
    """Projected objective at every grid point for every resample of the runs (`weights`: their multiplicities)."""
    basis, root, offset = _weighted(problem, grid)
    target = root * (problem.law.link.of_loss(10**problem.observed, grid) - offset)
    # What the whole data's fit leaves is all that a resample can still explain; subtracting it first saves digits.
    target = target - np.einsum("pfr,pf->pr", basis, np.einsum("pfr,pr->pf", basis, target))
    columns = np.concatenate([basis, target[:, None]], axis=1)
    out = np.empty((len(weights), len(grid)))
    size = max(1, _CELLS // len(weights))
    for start in range(0, len(grid), size):
        part = slice(start, start + size)
        out[:, part] = _unexplained(columns[part], weights)
    return out


def _unexplained(
    columns: Float[np.ndarray, "points columns runs"], weights: Float[np.ndarray, "batch runs"]
) -> Float[np.ndarray, "batch points"]:
    """Weighted square of the last column less what the others explain of it: the last pivot when their products are eliminated."""
    last = columns.shape[1] - 1
    product = {(i, j): weights @ (columns[:, i] * columns[:, j]).T for i in range(last + 1) for j in range(i, last + 1)}
    for k in range(last):
        pivot = product[k, k] + _RIDGE
        for i in range(k + 1, last + 1):
            factor = product[k, i] / pivot
            for j in range(i, last + 1):
                product[i, j] -= factor * product[k, j]
    return product[last, last]


def search_observed(
    problem: Problem, grid: Float[np.ndarray, "points shapes"], observed: Float[np.ndarray, "batch runs"]
) -> Float[np.ndarray, "batch points"]:
    """Projected objective at every grid point for every set of observed log10 losses of the same runs."""
    basis, root, offset = _weighted(problem, grid)
    loss = 10**observed
    out = np.empty((len(observed), len(grid)))
    moved = bool(offset.any())
    for points in _same_link(problem, grid, moved):
        first = points[0]
        target = root[first] * (problem.law.link.of_loss(loss, grid[points[:1]]) - offset[first])
        explained = target @ basis[points].reshape(-1, target.shape[-1]).T
        explained = (explained**2).reshape(len(observed), len(points), -1).sum(axis=-1)
        out[:, points] = (target**2).sum(axis=-1, keepdims=True) - explained
    return out


def _same_link(problem: Problem, grid: Float[np.ndarray, "points shapes"], apart: bool) -> list[Int[np.ndarray, "alike"]]:
    """The grid's points in groups in which the link, and with it the target of the projection, is the same; `apart`: one by one."""
    if apart:
        return list(np.arange(len(grid))[:, None])
    _, group = np.unique(grid[:, : problem.law.link.num_shapes], axis=0, return_inverse=True)
    return [np.flatnonzero(group == which) for which in range(int(group.max()) + 1)]


def local_minima(
    values: Float[np.ndarray, "batch points"], counts: tuple[int, ...], most: int
) -> tuple[Int[np.ndarray, "starts"], Int[np.ndarray, "starts"]]:
    """Starts for the polish: for each row the grid's local minima, diagonal neighbours compared too, the `most` lowest of them.

    Returns the row and the grid point of each start. A row's lowest point is always among them. Scattered points (no `counts`) have no
    neighbours: the `most` lowest are taken.
    """
    table = values.reshape(len(values), *counts) if counts else values
    around = table
    for axis in range(1, table.ndim if counts else 1):
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
