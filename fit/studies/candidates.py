"""The laws held against each other: each fitted to the same runs, and judged by how it predicts sizes it was not fitted to.

A law is chosen by training data alone: nothing here looks at runs that a user would not have.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.analysis import Options, Result, Skipped, fit_runs, law_for, router_jobs
from fit.assess.held_out import RollOutStep, leave_one_out, roll_out
from fit.assess.lack_of_fit import aicc
from fit.intervals.student import t_quantile
from fit.load.grid import canonical
from fit.load.runs import Runs
from fit.load.schema import N

LEAST_HELD_OUT = 2
"""Laws are ranked by the sizes held out where there are at least this many; one alone is one accident of its runs."""

_LN10 = float(np.log(10))

ROLL_OUT_DRAWS = 300
"""Draws behind a prediction interval of the roll-out: its ends, quantiles of noise, need fewer than a coefficient's."""


@dataclass(frozen=True)
class Candidate:
    """One law on one router's runs: the fit, and its scores. Errors are root mean squares of ln predicted over observed loss.

    `aicc` is None where the loss minimised has none; `left_out` the leave-one-out error, None if no run could be predicted;
    `roll_out` each size as predicted from all smaller ones, empty for a law that says nothing of a size it has not met.
    """

    result: Result
    aicc: float | None
    left_out: float | None
    roll_out: tuple[RollOutStep, ...]

    @property
    def law(self) -> str:
        """Name of the law."""
        return self.result.law.name

    @property
    def router(self) -> str:
        """The router whose runs are fitted."""
        return self.result.router

    @property
    def rmse(self) -> float:
        """Error of the fit on its own runs."""
        return self.result.fit.rmse_log10 * _LN10

    @property
    def held_out(self) -> float | None:
        """Error at sizes held out, every size counting alike; None where one of them could not be predicted, or there is none.

        The sizes count alike because the runs of one size err together: they share the error of its extrapolation.
        """
        scores = [step.score for step in self.roll_out]
        errors = [_LN10 * score.rmse_log10 for score in scores if score]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors and len(errors) == len(scores) else None

    @property
    def covered(self) -> tuple[int, int] | None:
        """How many runs of held-out sizes fell into their prediction intervals, and of how many; None without intervals."""
        found = [(score.covered, score.runs) for step in self.roll_out if (score := step.score) and score.covered is not None]
        return (sum(covered for covered, _ in found), sum(runs for _, runs in found)) if found else None


@dataclass(frozen=True)
class Ranking:
    """The laws of one router, best first, and those that predict about as well as the best.

    `by` is the score, `held_out` or, with too few sizes, `left_out`. `factor`: a law predicts about equally well if its error is
    at most this multiple of the best one's.
    """

    router: str
    by: str
    factor: float
    laws: tuple[str, ...]
    scores: Mapping[str, float]
    equal: tuple[str, ...]

    @property
    def best(self) -> str:
        """The law with the least error."""
        return self.laws[0]


def equal_factor(errors: int) -> float:
    """By what factor the scores of two equally good laws differ in one case out of four, if each is from this many errors.

    The upper quartile of the square root of F with equal degrees of freedom m; as (sqrt F - 1/sqrt F) sqrt(m)/2 is Student's t,
    it has a closed form. Three sizes: 1.53; sixty runs: 1.09. Our choice: a stricter rule would call a law worse on three
    accidents. The laws' errors are counted as independent, which errs on the side of calling laws equal.
    """
    u = t_quantile(0.75, float(errors)) / np.sqrt(errors)
    return float(u + np.sqrt(1 + u * u))


def fit_candidates(
    runs: Runs, routers: Sequence[str], options: Options, progress: Callable[[int, int, str], None] | None = None
) -> tuple[tuple[Candidate, ...], tuple[Skipped, ...]]:
    """Fit and score every law asked for on every router's canonical runs, Eq. 2 included; the dense laws on the dense runs.

    A law that the runs cannot identify is among the skipped, with the reason.
    """
    jobs = router_jobs(routers, options.laws)
    outcomes: list[Candidate | Skipped] = []
    with ThreadPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1) or 1) as pool:
        for job, outcome in zip(jobs, pool.map(lambda job: _candidate(runs, options, *job), jobs), strict=True):
            outcomes.append(outcome)
            if progress:
                progress(len(outcomes), len(jobs), f"{job[0]} {job[1]}")
    found = tuple(outcome for outcome in outcomes if isinstance(outcome, Candidate))
    return found, tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped))


def _candidate(runs: Runs, options: Options, router: str, name: str) -> Candidate | Skipped:
    try:
        chosen = canonical(runs, router)
        result = fit_runs(law_for(name, chosen), chosen, router, options)
    except InputError as error:
        return Skipped(router, name, str(error))
    left_out = leave_one_out(result.fit).score
    return Candidate(result, aicc(result.fit), left_out.rmse_log10 * _LN10 if left_out else None, _next_sizes(result, chosen, options))


def _next_sizes(result: Result, runs: Runs, options: Options) -> tuple[RollOutStep, ...]:
    """Each size predicted from all smaller ones: the roll-out's first step beyond every split."""
    law = result.law
    if law.name == "per-size" or not runs.has(N):
        return ()
    data: dict[str, Float[np.ndarray, "runs"]] = {name: runs.numeric(name) for name in dict.fromkeys((*law.columns, N))}
    sizes = np.unique(data[N])
    following = dict(zip(sizes[:-1].tolist(), sizes[1:].tolist(), strict=True))
    draws = min(options.draws, ROLL_OUT_DRAWS)
    steps = roll_out(law, data, runs.loss, options.loss, draws, options.seed, options.level)
    return tuple(step for step in steps if step.size == following[step.trained_up_to])


def rank(candidates: Sequence[Candidate], router: str) -> Ranking | None:
    """The laws of one router by held-out error, or by leave-one-out error where too few sizes can be held out; None without laws.

    Only laws scored on the same held-out sizes are ranked: one that the runs of some split cannot identify has no place.
    """
    mine = [candidate for candidate in candidates if candidate.router == router]
    most = max((len(candidate.roll_out) for candidate in mine if candidate.held_out is not None), default=0)
    if most >= LEAST_HELD_OUT:
        by, errors = "held_out", most
        scores = {c.law: c.held_out for c in mine if c.held_out is not None and len(c.roll_out) == most}
    else:
        by, errors = "left_out", max((c.result.fit.num_runs for c in mine), default=0)
        scores = {c.law: c.left_out for c in mine if c.left_out is not None}
    if not scores:
        return None
    laws = tuple(sorted(scores, key=lambda law: scores[law]))
    factor = equal_factor(errors)
    equal = tuple(law for law in laws if scores[law] <= factor * scores[laws[0]])
    return Ranking(router, by, factor, laws, scores, equal)
