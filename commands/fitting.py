"""`fit`: scaling laws of runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands.shared import Flat, Names, Output, progress_shown, show_result, split

if TYPE_CHECKING:
    from fit.analysis import Options
    from fit.derived import Point
    from fit.runs import Runs

Pairs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE,...")]
"""Names with values: an option given several times, or once with commas."""

_LIKELY = {"loss": "loss", "N": "param size", "E": "expert", "router": "router method", "D": "token"}
"""Words that headers of others have, by our names for the columns."""


@dataclass(frozen=True)
class Curves:
    """Which runs to read, and which of their columns and rows to use."""

    curves: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CURVES.csv ...")] = ()
    """Curves files (.csv, .csv.gz; - for standard input). None: the embedded small runs."""
    target: str = "loss_validation"
    """The loss column to fit."""
    step: int | None = None
    """The training step to fit at; left out, each run's last evaluation."""
    where: str = ""
    """Which runs to keep, such as "k == 1 and routing_frequency == 0.5"."""
    columns: str = ""
    """Your headers for our columns, such as N=params,E=experts; the loss is named by --target, or loss=val_loss here."""

    def load(self) -> "Runs":
        """The runs asked for, or the embedded ones. Raises `InputError` with the option that would work where headers are not ours."""
        import numpy as np

        from common.errors import InputError
        from fit.runs import SelectionStep, load_runs, parse_columns
        from fit.runs.schema import ROUTER, E, N
        from golden import small_curves

        source = list(self.curves) or [str(small_curves())]
        columns = parse_columns(self.columns) if self.columns else {}
        target = columns.pop("loss", self.target)
        try:
            runs = load_runs(source, target=target, step=self.step, columns=columns or None)
        except InputError as error:
            hint = _hint(source, columns, target, ("loss",)) if "no column" in str(error) else ""
            raise InputError(f"{error}{hint}") from None
        lacking = [name for name in (N, E) if name not in runs.columns]
        hint = _hint(source, columns, target, ("N", "E", "router")) if lacking else ""
        if N in lacking or "E=" in hint:
            raise InputError(f"no column {' and no column '.join(lacking)}{hint}")
        if lacking and not runs.has(ROUTER):
            ones = {**runs.columns, E: np.ones(len(runs))}
            runs = replace(runs, columns=ones, log=(*runs.log, SelectionStep("no column of experts: all runs are dense", len(runs), 0)))
        return runs.where(self.where) if self.where else runs


@dataclass(frozen=True)
class Fitting:
    """How to fit, and how to resample."""

    router: Names = ()
    """Routers to fit, several with commas; none: every one there is."""
    loss: str = "log"
    """What is minimised: log (squared error of log10 loss), squared, or huber:DELTA (of ln loss)."""
    weights: str = ""
    """A column of relative weights of the runs."""
    fix: Pairs = ()
    """Parameters held at values, such as c=0,E_start=1, in every law that has them."""
    scheme: Literal["auto", "residuals", "pairs", "wild-clusters"] = "auto"
    """What the bootstrap resamples; auto: wild-clusters where runs of one size err together, else residuals. See docs/coverage.md."""
    draws: int = 1000
    """Bootstrap draws of a fit; 0 for none."""
    seed: int = 0
    """Seed of the draws."""
    level: float = 0.95
    """Confidence level of the intervals."""
    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="N:E,...")] = ()
    """Models to give EPC and loss for, such as 1.3B:64; routers are compared at the first."""

    def options(self, laws: tuple[str, ...], draw_all: bool = True) -> "Options":
        """These options for the library, with the laws to fit; `draw_all`: draws for every law."""
        from common.errors import InputError
        from fit.analysis import OTHER_DRAWS, Options
        from fit.engine.losses import loss_named

        try:
            objective = loss_named(self.loss)
        except ValueError as error:
            raise InputError(f"--loss: {error}") from error
        return Options(
            laws=laws, routers=split(self.router), loss=objective, scheme=self.scheme, draws=self.draws,
            seed=self.seed, other_draws=None if laws else OTHER_DRAWS, level=self.level,
            points=tuple(_point(text) for text in split(self.at)),
            fixed=dict(_fixed(text) for text in split(self.fix)), weights=self.weights, draw_all=draw_all,
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Fit scaling laws, rank them by how they predict held-out sizes, price experts."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to fit, several with commas; none: the paper's and those with a floor."""

    def run(self) -> None:
        """Fit, print, and write the report if asked for."""
        from fit.analysis import analyse
        from fit.report import fit_document, fit_json, write_report

        runs, laws = self.runs.load(), split(self.law)
        everything = bool(laws or self.output.full or self.output.out or self.output.json)
        with progress_shown() as progress:
            analysis = analyse(runs, self.how.options(laws, everything), progress)
        if self.output.out:
            with progress_shown() as progress:
                write_report(analysis, self.output.out, progress)
        show_result(self.output, "report", lambda: fit_json(analysis), lambda: fit_document(analysis, self.output.full))


def with_laws(command: type[Any]) -> type[Any]:
    """The command with the laws there are in its help, a line each: done only for help, since it imports numerics."""
    from fit.laws import CATALOGUE

    lines = [f"- {law.name}: {law.formula}" for law in CATALOGUE.values()]
    command.__doc__ = "\n".join([f"{command.__doc__}", "", "Laws:", *lines, "- per-size: log L = b(N) log E + d(N) at each size N"])
    return command


def _hint(source: list[str], columns: dict[str, str], target: str, wanted: Iterable[str]) -> str:
    """The option that would map the first file's headers to `wanted` columns, as far as their names give it away."""
    from fit.runs.reading import read_table

    if source[0] == "-":
        return ""
    headers = [name for name in read_table(source[0], target, {}).headers.values() if name not in columns.values()]
    found = {ours: next((h for h in headers if h == ours or any(w in h.lower() for w in _LIKELY[ours].split())), "") for ours in wanted}
    options = ",".join(f"{ours}={header}" for ours, header in found.items() if header)
    option = f"--target {found['loss']}" if found.get("loss") else f"--columns {options}" if options else "--columns N=HEADER"
    return f"; headers there: {', '.join(headers[:12])}; try {option}"


def _fixed(text: str) -> tuple[str, float]:
    """NAME=VALUE."""
    from common.errors import InputError

    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise InputError(f"--fix {text}: takes a parameter and its value, such as c=0") from None


def _point(text: str) -> "Point":
    """N:E, with N as people write it."""
    from common.errors import InputError
    from fit.derived import Point

    size, _, experts = text.partition(":")
    unit = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(size[-1:], 0.0)
    try:
        n, e = float(size[:-1]) * unit if unit else float(size), float(experts)
    except ValueError:
        n = e = 0.0
    if not (0 < n < float("inf") and 1 <= e < float("inf")):
        raise InputError(f"--at {text}: takes a size and a number of experts of at least 1, such as 1.3B:64")
    return Point(n, e)
