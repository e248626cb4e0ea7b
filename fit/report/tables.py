"""The tables of a fit report: coefficients law by law, derived figures, certificates, selection, warnings, provenance."""

import re
from collections.abc import Sequence

from fit.analysis import Analysis, Estimate, Result
from fit.load.runs import SelectionStep
from fit.report.record import provenance
from fit.show.display import FAR, count, estimate, listing, many, percent
from fit.show.document import Table

EXTRAPOLATED = f"{FAR} outside the sizes or expert counts of the runs: extrapolated."


def grouped(analysis: Analysis) -> dict[str, list[Result]]:
    """The results of each law, laws in the order in which they first occur."""
    laws: dict[str, list[Result]] = {}
    for result in analysis.results:
        laws.setdefault(result.law.name, []).append(result)
    return laws


def interval_note(analysis: Analysis) -> str:
    """What the brackets are."""
    options = analysis.options
    if not options.draws:
        return "No draws were made, so there are no intervals."
    resampled = {"residuals": "residuals resampled", "pairs": "runs resampled", "clusters": "whole model sizes resampled"}
    draws = f"{many(options.draws, 'draw')}, {resampled[options.scheme]}, seed {options.seed}"
    return (
        f"In brackets: {percent(options.level)} {options.method} intervals ({draws}). They take the form of the law for right: "
        "how far it is wrong is not in them."
    )


def coefficients(analysis: Analysis) -> tuple[Table, ...]:
    """One table per law: a row per router, a column per parameter. That of `per-size`, a slope for each size, is turned on its side, and
    too long for a terminal."""
    return tuple(_coefficients(results) for results in grouped(analysis).values())


def _coefficients(results: Sequence[Result]) -> Table:
    law = results[0].law
    names = list(dict.fromkeys(name for result in results for name in result.coefficients))
    rows = tuple(
        (
            result.router,
            *(estimate(result.coefficients.get(name)) for name in names),
            str(result.fit.num_runs),
            f"{result.fit.rmse_log10:.5f}",
        )
        for result in results
    )
    units: dict[str, list[str]] = {}
    for name in names:
        figure = next(result.coefficients[name] for result in results if name in result.coefficients)
        if figure.unit:
            units.setdefault(figure.unit, []).append(name)
    note = "; ".join(f"{listing(which)}: {unit}" for unit, which in units.items())
    title = f"{law.title}: {law.formula} ({law.source})"
    table = Table(title, ("router", *map(shown_name, names), "runs", "RMSE log10"), rows, note)
    if law.name != "per-size":
        return table
    turned = tuple(zip(table.columns, *table.rows, strict=True))
    return Table(title, turned[0], turned[1:], note, on_terminal=False)


_KINDS = {"epc": "EPC", "loss": "loss", "new_run_loss": "new run"}


def shown_name(name: str) -> str:
    """What a table calls a figure: `epc(5M/E=128)` is `EPC 5M/E=128`, `n_cutoff` is `N_cutoff`, `b(1.653e+07)` is `b(16.5M)`."""
    found = re.fullmatch(r"(\w+)\((.*)\)", name)
    if found and re.fullmatch(r"\d[\d.]*e\+\d+", found[2]):
        return f"{found[1]}({count(float(found[2]))})"
    if found and found[1] in _KINDS:
        return f"{_KINDS[found[1]]} {found[2]}"
    return {"n_cutoff": "N_cutoff", "f_cutoff": "F_cutoff"}.get(name, name)


def derived(results: Sequence[Result], kinds: Sequence[str], title: str, note: str = "", *, on_terminal: bool = True) -> Table | None:
    """The derived figures of these kinds (`n_cutoff`, `epc`, `loss`, ...), a row per router; None where there are none."""
    names = [name for name in dict.fromkeys(n for r in results for n in r.derived) if name.partition("(")[0] in kinds]
    if not names:
        return None
    rows = tuple((result.router, *(estimate(result.derived.get(name)) for name in names)) for result in results)
    far = any(_far(result.derived.get(name)) for result in results for name in names)
    notes = [text for text in (note, EXTRAPOLATED if far else "") if text]
    return Table(title, ("router", *map(shown_name, names)), rows, " ".join(notes), on_terminal)


def _far(figure: Estimate | None) -> bool:
    return figure is not None and figure.extrapolated


_CERTIFICATE = (
    "objective: mean cost per run; gradient: largest cosine between residuals and a free derivative, nought at an optimum; condition: of "
    "the scaled derivatives; grid: points of the global search; starts: polishes that ended at the optimum, of those made; failed: draws "
    "that did not identify the law. All in float64."
)


def certificates_short(analysis: Analysis) -> Table:
    """Why the fits are believed to be optima: a row per law, the worst of its fits in each column."""
    rows: list[tuple[str, ...]] = []
    for law, results in grouped(analysis).items():
        proofs = [result.fit.certificate for result in results]
        fewest = min(proofs, key=lambda proof: proof.reached / proof.starts)
        bounds = [f"{result.router} {name}" for result in results for name in result.fit.certificate.at_bounds]
        rows.append(
            (
                law,
                str(len(results)),
                f"{max(proof.gradient for proof in proofs):.0e}",
                f"{max(proof.condition for proof in proofs):.3g}",
                f"{fewest.reached}/{fewest.starts}",
                ", ".join(bounds) or "none",
                str(sum(0 if result.draws is None else result.draws.failed for result in results)),
            )
        )
    heads = ("law", "fits", "gradient", "condition", "starts", "at bound", "failed draws")
    note = "The worst of each law's fits; gradient nought: at an optimum; starts: polishes that ended there, of those made."
    return Table("Certificates", heads, tuple(rows), note)


