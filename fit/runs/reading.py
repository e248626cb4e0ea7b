"""From files, standard input or data frames to checked tables, and from these to the row that is fitted of each run.

Text with commas, tabs, semicolons or bars, and Parquet, plain or as gzip or xz: what a file is shows in its content. Cells of text
stay text until a column is known to be numbers, so that a message can quote them. Rows are the lines of a file, counted from 1, the
header's included; of Parquet and data frames, their rows.
"""

import csv
import gzip
import hashlib
import io
import lzma
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int, Shaped

from common.errors import InputError
from fit.runs.schema import RUN, STEP, TEXTS, Source, count, full_name, listed, no_such_column, number, quoted, rule_for

# numpy keeps text at the width of the longest cell; past this many characters in all a column does not fit into memory.
_MOST_TEXT = 250_000_000
_PACKED = {b"\x1f\x8b": ("gzip", ".gz", gzip.decompress), b"\xfd7zXZ\0": ("xz", ".xz", lzma.decompress)}


@dataclass(frozen=True)
class Table:
    """One source under our names: known numbers are Float64, other cells text or as they were, empty ones null.

    `headers` gives the source's own name of each column, `set_aside` those whose name another column took.
    """

    source: Source
    frame: pl.DataFrame
    lines: Int[np.ndarray, "rows"]
    headers: Mapping[str, str]
    set_aside: tuple[str, ...]

    def with_target(self, target: str) -> "Table":
        """The table with all known numbers checked, the target among them. Raises `InputError` for the first wrong row."""
        if target not in self.frame.columns:
            losses = [name for name in self.headers.values() if "loss" in name.lower()]
            there = f"loss columns there: {listed(losses)}" if losses else f"columns there: {listed(self.headers.values(), most=30)}"
            raise InputError(f"{self.source.name}, row 1: no column {quoted(target)} to fit ({there})")
        checked, wrong = list[pl.Series](), list[tuple[int, int, str, str]]()
        for place, cells in enumerate(self.frame.get_columns()):
            if (rule := rule_for(cells.name, target)) is not None:
                checked.append(numbers := cells.cast(pl.Float64, strict=False))
                values, filled = numbers.to_numpy(), cells.is_not_null().to_numpy()
                bad = ~(np.isfinite(values) & rule.holds(values)) & (filled | (cells.name == STEP))
                if bad.any():
                    row = int(np.argmax(bad))
                    cell = str(cells[row]) if cells.dtype == pl.String or not filled[row] else number(values[row])
                    what = f"{quoted(cell)}: {'not a number; ' if numbers[row] is None else ''}must be {rule.wanted}"
                    wrong.append((row, place, cells.name, what if filled[row] else "empty; every evaluation needs its step"))
        if wrong:
            row, _, name, what = min(wrong)
            raise InputError(f"{self.source.name}, row {self.lines[row]}, column {self.headers[name]}: {what}")
        return replace(self, frame=self.frame.with_columns(checked))


def read_table(source: Any, target: str, columns: Mapping[str, str]) -> Table:
    """Read a path, standard input (`"-"`) or a data frame; `columns` maps our names to its headers. Raises `InputError`."""
    if isinstance(source, str | Path):
        found, data = _content(str(source))
        mapped = {header: full_name(short, target) for short, header in columns.items()}
        frame, lines = _cells(data, found.name, lambda header: rule_for(mapped.get(header, header), target) is not None)
    else:
        found, frame = Source("", "", 0), as_polars(source)
        lines = np.arange(1, len(frame) + 1)
        short = [name for name in frame.columns if full_name(name, target) not in frame.columns and name not in columns.values()]
        columns = {**{name: name for name in short}, **columns}
    if not len(frame):
        raise InputError(f"{found.name}: a header and no rows; there are no runs to fit")
    ours: dict[str, str] = {}
    for short, header in columns.items():
        name = full_name(short, target)
        if header not in frame.columns:
            raise InputError(f"{found.name}, row 1: {no_such_column(header, frame.columns)}")
        if header in ours or name in ours.values():
            raise InputError(f"columns: {quoted(name)} = {quoted(header)}: a name and a header can be paired only once")
        ours[header] = name
    set_aside = tuple(header for header in frame.columns if header not in ours and header in ours.values())
    taken = {*frame.columns, *ours.values()}
    for header in set_aside:
        name = header
        while name in taken:
            name += " (set aside)"
        ours[header] = name
    headers = {ours.get(header, header): header for header in frame.columns}
    return Table(replace(found, rows=len(frame)), frame.rename(ours), lines, headers, set_aside)


def as_polars(frame: Any) -> pl.DataFrame:
    """A mapping, or a data frame of polars, pandas or Arrow, as one of polars; NaN is empty, what is neither number nor text is text."""
    try:
        if hasattr(frame, "isna"):  # pandas: without pyarrow polars reads only some of its types
            pairs = [(str(name), zip(column.tolist(), column.isna().tolist(), strict=True)) for name, column in frame.items()]
            frame = {name: [None if empty else value for value, empty in cells] for name, cells in pairs}
        frame = pl.DataFrame(frame, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InputError(f"not a table, with one entry per run in every column: {str(error).splitlines()[0]}") from None
    others = [cells for cells in frame.get_columns() if not (cells.dtype.is_numeric() or cells.dtype == pl.Boolean)]
    texts = [pl.Series(cells.name, [None if cell is None else str(cell) for cell in cells], dtype=pl.String) for cells in others]
    return _stripped(frame.with_columns(texts).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)))


def _stripped(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))


