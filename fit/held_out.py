"""How laws of routed runs predict larger, longer and more sparsely routed runs than they saw: one score for each kind of hold-out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.document import Table
from common.document.numbers import percent
from fit.report.words import made
from fit.runs.schema import D, E, N
from fit.select import LEAST_SIZES, RollOutStep, cells_of, rank, roll_out

if TYPE_CHECKING:
    from fit.analysis import Analysis
    from fit.results import Result

AXES_IN_WORDS: Mapping[str, str] = {N: "size", D: "tokens", E: "experts"}
"""What is held out, in words."""


def held_out_scores(analysis: "Analysis") -> dict[str, dict[str, float]]:
    """Mean CRPS of ln loss of each law, best first, for each column held out, over the cells that its laws predict.

    A column is left out where too few of its values can be held out.
    """
    laws: dict[str, dict[str, dict[tuple[str, float], float]]] = {by: {} for by in AXES_IN_WORDS}
    for result in analysis.results:
        if not result.law.dense:
            steps = _steps(result)
            for by, own in laws.items():
                own.setdefault(result.law.name, {}).update(cells_of({result.router: steps}, by))
    rankings = {by: rank(own, by) for by, own in laws.items()}
    return {by: dict(found.scores) for by, found in rankings.items() if found is not None}


def held_out_table(scores: Mapping[str, Mapping[str, float]]) -> Table | None:
    """A row for each law, a column for what was held out; None without scores."""
    laws = list(dict.fromkeys(law for own in scores.values() for law in own))
    rows = [(law, *(percent(scores[by][law]) if law in scores[by] else "" for by in scores)) for law in laws]
    return made("held_out_by", rows, ("Law", *(AXES_IN_WORDS[by].capitalize() for by in scores)))


def _steps(result: "Result") -> tuple[RollOutStep, ...]:
    """The roll-outs by size and tokens that the result has, and one by experts."""
    e = result.runs.columns.get(E)
    if e is None or result.law.sizes or len(np.unique(e)) <= LEAST_SIZES:
        return result.steps
    return (*result.steps, *(replace(step, by=E) for step in roll_out(result.fit, e, level=result.options.level)))
