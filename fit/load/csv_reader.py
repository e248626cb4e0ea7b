"""From the bytes of a curves file to checked columns: .csv or .csv.gz, from a path or standard input.

Every value that a fit may use is checked here; what is wrong is one `InputError` naming file, row and column. Rows are
the file's lines, counted from 1, the header's included. A million rows are read in a few seconds: rows become columns
some hundreds at a time, numbers as arrays and other cells as one string per block.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from common.errors import InputError
from fit.load.schema import LOSSES, NUMBERS, STEP, Rule, full_name, listed, no_such_column, quoted, rule_for
from fit.load.stored import Source, line_of, read_text

# Blocks of this many rows stay in the processor's cache: twice as fast as ten thousand.
_BLOCK = 500
# A column with more different cells than this is one of losses or the like, where few repeat.
_REPEATING = 2000
# Cells of a block are kept as one string, with a character between them that no accepted file contains.
_SEPARATOR = "\0"


@dataclass(frozen=True)
class Cells:
    """A column of unconverted cells, as blocks of rows; `starts` holds each block's first row."""

    blocks: list[str]
    starts: Int[np.ndarray, "blocks"]

    def at(self, rows: Int[np.ndarray, "runs"]) -> list[str]:
        """The cells in `rows` (counted from 0), without surrounding blanks."""
        block_of = np.searchsorted(self.starts, rows, side="right") - 1
        split = {int(block): self.blocks[block].split(_SEPARATOR) for block in np.unique(block_of)}
        within = rows - self.starts[block_of]
        return [split[b][i].strip() for b, i in zip(block_of.tolist(), within.tolist(), strict=True)]


@dataclass(frozen=True)
class Table:
    """The checked columns of one file under our names, in the file's order; every array has one entry per row."""

    source: Source
    names: tuple[str, ...]
    numbers: Mapping[str, Float[np.ndarray, "rows"]]
    cells: Mapping[str, Cells]
    lines: Int[np.ndarray, "rows"]
    set_aside: tuple[str, ...]


def read_table(path: str | Path, target: str, columns: Mapping[str, str]) -> Table:
    """Read and check one file; `columns` maps our names to its headers. Raises `InputError` on whatever is wrong."""
    source, data = read_text(path)
    rows = _Rows(data, source)
    names, set_aside = _our_names(rows.header, target, columns, source)
    builder = _Builder(source, names, rows.header, target)
    for lines, block in rows.blocks():
        builder.add(lines, block)
    return builder.table(set_aside)


class _Rows:
    """The rows of a file, some hundreds at a time, with the line that each begins on."""

    def __init__(self, data: bytes, source: Source) -> None:
        self._data = data
        self._source = source
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
        self._rows = _quoted_rows(text) if b'"' in data else _plain_rows(text)
        self._line = 1
        first = next(self._blocks_of(1), None)
        if first is None:
            raise InputError(f"{source.name}: the file has only empty lines; it should begin with a header line")
        self.header = tuple(name.strip() for name in first[1][0])
        if repeated := sorted({name for name in self.header if self.header.count(name) > 1}):
            raise InputError(f"{source.name}, row {first[0][0]}: column {listed(map(quoted, repeated))} occurs more than once")

    def blocks(self) -> Iterator[tuple[list[int], list[list[str]]]]:
        """Lines and cells of the rows below the header; raises `InputError` at the first row of another width."""
        width = len(self.header)
        for lines, rows in self._blocks_of(_BLOCK):
            if set(map(len, rows)) != {width}:
                line, row = next((line, row) for line, row in zip(lines, rows, strict=True) if len(row) != width)
                raise InputError(f"{self._source.name}, row {line}: {len(row)} cells where the header has {width}")
            yield lines, rows

    def _blocks_of(self, size: int) -> Iterator[tuple[list[int], list[list[str]]]]:
        more = True
        while more:
            lines: list[int] = []
            rows: list[list[str]] = []
            more = False
            try:
                for next_line, row in islice(self._rows, size):
                    more = True
                    if row:  # an empty line is no row
                        lines.append(self._line)
                        rows.append(row)
                    self._line = next_line
            except csv.Error as error:
                raise InputError(f"{self._source.name}, row {self._line}: not valid CSV: {error}") from None
            except UnicodeDecodeError:
                raise self._not_utf8() from None
            if rows:
                yield lines, rows

    def _not_utf8(self) -> InputError:
        try:
            self._data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = line_of(self._data, error.start)
            return InputError(f"{self._source.name}, row {line}: not UTF-8 (byte {error.start}); save it as UTF-8")
        return InputError(f"{self._source.name}: not UTF-8; save it as UTF-8")


