"""An analysis as data: the JSON of `fit.json` and `--json`; docs/json.md lists every key."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fit.analysis import Analysis, Result
from fit.budget.isoflop import Comparison
from fit.estimate import Estimate, Status
from fit.select import criteria
from fit.uncertainty.delta import correlations

SCHEMA = "routelaw.fit/3"
"""The schema's name and version: a key that goes or changes its meaning makes a new one, a key that is added does not."""


def fit_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis at full precision. The same request gives the same text; a number that is not finite is None."""
    ranking = analysis.ranking
    return cleaned({
        "schema": SCHEMA,
        "provenance": provenance(analysis),
        "selection": {"runs": len(analysis.runs), "log": analysis.runs.log, "warnings": analysis.runs.warnings},
        "quoted": analysis.quoted,
        "ranked_by": analysis.ranking and analysis.ranking.by,
        "ranking": ranking and [
            {"law": law, "crps": ranking.scores[law], "behind": behind, "se": se, "shown_worse": law not in ranking.equal}
            for law, (behind, se) in ranking.behind.items()
        ],
        "approaches": analysis.approaches and _approaches(analysis.approaches),
        "fits": [_fit(result, analysis) for result in analysis.results],
        "skipped": analysis.skipped,
    })  # fmt: skip


def provenance(analysis: Analysis) -> dict[str, Any]:
    """What the results were made from and with: versions, files with their sha256, options. No time, no machine."""
    runs, options = analysis.runs, analysis.options
    try:
        ours = version("routelaw")
    except PackageNotFoundError:
        ours = "not installed"
    return cleaned({
        "routelaw": ours, "python": platform.python_version(), "numpy": np.__version__, "files": runs.sources,
        "simulated_runs": simulated_runs(analysis), "target": runs.target, "unit": runs.unit, "step": runs.step,
        "columns": runs.origins,
        "laws": [law if isinstance(law, str) else law.name for law in options.laws], "routers": options.routers, "loss": options.loss.name,
        "scheme": options.scheme, "draws": options.draws, "seed": options.seed, "level": options.level,
        "points": options.points, "fixed": options.fixed, "bounds": options.bounds, "weights": options.weights, "group": options.group,
        "budgets": options.budgets, "unbounded": options.unbounded, "shared": options.shared,
    })  # fmt: skip


def simulated_runs(analysis: Analysis) -> int:
    """How many of the runs say of themselves that they are simulated (a column `simulated` that is 1)."""
    column = analysis.runs.columns.get("simulated")
    return 0 if column is None or column.dtype.kind != "f" else int(np.count_nonzero(column == 1))


def _approaches(found: Comparison) -> dict[str, Any]:
    """IsoFLOP profiles beside the law in size and tokens."""
    return {
        "flops": found.flops, "profiles": found.profiles.profiles, "left_out": found.profiles.left_out,
        "exponent_n": {"profiles": found.profiles.exponent_n, "law": found.allocation.exponent_n},
        "exponent_d": {"profiles": found.profiles.exponent_d, "law": found.allocation.exponent_d},
        "differences": found.differences, "disagree": found.disagree,
    }  # fmt: skip


def _fit(result: Result, analysis: Analysis) -> dict[str, Any]:
    law, fit, draws, found = result.law, result.fit, result.draws, criteria(result.fit)
    known, kept = fit.certificate, ("by", "trained_up_to", "size", "fitted", "following", "score", "reason")
    return {
        "router": result.router, "law": law.name, "formula": law.formula, "source": law.source, "runs": fit.num_runs,
        "selection": result.runs.log[len(analysis.runs.log) :], "coefficients": result.coefficients,
        "correlations": [{"first": a, "second": b, "value": value} for (a, b), value in correlations(fit).items()],
        "derived": result.derived, "rmse_log10": fit.rmse_log10, "r_squared": fit.r_squared, "criteria": found,
        "certificate": {**asdict(known), "objective": fit.problem.loss.stated(known.objective), "certified": known.certified},
        "misfit": result.misfit,
        "held_out": [{key: getattr(step, key) for key in kept} for step in result.steps],
        "draws": draws and {"scheme": draws.scheme, "draws": len(draws), "failed": draws.failed, "unfinished": draws.unfinished},
        "warnings": result.warnings,
    }  # fmt: skip


def cleaned(value: Any) -> Any:
    """`value` as JSON has it: dataclasses and mappings as objects, tuples as lists, None for numbers that are not finite."""
    if isinstance(value, Estimate) and value.status is Status.NOT_IDENTIFIED:
        # What the runs do not determine is no result: who wants the number takes it by another name.
        return {
            **{name: cleaned(getattr(value, name)) for name in value.__dataclass_fields__},
            "value": None,
            "raw_value": cleaned(value.value),
        }
    if hasattr(value, "__dataclass_fields__"):
        return {name: cleaned(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [cleaned(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else str(value) if isinstance(value, str) else value
