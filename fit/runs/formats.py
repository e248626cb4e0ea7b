"""What a file is, told by its content: text with commas, tabs, semicolons or bars, JSON, JSON Lines, Parquet; plain, gzip, xz or zstd.

Cells of text stay text until a column is known to be numbers, so that a message can quote them. Rows are the lines of a file, counted
from 1, the header's included; of JSON, Parquet and data frames, their entries. What is not read is named with what converts it.
"""

import csv
import gzip
import hashlib
import io
import lzma
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zstandard
from jaxtyping import Int

from common.errors import InputError
from fit.runs.records import json_table
from fit.runs.schema import Source, listed, quoted

_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
_READABLE = "CSV, TSV, JSON, JSON Lines or Parquet"
_PICKLE = "a pickle, which can run code when read"
_CONVERSIONS = (
    *((b"\x80" + bytes([protocol]), _PICKLE, "read_pickle") for protocol in range(2, 6)),
    (b"PK\x03\x04", "a zip archive, such as a spreadsheet", "read_excel"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet of old Excel", "read_excel"),
    (b"\x89HDF", "HDF5", "read_hdf"),
    (b"ARROW1", "an Arrow file", "read_feather"),
    (b"FEA1", "a Feather file", "read_feather"),
)
"""How files begin that are not read, what they are, and the function of pandas that reads them."""


def _unzstd(data: bytes) -> bytes:
    """All frames of zstd data; a frame without its end is an error, which the library's own reader passes over."""
    out = list[bytes]()
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.append(frame.decompress(data))
        if not frame.eof:
            raise ValueError("the last frame has no end")
        data = frame.unused_data
    return b"".join(out)


_PACKED: Mapping[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"\xfd7zXZ\0": ("xz", lzma.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", _unzstd),
}


@dataclass(frozen=True)
class RawTable:
    """A source as it stands: its cells by its own headers, empty ones null, and the row that each was read in.

    `ragged` gives the rows that had another number of cells than the header, and what was wrong: they are not in `frame`.
    """

    source: Source
    frame: pl.DataFrame
    lines: Int[np.ndarray, "rows"]
    ragged: tuple[tuple[int, str], ...] = ()


def files_of(path: str) -> list[str]:
    """The files that a path names: itself, those of a folder by their suffix, or those that match a pattern, in order of name."""
    there = Path(path)
    try:
        if path == "-" or there.is_file():
            return [path]
        if there.is_dir():
            found = sorted(str(one) for one in there.iterdir() if one.is_file() and _is_table(one))
            if not found:
                raise InputError(
                    f"{path}: a folder without tables of runs ({', '.join(_SUFFIXES)}, also packed)\n"
                    f"for those of its folders give a pattern: '{path.rstrip('/')}/**/*.jsonl'"
                )
            return found
        if any(mark in path for mark in "*?["):
            base = Path(there.anchor)
            found = sorted(str(one) for one in base.glob(str(there.relative_to(base))) if one.is_file())
            if not found:
                raise InputError(f"{quoted(path)}: no file matches this pattern")
            return found
    except InputError:
        raise
    except (OSError, ValueError, NotImplementedError):
        pass  # reading it says what is wrong
    return [path]


def _is_table(path: Path) -> bool:
    """Whether a file of a folder is one to read: by its suffix, that of packing left out; hidden ones are not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".xz", ".zst"):
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in _SUFFIXES and not path.name.startswith(".")


def raw_table(source: Any) -> RawTable:
    """Read a path, standard input (`"-"`) or a data frame. Raises `InputError`, naming file and row."""
    if not isinstance(source, str | Path):
        frame = as_polars(source)
        table = RawTable(Source("", "", len(frame)), frame, np.arange(1, len(frame) + 1))
    else:
        found, data = _content(str(source))
        frame, lines, ragged = _cells(data, found.name)
        table = RawTable(Source(found.path, found.sha256, len(frame) + len(ragged)), frame, lines, ragged)
    if not table.source.rows:
        raise InputError(f"{table.source.name}: a header and no rows; there are no runs to fit")
    return table


def as_polars(frame: Any) -> pl.DataFrame:
    """A mapping, or a data frame of polars, pandas or Arrow, as one of polars; what is neither number nor text is text."""
    try:
        if hasattr(frame, "isna"):  # pandas: without pyarrow polars reads only some of its types
            if len(set(map(str, frame.columns))) < len(frame.columns):
                raise InputError("not a table: two of its columns have the same name")
            pairs = [(str(name), zip(column.tolist(), column.isna().tolist(), strict=True)) for name, column in frame.items()]
            frame = {name: [None if empty else value for value, empty in cells] for name, cells in pairs}
        frame = _unnested(pl.DataFrame(frame, strict=False))
    except InputError:
        raise
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not a table, with one entry per run in every column: {str(error).splitlines()[0]}") from None
    kept = (pl.String, pl.Boolean)
    others = [cells for cells in frame.get_columns() if not (cells.dtype.is_numeric() or cells.dtype in kept)]
    texts = [pl.Series(cells.name, [None if cell is None else str(cell) for cell in cells], dtype=pl.String) for cells in others]
    return _stripped(frame.with_columns(texts).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)))


def _unnested(frame: pl.DataFrame) -> pl.DataFrame:
    """A table without nested columns: the fields of `config` as `config.size` and so on."""
    while any(isinstance(kind, pl.Struct) for kind in frame.dtypes):
        each = [
            [pl.col(name).struct.field(field.name).alias(f"{name}.{field.name}") for field in kind.fields]
            if isinstance(kind, pl.Struct)
            else [pl.col(name)]
            for name, kind in frame.schema.items()
        ]
        frame = frame.select([one for several in each for one in several])
    return frame


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
    for magic, (kind, unpack) in _PACKED.items():
        if stored.startswith(magic):
            try:
                data = unpack(stored)
            except Exception as error:  # each library has its own
                raise InputError(f"{source.name}: the {kind} data is cut off or corrupt ({error}); fetch or copy the file again") from None
    return Source(path, hashlib.sha256(stored).hexdigest(), 0), data


_Found = tuple[pl.DataFrame, Int[np.ndarray, "rows"], tuple[tuple[int, str], ...]]


def _cells(data: bytes, name: str) -> _Found:
    """The cells of a file, the row that each begins on, and the ragged rows. A row without any filled cell is no row."""
    if data.startswith(b"PAR1"):
        try:
            frame = as_polars(pl.read_parquet(io.BytesIO(data)))
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{name}: not valid Parquet: {str(error).splitlines()[0]}") from None
        return frame, np.arange(1, len(frame) + 1), ()
    _refuse_other_kinds(data, name)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if (nul := data.find(b"\0")) >= 0:
        raise InputError(f"{name}, row {data[:nul].count(10) + 1}: a NUL byte; this is no text file, and none of {_READABLE}")
    if data.lstrip()[:1] in (b"[", b"{"):
        frame, lines = json_table(data, name)
        return as_polars(frame), lines, ()
    return _separated(data, name)


def _refuse_other_kinds(data: bytes, name: str) -> None:
    file = "FILE" if name == Source("-", "", 0).name else name
    for magic, kind, reader in _CONVERSIONS:
        if data.startswith(magic):
            command = f"python -c \"import pandas; pandas.{reader}('{file}').to_csv('runs.csv', index=False)\""
            raise InputError(f"{name}: {kind}; it takes {_READABLE}\nconvert it with {command}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: encoded as UTF-16; save it as UTF-8")
    if data.lstrip()[:1] == b"<":
        command = f"python -c \"import pandas; pandas.read_html('{file}')[0].to_csv('runs.csv', index=False)\""
        raise InputError(f"{name}: a web page or XML; it takes {_READABLE}\nif a table is in it: {command}")


def _from_header(data: bytes) -> tuple[bytes, int]:
    """The text from its header on, and how many lines came before: empty ones, and remarks after `#`."""
    start, skipped = 0, 0
    while (found := re.compile(rb"[ \t]*(#[^\n]*)?\n").match(data, start)) is not None:
        line, end = found[1] or b"", data.find(b"\n", found.end())
        following = data[found.end() : end if end >= 0 else len(data)]
        if line and not following.startswith(b"#") and _shape(line) == _shape(following) != (0, 0, 0, 0):
            return data[found.start(1) + 1 :].lstrip(b"# "), skipped  # a header after `#`, as NumPy writes it
        start, skipped = found.end(), skipped + 1
    return data[start:], skipped


def _shape(line: bytes) -> tuple[int, ...]:
    """How many of each separator stand in a line."""
    return tuple(line.count(mark) for mark in (b",", b"\t", b";", b"|"))


def _separated(data: bytes, name: str) -> _Found:
    data, skipped = _from_header(data)
    head = data[: end if (end := data.find(b"\n")) >= 0 else len(data)]
    if not head:
        raise InputError(f"{name}: the file {'has only empty lines' if skipped else 'is empty'}; it should begin with a header line")
    separator = max(",\t;|", key=lambda mark: head.count(mark.encode()))
    rows = _rows(data, separator, name, skipped)
    first, header = next(rows)
    header = [cell.strip() for cell in header]
    if repeated := sorted({cell for cell in header if header.count(cell) > 1}):
        raise InputError(f"{name}, row {first}: column {listed(map(quoted, repeated))} occurs more than once")
    if any(cell.endswith(("__MIN", "__MAX")) and " - " in cell for cell in header):
        raise InputError(
            f"{name}: a chart's export, a column for each run, without their sizes\n"
            "export the runs table instead: in W&B the table's own export, or wandb.Api().runs(...) with config and summary"
        )
    schema = dict.fromkeys(header, pl.String)
    frames, numbers, ragged = [pl.DataFrame(schema=schema)], list[int](), list[tuple[int, str]]()
    while block := list(islice(rows, 10_000)):
        block = [(line, cells) for line, cells in block if any(map(str.strip, cells))]
        ragged += [(line, f"{len(cells)} cells where the header has {len(header)}") for line, cells in block if len(cells) != len(header)]
        block = [(line, cells) for line, cells in block if len(cells) == len(header)]
        numbers += [line for line, _ in block]
        frames.append(pl.DataFrame([cells for _, cells in block], schema=schema, orient="row"))
    return _with_points(_stripped(pl.concat(frames)), separator), np.array(numbers, dtype=np.int64), tuple(ragged)


def _with_points(frame: pl.DataFrame, separator: str) -> pl.DataFrame:
    """A table whose numbers have decimal commas, as spreadsheets write them beside semicolons, with points instead."""
    if separator != ";":
        return frame
    decimal = pl.all().str.contains(r"^[+-]?\d+,(\d{1,2}|\d{4,})([eE][+-]?\d+)?$").any()
    if not any(frame.select(decimal).row(0) if frame.columns else ()):
        return frame
    return frame.with_columns(pl.all().str.replace(r"^([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)$", "${1}.${2}"))


def _rows(data: bytes, separator: str, name: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not an empty line, with the line it begins on. Raises `InputError` at the first malformed one."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="\n"), strict=True, delimiter=separator)
    line = skipped + 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, row {line}: not valid CSV: {error}") from None
    except UnicodeDecodeError:
        bad = next(i for i, line in enumerate(data.split(b"\n"), 1) if line.decode("utf-8", "ignore").encode() != line)
        raise InputError(f"{name}, row {skipped + bad}: not UTF-8; save it as UTF-8") from None