def _quoted_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line after it: a quoted cell may hold line ends."""
    reader = csv.reader(text, strict=True)
    for row in reader:
        yield reader.line_num + 1, row


def _plain_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """What `_quoted_rows` gives of a text without any quote, in half the time."""
    limit = csv.field_size_limit()
    for line_after, line in enumerate(text, 2):
        row = line.rstrip("\r\n")
        if len(row) > limit and max(map(len, row.split(","))) > limit:
            raise csv.Error(f"field larger than field limit ({limit})")
        yield line_after, row.split(",") if row else []


def _our_names(header: tuple[str, ...], target: str, columns: Mapping[str, str], source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Our name of each header, and those headers that a mapped column takes the name of: they are set aside."""
    ours: dict[str, str] = {}
    for short, theirs in columns.items():
        name = full_name(short, target)
        if theirs not in header:
            raise InputError(f"{source.name}, row 1: {no_such_column(theirs, header)}")
        if theirs in ours or name in ours.values():
            raise InputError(f"columns: {quoted(name)} = {quoted(theirs)}: a name and a header can be paired only once")
        ours[theirs] = name
    set_aside = tuple(name for name in header if name not in ours and name in ours.values())
    taken = {*header, *ours.values()}
    names = tuple(_free_name(name, taken) if name in set_aside else ours.get(name, name) for name in header)
    if target not in names:
        losses = [name for name in header if "loss" in name.lower()]
        there = f"loss columns there: {listed(losses)}" if losses else f"columns there: {listed(header, most=30)}"
        raise InputError(f"{source.name}, row 1: no column {quoted(target)} to fit ({there})")
    return names, set_aside


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"{name} (set aside)"
    return name


class _Builder:
    """Checks block after block and keeps its columns."""

    def __init__(self, source: Source, names: tuple[str, ...], header: tuple[str, ...], target: str) -> None:
        self._source, self._names, self._header = source, names, header
        self._rules = {name: rule_for(name, target) for name in names if name in NUMBERS or name == target}
        self._losses = {name: rule_for(name, target) for name in names if name in LOSSES and name != target}
        self._seen = {name: _Seen() for name in self._rules}
        self._lines: list[Int[np.ndarray, "block"]] = []
        self._numbers: dict[str, list[Float[np.ndarray, "block"]]] = {name: [] for name in self._rules}
        self._cells: dict[str, list[str]] = {name: [] for name in names if name not in self._rules}

    def add(self, lines: list[int], rows: list[list[str]]) -> None:
        """Check and keep one block; raises `InputError` for its first wrong row."""
        self._lines.append(np.array(lines, dtype=np.int64))
        wrong: list[tuple[int, int, Rule]] = []
        for place, (name, cells) in enumerate(zip(self._names, zip(*rows, strict=True), strict=True)):
            if name in self._rules:
                values = self._seen[name].numbers(cells)
                self._numbers[name].append(values)
                rule, suspect = self._rules[name], True
            else:
                values, rule = None, self._losses.get(name)
                joined = _SEPARATOR.join(cells)
                self._cells[name].append(joined)
                # The other losses are converted only in the rows kept: elsewhere digits and points are enough.
                suspect = rule is not None and joined.encode().translate(None, b"0123456789.\0") != b""
            if rule is not None and suspect:
                values = to_numbers(cells) if values is None else values
                row = first_wrong(cells, values, rule, may_be_empty=name != STEP)
                if row is not None:
                    wrong.append((row, place, rule))
        if wrong:
            row, place, rule = min(wrong, key=lambda found: found[:2])
            raise self._error(lines[row], place, rows[row][place], rule)

    def _error(self, line: int, place: int, cell: str, rule: Rule) -> InputError:
        where = f"{self._source.name}, row {line}, column {self._header[place]}"
        if not cell.strip():
            return InputError(f"{where}: empty; every evaluation needs its step")
        what = "must be" if is_number(cell) else "not a number; must be"
        return InputError(f"{where}: {quoted(cell)}: {what} {rule.wanted}")

    def table(self, set_aside: tuple[str, ...]) -> Table:
        """All blocks together."""
        if not self._lines:
            raise InputError(f"{self._source.name}: a header and no rows; there are no runs to fit")
        sizes = [len(block) for block in self._lines]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return Table(
            source=Source(self._source.path, self._source.sha256, sum(sizes)),
            names=self._names,
            numbers={name: np.concatenate(blocks) for name, blocks in self._numbers.items()},
            cells={name: Cells(blocks, starts) for name, blocks in self._cells.items()},
            lines=np.concatenate(self._lines),
            set_aside=set_aside,
        )


def is_number(cell: str) -> bool:
    """Whether `cell` is a number written as CSV files write them (Python's `1_000` is not)."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def as_number(cell: str) -> float:
    """The number in `cell`, NaN if there is none."""
    return float(cell) if is_number(cell) else float("nan")


class _Seen(dict[str, float]):
    """The numbers of the cells met so far: converting is what takes time, and sizes, experts and the like repeat."""

    def __missing__(self, cell: str) -> float:
        return self.setdefault(cell, as_number(cell))

    def numbers(self, cells: Sequence[str]) -> Float[np.ndarray, "rows"]:
        """The numbers in `cells`, NaN where there is none."""
        if len(self) > _REPEATING:
            return to_numbers(cells)
        return np.fromiter(map(self.__getitem__, cells), np.float64, len(cells))


def to_numbers(cells: Sequence[str]) -> Float[np.ndarray, "rows"]:
    """The numbers in `cells`, NaN where there is none."""
    try:
        if "_" not in "".join(cells):
            return np.fromiter(map(float, [cell or "nan" for cell in cells]), np.float64, len(cells))
    except ValueError:
        pass
    return np.fromiter(map(as_number, cells), np.float64, len(cells))


def first_wrong(cells: Sequence[str], values: Float[np.ndarray, "rows"], rule: Rule, *, may_be_empty: bool) -> int | None:
    """The first row whose cell breaks the rule; an empty cell does not unless it may not be empty."""
    for row in np.flatnonzero(~rule.holds(values)).tolist():
        if not (may_be_empty and not cells[row].strip()):
            return row
    return None
