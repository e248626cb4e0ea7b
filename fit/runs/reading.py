"""From a source to a table under our names, whose rows are judged: a row without what it needs is left out, counted and listed."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped

from common.errors import InputError
from fit.runs.cells import Cells, as_numbers
from fit.runs.expression import Expression
from fit.runs.formats import RawTable
from fit.runs.grid import DENSE, DataWarning, SelectionStep
from fit.runs.headers import Naming, columns_option, naming, run_parts
from fit.runs.names import known_as
from fit.runs.schema import (
    ALIASES,
    NATS,
    NEEDED,
    ROUTER,
    RUN,
    SHORT,
    STEP,
    TEXTS,
    C,
    D,
    E,
    F,
    K,
    N,
    P,
    Source,
    count,
    listed,
    no_such_column,
    number,
    quoted,
    rule_for,
)

# numpy keeps text at the width of the longest cell; past this many characters in all a column does not fit into memory.
_MOST_TEXT = 250_000_000
_MOST_ROWS = 8
_LEAST: Mapping[str, float] = {N: 1e3, P: 1e3, D: 1e5}
"""Our choice: a smaller model or a shorter training is likely in thousands, millions or billions; F may be in any unit."""
_OTHER_FLOPS = 100.0
"""Training FLOPs that differ from 6 N D by more are in another unit; attention, routing and embeddings are worth less than this."""
STEP_TOKENS = 2.0**19
"""Tokens of the release's step, 256 x 2048."""
_LIKE_PERPLEXITY = 12.5
"""A loss of an untrained model with a vocabulary of 268,000: one above is likely a perplexity."""
_LIKE_BITS = 1.2
"""In nats per token text has not been predicted this well, our choice of the limit; in bits per byte it has."""


@dataclass(frozen=True)
class Table:
    """One source under our names: known numbers are Float64, other cells text or as they were, empty ones null.

    `named` says where each column comes from, `log` what was done to rows, one `SelectionStep` each, counted in rows.
    """

    source: Source
    frame: pl.DataFrame
    lines: Int[np.ndarray, "rows"]
    named: Naming
    log: tuple[SelectionStep, ...] = ()
    warnings: tuple[DataWarning, ...] = ()

    def keep(self, mask: Bool[np.ndarray, "rows"], rule: str, reasons: Sequence[str] = ()) -> "Table":
        """The rows in `mask`, with a line in the log."""
        step = SelectionStep(rule, int(np.count_nonzero(mask)), int(np.count_nonzero(~mask)), tuple(reasons))
        return replace(self, frame=self.frame.filter(mask), lines=self.lines[mask], log=(*self.log, step))

    def place(self, row: int) -> str:
        """Where a row was read, for messages."""
        return f"{self.source.name}, row {self.lines[row]}"


@dataclass(frozen=True)
class Reading:
    """How tables are read: our names or short ones = headers or expressions, the loss, filters, whether all is dense, and how strictly.

    `columns`, `target`, `where`: see `load_runs`; `dense`: every run is dense, whatever the file says; `strict`: the first bad row is an
    error; `constants`: columns of one value for a source, by its path, such as those its file's name tells.
    """

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str | None = None
    where: str = ""
    dense: bool = False
    strict: bool = False
    constants: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])


def read_table(raw: RawTable, how: Reading) -> Table:
    """The table under our names, filtered by `where`, each row judged. Raises `InputError` where nothing or too little is left."""
    frame, name = raw.frame, raw.source.name
    constants = how.constants.get(raw.source.path, {})
    frame = frame.with_columns(pl.lit(value).alias(header) for header, value in constants.items())
    named = naming(frame, how.columns, how.target, name)
    table = _renamed(raw, frame, named)
    table = _with_experts(table, how.dense)
    if how.where.strip():
        table = _filtered(table, frame, how.where)
    return _with_flops_per_step(_questioned(_judged(table, raw, how.strict)))


