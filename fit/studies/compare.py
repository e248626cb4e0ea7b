"""Hold the laws against each other: which predicts sizes it was not fitted to, and which answers survive a change of law.

The paper's headline, that the gain from experts shrinks with N, rests on the form of its law; a user is told so first, with
what holds whatever the law. Everything is computed from the runs at hand.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from common.errors import InputError
from fit.analysis import Analysis, Options, Skipped, default_points
from fit.assess.held_out import RollOutStep
from fit.errors import NotIdentifiedError
from fit.load.grid import routers
from fit.load.runs import Runs
from fit.load.schema import E, N
from fit.report.record import fit_json
from fit.show.as_json import estimate_json, finite
from fit.show.display import listing
from fit.show.document import Block, Document, Paragraph, Section
from fit.studies.answers import Agreement, Answer, agreements, answers
from fit.studies.candidates import Candidate, Ranking, fit_candidates, rank
from fit.studies.compare_tables import SCORES, agreement_table, along_training, answer_tables, findings, held_out_table, score_table
from fit.studies.sensitivity import Variant, by_choice, by_step, by_target, sensitivity_table, steps_again
from fit.studies.subject import described, simulated_finding, traceable

SCHEMA = "routelaw.compare/1"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sensitivity:
    """How one law's figures on one router's runs move with other choices: `choices`, `targets`, and `steps` of training.

    `no_steps`: why the steps could not be compared, if they could not.
    """

    router: str
    law: str
    choices: tuple[Variant, ...]
    targets: tuple[Variant, ...]
    steps: tuple[Variant, ...]
    no_steps: str


@dataclass(frozen=True)
class Comparison:
    """Every law on every router, ranked; every answer, and which survive; and what else would move them."""

    runs: Runs
    options: Options
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]
    rankings: Mapping[str, Ranking]
    answers: tuple[Answer, ...]
    agreements: tuple[Agreement, ...]
    sensitivity: tuple[Sensitivity, ...]

    @property
    def analysis(self) -> Analysis:
        """The fits alone, as `fit` would have made them."""
        return Analysis(self.runs, self.options, tuple(candidate.result for candidate in self.candidates), self.skipped)

    def candidate(self, router: str, law: str) -> Candidate | None:
        """This law on this router's runs, or None if it could not be fitted."""
        return next((c for c in self.candidates if (c.router, c.law) == (router, law)), None)


def compare(runs: Runs, options: Options, progress: Progress | None = None, *, other_choices: bool = True) -> Comparison:
    """Fit every law asked for to every router's canonical runs, and compare their predictions and answers.

    `options.points` are the models asked about; none: the paper's 5M/E=128, and the smallest and largest size. `other_choices`: whether
    to refit under other losses, seeds, sizes, loss columns and steps too. `progress(done, all, name)` is called as fits finish. Raises
    `InputError` for an unknown router, `NotIdentifiedError` where no law can be fitted.
    """
    chosen = _routers(runs, options)
    if not options.points and runs.has(N) and runs.has(E):
        options = replace(options, points=default_points(runs))
    jobs = 0

    def moved(done: int, fits: int, name: str) -> None:
        """Report progress, with the refits under other choices still to come."""
        nonlocal jobs
        jobs = fits
        if progress:
            progress(done, fits + len(chosen), name)

    found, skipped = fit_candidates(runs, chosen, options, moved)
    if not found:
        raise NotIdentifiedError(f"no law can be fitted to these runs: {'; '.join(dict.fromkeys(s.reason for s in skipped))}")
    rankings = {router: ranking for router in chosen if (ranking := rank(found, router))}
    asked = answers(found, options)
    sensitivity = _sensitivities(runs, rankings, options) if other_choices else ()
    moved(jobs + len(chosen), jobs, "other choices")
    return Comparison(runs, options, found, skipped, rankings, asked, agreements(asked, rankings), sensitivity)


def _routers(runs: Runs, options: Options) -> tuple[str, ...]:
    there = routers(runs)
    for name in options.routers:
        if name not in there:
            raise InputError(f"no runs of router {name!r}; the routers there: {listing(there) or 'none'}")
    if not there:
        raise InputError("there are no routed runs, so there are no laws of routing to compare; `fit` fits the dense law")
    return options.routers or there


def _sensitivities(runs: Runs, rankings: Mapping[str, Ranking], options: Options) -> tuple[Sensitivity, ...]:
    """Other choices for the paper's law and the law that predicts best, on every router."""
    steps, no_steps = steps_again(runs)
    pairs = [(router, law) for router, found in rankings.items() for law in dict.fromkeys(("bounded", found.best)) if law in found.laws]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return tuple(pool.map(lambda pair: _sensitivity(runs, steps, no_steps, pair[0], pair[1], options), pairs))


