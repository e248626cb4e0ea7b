"""Every published figure that the runs can support, beside ours: the coefficients, N_cutoff, the dense law, and the conclusions.

A published value is held against our interval; where it differs, what is known to move it is computed: the rounding to three places,
the notebook's seed filter, the flat valley of the objective.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import InputError
from fit.analysis import DENSE_ROUTER, Analysis, Estimate, Options, Result, analyse
from fit.laws import BOUNDED
from fit.load.grid import routers
from fit.load.runs import Runs
from fit.report.record import fit_json
from fit.show.as_json import estimate_json, finite
from fit.show.display import count, estimate, listing, percent, plain
from fit.show.document import Block, Document, Paragraph, Section, Table
from fit.studies.claims import (
    best_router_line,
    cells,
    doubling_table,
    example_line,
    helps_line,
    largest_lines,
    shrinking_lines,
    slope_lines,
)
from fit.studies.published import Line, Valley, dense_lines, table3_lines, valley
from fit.studies.sensitivity import Variant, seed_alone
from fit.studies.subject import described, simulated_finding, traceable
from fit.studies.variants import variant_lines, variant_table, variants

SCHEMA = "routelaw.reproduce/1"

SEARCH = (
    "What cannot be computed from the rows is the published search itself: 500 random starts of L-BFGS-B in float32. On the released runs "
    "at most one start in a hundred comes within 1% of the optimum, and four or five in a hundred end without a number."
)
"""What is known of the release's method, measured on the released runs."""

LAWS = ("dense", "per-size", "bounded", "bounded-floor-interaction", "utilisation")
"""The laws whose figures are published, and Eq. 1 with a floor, which shows what of them is the law's form."""


@dataclass(frozen=True)
class Reproduction:
    """The published figures (`figures`) and conclusions (`claims`) beside ours.

    By router: `valleys`, how well the published rows fit these runs; `seeds`, the fit to the most common seed alone. `tables` bear
    the conclusions out.
    """

    analysis: Analysis
    figures: tuple[Line, ...]
    claims: tuple[Line, ...]
    valleys: Mapping[str, Valley]
    seeds: Mapping[str, Variant]
    tables: tuple[Table, ...]


def reproduce(runs: Runs, options: Options, progress: Callable[[int, int, str], None] | None = None) -> Reproduction:
    """Fit the paper's laws and put its figures beside ours, for the routers that it publishes and the runs have.

    `options.laws` are not used: these are the paper's. `progress(done, all, name)` is called as fits finish. Raises `InputError` where
    none of the routers is there.
    """
    there = [row.router for row in BOUNDED.published if row.router in routers(runs)]
    asked = [router for router in options.routers or there if router in there]
    if not asked or (options.routers and len(asked) < len(options.routers)):
        published = listing(row.router for row in BOUNDED.published)
        raise InputError(f"figures are published for {published}; the runs have {listing(routers(runs)) or 'no router'}")
    analysis = analyse(runs, replace(options, laws=LAWS, routers=tuple(asked)), progress)
    bounded = [result for router in asked if (result := analysis.result(router, "bounded")) is not None]
    seeds = {r.router: alone for r in bounded if (alone := seed_alone(runs, r.router, "bounded", options.loss)) is not None}
    dense = analysis.result(DENSE_ROUTER, "dense")
    figures = [line for result in bounded for line in table3_lines(result, seeds.get(result.router), options.level)]
    claims, tables = _claims(analysis, bounded)
    return Reproduction(
        analysis,
        (*figures, *(dense_lines(dense) if dense else [])),
        tuple(claims),
        {r.router: lies for r in bounded if (lies := _valley(r, options.level)) is not None},
        seeds,
        tuple(tables),
    )


def _valley(result: Result, level: float) -> Valley | None:
    row = BOUNDED.published_for(result.router)
    return valley(result.fit, row.values, level) if row else None


