"""An analysis as a document, as JSON, as CSV and LaTeX, and as a folder with all of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fit.analysis import Analysis
from fit.epc import has_epc
from fit.report import tables, written
from fit.report.assessment import Assessment, assess, assessment_json
from fit.report.findings import findings, headline, title
from fit.report.record import SCHEMA, coefficients_csv, draws_csv, fit_json
from fit.show.display import many
from fit.show.document import Block, Document, Paragraph, Section
from fit.show.render import drawings, json_text, write_all
from fit.show.render.html import to_html
from fit.show.render.latex import booktabs
from fit.show.render.markdown import to_markdown

__all__ = [
    "SCHEMA",
    "assess",
    "assessment_json",
    "coefficients_csv",
    "draws_csv",
    "fit_document",
    "fit_json",
    "full_document",
    "latex_table",
    "write_report",
]


def fit_document(analysis: Analysis) -> Document:
    """What a fit found: findings, then coefficients, derived figures, certificates, selection, warnings and provenance."""
    return _document(findings(analysis), analysis, _sections(analysis))


def full_document(analysis: Analysis, assessment: Assessment) -> Document:
    """The same with figures, held-out errors, residuals and sensitivity: the written report."""
    found = tuple(text for text in (*findings(analysis), written.roll_out_finding(analysis, assessment)) if text)
    coefficients, follows, optima, *rest = _sections(analysis)
    if valley := written.valley_figure(analysis):
        optima = replace(optima, blocks=(optima.blocks[0], valley, *optima.blocks[1:]))
    if profiles := written.profile_table(analysis, assessment):
        coefficients = replace(coefficients, blocks=(*coefficients.blocks, profiles))
    sections = (
        written.curves_section(analysis),
        coefficients,
        follows,
        written.held_out_section(analysis, assessment),
        written.residuals_section(analysis, assessment),
        optima,
        written.sensitivity_section(assessment),
        *rest,
    )
    return _document(found, analysis, sections)


def _document(found: tuple[str, ...], analysis: Analysis, sections: tuple[Section, ...]) -> Document:
    return Document(title(analysis), found, tuple(section for section in sections if section.blocks))


def _sections(analysis: Analysis) -> tuple[Section, ...]:
    return (
        Section("Coefficients", (Paragraph(_method(analysis)), *tables.coefficients(analysis))),
        Section("What follows", _kept(_derived(analysis))),
        Section(
            "Are these the optima?",
            _kept([tables.certificates_short(analysis), tables.skipped(analysis), tables.certificates(analysis)]),
        ),
        Section("Which runs", (tables.selection(analysis), tables.selection_log(analysis))),
        Section("Warnings", _kept([tables.warnings_short(analysis), tables.warnings_long(analysis)])),
        Section("Provenance", (tables.origin(analysis),)),
    )


def _kept(blocks: "list[Block | None]") -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _method(analysis: Analysis) -> str:
    """One paragraph: the data, the loss minimised, the intervals."""
    runs = analysis.runs
    files = ", ".join(f"{source.name} (sha256 {source.sha256[:12]}...)" for source in runs.sources) or "memory"
    step = "the last evaluation of each run" if runs.step is None else f"step {runs.step}"
    return (
        f"{many(len(runs), 'run')} from {files}, {runs.target} at {step}. Minimised: {analysis.options.loss.name}. "
        f"N is the dense size in parameters without embeddings; losses are in nats per token; logarithms are base 10. "
        f"{tables.interval_note(analysis)}"
    )


def _derived(analysis: Analysis) -> "list[Block | None]":
    """The headline law's cutoff, EPC and loss for everyone; slopes, new runs and the other laws for the written report."""
    main = headline(analysis)
    blocks: list[Block | None] = []
    epc_note = "EPC: the dense size with the same loss (Eq. 11)."
    if main:
        name = main[0].law.name
        blocks.append(
            tables.derived(main, ("n_cutoff", "f_cutoff", "epc"), f"Worth of experts under the {name} law (parameters)", epc_note)
        )
        mean = f"Loss on the mean curve under the {name} law (nats per token)"
        blocks.append(tables.derived(main, ("loss",), mean, on_terminal=False))
    for law, results in tables.grouped(analysis).items():
        is_main = bool(main) and law == main[0].law.name
        if not is_main:
            unit = "FLOPs" if law == "utilisation" else "parameters"
            worth = f"Worth of experts under the {law} law ({unit})"
            note = epc_note if has_epc(results[0].law) else ""
            blocks.append(tables.derived(results, ("n_cutoff", "f_cutoff", "epc"), worth, note, on_terminal=False))
            blocks.append(tables.derived(results, ("loss",), f"Loss on the mean curve, {law} law (nats per token)", on_terminal=False))
        new = f"Loss of a new run, {law} law (nats per token): curve and one run's noise"
        blocks.append(tables.derived(results, ("new_run_loss",), new, on_terminal=False))
        slopes = f"Slopes in log N, a(E), and in log E, b(N), {law} law (Eq. 8)"
        blocks.append(tables.derived(results, ("a", "b"), slopes, on_terminal=False))
    return blocks


def latex_table(analysis: Analysis) -> str:
    """The coefficients of every law as LaTeX tables; needs booktabs."""
    note = tables.interval_note(analysis)
    parts = ["% Needs \\usepackage{booktabs}."]
    for table, law in zip(tables.coefficients(analysis), tables.grouped(analysis), strict=True):
        units = f" {table.note}." if table.note else ""
        parts.append(booktabs(table.with_note(f"{note}{units}"), f"tab:{law}"))
    return "\n\n".join(parts) + "\n"


def write_report(analysis: Analysis, directory: Path, progress: Callable[[int, int, str], None] | None = None) -> tuple[Path, ...]:
    """Write the whole report into `directory`: HTML, Markdown, JSON, CSV, LaTeX and figures. Returns the paths.

    `progress(done, all, what)` is called as parts finish. Everything is composed before the first file is written.
    """
    assessment = assess(analysis, progress)
    document = full_document(analysis, assessment)
    figures = drawings(document)
    contents = {
        "report.html": to_html(document, figures),
        "report.md": to_markdown(document),
        "fit.json": json_text(fit_json(analysis)),
        "assessment.json": json_text(assessment_json(assessment)),
        "draws.csv": draws_csv(analysis),
        "coefficients.csv": coefficients_csv(analysis),
        "coefficients.tex": latex_table(analysis),
        **{f"figures/{name}.svg": svg for name, svg in figures.items()},
    }
    return write_all(contents, directory)
