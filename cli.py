"""The command line, thin: one subcommand is one typed dataclass and one call.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong. Errors are one line on standard error.
"""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

# Two laws are fitted at once, with matrices so small that the threads of the linear algebra only get in their way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from fit.analysis import Options, Point
    from fit.load.runs import Runs
    from fit.show.document import Document

# What a subcommand needs is imported where it is used: `--help` imports no numerics, `fit` no plotting unless a report is written.


Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME,...")]
"""A list of names: an option given several times, or once with commas."""

Numbers = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NUMBER,...")]
"""A list of numbers, in the same way."""


@dataclass(frozen=True)
class Curves:
    """Which runs to read, and which of their columns and rows to use."""

    curves: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CURVES.csv ...")] = ()
    """Curves files (.csv, .csv.gz; - for standard input). None: the embedded simulated runs."""
    target: str = "loss_validation"
    """The loss column to fit."""
    step: int | None = None
    """The training step to fit at; left out, each run's last evaluation."""
    where: str = ""
    """Which runs to keep, such as "k == 1 and routing_frequency == 0.5"."""
    columns: str = ""
    """Your headers for our columns, such as loss=val_loss,N=params."""

    def load(self) -> "Runs":
        """The runs asked for."""
        from fit.load.runs import load_runs, parse_columns
        from golden import simulated_curves

        source = list(self.curves) or [str(simulated_curves())]
        runs = load_runs(source, target=self.target, step=self.step, columns=parse_columns(self.columns) if self.columns else None)
        return runs.where(self.where) if self.where else runs


@dataclass(frozen=True)
class Fitting:
    """How to fit, and how to resample."""

    router: Names = ()
    """Routers to fit, several with commas; none: every one there is."""
    loss: str = "log"
    """What is minimised: log (squared error of log10 loss), squared, or huber:DELTA (of ln loss)."""
    scheme: Literal["residuals", "pairs", "clusters"] = "residuals"
    """What the bootstrap resamples: residuals, runs, or whole model sizes. docs/coverage.md says how each covers."""
    interval: Literal["percentile", "bca"] = "percentile"
    """How intervals are read off the draws."""
    draws: int = 1000
    """Bootstrap draws of every fit; 0 for none."""
    seed: int = 0
    """Seed of the draws."""
    level: float = 0.95
    """Confidence level of the intervals."""
    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="N:E,...")] = ()
    """Models to give EPC and loss for, such as 1.3B:64."""

    def options(self, laws: tuple[str, ...]) -> "Options":
        """These options for the library, with the laws to fit."""
        from common.errors import InputError
        from fit.analysis import Options
        from fit.solver.losses import loss_named

        try:
            objective = loss_named(self.loss)
        except ValueError as error:
            raise InputError(f"--loss: {error}") from error
        points = tuple(_point(text) for text in _split(self.at))
        return Options(laws, _split(self.router), objective, self.scheme, self.interval, self.draws, self.seed, self.level, points)


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Path | None = None
    """A folder for the report: HTML, Markdown, JSON, and from `fit` CSV, LaTeX and figures too."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON on standard output, and nothing else there."""


Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Fit:
    """Fit scaling laws to runs: coefficients with intervals, effective parameter counts, and what they are worth."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to fit, several with commas; none: the paper's. See also `compare`."""

    def run(self) -> None:
        """Fit, print, and write the report if asked for."""
        from fit.analysis import PAPER_LAWS, analyse

        runs = self.runs.load()
        with _progress() as progress:
            analysis = analyse(runs, self.how.options(_split(self.law) or PAPER_LAWS), progress)
        from fit.report import fit_document, fit_json, write_report

        if self.output.out:
            with _progress() as progress:
                write_report(analysis, self.output.out, progress)
        _show(self.output, "report", lambda: fit_json(analysis), lambda: fit_document(analysis))


@dataclass(frozen=True)
class Compare:
    """Hold the laws against each other: fit, held-out error, coverage, and which answers depend on the law."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to compare, several with commas; none: every one there is."""

    def run(self) -> None:
        """Compare, print, and write the report if asked for."""
        from fit.analysis import ALL_LAWS
        from fit.studies.compare import compare, compare_document, compare_json

        runs = self.runs.load()
        with _progress() as progress:
            comparison = compare(runs, self.how.options(_split(self.law) or ALL_LAWS), progress)
        _finish(self.output, "compare", lambda: compare_json(comparison), lambda: compare_document(comparison))