def _claims(analysis: Analysis, bounded: Sequence[Result]) -> tuple[list[Line], list[Table]]:
    options = analysis.options
    floors = {result.router: analysis.result(result.router, "bounded-floor-interaction") for result in bounded}
    lines = [line for result in bounded for line in shrinking_lines(result, floors[result.router])]
    for result in bounded:
        if (slopes := analysis.result(result.router, "per-size")) is not None:
            lines += slope_lines(slopes, options)
    lines += [example_line(result, options) for result in bounded]
    lines += [line for result in bounded for line in largest_lines(result, floors[result.router], options)]
    there = [result.router for result in bounded]
    grid = cells(bounded)
    lines.append(helps_line(grid, there))
    tables: list[Table] = []
    if "S-Base" in there and len(there) > 1:
        line, table = best_router_line(grid, there)
        lines.append(line)
        tables.append(table)
    advice, table = doubling_table(bounded)
    lines += advice
    tables.append(table)
    found = [one for router in there if (eq2 := analysis.result(router, "utilisation")) is not None for one in variants(eq2)]
    if found:
        lines += variant_lines(found, options.level)
        tables.append(variant_table(found))
    return lines, tables


def reproduce_document(found: Reproduction) -> Document:
    """The reproduction as a document: how much of the paper is inside our intervals first, then figure by figure."""
    by_place = dict.fromkeys(line.place for line in found.figures)
    tables = [_figures_table(place, [line for line in found.figures if line.place == place], found) for place in by_place]
    rows: list[Block] = [table for table in (_valley_table(found), _selection_table(found)) if table is not None]
    if rows:
        rows.append(Paragraph(SEARCH))
    sections = (
        Section("Published figures beside ours", tuple(tables)),
        Section("What moves them", tuple(rows)),
        Section("Published conclusions", (_claims_table(found.claims), *found.tables)),
    )
    kept = (*(section for section in sections if section.blocks), *traceable(found.analysis))
    title = f"The paper's figures beside those of {described(found.analysis)}"
    return Document(title, (*simulated_finding(found.analysis), *_findings(found)), kept)


_HOLDS = {True: "yes", False: "no", None: "-"}


def _figures_table(place: str, lines: Sequence[Line], found: Reproduction) -> Table:
    level = percent(found.analysis.options.level)
    rows = tuple((line.name, line.published, estimate(line.ours), _HOLDS[line.holds], _delta(line), line.why) for line in lines)
    note = (
        f"Inside: the published value lies in our {level} interval. Delta: ours minus published; for N_cutoff and N_c ours over published."
    )
    return Table(place, ("Figure", "Published", "Ours", "Inside", "Delta", "What moves it"), rows, note)


def _delta(line: Line) -> str:
    if line.delta is None or line.value is None or line.ours is None:
        return ""
    if line.ours.unit == "parameters":
        return f"x {line.ours.value / line.value:.3g}"
    return f"{line.delta:+.3g}"


def _claims_table(lines: Sequence[Line]) -> Table:
    rows = tuple((line.place, line.name, line.published, line.found or estimate(line.ours), _HOLDS[line.holds], line.why) for line in lines)
    note = "Borne out: our interval lies on the side of the claim, or every run does; - where the runs do not say, or it is advice."
    return Table("Conclusions", ("Claim", "Figure", "Published", "Ours", "Borne out", "Note"), rows, note)


def _valley_table(found: Reproduction) -> Table | None:
    rows = tuple(
        (router, *(f"{value:.3f}" for value in (lies.printed, lies.rounded, lies.shapes, lies.limit)))
        for router, lies in found.valleys.items()
    )
    if not rows:
        return None
    return Table(
        "How the published rows fit these runs: sum of squared residuals over the least",
        ("Router", "As printed", "Best that rounds to it", "Published E_start and E_max", "Joint region ends"),
        rows,
        "Third: a, b, c and d fitted again. A row below the last column lies in the joint confidence region of all six parameters "
        f"({percent(found.analysis.options.level)}, by F): these runs cannot tell it from the optimum.",
    )


