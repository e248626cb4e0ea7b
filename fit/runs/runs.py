"""Runs: one row per trained model, with a log of what was taken for what, what was left out, and why.

`load_runs` reads tables (a row per evaluation), judges their rows, and keeps of each run the last evaluation with a finite loss, or the
one at a given step. Nothing is dropped silently: each filter adds a line to `Runs.log`, and `Runs.warnings` says what the data lack.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from common.errors import InputError
from fit.runs.grid import DataWarning, SelectionStep, codes, design_warnings, in_order, removed_sizes, router_labels, short_runs
from fit.runs.names import known_as
from fit.runs.schema import NATS, OURS, STEP, N, Source, count, listed, no_such_column, number, quoted

_MOST_FILES = 4
"""Of more files the log has a line for each thing done, not one for each file."""

if TYPE_CHECKING:  # loaded only where a table is read or made: polars takes 0.3 s
    import polars as pl

    from fit.runs.reading import Table


@dataclass(frozen=True, eq=False, repr=False)
class Runs:
    """The runs to fit, one entry per run in every column: numbers as float64 (NaN where empty), others as numpy strings.

    `target` names the loss that is fitted, `unit` its unit, `step` is the training step asked for, None for the last.
    `file_of` and `line_of` say where each run was read: an index into `sources`, and a line counted from 1. `origins` says where each of
    our columns came from in the first file: a header, or an expression over headers.
    """

    columns: Mapping[str, Shaped[np.ndarray, "runs"]]
    target: str
    step: int | None
    sources: tuple[Source, ...]
    log: tuple[SelectionStep, ...]
    warnings: tuple[DataWarning, ...]
    file_of: Int[np.ndarray, "runs"]
    line_of: Int[np.ndarray, "runs"]
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    unit: str = NATS

    @classmethod
    def from_columns(cls, columns: Any, target: str | None = None) -> "Runs":
        """Runs made in memory from a mapping or a data frame, one entry per run in every column, named as in a file.

        Raises `InputError` if columns differ in length, the loss is missing, or any value is one that a run may not have.
        """
        from fit.runs.formats import raw_table
        from fit.runs.reading import Reading, columns_of, read_table

        table = read_table(raw_table(columns), Reading(target=target, strict=True))
        target, many = table.named.target, len(table.lines)
        log, found = (SelectionStep("runs made in memory", many, 0), *table.log), columns_of([table.frame], table.named.target)
        return _judged(
            cls(found, target, None, (), log, table.warnings, np.full(many, -1), table.lines, table.named.columns, table.named.unit)
        )

    def __len__(self) -> int:
        return len(self.line_of)

    def __repr__(self) -> str:
        about = [count(len(self)), f"target {self.target}" + ("" if self.step is None else f" at step {self.step}")]
        if len(self):
            about.append(f"routers {listed(in_order(router_labels(self.columns)))}")
        if N in self.columns and (sizes := self.columns[N][np.isfinite(self.columns[N])]).size:
            about.append(f"{N} {number(sizes.min())} to {number(sizes.max())}")
        return f"Runs({'; '.join(about)})"

    def _repr_html_(self) -> str:
        table: Any = self.to_polars()
        return table._repr_html_()

    def to_polars(self) -> "pl.DataFrame":
        """The columns as a polars data frame, null where a number is missing."""
        import polars as pl

        return pl.DataFrame(dict(self.columns), nan_to_null=True)

    def _full_name(self, name: str) -> str:
        """The column that `name` stands for: itself if there is one, `loss`, a header of the file, or what people call one of ours."""
        if name in self.columns or name in OURS:
            return name
        if name == "loss":
            return self.target
        return next((ours for ours, origin in self.origins.items() if origin == name), "") or known_as(name)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "runs"]:
        """The column `name`, or the one it is short for; `InputError` if it is not there or has an empty cell."""
        name = self._full_name(name)
        if name not in self.columns:
            raise no_such_column(name, self.columns)
        values = self.columns[name]
        if values.dtype.kind == "f" and len(missing := np.flatnonzero(np.isnan(values))):
            others = f" (and in {len(missing) - 1} more runs)" if len(missing) > 1 else ""
            raise InputError(f"{self.place(int(missing[0]))}, column {name}: empty{others}, but this needs its value")
        return values

    def numeric(self, name: str) -> Float[np.ndarray, "runs"]:
        """The column `name`, which must hold numbers: raises `InputError` as `runs[name]` does, and for text."""
        values = self[name]
        if values.dtype.kind != "f":
            raise InputError(f"{self.place(0)}, column {name}: {quoted(str(values[0]))} is text; this needs numbers")
        return values

    @property
    def loss(self) -> Float[np.ndarray, "runs"]:
        """The target, in `unit`: finite and positive in every run."""
        return self.columns[self.target]

    def has(self, name: str) -> bool:
        """Whether there is a column `name`, or one that it is short for; its cells may be empty."""
        return self._full_name(name) in self.columns

    def place(self, run: int) -> str:
        """Where run number `run` (from 0) was read, for messages."""
        file = self.file_of[run]
        return f"run {self.line_of[run]}" if file < 0 else f"{self.sources[file].name}, row {self.line_of[run]}"

    def row(self, run: int) -> str:
        """The same for lists, without the file's name where there is only one file."""
        return f"row {self.line_of[run]}" if len(self.sources) == 1 else self.place(run)

    def keep(self, mask: Bool[np.ndarray, "runs"], rule: str, reasons: Sequence[str] = ()) -> "Runs":
        """The runs in `mask`, with a line in the log, and warnings for sizes that `rule` removes."""
        kept = int(np.sum(mask))
        log = (*self.log, SelectionStep(rule, kept, len(self) - kept, tuple(reasons)))
        warnings = (*self.warnings, *removed_sizes(self.columns, mask, rule))
        columns = {name: values[mask] for name, values in self.columns.items()}
        return _judged(replace(self, columns=columns, log=log, warnings=warnings, file_of=self.file_of[mask], line_of=self.line_of[mask]))

    def where(self, expression: str) -> "Runs":
        """The runs for which `expression` (`"k == 1 and routing_frequency == 0.5"`, see `fit.runs.expression`) is true.

        Raises `InputError` for what is not such an expression, and if no run is left.
        """
        import polars as pl

        from fit.runs.cells import Cells
        from fit.runs.expression import Expression

        def column(name: str) -> Cells:
            """A column of these runs, empty cells null."""
            full = self._full_name(name)
            if full not in self.columns:
                raise no_such_column(name, self.columns)
            return Cells(pl.Series(self.columns[full], nan_to_null=True))

        found = Expression(expression, column, (*self.columns, *self.origins.values())).filter(len(self), "run")
        kept = self.keep(found.mask, found.rule, found.reasons)
        return replace(kept, warnings=(*kept.warnings, *found.warnings))

    def best_of(self, columns: Sequence[str]) -> "Runs":
        """Of the runs that agree in router and `columns` the one with the lowest loss, the first of equals: over learning rates, say."""
        cell = codes([router_labels(self.columns), *(self[name] for name in columns)])
        order = np.lexsort((np.arange(len(self)), self.loss, cell))
        best = np.zeros(len(self), dtype=np.bool_)
        best[order[np.append(True, cell[order][1:] != cell[order][:-1])]] = True
        many = len(np.unique(cell))
        reason = [f"{count(int(np.sum(~best)))} with a higher loss in their cell, of {count(many, 'cell')}"]
        return self.keep(best, f"--best-of {','.join(columns)}", reason if not best.all() else ())