def _sensitivity(runs: Runs, steps: Mapping[int, Runs], no_steps: str, router: str, law: str, options: Options) -> Sensitivity:
    along = by_step(steps, runs, router, law, options.loss) if steps else ()
    return Sensitivity(router, law, by_choice(runs, router, law, options.loss), by_target(runs, router, law, options.loss), along, no_steps)


def compare_document(comparison: Comparison) -> Document:
    """The comparison as a document: what depends on the law first, then the scores, the answers, and other choices."""
    sections = [
        Section("What survives a change of law", (agreement_table(comparison.agreements),)),
        Section("How well each law predicts", tuple(_scores(comparison))),
        Section("What each law answers", tuple(answer_tables(comparison.answers, comparison.rankings))),
        Section("What other choices change", tuple(_other_choices(comparison))),
    ]
    analysis = comparison.analysis
    kept = (*(section for section in sections if section.blocks), *traceable(analysis))
    return Document(f"Laws compared on {described(analysis)}", (*simulated_finding(analysis), *_findings(comparison)), kept)


def _findings(comparison: Comparison) -> tuple[str, ...]:
    told = findings(comparison.candidates, comparison.rankings, comparison.agreements, comparison.options.level)
    moved = [along_training(one.router, one.steps) for one in comparison.sensitivity if one.law == "bounded"]
    if not any(moved):
        return told
    return (*told, f"N_cutoff under the paper's law, bounded, moves with training length: {'; '.join(filter(None, moved))}.")


def _scores(comparison: Comparison) -> list[Block]:
    there = dict.fromkeys(candidate.router for candidate in comparison.candidates)
    blocks: list[Block] = [Paragraph(SCORES)]
    blocks += [score_table(comparison.candidates, comparison.rankings.get(router), router) for router in there]
    blocks += [table for router in there if (table := held_out_table(comparison.candidates, router))]
    return blocks


def _other_choices(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = []
    for one in comparison.sensitivity:
        name, short = f"{one.router}, {one.law}", one.law == "bounded"
        blocks.append(sensitivity_table(f"{name}: other losses and other runs", one.choices, _NOTE, on_terminal=short))
        if len(one.targets) > 1:
            blocks.append(sensitivity_table(f"{name}: each loss column", one.targets, on_terminal=False))
        if one.steps:
            blocks.append(sensitivity_table(f"{name}: along training", one.steps, on_terminal=False))
    if comparison.sensitivity and (why := comparison.sensitivity[0].no_steps):
        blocks.append(Paragraph(f"Training steps are not compared: {why}."))
    return blocks


_NOTE = "Point fits. Fit: root mean square error of ln loss as a percentage of the loss, whatever was minimised."


def compare_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison at full precision. `provenance`, `selection`, `fits` and `skipped` are those of `fit --json`.

    Besides: `findings`; `scores` of each fit; `rankings` by router; `answers` of each law; `agreements`, whether each survives a
    change of law (`every`, `best`, `none`); `sensitivity`. Errors are root mean squares of ln loss.
    """
    return finite(
        {
            **fit_json(comparison.analysis),
            "schema": SCHEMA,
            "findings": _findings(comparison),
            "scores": [_score_json(candidate) for candidate in comparison.candidates],
            "rankings": [vars(ranking) for ranking in comparison.rankings.values()],
            "answers": [_answer_json(answer) for answer in comparison.answers],
            "agreements": [
                {
                    "question": one.question.key,
                    "router": one.router,
                    "survives": one.survives,
                    "best": [answer.law for answer in one.best],
                    "others": [answer.law for answer in one.others],
                    "abstain": one.abstain,
                }
                for one in comparison.agreements
            ],
            "sensitivity": [_sensitivity_json(one) for one in comparison.sensitivity],
        }
    )


def _score_json(candidate: Candidate) -> dict[str, Any]:
    covered, of = candidate.covered or (None, None)
    return {
        "router": candidate.router,
        "law": candidate.law,
        "parameters": candidate.result.law.num_parameters,
        "rmse": candidate.rmse,
        "aicc": candidate.aicc,
        "left_out": candidate.left_out,
        "held_out": candidate.held_out,
        "covered": covered,
        "covered_of": of,
        "sizes": [_step_json(step) for step in candidate.roll_out],
    }


def _step_json(step: RollOutStep) -> dict[str, Any]:
    score = vars(step.score) if step.score else None
    return {"trained_up_to": step.trained_up_to, "size": step.size, "score": score, "reason": step.reason}


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question.key,
        "router": answer.router,
        "law": answer.law,
        "says": answer.says,
        "figure": estimate_json(answer.figure),
        "favours": answer.favours,
        "share": answer.share,
    }


def _sensitivity_json(one: Sensitivity) -> dict[str, Any]:
    kinds = {"choices": one.choices, "targets": one.targets, "steps": one.steps}
    return {"router": one.router, "law": one.law, **{kind: [vars(variant) for variant in found] for kind, found in kinds.items()}}
