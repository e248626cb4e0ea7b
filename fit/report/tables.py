"""The rows of a report's tables; their heads and notes are in words.toml. Every number that a finding quotes stands in one of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from common.document import Table
from common.document.numbers import count, percent, plain
from fit.analysis import Result
from fit.report.record import provenance
from fit.report.view import HELD_OUT, OUTSIDE, View, cell, router_name
from fit.report.words import made
from fit.select import cells_of, criteria
from fit.uncertainty.delta import correlations

_FIRST_ROWS, _FIRST_ROUTERS = 5, 4
Rows = Iterable[tuple[str, ...]]


def table(view: View, name: str) -> Table | None:
    """The table of this name; None where it has no rows."""
    ranking, routers = view.analysis.ranking, [""] if len(view.routers) == 1 else [f" {name}" for name in view.routers[:_FIRST_ROUTERS]]
    columns = ["law", *(f"{what}{router}" for what in ("CRPS", "EPC/N") for router in routers)]
    cells, optimum = ranking.cells if ranking else 0, with_optimum(view)
    law = optimum[0].law.name if optimum else ""
    budgets = "" if view.analysis.options.budgets else "; budgets of 1, 10 and 100 times the largest run's"
    one = made(
        name, _ROWS[name](view), columns, point=view.at, unit=view.unit, cells=cells, held_out=view.held_out, law=law, budgets=budgets
    )
    if one and name == "held_out" and len(by := {row[2] for row in one.rows}) == 1:
        rows = tuple((*row[:2], *row[3:]) for row in one.rows)
        return replace(one, title=f"{one.title} by {by.pop()}", columns=(*one.columns[:2], *one.columns[3:]), rows=rows)
    # Where experts are priced, what the dense runs alone say of tokens is a finding.
    return replace(one, first=False) if one and name == "optimum" and view.point else one


def coefficient_tables(view: View) -> list[Table]:
    """The parameters of each law shown, a column for each router."""
    tables: list[Table] = []
    for law in dict.fromkeys(result.law.name for result in view.shown):
        found = [result for result in view.shown if result.law.name == law]
        rows = [
            (name, *(view.figure(result, name) for result in found)) for name in dict.fromkeys(n for r in found for n in r.coefficients)
        ]
        one, heads = found[0].law, ("parameter", *(router_name(result.router) for result in found))
        tables.append(Table(f"{one.title} ({law}): {one.formula}", heads, tuple(rows), f"{one.source[:1].upper()}{one.source[1:]}."))
    return tables


def _laws(view: View) -> Iterator[tuple[str, ...]]:
    laws = {law: [view.analysis.find(router, law) for router in view.routers[:_FIRST_ROUTERS]] for law in view.laws if view.point}
    laws = {law: found for law, found in laws.items() if any(found)}
    for k, (law, found) in enumerate(laws.items()):
        if len(laws) <= _FIRST_ROWS or k < _FIRST_ROWS - 1 or law in view.main:
            yield law, *(_held_out_error(view, r) if r else "" for r in found), *(view.ratio(r) if r else "" for r in found)


def _held_out_error(view: View, result: Result) -> str:
    """Mean CRPS of ln loss over the sizes held out; empty where there is none."""
    scores = [value for value in cells_of({result.router: result.steps}, view.analysis.held_out_by).values() if np.isfinite(value)]
    return percent(float(np.mean(scores))) if scores else ""


def _held_out(view: View) -> Iterator[tuple[str, ...]]:
    for result in view.shown:
        for step in result.steps if view.full or result.law.name in view.main else ():
            if step.following and (score := step.score):
                where = HELD_OUT[step.by][0], count(step.size), str(step.fitted)
                errors = f"{score.rmse_percent:.2f}%", f"{score.mean_error:+.4f}"
                yield *_head(result), *where, "" if score.covered is None else str(score.covered), str(score.runs), *errors


def _worth(view: View) -> Iterator[tuple[str, ...]]:
    for law in dict.fromkeys(result.law.name for result in view.shown):
        for result in (found := view.by_loss(law)):
            less = "" if result is found[0] else cell(view.behind(found[0], result))
            yield *_head(result), *(view.figure(result, name) for name in ("loss", "epc", "ratio")), less


def _asked(view: View) -> Iterator[tuple[str, ...]]:
    """The loss at each point asked for, by the best law that says it and by the paper's."""
    for point in view.analysis.options.points:
        answering = [law for law in view.laws if any(f"loss({point.label})" in result.derived for result in view.analysis.of_law(law))]
        for law in answering[:1] + [law for law in answering[1:] if law in view.main]:
            for result in view.analysis.of_law(law):
                yield point.label, *_head(result), *(view.figure(result, f"{name}({point.label})") for name in ("loss", "new_run_loss"))


def with_optimum(view: View) -> list[Result]:
    """The fits of the best law that has a compute-optimal N and D."""
    found = [
        result for law in view.laws for result in view.analysis.of_law(law) if any(name.startswith("optimal_N") for name in result.derived)
    ]
    return [result for result in found if result.law.name == found[0].law.name]


def _optimum(view: View) -> Iterator[tuple[str, ...]]:
    for result in with_optimum(view):
        for name in [name for name in result.derived if name.startswith("optimal_N")]:
            other, budget = name.replace("_N", "_D"), name.partition("(")[2].rstrip(")")
            ratio = result.derived[other].value / result.derived[name].value
            figures = view.figure(result, name), view.figure(result, other)
            outside = OUTSIDE * any(OUTSIDE in text for text in figures)
            yield router_name(result.router), budget, *figures, (plain(ratio, 1) if 1 <= ratio < 100 else count(ratio)) + outside