def _judged(runs: Runs) -> Runs:
    """With the warnings about the runs as they are computed anew; the others tell what filters did, and stay."""
    others = [warning for warning in runs.warnings if warning.code not in ("duplicate-settings", "empty-cells")]
    return replace(runs, warnings=(*others, *design_warnings(runs.columns, runs.target, runs.row)))


def load_runs(
    source: Any, *, target: str | None = None, step: int | None = None, columns: Mapping[str, str] | None = None, where: str = "",
    best_of: Sequence[str] = (), filename: str = "", unit: str = "", dense: bool = False, strict: bool = False,
) -> Runs:  # fmt: skip
    """Read runs from files, folders, patterns, standard input (`"-"`), or a data frame of polars, pandas or Arrow.

    A row is one evaluation; of each run (`run`; without it every row) the last with a finite `target` is kept, or the one at exactly
    `step`. `columns` maps our names, or the short ones of `schema.ALIASES`, to headers or expressions over them: `{"N": "params*1e6"}`,
    `{"run": "size+seed"}`, `{"run": "@file"}`; what is not mapped is recognised by its header. `where` filters rows before they are judged,
    by the file's own headers too; `best_of` keeps the best run of each cell; `filename` is a pattern such as `"{router}_E{E}.csv"` whose
    values are columns. Rows that lack a number they need are left out and counted; with `strict` the first one is an error. `dense`:
    every run is dense, as in a file without experts and routers. Raises `InputError` naming file, row and column.
    """
    from fit.runs.formats import files_of, raw_table
    from fit.runs.reading import Reading, Table, checkpoints_without_runs, read_table

    asked = list(source) if isinstance(source, list | tuple) else [source]
    if sum(isinstance(path, str | Path) and str(path) == "-" for path in asked) > 1:
        raise InputError("standard input (-) is given twice, but can be read only once")
    sources = [one for path in asked for one in (files_of(str(path)) if isinstance(path, str | Path) else [path])]
    constants = {str(path): _from_name(path, filename) for path in sources} if filename else {}
    how = Reading(columns or {}, target, where, dense, strict, constants)
    tables = list[Table]()
    for one in sources:
        raw = raw_table(one)
        table = read_table(raw, how)
        if tables and table.named.target != tables[0].named.target:  # the loss of the first file is that of all
            table = read_table(raw, replace(how, target=tables[0].named.target))
        if question := checkpoints_without_runs(table):
            raise question
        tables.append(table)
    if not tables:
        raise InputError("no file given; name at least one file, or - for standard input")
    runs = _selected(tables, step)
    runs = replace(runs, unit=unit or runs.unit)
    return runs.best_of(best_of) if best_of else runs


