"""Token shards: a corpus as memory-mapped token ids, split by document.

A folder with `tokens.json`, its index, and files of little-endian 16 or 32-bit ids (`write`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from common.files import write_atomically
from training.text.split import Fractions, Split

SHARDS_VERSION = 3
"""Version of the index and of the shards' contents, part of their cache key."""

SHARD_TOKENS = 1 << 26
"""Tokens per file, except the last."""

CHECKED_TOKENS = 1 << 22
"""Tokens checked at a time."""

INDEX, MODEL = "tokens.json", "tokenizer.model"
"""The index, and the tokenizer, unless it is bytes."""


@dataclass(frozen=True)
class Shard:
    """One file: its name in the folder, its number of tokens, and the SHA-256 of its bytes."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """The index of a folder of token shards."""

    folder: Path
    tokenizer: str
    """Fingerprint of the tokenizer that wrote them."""
    tokenizer_name: str
    """Its `--tokenizer`."""
    content: str
    """SHA-256 of the text of all documents, in order."""
    read_as: str
    """What the files were read as: their number by kind, and the text field of records."""
    skipped: int
    """Records without text that were left out."""
    vocabulary: int
    dtype: str
    split: Fractions
    cut: bool
    """Whether the text is one document, of which the last part is held out."""
    documents: dict[str, int]
    """Documents per split."""
    files: dict[str, list[Shard]]
    """Files per split, in order."""
    version: int = SHARDS_VERSION

    def tokens(self, split: Split) -> int:
        """Number of tokens of `split`; 0 if there is no such split."""
        return sum(shard.tokens for shard in self.files.get(split, ()))

    def write_index(self, folder: Path) -> None:
        """Write the index of shards that are in `folder`."""
        index = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_atomically(folder / INDEX, json.dumps(index, indent=1) + "\n")


def read_index(folder: Path) -> Shards:
    """The index of the shards in `folder`. Raises `InputError` if it is missing or damaged."""
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"{folder} has no {INDEX}, so it is not a folder of token shards; "
            "write one with `cli.py tokenize`"
        )
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (version := index.get("version")) != SHARDS_VERSION:
            raise ValueError(f"version {version}, not {SHARDS_VERSION}")
        files = {
            split: [Shard(**shard) for shard in shards]
            for split, shards in index.pop("files").items()
        }
        index["split"] = Fractions(**index["split"])
        shards = Shards(folder, files=files, **index)
        if shards.dtype not in ("<u2", "<u4"):
            raise ValueError(f"dtype {shards.dtype}, not <u2 or <u4")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not what `cli.py tokenize` writes ({error}); write the shards again"
        ) from error
    return shards


def open_shards(folder: Path) -> Shards:
    """The shards in `folder`, with every file checked.

    Raises `InputError` for files that are missing, damaged, or have other ids than the index says.
    """
    shards = read_index(folder)
    for split, files in shards.files.items():
        ends = sum(_checked(shards, shard) for shard in files)
        if ends != shards.documents.get(split):
            raise InputError(
                f"{folder}: {ends} documents end in the {split} split, {INDEX} says "
                f"{shards.documents.get(split)}; write the shards again"
            )
    return shards


def _checked(shards: Shards, shard: Shard) -> int:
    """The number of end tokens in a file. Raises `InputError` if it is damaged."""
    path, width = shards.folder / shard.file, np.dtype(shards.dtype).itemsize
    if not path.is_file():
        raise InputError(f"{path} is missing; write the shards again")
    size, expected = path.stat().st_size, shard.tokens * width
    if size != expected:
        raise InputError(
            f"{path} has {size} bytes, {INDEX} says {expected}: "
            "it is truncated; write the shards again"
        )
    digest, ends, largest = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHECKED_TOKENS * width):
            digest.update(chunk)
            ids = np.frombuffer(chunk, shards.dtype)
            ends += int(np.count_nonzero(ids == shards.vocabulary - 1))
            largest = max(largest, int(ids.max()))
    if digest.hexdigest() != shard.sha256:
        raise InputError(
            f"{path} is damaged: its SHA-256 is not the one in {INDEX}; write the shards again"
        )
    if largest >= shards.vocabulary:
        raise InputError(
            f"{path} has the id {largest}, but {INDEX} says a vocabulary of {shards.vocabulary}; "
            "write the shards again"
        )
    return ends


class TokenStream:
    """The tokens of one split as one array, read lazily from the files."""

    def __init__(self, shards: Shards, split: Split) -> None:
        self._parts = [
            np.memmap(shards.folder / s.file, np.dtype(shards.dtype), "r")
            for s in shards.files.get(split, ())
        ]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def read(self, start: int, stop: int) -> Int[np.ndarray, "tokens"]:
        """Tokens `start` to `stop`, fewer past the end."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        pieces: list[Int[np.ndarray, "tokens"]] = []
        for part, end in zip(self._parts[first:], self._ends[first:], strict=True):
            begin = int(end) - len(part)
            if begin >= stop:
                break
            pieces.append(np.asarray(part[max(start - begin, 0) : stop - begin], np.int32))
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