def _content(path: str) -> tuple[Source, bytes]:
    """The file, and its bytes unpacked."""
    source, stored = Source(path, "", 0), b""
    try:
        # Under some launchers there is no standard input, and in notebooks it has no bytes.
        stored = Path(path).read_bytes() if path != "-" else bytes(sys.stdin.buffer.read())
    except AttributeError:
        raise InputError("standard input is closed; give the name of a file") from None
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError(f"{source.name}: {reason}") from None
    data = stored
    for magic, (kind, suffix, unpack) in _PACKED.items():
        if stored.startswith(magic):
            try:
                data = unpack(stored)
            except Exception as error:  # each library has its own
                raise InputError(f"{source.name}: the {kind} data is cut off or corrupt ({error}); fetch or copy the file again") from None
        elif stored and path.endswith(suffix):
            raise InputError(f"{source.name}: named {suffix} but its content is not {kind}; rename it if it is plain text")
    return Source(path, hashlib.sha256(stored).hexdigest(), 0), data


def _cells(data: bytes, name: str, is_number: Callable[[str], bool]) -> tuple[pl.DataFrame, Int[np.ndarray, "rows"]]:
    """The cells of a file, and the line that each row begins on. A row without any filled cell is no row."""
    if data.startswith(b"PAR1"):
        try:
            frame = as_polars(pl.read_parquet(io.BytesIO(data)))
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{name}: not valid Parquet: {str(error).splitlines()[0]}") from None
        return frame, np.arange(1, len(frame) + 1)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: encoded as UTF-16; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if (nul := data.find(b"\0")) >= 0:
        raise InputError(f"{name}, row {data[:nul].count(10) + 1}: a NUL byte; this is not a text file")
    head = io.BytesIO(data.lstrip(b"\n")).readline().rstrip(b"\n")
    if not head:
        raise InputError(f"{name}: the file {'has only empty lines' if data else 'is empty'}; it should begin with a header line")
    separator = next((mark for mark in ",\t;|" if mark.encode() in head), ",")
    rows = _rows(data, separator, name)
    first, header = next(rows)
    header = [cell.strip() for cell in header]
    if repeated := sorted({cell for cell in header if header.count(cell) > 1}):
        raise InputError(f"{name}, row {first}: column {listed(map(quoted, repeated))} occurs more than once")
    schema = {cell: pl.Float64 if is_number(cell) else pl.String for cell in header}
    start = data.index(head) + len(head)
    if data.find(b'"', start) < 0:
        try:
            frame = pl.read_csv(io.BytesIO(data), has_header=False, skip_rows=first, schema=schema, separator=separator, quote_char=None)
            filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
            frame, lines = (frame if filled.all() else frame.filter(filled)), np.flatnonzero(filled.to_numpy()) + first + 1
            # polars fills short rows up without a word, which the number of separators shows.
            if data.count(separator.encode(), start) == (len(header) - 1) * len(frame):
                return _stripped(frame), lines
        except pl.exceptions.PolarsError:
            pass  # what is wrong, and where, is found below
    schema = dict.fromkeys(header, pl.String)
    frames, numbers = [pl.DataFrame(schema=schema)], list[int]()
    while block := list(islice(rows, 10_000)):
        block = [(line, cells) for line, cells in block if any(map(str.strip, cells))]
        numbers += [line for line, _ in block]
        frames.append(pl.DataFrame([cells for _, cells in block], schema=schema, orient="row"))
    return _stripped(pl.concat(frames)), np.array(numbers, dtype=np.int64)


def _rows(data: bytes, separator: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not an empty line, with the line it begins on. Raises `InputError` at the first malformed one."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="\n"), strict=True, delimiter=separator)
    line, width = 1, 0
    try:
        for cells in reader:
            width = width or len(cells)
            if cells and len(cells) != width:
                raise InputError(f"{name}, row {line}: {len(cells)} cells where the header has {width}")
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, row {line}: not valid CSV: {error}") from None
    except UnicodeDecodeError:
        bad = next(i for i, line in enumerate(data.split(b"\n"), 1) if line.decode("utf-8", "ignore").encode() != line)
        raise InputError(f"{name}, row {bad}: not UTF-8; save it as UTF-8") from None


def select(table: Table, target: str, step: int | None) -> tuple[Int[np.ndarray, "runs"], int, tuple[str, ...]]:
    """The row taken of each run, in order of first appearance; how many runs there were; and why some gave no row.

    Raises `InputError` for a repeated (hyper_id, step), or a step asked for where there is none.
    """
    name, frame = table.source.name, table.frame
    if step is not None and STEP not in frame.columns:
        raise InputError(f"{name}, row 1: no column {quoted(STEP)}, so the evaluation at step {step} cannot be chosen")
    runs = np.arange(len(frame))
    steps = frame[STEP].to_numpy() if STEP in frame.columns else np.zeros(len(runs))
    if RUN in frame.columns:  # a run's number is that of its first row; without `hyper_id` every row is a run
        if frame[RUN].null_count():
            line = table.lines[np.argmax(frame[RUN].is_null().to_numpy())]
            raise InputError(f"{name}, row {line}, column {table.headers[RUN]}: empty; every evaluation needs its run")
        firsts = frame.select(RUN).with_row_index("row").select(pl.col("row").min().over(RUN))
        runs = firsts.to_series().to_numpy().astype(np.int64)
        again = ~pl.DataFrame({"run": runs, "step": steps}).select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
        if again.any():
            row = int(np.argmax(again))
            first = table.lines[np.argmax((runs == runs[row]) & (steps == steps[row]))]
            what = f"step {number(steps[row])}" if STEP in frame.columns else f"a second row, and there is no {STEP!r} column,"
            raise InputError(f"{name}, row {table.lines[row]}: {RUN} {quoted(str(frame[RUN][row]))} has {what} already in row {first}")
    finite = frame[target].is_not_null().to_numpy()
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