APPROACHED = {"exponent_n": "exponent of N", "exponent_d": "exponent of D", "n": "N", "d": "D"}
"""What IsoFLOP profiles and a law are compared by."""


def _approaches(view: View) -> Iterator[tuple[str, ...]]:
    both = view.analysis.approaches
    if both is None:
        return
    ours, best = both.profiles, both.allocation.optima[0]
    profiles = dict(zip(APPROACHED, (ours.exponent_n, ours.exponent_d, *ours.optimum(both.flops)), strict=True))
    law = dict(zip(APPROACHED, (both.allocation.exponent_n, both.allocation.exponent_d, best.n, best.d), strict=True))
    for name, label in APPROACHED.items():
        at = f"{label} at {both.flops:.2g} FLOPs" if name in ("n", "d") else label
        yield at, cell(profiles[name]), cell(law[name]), cell(both.differences[name]), "yes" if name in both.disagree else "no"
    for one in ours.left_out:
        yield f"{one.flops:.2g} FLOPs", f"left out: {one.reason}", "", "", ""


def _errors(view: View) -> Iterator[tuple[str, ...]]:
    for result in view.shown:
        pairs = correlations(result.fit)
        for name, figure in result.coefficients.items():
            own = {(b if a == name else a): value for (a, b), value in pairs.items() if name in (a, b)}
            other = max(own, key=lambda key: abs(own[key]), default="")
            yield *_head(result), name, f"{figure.se:.2g}" if figure.se else "", f"{other} {own[other]:.2f}" if other else ""


def _scores(view: View) -> Iterator[tuple[str, ...]]:
    for result in view.shown:
        fit, found = result.fit, criteria(result.fit)
        values = (found.aic, found.aicc, found.bic) if found else (None, None, None)
        size = str(fit.num_runs), str(fit.problem.num_free)
        yield *_head(result), *size, _rmse(result), plain(fit.r_squared, 5), *("" if x is None else plain(x, 1) for x in values)


def _certificates(view: View) -> Iterator[tuple[str, ...]]:
    for result in view.shown:
        known, draws = result.fit.certificate, result.draws
        lacking = [f"not {name}" for name in ("converged", "confirmed", "identified") if not getattr(known, name)]
        usable = f"{len(draws) - draws.failed} of {len(draws)}, {draws.scheme}" if draws else "none"
        yield *_head(result), ", ".join(lacking) or "certified", f"{known.condition:.1e}", usable


def _warnings(view: View) -> Iterator[tuple[str, ...]]:
    yield from ((f"{w.severity} {w.code}", w.about, w.message) for result in view.shown for w in result.warnings)
    yield from ((f"note {w.code}", "runs", w.message) for w in view.analysis.runs.warnings)
    yield from (("note not-fitted", f"{one.router} {one.law}", one.reason) for one in view.analysis.skipped)


def _runs(view: View) -> Iterator[tuple[str, ...]]:
    read, results = view.analysis.runs.log, view.analysis.of_law(view.analysis.quoted)
    steps = [("all", step) for step in read] + [(router_name(r.router), step) for r in results for step in r.runs.log[len(read) :]]
    yield from ((router, step.rule, str(step.kept), str(step.dropped), "; ".join(step.reasons)) for router, step in steps)


def _provenance(view: View) -> Iterator[tuple[str, ...]]:
    for key, value in provenance(view.analysis).items():
        if key == "columns":  # the first line of the log has them
            continue
        parts = value if isinstance(value, list) else [value]
        texts = [", ".join(map(str, one.values())) if isinstance(one, dict) else _text(one) for one in parts]
        yield from ((key.replace("_", " "), text) for text in texts if text)


def _head(result: Result) -> tuple[str, str]:
    return result.law.name, router_name(result.router)


def _rmse(result: Result) -> str:
    return percent(result.fit.rmse_log10 * float(np.log(10)))


def _text(value: object) -> str:
    return "" if value is None else str(value)


_ROWS: Mapping[str, Callable[[View], Rows]] = {
    "laws": _laws, "held_out": _held_out, "worth": _worth, "asked": _asked, "optimum": _optimum, "approaches": _approaches,
    "errors": _errors, "scores": _scores,
    "certificates": _certificates, "warnings": _warnings, "runs": _runs, "provenance": _provenance,
    "dense": lambda view: (
        (*_head(r), _rmse(r), _held_out_error(view, r), str(r.fit.problem.num_free))
        for law in view.laws for r in view.analysis.results if r.law.name == law and view.point is None
    ),
    "ranking": lambda view: (
        (law, percent(score), *map(percent, ranking.behind[law]), "no" if law in ranking.equal else "yes")
        for ranking in [view.analysis.ranking] if ranking for law, score in ranking.scores.items()
    ),
    "gains": lambda view: (
        (*_head(r), view.figure(r, "c"), view.figure(r, end))
        for law in view.laws for r in view.analysis.results if r.law.name == law for end in r.derived if end.endswith("_cutoff")
    ),
    "derived": lambda view: (
        (*_head(r), name, view.figure(r, name)) for r in view.shown for name in r.derived if view.full or name.startswith(("b(", "new_run"))
    ),
}  # fmt: skip
