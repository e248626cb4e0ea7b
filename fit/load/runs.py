"""Runs: one row per trained model, with a log of what was left out and why.

`load_runs` reads curves files (a row per evaluation), checks them, and keeps of each run the last evaluation with a
finite loss, or the one at a given step. Nothing is dropped silently: each filter adds a line to `Runs.log`, and
`Runs.warnings` says what the data lack. The columns are those of the paper's released runs; `fit.load.schema` lists them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from common.errors import InputError
from fit.load import where
from fit.load.csv_reader import Source, Table, read_table
from fit.load.design import DataWarning, design_warnings, removed_sizes, short_runs
from fit.load.schema import (
    LOSSES,
    NUMBERS,
    RUN,
    STEP,
    TEXTS,
    full_name,
    listed,
    no_such_column,
    number,
    parse_columns,
    quoted,
    rule_for,
)
from fit.load.selection import Selection, joined_columns, select

__all__ = ["DataWarning", "Runs", "SelectionStep", "Source", "load_runs", "parse_columns"]


@dataclass(frozen=True)
class SelectionStep:
    """One line of the selection log: what was done, the runs left after it, those it removed, and why, with counts."""

    rule: str
    kept: int
    dropped: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs to fit, one entry per run in every column.

    `columns` gives the values as they are, numbers as float64 (NaN where a cell is empty) and others as numpy strings;
    `runs["num_experts"]` also makes sure that none is missing. `target` names the loss that is fitted (nats per token),
    `step` is the training step asked for, None for the last.
    `file_of` and `line_of` say where each run was read: an index into `sources`, and a line counted from 1.
    """

    columns: Mapping[str, Shaped[np.ndarray, "runs"]]
    target: str
    step: int | None
    sources: tuple[Source, ...]
    log: tuple[SelectionStep, ...]
    warnings: tuple[DataWarning, ...]
    file_of: Int[np.ndarray, "runs"]
    line_of: Int[np.ndarray, "runs"]

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Sequence[int | float] | Sequence[str] | Shaped[np.ndarray, "runs"]],
        target: str = LOSSES[0],
    ) -> "Runs":
        """Runs made in memory, one entry per run in every column; short names (`N`, `E`, `loss`, ...) are accepted.

        Raises `InputError` if columns differ in length, the target is missing, or a value is one a file may not have.
        """
        full = {full_name(name, target): np.asarray(values) for name, values in columns.items()}
        if target not in full:
            raise no_such_column(target, full)
        shapes = {values.shape for values in full.values()}
        if len(shapes) != 1 or len(full[target].shape) != 1 or not len(full[target]):
            raise InputError(f"every column must have one entry per run, at least one; the shapes are {sorted(shapes)}")
        checked = {name: _checked(name, values, target) for name, values in full.items()}
        count = len(checked[target])
        log = (SelectionStep("runs made in memory", count, 0),)
        runs = cls(checked, target, None, (), log, (), np.full(count, -1), np.arange(1, count + 1))
        return replace(runs, warnings=design_warnings(checked, target, runs.row))

    def __len__(self) -> int:
        return len(self.line_of)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "runs"]:
        """The column `name`, or the one it is short for; `InputError` if it is not there or has an empty cell."""
        name = full_name(name, self.target, self.columns)
        if name not in self.columns:
            raise no_such_column(name, self.columns)
        values = self.columns[name]
        if values.dtype.kind == "f" and np.isnan(values).any():
            missing = np.flatnonzero(np.isnan(values))
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
        """The target, nats per token: finite and positive in every run."""
        return self.columns[self.target]

    def has(self, name: str) -> bool:
        """Whether there is a column `name`, or one that it is short for; its cells may be empty."""
        return full_name(name, self.target, self.columns) in self.columns

    def place(self, run: int) -> str:
        """Where run number `run` (from 0) was read, for messages."""
        if self.file_of[run] < 0:
            return f"run {self.line_of[run]}"
        return f"{self.sources[self.file_of[run]].name}, row {self.line_of[run]}"

    def row(self, run: int) -> str:
        """The same for lists, without the file's name where there is only one file."""
        return f"row {self.line_of[run]}" if len(self.sources) == 1 else self.place(run)

    def keep(self, mask: Bool[np.ndarray, "runs"], rule: str, reasons: Sequence[str] = ()) -> "Runs":
        """The runs in `mask`, with a line in the log, and warnings for sizes that `rule` removes."""
        kept = int(np.count_nonzero(mask))
        columns = {name: values[mask] for name, values in self.columns.items()}
        removed = (
            *(warning for warning in self.warnings if warning.code not in _OF_DESIGN),
            *removed_sizes(self.columns, mask, rule),
        )
        step = SelectionStep(rule, kept, len(self) - kept, tuple(reasons))
        runs = replace(self, columns=columns, log=(*self.log, step), file_of=self.file_of[mask], line_of=self.line_of[mask])
        return replace(runs, warnings=(*removed, *design_warnings(columns, self.target, runs.row)))

    def where(self, expression: str) -> "Runs":
        """The runs for which `expression` (`"k == 1 and routing_frequency == 0.5"`, see `fit.load.where`) is true.

        Raises `InputError` for what is not such an expression, and if no run is left.
        """
        found = where.evaluate(expression, self.columns, self.target, self.__getitem__, len(self))
        rule = f"--where {expression.strip() if expression.strip().isprintable() else repr(expression)}"
        if not found.mask.any():
            notes = f": {'; '.join(found.unmatched)}" if found.unmatched else ""
            raise InputError(f"{quoted(rule)} leaves none of {len(self)} runs{notes}")
        notes = tuple(DataWarning("matches-nothing", note) for note in found.unmatched)
        kept = self.keep(found.mask, rule, found.reasons)
        return replace(kept, warnings=(*kept.warnings, *notes))