def _renamed(raw: RawTable, frame: pl.DataFrame, named: Naming) -> Table:
    """The columns by our names: known ones as numbers, one that an expression gives computed."""
    headers, done = frame.columns, dict[str, Cells]()

    def cells(name: str, within: tuple[str, ...] = ()) -> Cells:
        """A column that an expression names: the file's own, or one of ours."""
        full = known_as(name)
        # A short name is the column as asked for, but within its own definition: N=N*1e6,D=compute/(6*N).
        if full in named.columns and full not in within and (name not in headers or name in ALIASES):
            return column(full, within)
        if name not in headers:
            raise no_such_column(name, headers)
        return Cells(frame[name])

    def column(full: str, within: tuple[str, ...] = ()) -> Cells:
        """One of our columns, from a header or an expression; `within` are those whose expressions name it."""
        origin = named.columns[full]
        if full not in done:
            if origin in headers:
                found = frame[origin]
            elif full == RUN:
                found = _run_names(run_parts(origin, headers, named.columns), raw, lambda name: cells(name, (*within, RUN)))
            elif full == ROUTER:
                raise no_such_column(origin, headers)
            else:
                expression = Expression(origin, lambda name: cells(name, (*within, full)), headers, "--columns")
                found = pl.Series(full, expression.values(len(frame)), nan_to_null=True)
            done[full] = Cells(found)
        return done[full]

    ours = {full: column(full).series.alias(full) for full in named.columns}
    used = {origin for full, origin in named.columns.items() if origin in headers and origin != full}
    # Another column was asked for under one of their names; one that the definition is over is not lost.
    others = [header for header in headers if named.columns.get(ALIASES.get(header, header), header) != header]
    warnings = tuple(
        DataWarning("column-set-aside", f"its own {quoted(header)} is not used, as another was asked for")
        for header in others
        if not re.search(rf"\b{re.escape(header)}\b", named.columns[ALIASES.get(header, header)])
    )
    rest = [frame[header] for header in headers if header not in used and header not in ours and header not in others]
    taken = {*headers, *ours}
    for header in others:
        if header not in used:
            free = header
            while free in taken:
                free += " (set aside)"
            rest.append(frame[header].alias(free))
    return Table(raw.source, pl.DataFrame([*ours.values(), *rest]), raw.lines, named, warnings=warnings)


def _run_names(parts: Sequence[str], raw: RawTable, cells: Callable[[str], Cells]) -> pl.Series:
    """What names a run: several columns together, the file, or the row; null where all of them are empty."""
    if parts == ("@row",):
        return pl.Series(raw.lines).cast(pl.String)
    each = [
        pl.repeat(raw.source.name, len(raw.lines), eager=True) if part == "@file" else cells(part).series.cast(pl.String) for part in parts
    ]
    empty = pl.select(pl.all_horizontal([one.is_null() for one in each])).to_series()
    joined = pl.select(pl.concat_str([one.fill_null("") for one in each], separator=" | ")).to_series()
    return joined.set(empty, None)


def _with_experts(table: Table, dense: bool) -> Table:
    """The table with its number of experts: 1 where the runs are dense, which may have no k."""
    frame = table.frame
    if dense or (E not in frame.columns and ROUTER not in frame.columns):
        rule = "--dense: one expert in every run" if dense else "no column of experts or routers: all runs are dense"
        frame = frame.drop(ROUTER, strict=False).with_columns(pl.lit(1.0).alias(E))
        return replace(table, frame=frame, log=(*table.log, SelectionStep(rule, len(frame), 0)))
    label = (frame[ROUTER] if ROUTER in frame.columns else pl.Series([None] * len(frame))).cast(pl.String).str.to_lowercase()
    says_dense = (label == DENSE.lower()).fill_null(False).to_numpy()
    if E in frame.columns:
        ones = (says_dense & _is_none(frame[E])) | (label.is_null().to_numpy() & (Cells(frame[E]).numbers == 0))
        if ones.any():
            filled = pl.select(pl.when(pl.Series(ones)).then(pl.lit("1")).otherwise(frame[E].cast(pl.String)).alias(E))
            where = f"{table.named.columns[ROUTER]} says dense" if (ones <= says_dense).all() else f"{table.named.columns[E]} is 0"
            table = _with_cells(table, filled.to_series(), f"{E} = 1 where {where}", ones)
        says_dense |= Cells(table.frame[E]).numbers == 1
    if K in frame.columns and (without := says_dense & _is_none(frame[K]) & frame[K].is_not_null().to_numpy()).any():
        table = _with_cells(table, frame[K].set(pl.Series(without), None), f"no {K} in dense rows", without)
    return table


def _is_none(cells: pl.Series) -> Bool[np.ndarray, "rows"]:
    """Where a cell of experts is empty, 0, or a word for none."""
    words = cells.cast(pl.String).str.to_lowercase().is_in(["-", "n/a", "na", "none", "null", "nan"]).fill_null(True)
    return words.to_numpy() | (Cells(cells).numbers == 0)


