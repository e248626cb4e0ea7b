"""What a document of `compare` or `reproduce` is about: which runs, whether they are simulated, and what else makes it traceable."""

from fit.analysis import Analysis
from fit.report import tables
from fit.report.record import simulated_runs
from fit.show.display import many
from fit.show.document import Block, Section


def described(analysis: Analysis) -> str:
    """The runs in a few words, such as `168 simulated runs (loss_validation)`."""
    simulated, total = simulated_runs(analysis), len(analysis.runs)
    kind = "" if not simulated else "simulated " if simulated == total else "partly simulated "
    return f"{many(total, f'{kind}run')} ({analysis.runs.target})"


def simulated_finding(analysis: Analysis) -> tuple[str, ...]:
    """The sentence that comes before all others where runs are simulated; none where they are not."""
    simulated, total = simulated_runs(analysis), len(analysis.runs)
    if not simulated:
        return ()
    which = "These runs are simulated" if simulated == total else f"{simulated} of these {total} runs are simulated"
    return (f"{which}: drawn from a known law, not trained. Nothing below says anything of real models.",)


def traceable(analysis: Analysis) -> tuple[Section, ...]:
    """Which runs were fitted and what left the others out; every warning; versions, files and options."""
    warnings: tuple[Block | None, ...] = (tables.warnings_long(analysis), tables.skipped(analysis))
    sections = (
        Section("Which runs", (tables.selection(analysis), tables.selection_log(analysis))),
        Section("Warnings", tuple(block for block in warnings if block is not None)),
        Section("Provenance", (tables.origin(analysis),)),
    )
    return tuple(section for section in sections if section.blocks)
