"""An analysis as people read it: a document for terminals and pages, a folder of files, a record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.document import Document, Figure, Note, Section, Table
from common.document.numbers import many, percent
from common.document.render import to_latex, write_document
from fit.analysis import PAPER_LAW, POOLED, Analysis, Result
from fit.diagnose import SEVERITIES
from fit.estimate import Estimate, Status
from fit.laws.interface import FloorLink
from fit.quantities import has_epc
from fit.report.record import cleaned, fit_json, provenance, simulated_runs
from fit.report.tables import APPROACHED, coefficient_tables, table, with_optimum
from fit.report.view import View, cell, router_name
from fit.report.words import bullets, rendered, words
from fit.runs.grid import ASKED
from fit.runs.schema import C, D, E, N, U
from fit.select import AXES, furthest, missed, pooled

__all__ = ["cell", "cleaned", "fit_document", "fit_json", "notes_of", "provenance", "router_name", "write_report"]

_WORTH = "What experts are worth"
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "What predicts": (
        "loss_by_tokens", "loss_by_compute", "roll_out", "residuals", "laws_side_by_side", "compute_optimal", "laws", "asked", "dense",
        "optimum", "approaches", "ranking", "held_out",
    ),
    _WORTH: ("worth", "gains", "loss_by_experts", "loss_by_size"),
    "Parameters": ("coefficients", "errors", "derived"),
    "How well they are known": ("certificates", "scores", "warnings"),
    "Runs and options": ("runs", "provenance"),
}  # fmt: skip


def fit_document(analysis: Analysis, full: bool = False) -> Document:
    """The document of an analysis: the figures of the quoted law, the paper's and the dense ones, or with `full` of every law."""
    view = View(analysis, full)
    sections: list[Section] = []
    found: dict[str, Table] = {}
    for title, names in _SECTIONS.items():
        blocks: list[str | Table | Figure] = []
        for name in names:
            if name == "coefficients":
                blocks += coefficient_tables(view)
            elif name not in words()["tables"]:
                blocks += _figures(view, name)
            elif one := table(view, name):
                found[name] = one
                blocks.append(one)
        if blocks:
            worth = title == _WORTH and not any(has_epc(result.law) for result in analysis.results)
            sections.append(Section("How loss falls with size" if worth else title, tuple(blocks)))
    runs, simulated = analysis.runs, simulated_runs(analysis)
    source = ", ".join(Path(one.path).name or one.name for one in runs.sources) or "runs made in memory"
    unit = "" if view.unit == runs.target else f" ({view.unit})"
    title = f"Scaling laws of {many(len(runs), 'simulated run' if simulated else 'run')}: {source}, {runs.target}{unit}"
    return Document(title, _verdict(view, simulated), _findings(view, found), _notes(view), tuple(sections))


def write_report(analysis: Analysis, directory: Path, progress: Callable[[int, int, str], None] | None = None) -> tuple[Path, ...]:
    """Write report.html, report.md, fit.json, coefficients.csv and .tex, draws.csv and figures/ into `directory`.

    All is composed before the first file is written. `progress(done, all, name)` is called for each figure. Raises `OSError`.
    """
    latex = to_latex(coefficient_tables(View(analysis)))
    texts = {"coefficients.csv": analysis.parameters().write_csv(), "draws.csv": analysis.draws().write_csv(), "coefficients.tex": latex}
    return write_document(fit_document(analysis), fit_json(analysis), directory, "fit", texts, page="report", progress=progress)


def _figures(view: View, name: str) -> Iterator[Figure]:
    """The figure of this name, where the quoted law has it."""
    results, level = view.analysis.of_law(view.analysis.quoted), view.analysis.options.level
    reads, law = set(results[0].law.columns), view.analysis.quoted
    routed, optima = has_epc(results[0].law), with_optimum(view)
    given: dict[str, tuple[bool, tuple[Any, ...]]] = {
        "roll_out": (any(step.reason is None for r in results for step in r.steps), (results, level)), "residuals": (True, (results,)),
        "laws_side_by_side": (N in reads and reads <= {N, E, D}, (view.analysis,)), "loss_by_experts": (routed, (results,)),
        "loss_by_size": (routed or reads == {N}, (results,)), "loss_by_tokens": ({N, D} <= reads <= {N, D, U}, (results,)),
        "loss_by_compute": (reads == {C}, (results,)), "compute_optimal": (bool(optima), (optima,)),
    }  # fmt: skip
    if name == "compute_optimal" and optima:
        law = optima[0].law.name
    caption = "dense_side_by_side" if name == "laws_side_by_side" and not routed else name

    def draw() -> Any:
        """The figure, drawn only when it is asked for: matplotlib takes longer to import than most fits."""
        from fit.report import figures

        return getattr(figures, name)(*given[name][1])

    if given[name][0]:
        yield Figure(name, words()["captions"][caption].format(law=law, level=percent(level, 0)), draw)