def _with_cells(table: Table, cells: pl.Series, rule: str, changed: Bool[np.ndarray, "rows"]) -> Table:
    """The table with a column's cells changed in some rows, with a line in the log."""
    step = SelectionStep(rule, len(cells), 0, (count(int(np.count_nonzero(changed)), "row"),))
    return replace(table, frame=table.frame.with_columns(cells), log=(*table.log, step))


def _filtered(table: Table, frame: pl.DataFrame, where: str) -> Table:
    """The rows for which `where` is true, by the file's own headers or ours, before any row is judged."""
    ours_of = {origin: ours for ours, origin in table.named.columns.items()}

    def cells(name: str) -> Cells:
        """A column that the filter names: the file's own header first."""
        ours = ours_of.get(name, "") if name in frame.columns else table.named.target if name == "loss" else known_as(name)
        if ours in table.frame.columns:
            return Cells(table.frame[ours])
        if name not in frame.columns and name not in table.frame.columns:
            raise no_such_column(name, dict.fromkeys([*frame.columns, *table.frame.columns]))
        return Cells(frame[name] if name in frame.columns else table.frame[name])

    found = Expression(where, cells, (*frame.columns, *table.frame.columns)).filter(len(frame), "row")
    kept = table.keep(found.mask, found.rule, found.reasons)
    return replace(kept, warnings=(*kept.warnings, *found.warnings))


def _judged(table: Table, raw: RawTable, strict: bool) -> Table:
    """Without the rows that lack a number they need; an error where these are more than half, or with `strict` for the first."""
    target = table.named.target
    columns, faults = list[pl.Series](), list[tuple[int, str, str, str]]()
    faults += [(line, "", what, what) for line, what in raw.ragged]
    keep, curves = np.ones(len(table.frame), dtype=np.bool_), RUN in table.frame.columns
    for cells in table.frame.get_columns():
        rule = rule_for(cells.name, target)
        if rule is None:
            columns.append(cells)
            continue
        numbers = as_numbers(cells)
        values, filled = np.array(numbers.fill_null(np.nan).to_numpy(), dtype=np.float64), cells.is_not_null().to_numpy()
        holds = np.isfinite(values) & rule.holds(np.where(np.isfinite(values), values, 1.0))
        needed = cells.name in NEEDED or cells.name == target
        # An evaluation without a loss is none; a row without size, tokens, experts or step is no run, if others have them.
        whole = (cells.name in (N, D, E, STEP) and filled.any()) or (cells.name == target and not curves)
        must = np.ones_like(filled) if whole else filled
        bad = ~holds & (must if needed else filled)
        origin = table.named.columns.get(cells.name, cells.name)
        for row in np.flatnonzero(bad & keep).tolist() if needed or strict else ():
            text = str(cells[row]) if cells.dtype == pl.String else number(float(values[row]))
            what = f"{quoted(text)}: {'not a number; ' if numbers[row] is None else ''}must be {rule.wanted}" if filled[row] else "empty"
            faults.append((int(table.lines[row]), origin, text if filled[row] else "empty", what))
        keep &= ~bad if needed else True
        columns.append(pl.Series(cells.name, np.where(holds, values, np.nan), nan_to_null=True))
    if RUN in table.frame.columns and (nameless := table.frame[RUN].is_null().to_numpy() & keep).any():
        faults += [
            (int(line), table.named.columns[RUN], "empty", "empty; every evaluation needs its run") for line in table.lines[nameless]
        ]
        keep &= ~nameless
    if not faults:
        return replace(table, frame=pl.DataFrame(columns))
    line, column, _, what = min(faults)
    first = f"{table.source.name}, row {line}{f', column {column}' if column else ''}: {what}"
    lost = len(raw.ragged) + int(np.count_nonzero(~keep))
    if strict:
        raise InputError(first)
    total = len(keep) + len(raw.ragged)
    if 2 * lost > total:
        raise InputError(f"{first}\n{lost} of {total} rows are such, more than half; leave them out with --where, or name other --columns")
    step = SelectionStep("rows that are no runs", total - lost, lost, _reasons(faults))
    kept = replace(table, frame=pl.DataFrame(columns).filter(keep), lines=table.lines[keep], log=(*table.log, step))
    message = f"{count(lost, 'row')} of {total} left out: {'; '.join(_reasons(faults))}"
    return replace(kept, warnings=(*kept.warnings, DataWarning("rows-left-out", message)))


