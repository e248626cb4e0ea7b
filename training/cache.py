"""The user's cache: tokens, trained tokenizers and compiled programs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import WorkError

KINDS = {
    "tokens-": "tokens",
    ".tokens-": "tokens, incomplete",
    "bpe-": "tokenizer",
    "run-": "copy of a run",
    "store-": "copy of a text",
    "xla-": "programs",
}
"""What the entries are, by the beginning of their names."""


def cache_folder() -> Path:
    """The user's cache folder (XDG base directories).

    Raises `WorkError` for a user without a home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(named) if named else Path.home() / ".cache") / "routelaw"
    except RuntimeError as error:
        raise WorkError(
            "there is no home folder to keep the cache in; set XDG_CACHE_HOME to a folder"
        ) from error


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache."""

    path: Path
    kind: str
    bytes: int
    changed: float
    """When it was last written, in seconds since 1970."""


def entries(folder: Path) -> list[Entry]:
    """The entries of the cache in `folder`, the largest first; other files are left alone."""
    found: list[Entry] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        kind = next((kind for begin, kind in KINDS.items() if path.name.startswith(begin)), None)
        if kind is None:
            continue
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        stats = [path.stat(), *(file.stat() for file in files)]
        size = sum(stat.st_size for stat in stats[1:])
        found.append(Entry(path, kind, size, max(stat.st_mtime for stat in stats)))
    return sorted(found, key=lambda entry: (-entry.bytes, entry.path.name))


def clear(found: Sequence[Entry]) -> None:
    """Remove entries; a run that reads them at this moment fails, and works when started again."""
    for entry in found:
        if entry.path.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            entry.path.unlink(missing_ok=True)
