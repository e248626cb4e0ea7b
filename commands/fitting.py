"""`fit`: scaling laws of runs."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands.shared import Flat, Names, Numbers, Output, finish, progress_shown, show_result, split

if TYPE_CHECKING:
    from fit.analysis import Options
    from fit.derived import Point
    from fit.runs import Runs

Pairs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE,...")]
"""Names with values: an option given several times, or once with commas."""


@dataclass(frozen=True)
class Curves:
    """Which runs to read, and which of their columns and rows to use."""

    curves: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS ...")] = ()
    """Tables of runs: CSV, TSV, JSON, JSON Lines, Parquet, also packed; folders, patterns, - for standard input. None: the small runs."""
    target: str = ""
    """The loss column to fit; left out, it is recognised by its name."""
    step: int | None = None
    """The training step to fit at; left out, each run's last evaluation."""
    where: str = ""
    """Which rows to keep, by your headers or ours, such as "k == 1 and status != 'crashed'"."""
    columns: str = ""
    """Your headers for our columns, or expressions over them, such as "N=params*1e6,D=flops/(6*N),loss=ln(ppl),run=size+seed"."""
    best_of: str = ""
    """Keep the best run of each cell of these columns, such as N,D,E: over learning rates, batches, seeds."""
    filename: str = ""
    """Columns that the files' names tell, such as "{router}_E{E}.csv"."""
    unit: str = ""
    """The unit of the loss, for labels; left out, what its header tells."""
    dense: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Every run is dense, whatever the file says of experts."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Refuse the file at its first bad row, instead of leaving such rows out."""

    def load(self) -> "Runs":
        """The runs asked for, or the embedded ones."""
        from fit.runs import load_runs
        from fit.runs.headers import parse_columns
        from golden import small_curves

        return load_runs(
            list(self.curves) or str(small_curves()), target=self.target or None, step=self.step,
            columns=parse_columns(self.columns) if self.columns else None, where=self.where, best_of=split((self.best_of,)),
            filename=self.filename, unit=self.unit, dense=self.dense, strict=self.strict,
        )  # fmt: skip


@dataclass(frozen=True)
class Fitting:
    """How to fit, and how to resample."""

    router: Names = ()
    """Routers to fit, several with commas; none: every one there is."""
    loss: str = "log"
    """What is minimised: log (squared error of log10 loss), squared, or huber:DELTA (of ln loss; Hoffmann et al. have 1e-3)."""
    weights: str = ""
    """A column of relative weights of the runs."""
    fix: Pairs = ()
    """Parameters held at values, such as c=0,E_start=1, in every law that has them."""
    scheme: Literal["auto", "residuals", "wild", "pairs", "wild-clusters"] = "auto"
    """What the bootstrap resamples; auto: what the residuals ask for (docs/coverage.md)."""
    draws: int = 1000
    """Bootstrap draws of a fit; 0 for none."""
    seed: int = 0
    """Seed of the draws."""
    level: float = 0.95
    """Confidence level of the intervals."""
    unbounded: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let coefficients that are losses, such as L_0 of a sum of powers, be negative."""
    share: Names = ()
    """Parameters that are the same for all routers, such as a,E_max: the routers are then fitted together as well."""
    by: str = ""
    """A column, such as source or dataset, whose values are fitted apart."""
    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="N:E,...|N=,D=,...")] = ()
    """Models to give EPC and loss for, such as 1.3B:64, N=70B,D=1.4T or C=1e23; routers are compared at the first."""
    budget: Numbers = ()
    """Training budgets in FLOPs, such as 1e21,1e22, that the best size and tokens are given for."""

    def options(self, laws: tuple[str, ...], draw_all: bool = True) -> "Options":
        """These options for the library, with the laws to fit; `draw_all`: draws for every law."""
        from common.errors import InputError
        from fit.analysis import OTHER_DRAWS, Options
        from fit.engine.losses import loss_named
        from fit.runs.schema import ROUTER

        try:
            objective = loss_named(self.loss)
        except ValueError as error:
            raise InputError(f"--loss: {error}") from error
        return Options(
            laws=laws, routers=self.router, loss=objective, scheme=self.scheme, draws=self.draws,
            seed=self.seed, other_draws=None if laws else OTHER_DRAWS, level=self.level,
            points=_points(self.at), budgets=_budgets(self.budget),
            fixed=dict(_fixed(text) for text in split(self.fix)), weights=self.weights, draw_all=draw_all,
            unbounded=self.unbounded, group=self.by or ROUTER, shared=split(self.share),
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """Fit scaling laws, rank them by how they predict held-out sizes, price experts."""

    runs: Flat[Curves] = field(default_factory=Curves)
    how: Flat[Fitting] = field(default_factory=Fitting)
    output: Flat[Output] = field(default_factory=Output)
    law: Names = ()
    """Laws to fit, several with commas; none: the paper's and those with a floor."""
    published: Names = ()
    """Laws at published coefficients, such as joint,granularity:dense or all: nothing is fitted, and --at says which models to predict."""

    def run(self) -> None:
        """Fit, print, and write the report if asked for."""
        if self.published:
            self._show_published()
            return
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

    def _show_published(self) -> None:
        from common.errors import InputError
        from fit.literature import published, published_all, published_document, published_json

        if unused := [*given_options(self.runs, self.how, ("at",)), *(["--law"] if self.law else [])]:
            raise InputError(
                f"--published fits nothing and has no use for {', '.join(unused)}: leave these out, or fit without --published"
            )
        names, points = split(self.published), _points(self.how.at)
        laws = published_all() if names == ("all",) else tuple(published(name) for name in names)
        finish(
            self.output, "published", lambda: published_json(laws, points), lambda: published_document(laws, points)
        )  # fmt: skip