def certificates(analysis: Analysis) -> Table:
    """Every fit's certificate, a row each."""
    rows: list[tuple[str, ...]] = []
    for result in analysis.results:
        proof = result.fit.certificate
        rows.append(
            (
                f"{result.router} {result.law.name}",
                str(result.law.num_parameters),
                f"{proof.objective:.4e}",
                f"{proof.best_in_search:.4e}",
                f"{proof.gradient:.0e}",
                f"{proof.condition:.3g}",
                str(proof.grid_points),
                f"{proof.reached}/{proof.starts}",
                " ".join(proof.at_bounds) or "none",
                "none" if result.draws is None else f"{result.draws.failed}/{len(result.draws) + result.draws.failed}",
            )
        )
    heads = ("fit", "params", "objective", "best in search", "gradient", "condition", "grid", "starts", "at bound", "failed")
    return Table("Certificates, fit by fit", heads, tuple(rows), _CERTIFICATE, on_terminal=False)


def selection(analysis: Analysis) -> Table:
    """How many runs each router's laws in N and E are fitted to, and what left the others out."""
    rows = [("read", str(len(analysis.runs)), "; ".join(_left_out(analysis.runs.log)) or "none")]
    seen: set[tuple[str, int, str]] = set()
    for result in analysis.results:
        left_out = "; ".join(_left_out(result.runs.log[len(analysis.runs.log) :])) or "none"
        key = (result.router, len(result.runs), left_out)
        if key not in seen:
            seen.add(key)
            laws = [r.law.name for r in analysis.results if (r.router, len(r.runs)) == key[:2]]
            rows.append((f"{result.router}: {', '.join(laws)}", str(len(result.runs)), left_out))
    return Table("Runs fitted, and how many each filter left out", ("fits", "runs", "left out"), tuple(rows))


def _left_out(log: Sequence[SelectionStep]) -> list[str]:
    return [f'{step.dropped} outside "{step.rule.partition(", as in")[0]}"' for step in log if step.dropped]


def selection_log(analysis: Analysis) -> Table:
    """Every line of the selection log with its reasons: first what was read, then each fit's own filters."""
    rows = [("all", *_line(step)) for step in analysis.runs.log]
    for result in analysis.results:
        rows += [(f"{result.router} {result.law.name}", *_line(step)) for step in result.runs.log[len(analysis.runs.log) :]]
    return Table("Selection log", ("fits", "rule", "kept", "dropped", "reasons"), tuple(dict.fromkeys(rows)), on_terminal=False)


def _line(step: SelectionStep) -> tuple[str, str, str, str]:
    return step.rule, str(step.kept), str(step.dropped), "; ".join(step.reasons)


def warning_groups(analysis: Analysis) -> dict[str, dict[str, list[str]]]:
    """Warnings by code, then by message: the fits each is about. `runs` stands for the runs themselves."""
    groups: dict[str, dict[str, list[str]]] = {}
    for warning in analysis.runs.warnings:
        groups.setdefault(warning.code, {}).setdefault(warning.message, []).append("runs")
    for result in analysis.results:
        known = {(warning.code, warning.message) for warning in analysis.runs.warnings}
        for warning in (*result.runs.warnings, *result.warnings):
            if (warning.code, warning.message) not in known:
                groups.setdefault(warning.code, {}).setdefault(warning.message, []).append(f"{result.router} {result.law.name}")
    return groups


def warnings_short(analysis: Analysis) -> Table | None:
    """A row per code: how many fits, and what it says of the first of them."""
    rows: list[tuple[str, str, str]] = []
    for code, messages in warning_groups(analysis).items():
        fits = {place for places in messages.values() for place in places} - {"runs"}
        first = next(iter(messages))
        rows.append(
            (
                code,
                many(len(fits), "fit") if fits else "the runs",
                _cut(first) + (f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""),
            )
        )
    return Table("By code", ("code", "of", "what"), tuple(rows)) if rows else None


_MOST_TEXT = 170


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[: text.rindex(" ", 0, _MOST_TEXT - 3)] + " ..."


def _places(where: Sequence[str]) -> str:
    """Fits by router: `S-Base bilinear, bounded; Hash bounded`."""
    routers: dict[str, list[str]] = {}
    for place in where:
        router, _, law = place.rpartition(" ")
        routers.setdefault(router or law, []).extend([law] if router else [])
    return "; ".join(f"{router} {', '.join(laws)}".strip() for router, laws in routers.items())


def warnings_long(analysis: Analysis) -> Table | None:
    """Every warning in full, with the fits it is about."""
    rows = [(code, _places(where), message) for code, messages in warning_groups(analysis).items() for message, where in messages.items()]
    return Table("In full", ("code", "where", "what"), tuple(rows), on_terminal=False) if rows else None


def skipped(analysis: Analysis) -> Table | None:
    """The laws that could not be fitted, and why."""
    rows = tuple((f"{one.router} {one.law}", one.reason) for one in analysis.skipped)
    return Table("Not fitted", ("fit", "why"), rows) if rows else None


def origin(analysis: Analysis) -> Table:
    """Versions, files and options: what it takes to make the same report again."""
    rows: list[tuple[str, str]] = []
    for key, value in provenance(analysis).items():
        if key == "files":
            rows += [("file", f"{one['path']} ({one['rows']} rows, sha256 {one['sha256']})") for one in value]
        elif key == "points":
            rows.append(("points", ", ".join(f"N={point['n']:g} E={point['e']:g}" for point in value) or "default"))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            empty = {"step": "last of each run", "routers": "all"}.get(key, "")
            rows.append((key.replace("_", " "), empty if value in (None, []) else text))
    return Table("Provenance", ("what", "value"), tuple(rows), on_terminal=False)