def _findings(view: View, tables: Mapping[str, Table]) -> tuple[str, ...]:
    """The findings: what the template makes of the tables' cells."""
    rows: dict[str, list[dict[str, str]]] = {name: [] for name in words()["tables"]}
    rows |= {name: [dict(zip(one.columns, row, strict=True)) for row in one.rows] for name, one in tables.items()}
    best, quoted, ranking = view.by_loss(view.analysis.quoted), view.analysis.quoted, view.analysis.ranking
    gap = view.behind(best[0], best[1]) if len(best) > 1 else None
    changing = [(r, c) for r in view.analysis.results if (c := r.coefficients.get("c")) is not None]
    return bullets(
        "findings.j2", t=rows, law=quoted, paper_law=PAPER_LAW, point=view.at, cells=ranking.cells if ranking else 0,
        rising=_with_sign(changing, 1), growing=_with_sign(changing, -1), held_out=view.held_out, by=ranking.by if ranking else N,
        sure=gap is not None and gap.sign > 0, with_floor=[r.law.name for r in view.analysis.results if isinstance(r.law.link, FloorLink)],
        drawn=[r.law.name for r, c in changing if c.known], parameters=list(_parameters(view)), routers=view.routers,
        disagree=[APPROACHED[name] for name in view.analysis.approaches.disagree] if view.analysis.approaches else [],
    )  # fmt: skip


def _with_sign(changing: Sequence[tuple[Result, Estimate]], sign: int) -> dict[str, list[str]]:
    """The routers of each law whose c has this sign."""
    laws = dict.fromkeys(result.law.name for result, _ in changing)
    return {law: [router_name(r.router) for r, c in changing if r.law.name == law and c.sign == sign] for law in laws}


def _parameters(view: View) -> Iterator[dict[str, Any]]:
    """The parameters of the quoted law, where it is one of dense runs or of tokens, and of the next such law that fits no worse in kind."""
    laws = [law for law in view.laws if law == view.analysis.quoted or not view.point]
    fits = [result for law in laws for result in view.analysis.of_law(law)]
    fits = [r for r in fits if r.law.dense or (view.point and len(view.routers) == 1 and D in r.law.columns)]
    ignoring = [r for r in fits if any(warning.code == "tokens-ignored" for warning in r.warnings)]
    for result in [r for r in fits if r.law.name == view.analysis.quoted or r not in ignoring or len(ignoring) == len(fits)][:2]:
        figures = result.coefficients.values()
        few = all(figure.status is Status.TOO_FEW_DRAWS for figure in figures)
        items = {name: view.figure(result, name).removesuffix(f" ({Status.TOO_FEW_DRAWS})" if few else "") for name in result.coefficients}
        known = any(figure.status is not Status.NOT_IDENTIFIED for figure in figures)
        status = Status.TOO_FEW_DRAWS if few else ""
        yield {"router": router_name(result.router), "formula": result.law.formula, "items": items if known else {}, "status": status}


def _verdict(view: View, simulated: int) -> str:
    """One of three words by the worst warning of the quoted law, with the reason."""
    quoted, fits = view.analysis.quoted, list[dict[str, Any]]()
    results = view.analysis.of_law(quoted)
    by = next((by for by in AXES if any(missed(pooled(furthest(r.steps, by))) for r in results)), view.analysis.held_out_by)
    for result in results:
        codes = {warning.code: warning.message for warning in reversed(result.warnings)}
        fits.append({"router": router_name(result.router), "codes": codes, "score": pooled(furthest(result.steps, by))})
    missing = [router_name(one.router) for one in view.analysis.skipped if one.law == quoted and one.router != POOLED]
    return rendered("verdict.j2", law=quoted, fits=fits, missing=missing, simulated=simulated, by=by)


def notes_of(analysis: Analysis, law: str) -> tuple[Note, ...]:
    """The errors of a law's fits, and the laws that were not fitted."""
    found = _notes(View(analysis))
    return tuple(one for one in found if one.code == "not-fitted" or (one.severity == "error" and one.about.split(" (")[0] == law))


def _notes(view: View) -> tuple[Note, ...]:
    """Warnings in a line each: those of the quoted law and the paper's first, then all by severity, alike ones of a law together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for law in dict.fromkeys([*view.main, *view.laws]):
        for result in view.analysis.results:
            for w in result.warnings if result.law.name == law else ():
                groups.setdefault((w.severity, law, w.code), []).append(router_name(result.router))
    for one in view.analysis.skipped:
        groups.setdefault(("note", one.law, "not-fitted"), []).append(router_name(one.router))
    notes = [(f"{law}{_only(view, law, names)}", severity, law, code) for (severity, law, code), names in groups.items()]
    # What was left out of the file, or looks like another unit, changes what every figure means: it comes first and in full.
    asked = [Note("warning", "runs", w.code, w.message) for w in view.analysis.runs.warnings if w.code in ASKED]
    notes += [("runs", "note", "", w.code) for w in view.analysis.runs.warnings if w.code not in ASKED]
    notes.sort(key=lambda one: (one[1] == "note" or one[2] not in view.main, SEVERITIES.index(one[1])))
    worded = (Note(severity, about, code, words()["warnings"].get(code, code)) for about, severity, _, code in notes)
    return tuple(dict.fromkeys([*asked, *worded]))


def _only(view: View, law: str, routers: list[str]) -> str:
    """Which routers of a law, where it is not all of them."""
    every = [router_name(result.router) for result in view.analysis.results if result.law.name == law]
    found = list(dict.fromkeys(routers))
    return "" if found in (every, ["all runs"]) else f" ({', '.join(found)})"