def _from_name(path: Any, pattern: str) -> dict[str, str]:
    """What a file's name says by a pattern: `{"E": "8"}` for `hash_E8.csv` by `{router}_E{E}.csv`."""
    if not isinstance(path, str | Path) or str(path) == "-":
        raise InputError(f"--filename {quoted(pattern)}: takes files, and this is a table without a name")
    parts = re.split(r"\{([A-Za-z_]\w*)\}", pattern)
    names = parts[1::2]
    if not names or len(set(names)) < len(names):
        raise InputError(f"--filename {quoted(pattern)}: takes columns in braces, each once, such as 'E{{E}}_N{{N}}.csv'")
    expression = "".join("([^/]+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
    tail = "/".join(Path(path).parts[-(pattern.count("/") + 1) :])
    if (found := re.fullmatch(expression, tail)) is None:
        raise InputError(f"{path}: its name is not of the form --filename {quoted(pattern)}, such as 'E{{E}}_N{{N}}.csv'")
    return dict(zip(names, found.groups(), strict=True))


def _selected(tables: "Sequence[Table]", step: int | None) -> Runs:
    """One evaluation of each run. The log says for each file what was taken for what, what was left out, and which evaluations count."""
    from fit.runs.reading import chosen_rows, columns_of

    named = tables[0].named
    target = named.target
    sources, chosen = tuple(table.source for table in tables), [chosen_rows(table, target, step) for table in tables]
    if not any(len(rows) for rows, _, _ in chosen):
        names = ", ".join(source.name for source in sources)
        if step is None:
            raise InputError(f"{names}, column {target}: empty in every row; there is no loss to fit")
        steps = {step for table in tables for step in table.frame[STEP].filter(table.frame[target].is_not_null()).to_list()}
        there = listed(map(number, sorted(steps)), most=30) or "none"
        raise InputError(f"{names}: no run has a finite {target} at step {step} (steps there: {there})")
    taken = f"last evaluation with a finite {target}" if step is None else f"evaluation at step {step}"
    log, aside = _account(tables, [SelectionStep(taken, len(rows), runs - len(rows), reasons) for rows, runs, reasons in chosen])
    columns = columns_of([table.frame[rows] for table, (rows, _, _) in zip(tables, chosen, strict=True)], target)
    line_of = np.concatenate([table.lines[rows] for table, (rows, _, _) in zip(tables, chosen, strict=True)])
    file_of = np.repeat(np.arange(len(tables)), [len(rows) for rows, _, _ in chosen])
    if len(tables) > 1:
        log.append(SelectionStep(f"{len(tables)} files together", len(line_of), 0))
    warnings = (*aside, *short_runs(columns))
    return _judged(Runs(columns, target, step, sources, tuple(log), warnings, file_of, line_of, named.columns, named.unit))


def _account(tables: "Sequence[Table]", taken: Sequence[SelectionStep]) -> tuple[list[SelectionStep], list[DataWarning]]:
    """The log and the warnings of all tables: file by file, or where they are many a line for what was done to several of them."""
    log, warnings, single = list[SelectionStep](), dict[str, list[str]](), len(tables) == 1
    for table, last in zip(tables, taken, strict=True):
        name, read = table.source.name, table.source.rows
        many = len(tables) > _MOST_FILES
        steps = [SelectionStep(table.named.line, read, 0), SelectionStep("rows read" if many else f"{name}: {read} rows read", read, 0)]
        steps += [*table.log, last]
        file = "" if single or many else f"{name}: "
        log += [one if one.rule.startswith(name) else replace(one, rule=f"{file}{one.rule}") for one in steps]
        for warning in table.warnings:
            warnings.setdefault(warning.code, []).append(warning.message if single else f"{name}: {warning.message}")
    if len(tables) > _MOST_FILES:
        log = [_together([one for one in log if one.rule == rule]) for rule in dict.fromkeys(one.rule for one in log)]
    return log, [
        DataWarning(code, message)
        for code, messages in warnings.items()
        for message in messages[:_MOST_FILES] + [f"and of {len(messages) - _MOST_FILES} more files"] * (len(messages) > _MOST_FILES)
    ]


def _together(steps: Sequence[SelectionStep]) -> SelectionStep:
    """One line for the same step on several files, with their first reasons."""
    reasons = list(dict.fromkeys(reason for one in steps for reason in one.reasons))
    more = [f"and {len(reasons) - _MOST_FILES} more"] if len(reasons) > _MOST_FILES else []
    kept, dropped = sum(one.kept for one in steps), sum(one.dropped for one in steps)
    return SelectionStep(f"{count(len(steps), 'file')}: {steps[0].rule}", kept, dropped, (*reasons[:_MOST_FILES], *more))
