"""Refit a law to many resamples at once, each to its own optimum: the engine under every interval and held-out score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.solver.polish import Solutions, polish
from fit.solver.problem import Problem
from fit.solver.search import local_minima, project, search_observed, search_resampled, shape_grid
from fit.solver.solve import Fit

_COARSE = 0.75
"""Grid points along each shape for a resample, as a fraction of the point fit's: its optimum is also tried, so fewer will do."""

_TOLERANCE = 1e-12
"""Relative gain at which a resample's polish ends: its parameters are then within 1e-5 of their own spread of the optimum."""

_STAGES = (3, 4, 8, 60)
"""Steps after which a draw's starts are compared."""

_TOGETHER = 0.01
"""Starts closer than this (relative, in every shape) after a stage are on their way to one optimum."""

_HOPE = 30
"""A start goes on while this many gains like its next would bring it below the best one: not if it creeps along a plateau above."""

_CELLS = 150_000
"""Residuals held at once: bounds memory whatever the number of draws and runs."""

_RANK_SQUARED = 1e-13
"""Least eigenvalue of the scaled J'J below which a resample does not identify the law."""


@dataclass(frozen=True)
class Refits:
    """Fits of one law to a batch of resamples.

    `identified` is False where a resample cannot identify the law or its polish did not end; its figures mean nothing then.
    """

    theta: Float[np.ndarray, "draws shapes"]
    beta: Float[np.ndarray, "draws features"]
    objective: Float[np.ndarray, "draws"]
    identified: Bool[np.ndarray, "draws"]

    def __len__(self) -> int:
        return len(self.objective)


def refit(
    fit: Fit,
    weights: Float[np.ndarray, "draws runs"] | None = None,
    observed: Float[np.ndarray, "draws runs"] | None = None,
) -> Refits:
    """Refit to every row of `weights` (multiplicities of the runs) or of `observed` (log10 losses in place of the measured ones).

    Exactly one of the two. Every row is searched over the whole grid and polished from its local minima and from `fit`'s optimum.
    """
    if (weights is None) == (observed is None):
        raise ValueError("refit takes weights or observed losses, one of the two")
    rows = weights if weights is not None else observed
    assert rows is not None
    grid, counts = shape_grid(fit.problem, _COARSE)
    size = max(1, _CELLS // fit.num_runs)
    parts: list[Refits] = []
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        parts.append(
            _refit_part(fit, grid, counts, None if weights is None else weights[part], None if observed is None else observed[part])
        )
    return Refits(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("theta", "beta", "objective", "identified")))


def _refit_part(
    fit: Fit,
    grid: Float[np.ndarray, "points shapes"],
    counts: tuple[int, ...],
    weights: Float[np.ndarray, "draws runs"] | None,
    observed: Float[np.ndarray, "draws runs"] | None,
) -> Refits:
    problem = fit.problem
    draws = len(weights) if weights is not None else len(observed) if observed is not None else 0
    if not counts:
        row, theta = np.arange(draws), np.zeros((draws, 0))
    else:
        # The point fit's optimum is one more point of the search.
        points = np.concatenate([grid, fit.theta[None]])
        if weights is not None:
            values = search_resampled(problem, points, weights)
        else:
            assert observed is not None
            values = search_observed(problem, points, observed)
        row, point = local_minima(values[:, :-1], counts, most=2)
        covered = (values[row, point] >= values[row, -1]) & _beside(grid, fit.theta)[point]
        row = np.concatenate([row[~covered], np.arange(draws)])
        theta = np.concatenate([grid[point[~covered]], np.repeat(fit.theta[None], draws, axis=0)])
    found = _polish_starts(problem, row, theta, draws, weights, observed)
    return Refits(found.theta, found.beta, found.objective, _identified(problem, found, weights))


def _beside(grid: Float[np.ndarray, "points shapes"], theta: Float[np.ndarray, "shapes"]) -> Bool[np.ndarray, "points"]:
    """Which grid points are corners of the cell that `theta` lies in, or of one next to it."""
    near = np.ones(len(grid), dtype=bool)
    for axis, value in zip(grid.T, theta, strict=True):
        ticks = np.unique(axis)
        place = np.interp(value, ticks, np.arange(len(ticks)))
        near &= np.abs(np.searchsorted(ticks, axis) - place) < 1.5
    return near


def _polish_starts(
    problem: Problem,
    row: Int[np.ndarray, "starts"],
    theta: Float[np.ndarray, "starts shapes"],
    draws: int,
    weights: Float[np.ndarray, "draws runs"] | None,
    observed: Float[np.ndarray, "draws runs"] | None,
) -> Solutions:
    """The best optimum of every draw: all starts go some steps, then those that lead nowhere else are left out, and again."""
    own_weights = None if weights is None else weights[row]
    own_observed = None if observed is None else observed[row]
    beta = project(problem, theta, own_weights, own_observed)
    found = Solutions(theta, beta, np.full(len(row), np.inf), np.full(len(row), np.inf))
    for steps in _STAGES:
        going = found.remaining > _TOLERANCE
        further = polish(
            problem, found.theta[going], found.beta[going],
            None if weights is None else weights[row[going]], None if observed is None else observed[row[going]],
            tolerance=_TOLERANCE, max_steps=steps,
        )  # fmt: skip
        found = found.replaced(going, further)
        kept = _worth_going_on(row, found, draws)
        found, row = found.at(kept), row[kept]
    return found.at(_best_of_each(row, found.objective, draws))


def _worth_going_on(row: Int[np.ndarray, "starts"], found: Solutions, draws: int) -> Int[np.ndarray, "kept"]:
    """The best start of every draw so far, and those that are neither on their way to the same optimum nor beyond hope."""
    best = _best_of_each(row, found.objective, draws)
    lead = found.at(best[row])
    apart = (np.abs(found.theta - lead.theta) > _TOGETHER * np.abs(lead.theta)).any(axis=-1)
    hope = found.objective * (1 - np.minimum(_HOPE * found.remaining, 1)) < lead.objective
    return np.union1d(best, np.flatnonzero(apart & hope))


def _best_of_each(row: Int[np.ndarray, "starts"], objective: Float[np.ndarray, "starts"], draws: int) -> Int[np.ndarray, "draws"]:
    """Index of the start with the least objective, for every draw."""
    order = np.lexsort((objective, row))
    first = np.searchsorted(row[order], np.arange(draws))
    return order[first]


def _identified(problem: Problem, found: Solutions, weights: Float[np.ndarray, "draws runs"] | None) -> Bool[np.ndarray, "draws"]:
    """Which fits ended, at a point where every direction changes some prediction."""
    _, jacobian = problem.linearise(found.theta, found.beta, problem.observed[None])
    if weights is not None:
        jacobian = jacobian * np.sqrt(weights)[..., None]
    gram = np.swapaxes(jacobian, -1, -2) @ jacobian
    scale = np.sqrt(np.maximum(np.einsum("bii->bi", gram), 1e-300))
    gram = gram / (scale[:, :, None] * scale[:, None, :])
    finite = np.isfinite(gram).all(axis=(1, 2)) & np.isfinite(found.objective)
    least = np.linalg.eigvalsh(np.where(finite[:, None, None], gram, np.eye(gram.shape[-1])))[:, 0]
    return finite & (least > _RANK_SQUARED) & (found.remaining < 1e-6)
