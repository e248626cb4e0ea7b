"""Refit a law to many resamples at once, each to its own optimum: the engine under every interval and held-out score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.polish import Solutions, polish
from fit.problem import Problem
from fit.search import local_minima, project, search_observed, search_resampled, shape_grid
from fit.solve import Fit

_COARSE = 0.75
"""Grid points along each shape for a resample, as a fraction of the point fit's: its optimum is also tried, so fewer will do."""

_TOLERANCE = 1e-14
"""Relative gain at which a resample's polish ends: its parameters are then within 1e-6 of their own spread of the optimum."""

_FIRST_STEPS = 4
"""Steps after which a draw's starts are compared: by then those in one basin have met."""

_RIVAL = 1.5
"""A start that lies elsewhere goes on while its objective is below this multiple of the best one's."""

_CELLS = 150_000
"""Residuals held at once: bounds memory whatever the number of draws and runs."""

_RANK_SQUARED = 1e-16
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
            _refit_part(
                fit, grid, counts, None if weights is None else weights[part], None if observed is None else observed[part]
            )
        )
    return Refits(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("theta", "beta", "objective", "identified"))
    )


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
        if weights is not None:
            values = search_resampled(problem, grid, weights)
        else:
            assert observed is not None
            values = search_observed(problem, grid, observed)
        row, point = local_minima(values, counts, most=2)
        row = np.concatenate([row, np.arange(draws)])
        theta = np.concatenate([grid[point], np.repeat(fit.theta[None], draws, axis=0)])
    found = _polish_starts(problem, row, theta, draws, weights, observed)
    return Refits(found.theta, found.beta, found.objective, _identified(problem, found, weights))


def _polish_starts(
    problem: Problem,
    row: Int[np.ndarray, "starts"],
    theta: Float[np.ndarray, "starts shapes"],
    draws: int,
    weights: Float[np.ndarray, "draws runs"] | None,
    observed: Float[np.ndarray, "draws runs"] | None,
) -> Solutions:
    """The best optimum of every draw. A few steps show which starts fall together; the distinct ones go on to the end."""
    own_weights = None if weights is None else weights[row]
    own_observed = None if observed is None else observed[row]
    found = polish(
        problem, theta, project(problem, theta, own_weights, own_observed), own_weights, own_observed,
        tolerance=_TOLERANCE, max_steps=_FIRST_STEPS,
    )  # fmt: skip
    best = _best_of_each(row, found.objective, draws)
    lead = found.at(best[row])
    apart = (np.abs(found.theta - lead.theta) > 0.01 * np.abs(lead.theta)).any(axis=-1)
    rival = apart & (found.objective < _RIVAL * lead.objective)
    going = np.union1d(best, np.flatnonzero(rival))
    found, row = found.at(going), row[going]
    unfinished = found.remaining > _TOLERANCE
    found = found.replaced(
        unfinished,
        polish(
            problem, found.theta[unfinished], found.beta[unfinished],
            None if weights is None else weights[row[unfinished]],
            None if observed is None else observed[row[unfinished]],
            tolerance=_TOLERANCE, max_steps=60,
        ),
    )  # fmt: skip
    return found.at(_best_of_each(row, found.objective, draws))


def _best_of_each(row: Int[np.ndarray, "starts"], objective: Float[np.ndarray, "starts"], draws: int) -> Int[np.ndarray, "draws"]:
    """Index of the start with the least objective, for every draw."""
    order = np.lexsort((objective, row))
    first = np.searchsorted(row[order], np.arange(draws))
    return order[first]


def _identified(problem: Problem, found: Solutions, weights: Float[np.ndarray, "draws runs"] | None) -> Bool[np.ndarray, "draws"]:
    """Which fits ended, at a point where every direction not held by a bound changes some prediction."""
    _, jacobian = problem.linearise(found.theta, found.beta, problem.observed[None])
    if weights is not None:
        jacobian = jacobian * np.sqrt(weights)[..., None]
    gram = np.swapaxes(jacobian, -1, -2) @ jacobian
    scale = np.sqrt(np.maximum(np.einsum("bii->bi", gram), 1e-300))
    gram = gram / (scale[:, :, None] * scale[:, None, :])
    span = problem.limits[:, 1] - problem.limits[:, 0]
    held = np.minimum(found.theta - problem.limits[:, 0], problem.limits[:, 1] - found.theta) <= 1e-9 * span
    free = np.concatenate([np.ones(found.beta.shape, dtype=bool), ~held], axis=-1)
    gram = np.where(free[:, :, None] & free[:, None, :], gram, np.eye(gram.shape[-1]))
    finite = np.isfinite(gram).all(axis=(1, 2)) & np.isfinite(found.objective)
    least = np.linalg.eigvalsh(np.where(finite[:, None, None], gram, np.eye(gram.shape[-1])))[:, 0]
    return finite & (least > _RANK_SQUARED) & (found.remaining < 1e-6)
