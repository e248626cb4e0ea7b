"""Refit a law to many resamples at once, each to its own optimum: what every interval and held-out score stands on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.engine.polish import Solutions, polish
from fit.engine.problem import Problem
from fit.engine.search import local_minima, search_observed, search_resampled, spread
from fit.engine.solve import IDENTIFIED, Fit, condition_numbers, moving

_COARSE = 0.75
"""Grid points along each shape for a resample, as a fraction of the point fit's: its optimum is also tried, so fewer will do."""

_STARTS, _NEAR = 3, 1.2
"""Local minima of a resample's grid that are polished, besides the point fit's optimum: at most so many, and of these the ones whose
projected objective is below so many times the lowest. One alone took as long, and lost a sixth of the draws of a law with three valleys."""

_STAGES = ((3, False), (4, False), (8, False), (3, True), (6, True), (12, True), (400, True))
"""Steps after which a draw's starts are compared, and whether they have the true second derivative; in the last all end."""

_TOGETHER = 0.01
"""Starts closer than this (relative, in every shape) after a stage are on their way to one optimum."""

_HOPE = 30
"""A start goes on while this many gains like its next would bring it below the best one: not if it creeps along a plateau above."""

_CELLS = 150_000
"""Residuals held at once: bounds memory whatever the number of draws and runs."""


@dataclass
class Refits(Solutions):
    """Fits of one law to a batch of resamples, in their order; a bound that holds one (`at_bound`) is an answer.

    `identified`: the resample tells all the law's parameters apart, by the rule that holds for the point fit. A draw is `usable` where it
    has converged as well.
    """

    identified: Bool[np.ndarray, "draws"]
    at_bound: Bool[np.ndarray, "draws"]

    def __len__(self) -> int:
        return len(self.objective)

    @property
    def usable(self) -> Bool[np.ndarray, "draws"]:
        """Converged and identified."""
        return self.converged & self.identified


def refit(
    fit: Fit, weights: Float[np.ndarray, "draws runs"] | None = None, observed: Float[np.ndarray, "draws runs"] | None = None
) -> Refits:
    """Refit to every row of `weights` (multiplicities of the runs) or of `observed` (log10 losses in place of the measured ones).

    Exactly one of the two. Every row is searched over the whole range of the shapes and polished, from the search's best points and from
    `fit`'s optimum, until it ends.
    """
    rows = weights if observed is None else observed
    if rows is None or (weights is not None and observed is not None):
        raise ValueError("refit takes weights or observed losses, one of the two")
    size = max(1, _CELLS // fit.num_runs)
    parts = [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]
    return Refits.joined([_refit_part(fit, part, drawn_runs=observed is None) for part in parts])


def _refit_part(fit: Fit, rows: Float[np.ndarray, "draws runs"], drawn_runs: bool) -> Refits:
    """The refits to multiplicities of the runs, or to other losses of theirs."""
    whole = fit.problem
    problem = whole.resampled(rows, None) if drawn_runs else whole.resampled(None, rows)
    row, theta = np.arange(len(rows)), np.repeat(fit.theta[None], len(rows), axis=0)
    if whole.free_shapes.any() and len(rows):
        grid, counts = spread(whole, refine=_COARSE)
        # The point fit's optimum is one more point of the search.
        points = np.concatenate([grid, fit.theta[None]])
        values = search_resampled(whole, points, rows) if drawn_runs else search_observed(whole, points, rows)
        found, point = local_minima(values[:, :-1], counts, most=_STARTS)
        near = values[found, point] <= _NEAR * values.min(axis=-1)[found]
        found, point = found[near], point[near]
        if counts:
            covered = (values[found, point] >= values[found, -1]) & _beside(grid, fit.theta)[point]
            found, point = found[~covered], point[~covered]
        row, theta = np.concatenate([found, row]), np.concatenate([grid[point], theta])
    ends = _polish_starts(problem, row, theta, len(rows))
    identified = condition_numbers(problem, ends.theta, ends.beta) <= IDENTIFIED
    free = np.concatenate([whole.free_coefficients, whole.free_shapes])
    at_bound = np.any(~moving(whole, ends.theta, ends.beta) & free, axis=-1)
    return Refits(ends.theta, ends.beta, ends.objective, ends.remaining, identified, at_bound)


def _beside(grid: Float[np.ndarray, "points shapes"], theta: Float[np.ndarray, "shapes"]) -> Bool[np.ndarray, "points"]:
    """Which grid points are corners of the cell that `theta` lies in, or of one next to it."""
    near = np.ones(len(grid), dtype=bool)
    for axis, value in zip(grid.T, theta, strict=True):
        ticks = np.unique(axis)
        place = np.interp(value, ticks, np.arange(len(ticks)))
        near &= np.abs(np.searchsorted(ticks, axis) - place) < 1.5
    return near


def _polish_starts(problem: Problem, row: Int[np.ndarray, "starts"], theta: Float[np.ndarray, "starts shapes"], draws: int) -> Solutions:
    """The best optimum of every draw.

    All starts go some steps, then those that lead nowhere else are left out, and again; what is unfinished then goes on to its end.
    """
    found = Solutions(theta, np.zeros((len(row), len(problem.box))), np.full(len(row), np.inf), np.full(len(row), np.inf))
    for stage, (steps, newton) in enumerate(_STAGES):
        going = np.flatnonzero(~found.converged)
        start = found.beta[going] if stage else None
        if len(going):
            found.put(going, polish(problem.take(row[going]), found.theta[going], start, max_steps=steps, newton=newton))
        last = stage + 1 == len(_STAGES)
        kept = _best_of_each(row, found.objective, draws) if last else _worth_going_on(row, found, draws)
        found, row = found.take(kept), row[kept]
    return found


def _worth_going_on(row: Int[np.ndarray, "starts"], found: Solutions, draws: int) -> Int[np.ndarray, "kept"]:
    """The best start of every draw so far, and those that are neither on their way to the same optimum nor beyond hope."""
    best = _best_of_each(row, found.objective, draws)
    lead = found.take(best[row])
    apart = (np.abs(found.theta - lead.theta) > _TOGETHER * np.abs(lead.theta)).any(axis=-1)
    with np.errstate(invalid="ignore"):
        hope = found.objective * (1 - np.minimum(_HOPE * found.remaining, 1)) < lead.objective
    return np.union1d(best, np.flatnonzero(apart & hope))


def _best_of_each(row: Int[np.ndarray, "starts"], objective: Float[np.ndarray, "starts"], draws: int) -> Int[np.ndarray, "draws"]:
    """Index of the start with the least objective, for every draw."""
    order = np.lexsort((objective, row))
    first = np.searchsorted(row[order], np.arange(draws))
    return order[first]