def _selection_table(found: Reproduction) -> Table | None:
    names = ("a", "b", "c", "d", "E_start", "E_max", "N_cutoff")
    rows: list[tuple[str, ...]] = []
    for router, alone in found.seeds.items():
        result, row = found.analysis.result(router, "bounded"), BOUNDED.published_for(router)
        if result is None or row is None or not alone.values:
            continue
        whole = result.fit.parameters | {"N_cutoff": result.derived["n_cutoff"].value}
        for label, values in (
            (f"{router}, all {result.fit.num_runs} runs", whole),
            (f"{router}, {alone.choice}: {alone.runs} runs", alone.values),
            (f"{router}, published", row.values),
        ):
            rows.append((label, *(count(values[name]) if name == "N_cutoff" else plain(values[name]) for name in names)))
    if not rows:
        return None
    note = "The release's notebook keeps one seed, which leaves out every dense run that has others."
    return Table("Which runs are fitted", ("Fit", *names), tuple(rows), note)


def _findings(found: Reproduction) -> tuple[str, ...]:
    said: list[str] = []
    judged = [line for line in found.figures if line.holds is not None]
    level = percent(found.analysis.options.level)
    if judged:
        outside = [f"{line.place} {line.name} ({line.published}, ours {_bare(line.ours)})" for line in judged if not line.holds]
        rest = f" Outside: {listing(outside)}." if outside else ""
        said.append(f"{len(judged) - len(outside)} of {len(judged)} published figures lie inside our {level} intervals.{rest}")
    if found.valleys:
        said.append(_valley_finding(found.valleys))
    verdicts = {
        True: "Borne out by these runs, under the paper's own laws",
        False: "Contradicted by these runs",
        None: "Not decided by these runs",
    }
    for holds, words in verdicts.items():
        if named := _by_place(found.claims, holds):
            said.append(f"{words}: {'; '.join(named)}.")
    floors = [line for line in found.claims if line.key.startswith("gain-shrinks") and "not excluded" in line.why]
    if floors:
        routed = listing(line.key.rpartition("/")[2] for line in floors)
        said.append(
            f"That gains shrink with N rests on the law's form for {routed}: {listing(line.why for line in floors)}. See `compare`."
        )
    return tuple(said)


def _bare(figure: Estimate | None) -> str:
    """A figure without the mark of an extrapolated one, which only tables explain."""
    return "" if figure is None else estimate(replace(figure, extrapolated=False))


def _by_place(lines: Sequence[Line], holds: bool | None) -> list[str]:
    """The claims of this verdict; where only some lines of a claim have it, which."""
    told: list[str] = []
    for place in dict.fromkeys(line.place for line in lines):
        mine = [line for line in lines if line.place == place]
        named = [line.name for line in mine if line.holds is holds]
        if named:
            told.append(place if len(named) == len(mine) else f"{place} ({listing(named)})")
    return told


def _valley_finding(valleys: Mapping[str, Valley]) -> str:
    def spread(values: Sequence[float]) -> str:
        """From the least to the greatest, or the one value."""
        low, high = f"{min(values):.2f}", f"{max(values):.2f}"
        return low if low == high else f"{low} to {high}"

    lies = list(valleys.values())
    inside = [router for router, one in valleys.items() if one.rounded <= one.limit]
    return (
        "Rounding matters more than the choice of optimum: as printed, the rows of Table 3 have "
        f"{spread([v.printed for v in lies])} times the least sum of squares, and rows that round to them "
        f"{spread([v.rounded for v in lies])} times; up to "
        f"{spread([v.limit for v in lies])} times is inside the joint confidence region ({listing(inside) or 'none'} inside)."
    )


def reproduce_json(found: Reproduction) -> dict[str, Any]:
    """The reproduction at full precision. `provenance`, `selection`, `fits` and `skipped` are those of `fit --json`.

    Besides: `findings`; `figures` and `claims`, a line each (`holds`: null where it cannot be said); `valleys` and `seeds` by router.
    """
    return finite(
        {
            **fit_json(found.analysis),
            "schema": SCHEMA,
            "findings": _findings(found),
            "figures": [_line_json(line) for line in found.figures],
            "claims": [_line_json(line) for line in found.claims],
            "valleys": {router: vars(lies) for router, lies in found.valleys.items()},
            "seeds": {router: vars(alone) for router, alone in found.seeds.items()},
        }
    )


def _line_json(line: Line) -> dict[str, Any]:
    return {**vars(line), "ours": estimate_json(line.ours), "delta": line.delta}
