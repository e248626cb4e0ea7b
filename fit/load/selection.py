"""From evaluations to runs: which row of each run is fitted, and the columns of those rows.

A run is one `hyper_id` of one file. Of each run the last evaluation with a finite target is taken, or the one
at exactly the step asked for. An empty target cell is an evaluation that was not made, not an error (the release has eight).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from common.errors import InputError
from fit.load.csv_reader import Table, first_wrong, is_number, to_numbers
from fit.load.schema import LOSSES, NUMBERS, RUN, STEP, TEXTS, listed, number, quoted, rule_for

# numpy keeps text at the width of the longest cell; past this many characters in all a column does not fit into memory.
_MOST_TEXT = 250_000_000


@dataclass(frozen=True)
class Selection:
    """The row taken of each run, in order of first appearance; how many runs there were, and why some gave no row."""

    rows: Int[np.ndarray, "runs"]
    runs: int
    reasons: tuple[str, ...]


def select(table: Table, target: str, step: int | None) -> Selection:
    """Choose one row per run; `InputError` for a repeated (hyper_id, step), or a step asked for where there is none."""
    name = table.source.name
    if step is not None and STEP not in table.numbers:
        raise InputError(f"{name}, row 1: no column {quoted(STEP)}, so the evaluation at step {step} cannot be chosen")
    runs = _run_codes(table)
    steps = table.numbers.get(STEP, np.zeros(len(runs)))
    _refuse_repeated(table, runs, steps)
    finite = np.isfinite(table.numbers[target])
    asked = np.ones_like(finite) if step is None else steps == step
    eligible = np.flatnonzero(finite & asked)
    # The last of each run's eligible rows when they are ordered by run, then step.
    ordered = eligible[np.lexsort((steps[eligible], runs[eligible]))]
    last = np.append(runs[ordered][1:] != runs[ordered][:-1], True)[: len(ordered)]
    rows = ordered[last]
    total = int(runs.max()) + 1
    evaluated = len(np.unique(runs[asked]))
    reasons = _reasons(total - evaluated, evaluated - len(rows), target, step)
    return Selection(rows, total, (*reasons, *_notes(finite, steps[rows], target, STEP in table.numbers)))


def _run_codes(table: Table) -> Int[np.ndarray, "rows"]:
    """A number for each row's run, counted from 0 in order of appearance; without `hyper_id` every row is a run."""
    every = np.arange(len(table.lines))
    if RUN not in table.cells:
        return every
    codes: dict[str, int] = {}
    found = np.array([codes.setdefault(cell, len(codes)) for cell in table.cells[RUN].at(every)], dtype=np.int64)
    if "" in codes:
        line = table.lines[int(np.argmax(found == codes[""]))]
        raise InputError(f"{table.source.name}, row {line}, column {RUN}: empty; every evaluation needs its run")
    return found


def _refuse_repeated(table: Table, runs: Int[np.ndarray, "rows"], steps: Float[np.ndarray, "rows"]) -> None:
    order = np.lexsort((table.lines, steps, runs))
    same = (runs[order][1:] == runs[order][:-1]) & (steps[order][1:] == steps[order][:-1])
    if not same.any():
        return
    again = order[1:][same]
    row = int(again.min())
    first = int(np.flatnonzero((runs == runs[row]) & (steps == steps[row]))[0])
    run = quoted(table.cells[RUN].at(np.array([row]))[0])
    what = f"step {number(steps[row])}" if STEP in table.numbers else f"a second row, and there is no {STEP!r} column,"
    raise InputError(f"{table.source.name}, row {table.lines[row]}: {RUN} {run} has {what} already in row {table.lines[first]}")


def _reasons(not_evaluated: int, empty: int, target: str, step: int | None) -> tuple[str, ...]:
    at = "in every evaluation" if step is None else f"at step {step}"
    reasons = ((not_evaluated, f"no evaluation {at}"), (empty, f"{target} is empty {at}"))
    return tuple(f"{_runs(many)}: {why}" for many, why in reasons if many)


def _notes(finite: Shaped[np.ndarray, "rows"], steps: Float[np.ndarray, "runs"], target: str, has_steps: bool) -> tuple[str, ...]:
    """What else the log says about the choice: empty cells passed over, and the steps that the runs were taken at."""
    notes: list[str] = []
    if empty := int(np.count_nonzero(~finite)):
        notes.append(f"{empty} of {len(finite)} evaluations have an empty {target}: not made, so not used")
    if has_steps and len(steps):
        counts = Counter(steps.tolist()).most_common()
        notes.append("taken at " + listed([f"step {number(step)}: {_runs(many)}" for step, many in counts]))
    return tuple(notes)


def joined_columns(tables: Sequence[Table], selections: Sequence[Selection], target: str) -> dict[str, Shaped[np.ndarray, "runs"]]:
    """The columns of all files in the selected rows; a column that a file lacks is empty there.

    The release's numbers are float64 (NaN where empty), its labels text; an unknown column is numbers if every cell is.
    """
    names = dict.fromkeys(name for table in tables for name in table.names)
    return {name: _joined(name, tables, selections, target) for name in names}


def _joined(name: str, tables: Sequence[Table], selections: Sequence[Selection], target: str) -> Shaped[np.ndarray, "runs"]:
    if name in NUMBERS or name == target:
        missing = [np.full(len(selection.rows), np.nan) for selection in selections]
        parts = zip(tables, selections, missing, strict=True)
        return np.concatenate([t.numbers[name][s.rows] if name in t.numbers else nan for t, s, nan in parts])
    pairs = list(zip(tables, selections, strict=True))
    cells = [t.cells[name].at(s.rows) if name in t.cells else [""] * len(s.rows) for t, s in pairs]
    if name in LOSSES:
        return np.concatenate([_other_loss(name, t, s, part) for (t, s), part in zip(pairs, cells, strict=True)])
    together = [cell for part in cells for cell in part]
    if name not in TEXTS and any(together) and all(is_number(cell) for cell in together if cell):
        return to_numbers(together)
    longest = max(map(len, together), default=0)
    if longest * len(together) > _MOST_TEXT:
        raise InputError(f"column {quoted(name)}: a cell of {longest} characters in {len(together)} runs; leave it out")
    return np.array(together, dtype=np.str_)


def _other_loss(name: str, table: Table, selection: Selection, cells: list[str]) -> Float[np.ndarray, "runs"]:
    values = to_numbers(cells)
    wrong = first_wrong(cells, values, rule := rule_for(name, name), may_be_empty=True)
    if wrong is not None:
        where = f"{table.source.name}, row {table.lines[selection.rows[wrong]]}, column {name}"
        raise InputError(f"{where}: {quoted(cells[wrong])}: must be {rule.wanted}")
    return values


def _runs(many: int) -> str:
    return f"{many} run" if many == 1 else f"{many} runs"