def _reasons(faults: Sequence[tuple[int, str, str, str]]) -> tuple[str, ...]:
    """The faults by column, with the cells and the rows."""
    found = dict[str, list[tuple[int, str]]]()
    for line, column, cell, _ in sorted(faults):
        found.setdefault(column, []).append((line, cell))
    return tuple(
        f"{f'{column} is ' if column else ''}{listed(dict.fromkeys(cell for _, cell in rows), 4)}"
        f" (row{'s' if len(rows) > 1 else ''} {listed([str(line) for line, _ in rows], _MOST_ROWS)})"
        for column, rows in found.items()
    )


def _questioned(table: Table) -> Table:
    """With a question where the numbers look as if they were in another unit, and the option that answers it."""
    asked, columns = list[DataWarning](), table.named.columns
    for column, least in _LEAST.items():
        values = table.frame[column].drop_nulls().to_numpy() if column in table.frame.columns else np.empty(0)
        if len(values) and values.min() < least:
            origin, span = columns.get(column, column), f"{number(float(values.min()))} to {number(float(values.max()))}"
            option = columns_option(**{SHORT[column]: f"{origin}*1e6"})
            asked.append(DataWarning("small-sizes", f"{origin} is {span}: in millions? then {option}"))
    if {N, D, C} <= set(columns):
        ratio = (table.frame[C] / (6 * table.frame[N] * table.frame[D])).drop_nulls().to_numpy()
        if len(ratio) and not 1 / _OTHER_FLOPS < (middle := float(np.median(ratio))) < _OTHER_FLOPS:
            message = f"{columns[C]} is {middle:.3g} times 6 N D: in another unit? then {columns_option(C='6*N*D')}"
            asked.append(DataWarning("flops-unit", message))
    if N in columns and C in columns and D not in table.frame.columns:
        option = columns_option(D=f"{columns[C]}/(6*N)")
        asked.append(DataWarning("no-tokens", f"no column of tokens: if {columns[C]} is 6 N D, then {option}"))
    losses, origin = table.frame[table.named.target].drop_nulls().to_numpy(), columns[table.named.target]
    if len(losses) and float(losses.max()) > _LIKE_PERPLEXITY and not origin.startswith("ln("):
        message = f"{origin} reaches {number(float(losses.max()))}: a perplexity? then {columns_option(loss=f'ln({origin})')}"
        asked.append(DataWarning("loss-unit", message))
    elif len(losses) and float(losses.max()) < _LIKE_BITS and table.named.unit == NATS:
        message = f"{origin} is at most {number(float(losses.max()))}: in bits per byte? then --unit 'bits per byte'"
        asked.append(DataWarning("loss-unit", message))
    return replace(table, warnings=(*table.warnings, *asked))


def _with_flops_per_step(table: Table) -> Table:
    """F in the release's unit, forward FLOPs of a step of 2^19 tokens, where 2 N shows it to be of a token: Eq. 2 reads B in it."""
    if not {F, N} <= set(table.frame.columns) or table.named.columns.get(F, F) == F:
        return table  # the release's own name means the release's unit
    ratio = (table.frame[F] / (2 * table.frame[N])).drop_nulls().to_numpy()
    if not len(ratio):
        return table
    per_token, origin = float(np.median(ratio)), table.named.columns[F]
    if 0.3 < per_token < 10:
        step = SelectionStep(f"{origin} is about 2 N, FLOPs of a token: times 2^19, FLOPs of the release's step", len(table.frame), 0)
        return replace(table, frame=table.frame.with_columns(pl.col(F) * STEP_TOKENS), log=(*table.log, step))
    if 0.1 < per_token / STEP_TOKENS < 10:
        return table
    message = f"{origin} is {per_token:.3g} times 2 N: neither FLOPs of a token nor of a step of 2^19 tokens, which Eq. 2 is in"
    return replace(table, warnings=(*table.warnings, DataWarning("flops-unit", message)))


