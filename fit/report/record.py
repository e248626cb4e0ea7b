"""An analysis as data: the JSON of `fit.json` and `--json` (docs/json.md lists every key), and its draws and coefficients as CSV."""

import csv
import io
import math
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fit.analysis import Analysis, Estimate, Result
from fit.assess.identify import FitWarning
from fit.load.runs import DataWarning, SelectionStep

SCHEMA = "routelaw.fit/1"
"""The schema's name and version: a key that goes or changes its meaning makes a new one, a key that is added does not."""


def fit_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis at full precision, in the order in which it was asked for. The same request gives the same text.

    A number that is not finite becomes None, and the fit's warnings say which and why (code `not-finite`).
    """
    return {
        "schema": SCHEMA,
        "provenance": provenance(analysis),
        "selection": {
            "runs": len(analysis.runs),
            "log": [_step(step) for step in analysis.runs.log],
            "warnings": [_warning(warning) for warning in analysis.runs.warnings],
        },
        "fits": [_fit(result, analysis) for result in analysis.results],
        "skipped": [{"router": one.router, "law": one.law, "reason": one.reason} for one in analysis.skipped],
    }


def provenance(analysis: Analysis) -> dict[str, Any]:
    """What the results were made from and with: versions, files with their sha256, options. No time, no machine."""
    runs, options = analysis.runs, analysis.options
    return {
        "routelaw": installed_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "files": [{"path": source.path, "sha256": source.sha256, "rows": source.rows} for source in runs.sources],
        "simulated_runs": simulated_runs(analysis),
        "target": runs.target,
        "step": runs.step,
        "laws": list(options.laws),
        "routers": list(options.routers),
        "loss": options.loss.name,
        "scheme": options.scheme,
        "method": options.method,
        "draws": options.draws,
        "seed": options.seed,
        "level": options.level,
        "points": [{"n": point.n, "e": point.e} for point in options.points],
    }


def installed_version() -> str:
    """The version of this package, or that it is used without being installed."""
    try:
        return version("routelaw")
    except PackageNotFoundError:
        return "not installed"


def simulated_runs(analysis: Analysis) -> int:
    """How many of the runs say of themselves that they are simulated (a column `simulated` that is 1)."""
    column = analysis.runs.columns.get("simulated")
    return 0 if column is None or column.dtype.kind != "f" else int(np.count_nonzero(column == 1))


def _step(step: SelectionStep) -> dict[str, Any]:
    return {"rule": step.rule, "kept": step.kept, "dropped": step.dropped, "reasons": list(step.reasons)}


def _warning(warning: FitWarning | DataWarning) -> dict[str, str]:
    return {"code": warning.code, "message": warning.message}


def _fit(result: Result, analysis: Analysis) -> dict[str, Any]:
    law, fit, draws = result.law, result.fit, result.draws
    own_steps = result.runs.log[len(analysis.runs.log) :]
    found = {
        "router": result.router,
        "law": law.name,
        "formula": law.formula,
        "source": law.source,
        "target": result.runs.target,
        "runs": fit.num_runs,
        "selection": [_step(step) for step in own_steps],
        "coefficients": {name: _estimate(estimate) for name, estimate in result.coefficients.items()},
        "objective": {"loss": fit.problem.loss.name, "value": fit.certificate.objective, "rmse_log10": fit.rmse_log10},
        "certificate": {**vars(fit.certificate), "at_bounds": list(fit.certificate.at_bounds)},
        "resampling": None if draws is None else {"identified": len(draws), "failed": draws.failed, "units": draws.units},
        "derived": {name: {**_estimate(figure), "extrapolated": figure.extrapolated} for name, figure in result.derived.items()},
    }
    lost: list[FitWarning] = []
    finite = _finite(found, "", lost)
    return {**finite, "warnings": [_warning(warning) for warning in (*result.warnings, *lost)]}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "unit": estimate.unit}


_WHY = {
    "inf": "infinite: the fit or its draws set no limit on this side",
    "-inf": "infinite: the fit or its draws set no limit on this side",
    "nan": "without a value: too few draws were identified, or the figure is undefined for this fit",
}


def _finite(value: Any, place: str, lost: list[FitWarning]) -> Any:
    """`value` with None for every number that JSON cannot hold; each is noted in `lost`."""
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{place}.{key}" if place else str(key), lost) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item, f"{place}[{k}]", lost) for k, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(FitWarning("not-finite", f"{place} is {_WHY[str(value)]}"))
        return None
    return value


def draws_csv(analysis: Analysis) -> str:
    """Every identified draw of every fit: router, law, draw (from 1), and each parameter at full precision; empty where a law has none."""
    names = list(dict.fromkeys(name for result in analysis.results for name in result.law.parameter_names))
    rows: list[list[Any]] = [["router", "law", "draw", *names]]
    for result in analysis.results:
        if result.draws is None:
            continue
        refits = result.draws.refits
        values = result.law.parameter_values(refits.theta, refits.beta).tolist()
        place = [names.index(name) for name in result.law.parameter_names]
        for number, drawn in enumerate(values, start=1):
            cells: list[Any] = [""] * len(names)
            for k, value in zip(place, drawn, strict=True):
                cells[k] = value
            rows.append([result.router, result.law.name, number, *cells])
    return _csv(rows)


def coefficients_csv(analysis: Analysis) -> str:
    """Every coefficient of every fit, a row each, at full precision."""
    rows: list[list[Any]] = [["router", "law", "target", "runs", "parameter", "value", "low", "high", "unit"]]
    for result in analysis.results:
        head = [result.router, result.law.name, result.runs.target, result.fit.num_runs]
        for name, figure in result.coefficients.items():
            rows.append([*head, name, figure.value, figure.low, figure.high, figure.unit])
    return _csv(rows)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV: floats at full precision, None empty, one line end on every platform."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
