"""`fit`, `compare`, `reproduce` and `fetch`: scaling laws of runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from commands.shared import Flat, Names, Output, finish, progress_shown, show, split

if TYPE_CHECKING:
    from fit.analysis import Options, Point
    from fit.load.runs import Runs


@dataclass(frozen=True)
class Curves:
    """Which runs to read, and which of their columns and rows to use."""

    curves: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CURVES.csv ...")] = ()
    """Curves files (.csv, .csv.gz; - for standard input). None: the embedded small runs, or, for reproduce, simulated ones."""
    target: str = "loss_validation"
    """The loss column to fit."""
    step: int | None = None
    """The training step to fit at; left out, each run's last evaluation."""
    where: str = ""
    """Which runs to keep, such as "k == 1 and routing_frequency == 0.5"."""
    columns: str = ""
    """Your headers for our columns, such as loss=val_loss,N=params."""

    def load(self, *, simulated: bool = False) -> "Runs":
        """The runs asked for; of the embedded ones those that were trained, or the `simulated` ones."""
        from fit.load.runs import load_runs, parse_columns
        from golden import simulated_curves, small_curves

        source = list(self.curves) or [str(simulated_curves() if simulated else small_curves())]
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
        points = tuple(_point(text) for text in split(self.at))
        return Options(laws, split(self.router), objective, self.scheme, self.interval, self.draws, self.seed, self.level, points)


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
        with progress_shown() as progress:
            analysis = analyse(runs, self.how.options(split(self.law) or PAPER_LAWS), progress)
        from fit.report import fit_document, fit_json, write_report

        if self.output.out:
            with progress_shown() as progress:
                write_report(analysis, self.output.out, progress)
        show(self.output, "report", lambda: fit_json(analysis), lambda: fit_document(analysis))


@dataclass(frozen=True)
class Compare:
    """Hold the laws against each other: fit, held-out error, coverage, and which answers depend on the law."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to compare, several with commas; none: every one there is for runs of one number of tokens."""

    def run(self) -> None:
        """Compare, print, and write the report if asked for."""
        from fit.analysis import COMPARED_LAWS
        from fit.studies.compare import compare, compare_document, compare_json

        runs = self.runs.load()
        with progress_shown() as progress:
            comparison = compare(runs, self.how.options(split(self.law) or COMPARED_LAWS), progress)
        finish(self.output, "compare", lambda: compare_json(comparison), lambda: compare_document(comparison))


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

        # The published figures are of large runs: small ones would be beside the point.
        runs = self.runs.load(simulated=True)
        with progress_shown() as progress:
            found = reproduce(runs, self.how.options(PAPER_LAWS), progress)
        finish(self.output, "reproduce", lambda: reproduce_json(found), lambda: reproduce_document(found))


@dataclass(frozen=True)
class Fetch:
    """Download the released runs from where they are published, checked by their sha256."""

    path: Annotated[Path, tyro.conf.Positional] = Path("curves.csv.gz")
    """Where to put them."""

    def run(self) -> None:
        """Download, check, and say where the file is."""
        from fit.load.fetch import fetch

        with progress_shown("bytes") as progress:
            path = fetch(self.path, progress=lambda done, total: progress(done, total or 0, self.path.name))
        print(f"{path}: the released runs, checked")


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