def chosen_rows(table: Table, target: str, step: int | None) -> tuple[Int[np.ndarray, "runs"], int, tuple[str, ...]]:
    """The row taken of each run, in order of first appearance; how many runs there were; and why some gave no row.

    Raises `InputError` for checkpoints that no column assigns to runs, or a step asked for where there is none.
    """
    frame = table.frame
    if step is not None and STEP not in frame.columns:
        raise InputError(f"{table.source.name}, row 1: no column {quoted(STEP)}, so the evaluation at step {step} cannot be chosen")
    runs = np.arange(len(frame))
    steps = frame[STEP].to_numpy() if STEP in frame.columns else np.zeros(len(runs))
    finite = frame[target].is_not_null().to_numpy()
    if RUN in frame.columns:  # a run's number is that of its first row; without `hyper_id` every row is a run
        firsts = frame.select(RUN).with_row_index("row").select(pl.col("row").min().over(RUN))
        runs = firsts.to_series().to_numpy().astype(np.int64)
        _no_row_twice(table, np.flatnonzero(finite), runs, steps)
    asked = np.ones_like(finite) if step is None else steps == step
    # The last of each run's rows when they are ordered by run, then step.
    ordered = np.lexsort((steps, runs))
    ordered = ordered[(finite & asked)[ordered]]
    rows = ordered[np.append(runs[ordered][1:] != runs[ordered][:-1], True)[: len(ordered)]]
    total, evaluated = len(np.unique(runs)), len(np.unique(runs[asked]))
    at = "in every evaluation" if step is None else f"at step {step}"
    left_out = ((total - evaluated, f"no evaluation {at}"), (evaluated - len(rows), f"{target} is empty {at}"))
    reasons = [f"{count(many)}: {why}" for many, why in left_out if many]
    if not finite.all():
        reasons.append(f"{np.sum(~finite)} of {len(finite)} evaluations have an empty {target}: not made, so not used")
    if STEP in frame.columns and len(rows):
        taken = Counter(steps[rows].tolist()).most_common()
        reasons.append("taken at " + listed([f"step {number(step)}: {count(many)}" for step, many in taken]))
    return rows, total, tuple(reasons)


def _no_row_twice(
    table: Table, rows: Int[np.ndarray, "evaluations"], runs: Int[np.ndarray, "rows"], steps: Float[np.ndarray, "rows"]
) -> None:
    """Raises `InputError` where a run has two evaluations (`rows`) at one step, or several and no steps."""
    frame = table.frame
    again = ~pl.DataFrame({"run": runs[rows], "step": steps[rows]}).select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    if not again.any():
        return
    row = int(rows[np.argmax(again)])
    first = table.lines[rows[np.argmax((runs[rows] == runs[row]) & (steps[rows] == steps[row]))]]
    what = f"step {number(steps[row])}" if STEP in frame.columns else f"a second row, and there is no {STEP!r} column,"
    origin = table.named.columns[RUN]
    several = f"{columns_option(run=f'{origin}+...')}" if not origin.startswith("@") else "--columns run=..."
    raise InputError(
        f"{table.place(row)}: {origin} {quoted(str(frame[RUN][row]))} has {what} already in row {first}\n"
        f"if a run is known by several columns: {several}; if every row is a run: --columns run=@row"
    )


def checkpoints_without_runs(table: Table) -> InputError | None:
    """The question to ask where one setting has rows at several steps and no column says which run they are of; else None."""
    frame = table.frame
    if RUN in frame.columns or STEP not in frame.columns:
        return None
    skipped = {STEP, D, C, table.named.target, *(name for name in frame.columns if "loss" in name.lower())}
    setting = [name for name in frame.columns if name in table.named.columns and name not in skipped]
    if not setting:
        return None
    several = frame.group_by(setting).agg(pl.col(STEP).n_unique().alias("steps")).filter(pl.col("steps") > 1)
    if not len(several):
        return None
    known = columns_option(run="+".join(SHORT.get(name, name) for name in setting))
    return InputError(
        f"{table.source.name}: {count(len(several), 'setting')} at several steps, and no column says which rows are one run\n"
        f"if they are checkpoints of one run each: {known}; one run a file: --columns run=@file\n"
        "if every row is a run: --columns run=@row"
    )


def columns_of(frames: Sequence[pl.DataFrame], target: str) -> dict[str, Shaped[np.ndarray, "runs"]]:
    """The columns of all frames as arrays; a column that one lacks is empty there.

    Known numbers are float64 (NaN where empty), labels text; an unknown column is numbers if every filled cell is.
    """
    columns: dict[str, Shaped[np.ndarray, "runs"]] = {}
    for cells in pl.concat(frames, how="diagonal_relaxed").get_columns():
        numbers, name = cells.cast(pl.Float64, strict=False), cells.name
        if rule_for(name, target) or (numbers.null_count() == cells.null_count() < len(cells) and name not in TEXTS):
            columns[name] = np.array(numbers.to_numpy())
            continue
        text = cells.cast(pl.String).fill_null("").to_list()
        if (longest := max(map(len, text), default=0)) * len(text) > _MOST_TEXT:
            raise InputError(f"column {quoted(name)}: a cell of {longest} characters in {len(text)} runs; leave it out")
        columns[name] = np.array(text, dtype=np.str_)
    return columns