# Warnings about the runs as they are, computed anew after each filter; the others tell what filters did, and stay.
_OF_DESIGN = frozenset({"duplicate-settings", "empty-cells"})


def _checked(name: str, values: Shaped[np.ndarray, "runs"], target: str) -> Shaped[np.ndarray, "runs"]:
    """One column given from Python, as it would be had it been read from a file."""
    if values.dtype.kind not in "biuf":
        if name in NUMBERS or name in LOSSES or name == target:
            raise InputError(f"column {name}: must be numbers, not {values.dtype}")
        return values.astype(np.str_)
    if name in TEXTS:
        return values.astype(np.str_)
    numbers = values.astype(np.float64)
    rule = rule_for(name, target)
    known = name in NUMBERS or name in LOSSES or name == target
    wrong = ~rule.holds(numbers) & (~np.isnan(numbers) | (name == target)) & known
    if wrong.any():
        run = int(np.argmax(wrong))
        raise InputError(f"run {run + 1}, column {name}: {number(numbers[run])}: must be {rule.wanted}")
    return numbers


def load_runs(
    source: str | Path | Sequence[str | Path],
    *,
    target: str = LOSSES[0],
    step: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Runs:
    """Read runs from one or several .csv or .csv.gz files (told apart by content), or from standard input (`"-"`).

    A row is one evaluation; of each run (a `hyper_id` of a file) the last with a finite `target` is kept, or the one at
    exactly `step`. Without `hyper_id` every row is a run; without `step` each `hyper_id` must occur once.
    `columns` maps our names to the file's headers, `{"loss": "val_loss", "N": "params"}`: ours are the release's, or
    `loss` (the target), `N` (dense_parameter_count), `E` (num_experts), `P` (total_parameter_count), `F`
    (flops_per_step), `R` (routing_frequency), `router` (router_type), `run` (hyper_id). Only the target must be there.
    Columns of other names are kept: as numbers if every cell of the runs kept is one, else as text.
    Raises `InputError`, one line naming file, row and column, for whatever is wrong with the files or their values.
    """
    paths = [source] if isinstance(source, str | Path) else list(source)
    if not paths:
        raise InputError("no file given; name at least one .csv or .csv.gz file, or - for standard input")
    if sum(str(path) == "-" for path in paths) > 1:
        raise InputError("standard input (-) is given twice, but can be read only once")
    if target in NUMBERS or target in TEXTS or target == RUN:
        raise InputError(f"{quoted(target)} is not a loss; the release's are {listed(LOSSES)}")
    tables = [read_table(path, target, columns or {}) for path in paths]
    selections = [select(table, target, step) for table in tables]
    if not any(len(selection.rows) for selection in selections):
        raise _nothing_selected(tables, target, step)
    taken = joined_columns(tables, selections, target)
    file_of = np.repeat(np.arange(len(tables)), [len(selection.rows) for selection in selections])
    line_of = np.concatenate([table.lines[s.rows] for table, s in zip(tables, selections, strict=True)])
    sources = tuple(table.source for table in tables)
    runs = Runs(taken, target, step, sources, _log(tables, selections, target, step), (), file_of, line_of)
    warnings = (*_reading_warnings(tables), *short_runs(taken))
    return replace(runs, warnings=(*warnings, *design_warnings(taken, target, runs.row)))


def _log(tables: Sequence[Table], selections: Sequence[Selection], target: str, step: int | None) -> tuple[SelectionStep, ...]:
    """Two lines per file: what was read, and which evaluation of each run was taken. Counts are those of the file."""
    rule = f"last evaluation with a finite {target}" if step is None else f"evaluation at step {step}"
    log: list[SelectionStep] = []
    for table, selection in zip(tables, selections, strict=True):
        kept = len(selection.rows)
        file = f"{table.source.name}: " if len(tables) > 1 else ""
        log.append(SelectionStep(f"{table.source.name}: {table.source.rows} rows read", selection.runs, 0))
        log.append(SelectionStep(f"{file}{rule}", kept, selection.runs - kept, selection.reasons))
    if len(tables) > 1:
        log.append(SelectionStep(f"{len(tables)} files together", sum(len(s.rows) for s in selections), 0))
    return tuple(log)


def _nothing_selected(tables: Sequence[Table], target: str, step: int | None) -> InputError:
    names = ", ".join(table.source.name for table in tables)
    if step is None:
        return InputError(f"{names}, column {target}: empty in every row; there is no loss to fit")
    evaluated = [t.numbers[STEP][np.isfinite(t.numbers[target])] for t in tables]
    there = listed(map(number, np.unique(np.concatenate(evaluated)).tolist()), most=30)
    return InputError(f"{names}: no run has a finite {target} at step {step} (steps there: {there or 'none'})")


def _reading_warnings(tables: Sequence[Table]) -> tuple[DataWarning, ...]:
    return tuple(
        DataWarning("column-set-aside", f"{table.source.name}: its own {quoted(name)} is not used, as another was asked for")
        for table in tables
        for name in table.set_aside
    )