def given_options(runs: Curves, how: Fitting, used: Collection[str] = ()) -> list[str]:
    """What was asked for that a command without runs has no use for, as it is written; `used` are fields that it has."""
    pairs = [(part, one.name, getattr(type(part)(), one.name)) for part in (runs, how) for one in fields(part) if one.name != "curves"]
    options = [f"--{name.replace('_', '-')}" for part, name, default in pairs if getattr(part, name) != default and name not in used]
    return [*runs.curves, *options]


def with_laws(command: type[Any]) -> type[Any]:
    """The command with the laws there are in its help, a line each: done only for help, since it imports numerics."""
    from fit.laws import CATALOGUE

    lines = [f"- {law.name}: {law.formula}" for law in CATALOGUE.values()]
    command.__doc__ = "\n".join([f"{command.__doc__}", "", "Laws:", *lines, "- per-size: log L = b(N) log E + d(N) at each size N"])
    return command


def _fixed(text: str) -> tuple[str, float]:
    """NAME=VALUE."""
    from common.errors import InputError

    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise InputError(f"--fix {text}: takes a parameter and its value, such as c=0") from None


def _points(texts: tuple[str, ...]) -> "tuple[Point, ...]":
    """N:E, several with commas, or names with values such as N=70B,D=1.4T, one point an option; sizes as people write them."""
    from common.errors import InputError
    from fit.derived import Point
    from fit.runs.cells import parsed

    found: list[Point] = []
    for text in texts:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if "=" in text:
            pairs = [[part.partition("=")[::2] for part in parts]]
        else:
            pairs = [list(zip(("N", "E", ""), part.split(":"), strict=False)) for part in parts]
        for one in pairs:
            values = {name.strip(): parsed(value) or 0.0 for name, value in one}
            sparsity = values.pop("S", None)
            named = {"N", "C", "P"} & {*values} and {*values} <= {*"NEDCPkG"} and len(values) + (sparsity is not None) == len(one)
            if not (named and all(0 < value < float("inf") for value in values.values()) and 0 <= (sparsity or 0.0) < 1):
                raise InputError(
                    f"--at {text}: takes a size and experts, such as 1.3B:64, or names, such as N=70B,D=1.4T\n"
                    "names are N (a token's parameters), P (all), D, E, k, G, C, and S = 1 - k/E"
                )
            if values.get("E", 1.0) < 1:
                raise InputError(f"--at {text}: a number of experts is at least 1")
            found.append(
                Point(
                    values.get("N", float("nan")), values.get("E", 1.0), values.get("D"), values.get("C"), values.get("P"), values.get("k"),
                    values.get("G"), sparsity,
                )
            )  # fmt: skip
    return tuple(found)


def _budgets(texts: tuple[str, ...]) -> tuple[float, ...]:
    """FLOPs as people write them."""
    from common.errors import InputError
    from fit.runs.cells import parsed

    found = tuple(parsed(text) or 0.0 for text in split(texts))
    if not all(0 < flops < float("inf") for flops in found):
        raise InputError(f"--budget {','.join(texts)}: takes training FLOPs above 0, such as 1e21,1e22")
    return found