@dataclass(frozen=True)
class Reproduce:
    """Put the paper's published figures beside ours, on the released runs."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)

    def run(self) -> None:
        """Reproduce, print, and write the report if asked for."""
        from fit.analysis import PAPER_LAWS
        from fit.studies.reproduce import reproduce, reproduce_document, reproduce_json

        runs = self.runs.load()
        with _progress() as progress:
            found = reproduce(runs, self.how.options(PAPER_LAWS), progress)
        _finish(self.output, "reproduce", lambda: reproduce_json(found), lambda: reproduce_document(found))


@dataclass(frozen=True)
class Fetch:
    """Download the released runs from where they are published, checked by their sha256."""

    path: Annotated[Path, tyro.conf.Positional] = Path("curves.csv.gz")
    """Where to put them."""

    def run(self) -> None:
        """Download, check, and say where the file is."""
        from fit.load.fetch import fetch

        with _progress("bytes") as progress:
            path = fetch(self.path, progress=lambda done, total: progress(done, total or 0, self.path.name))
        print(f"{path}: the released runs, checked")


@dataclass(frozen=True)
class Count:
    """Count parameters and FLOPs of the paper's models: N, P and F, as its release counts them."""

    size: Names = ()
    """Sizes of the paper, such as 370M, several with commas; none: every one there is."""
    router: Names = ()
    """dense, s-base, hash, rl-r or switch, several with commas; none: dense."""
    experts: Numbers = ()
    """Experts E of a routed layer, several with commas; none: 64."""
    k: Numbers = ()
    """Experts per token, several with commas; none: 1."""
    routing_frequency: Numbers = ()
    """Fractions R of blocks that are routed, such as 0.5 or 1/4, several with commas; none: 1/2."""
    batch: int = 256
    """Sequences of a step."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON on standard output, and nothing else there."""

    def run(self) -> None:
        """Count and print."""
        from reference.count_table import combinations, record, text
        from reference.errors import ConfigError

        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch}: a step has at least 1 sequence")
        asked = (self.size, self.router, self.experts, self.k, self.routing_frequency)
        models = combinations(*map(_split, asked))
        if self.json:
            import json

            print(json.dumps(record(models, self.batch), indent=2))
        else:
            print(text(models, self.batch))


COMMANDS: dict[str, Callable[..., Any]] = {"fit": Fit, "compare": Compare, "reproduce": Reproduce, "fetch": Fetch, "count": Count}


def _split(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each name of a list that may hold several with commas, once, in order."""
    return tuple(dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip()))


def _point(text: str) -> "Point":
    """N:E, with N as people write it."""
    from common.errors import InputError
    from fit.analysis import Point

    size, _, experts = text.partition(":")
    unit = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(size[-1:], 0.0)
    try:
        n, e = float(size[:-1]) * unit if unit else float(size), float(experts)
    except ValueError:
        n = e = 0.0
    if not (0 < n < float("inf") and 1 <= e < float("inf")):
        raise InputError(f"--at {text}: takes a size and a number of experts of at least 1, such as 1.3B:64")
    return Point(n, e)


def _finish(output: Output, name: str, as_json: Callable[[], dict[str, Any]], as_document: "Callable[[], Document]") -> None:
    """Write the report if a folder was given, then show the result."""
    if output.out:
        from fit.show.render import write_document

        write_document(as_document(), as_json(), output.out, name)
    _show(output, name, as_json, as_document)


def _show(output: Output, name: str, as_json: Callable[[], dict[str, Any]], as_document: "Callable[[], Document]") -> None:
    if output.json:
        import json

        print(json.dumps(as_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from fit.show.render.terminal import show

    show(as_document())
    if output.out:
        print(f"Report: {output.out / f'{name}.html'}")


@contextmanager
def _progress(unit: str = "") -> Generator[Callable[[int, int, str], None], None, None]:
    """Shows how far the work is: a bar on a terminal, a line every few seconds elsewhere; on standard error."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def _line(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{done} of {total} {unit} {what}".replace("  ", " "), file=sys.stderr, flush=True)

        yield _line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def _move(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what)

        yield _move


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="cli.py", description="Reference routers, and the laws they obey.", args=arguments
    )
    from common.errors import InputError, WorkError

    try:
        command.run()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (WorkError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has seen enough: nothing failed. Python would complain once more as it closes the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
