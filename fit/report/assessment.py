"""What the written report adds to a fit, because it costs time: held-out errors, lack of fit, residual trends, and sensitivity.

The headline law is rolled out by size and refitted under other choices; every fit is left-one-out.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import InputError
from fit.analysis import Analysis, Options, Result
from fit.assess.held_out import Score
from fit.assess.lack_of_fit import (
    LackOfFit,
    ResidualTrend,
    RollOutStep,
    SeedNoise,
    aicc,
    lack_of_fit,
    leave_one_out,
    residual_trends,
    roll_out,
    seed_noise,
)
from fit.intervals.profile import ProfileInterval, profile_interval, profiled
from fit.load.runs import Runs
from fit.report.findings import headline
from fit.show.as_json import finite
from fit.studies.sensitivity import Variant, by_choice, by_step, by_target, steps_again

SCHEMA = "routelaw.assessment/1"
SIZE = "dense_parameter_count"

CHOICES, TARGETS, STEPS = "choices", "targets", "steps"
"""The kinds of other choices: losses minimised and runs left out; columns of loss; training steps."""


@dataclass(frozen=True)
class FitScore:
    """How one fit does: on runs left out one at a time (None where no run could be predicted), and against seed noise, if there is any."""

    result: Result
    held_out: Score | None
    failed: int
    aicc: float | None
    noise: SeedNoise | None
    lack: LackOfFit | None


@dataclass(frozen=True)
class Assessment:
    """All of it: every fit's scores; and of the headline law by router, roll-out steps, residual trends, variants and profile intervals."""

    scores: tuple[FitScore, ...]
    steps: Mapping[str, tuple[RollOutStep, ...]]
    trends: Mapping[str, tuple[ResidualTrend, ...]]
    variants: Mapping[str, Mapping[str, tuple[Variant, ...]]]
    profiles: Mapping[str, tuple[ProfileInterval, ...]]


def assess(analysis: Analysis, progress: Callable[[int, int, str], None] | None = None) -> Assessment:
    """Score every fit, and roll out, vary and look for trends in those of the headline law. `progress(done, all, what)`."""
    main = headline(analysis)
    along, _ = ({}, "") if analysis.runs.step is not None else steps_again(analysis.runs)
    total, done = len(analysis.results) + 2 * len(main), 0

    def note(what: str) -> None:
        """One more part is done."""
        nonlocal done
        done += 1
        if progress:
            progress(done, total, what)

    scores: list[FitScore] = []
    for result in analysis.results:
        scores.append(_score(result))
        note(f"leave one out: {result.router} {result.law.name}")
    rolled: dict[str, tuple[RollOutStep, ...]] = {}
    variants: dict[str, dict[str, tuple[Variant, ...]]] = {}
    for result in main:
        if steps := _roll_out(result, analysis.options):
            rolled[result.router] = steps
        note(f"roll-out: {result.router} {result.law.name}")
        variants[result.router] = _variants(result, analysis, along)
        note(f"other choices: {result.router} {result.law.name}")
    trends = {result.router: _trends(result) for result in main}
    profiles = {result.router: _profiles(result, analysis.options.level) for result in main}
    return Assessment(tuple(scores), rolled, trends, variants, profiles)


def _profiles(result: Result, level: float) -> tuple[ProfileInterval, ...]:
    """Profile intervals of the law's shape parameters; none for a loss that is not a square."""
    try:
        return tuple(profile_interval(result.fit, name, level) for name in profiled(result.law))
    except InputError:
        return ()


def _score(result: Result) -> FitScore:
    left = leave_one_out(result.fit)
    noise = seed_noise(result.runs.columns, result.runs.loss)
    lack = lack_of_fit(result.fit, noise) if noise else None
    return FitScore(result, left.score, left.failed, aicc(result.fit), noise, lack)


def _roll_out(result: Result, options: Options) -> tuple[RollOutStep, ...]:
    if SIZE not in result.runs.columns:
        return ()
    data = {name: result.runs.numeric(name) for name in {*result.law.columns, SIZE}}
    return roll_out(result.law, data, result.runs.loss, options.loss, options.draws, options.seed, options.level)


def _trends(result: Result) -> tuple[ResidualTrend, ...]:
    return residual_trends(result.fit)


def _variants(result: Result, analysis: Analysis, steps: Mapping[int, Runs]) -> dict[str, tuple[Variant, ...]]:
    """The headline law's figures under other choices, by kind of choice; a kind that these runs cannot show is left out."""
    runs, loss, law = analysis.runs, analysis.options.loss, result.law.name
    if not {SIZE, "num_experts"} <= set(result.law.columns):
        return {}
    found = {CHOICES: by_choice(runs, result.router, law, loss), TARGETS: by_target(runs, result.router, law, loss)}
    if steps:
        found[STEPS] = by_step(steps, runs, result.router, law, loss)
    return {kind: variants for kind, variants in found.items() if len(variants) > 1}


def assessment_json(assessment: Assessment) -> dict[str, Any]:
    """The assessment at full precision; docs/json.md lists its keys. Numbers that are not finite become None."""
    record = {
        "schema": SCHEMA,
        "fits": [
            {
                "router": score.result.router,
                "law": score.result.law.name,
                "leave_one_out": None if score.held_out is None else {**asdict(score.held_out), "failed": score.failed},
                "aicc": score.aicc,
                "seed_noise": None if score.noise is None else asdict(score.noise),
                "lack_of_fit": None if score.lack is None else asdict(score.lack),
            }
            for score in assessment.scores
        ],
        "roll_out": [_step(router, step) for router, steps in assessment.steps.items() for step in steps],
        "residual_trends": [{"router": router, **asdict(trend)} for router, trends in assessment.trends.items() for trend in trends],
        "profiles": [{"router": router, **asdict(one)} for router, found in assessment.profiles.items() for one in found],
        "variants": [
            {"router": router, "kind": kind, **asdict(variant)}
            for router, kinds in assessment.variants.items()
            for kind, variants in kinds.items()
            for variant in variants
        ],
    }
    return finite(record)


def _step(router: str, step: RollOutStep) -> dict[str, Any]:
    return {
        "router": router,
        "law": step.law,
        "trained_up_to": step.trained_up_to,
        "size": step.size,
        "fitted": step.fitted,
        "failed_draws": step.failed,
        "reason": step.reason,
        "score": None if step.score is None else asdict(step.score),
    }
