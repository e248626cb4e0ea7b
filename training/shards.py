"""Token shards: a corpus as memory-mapped token ids, split by document.

A folder with `tokens.json`, its index, and files of little-endian 16 or 32-bit ids. It is written
under a temporary name and renamed when complete, so that several processes may write it
concurrently and no reader sees it incomplete.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from common.files import write_atomically
from training.corpus import Document
from training.tokenizer import Tokenizer

Split = Literal["train", "held_out", "test"]
"""Training, validation, and an optional test split for final results."""

SHARD_TOKENS = 1 << 26
"""Tokens per file, except the last."""

INDEX, MODEL = "tokens.json", "tokenizer.model"
"""The index, and the tokenizer, unless it is bytes."""


@dataclass(frozen=True)
class Shard:
    """One file: its name in the folder, and its number of tokens."""

    file: str
    tokens: int


@dataclass(frozen=True)
class Shards:
    """The index of a folder of token shards."""

    folder: Path
    tokenizer: str
    """Fingerprint of the tokenizer that wrote them."""
    content: str
    """SHA-256 of the text of all documents, in order."""
    vocabulary: int
    dtype: str
    documents: dict[str, int]
    """Documents per split."""
    files: dict[str, list[Shard]]
    """Files per split, in order."""

    def tokens(self, split: Split) -> int:
        """Number of tokens of `split`."""
        return sum(shard.tokens for shard in self.files[split])


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    held_out: float = 0.05,
    test: float = 0.0,
    seed: int = 0,
    shard_tokens: int = SHARD_TOKENS,
    on_document: Callable[[Document], None] = lambda document: None,
) -> Shards:
    """Encode `documents` into `folder`, each followed by the tokenizer's `end`, in bounded memory.

    A document is assigned to a split as a whole (`split_of`). Raises `InputError` if a split has no
    documents, or `folder` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or write the tokens to another folder")
    partial = _partial_folder(folder)
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
    splits: tuple[Split, ...] = ("train", "held_out", "test") if test else ("train", "held_out")
    writers: dict[Split, _Writer] = {
        split: _Writer(partial, split, dtype, shard_tokens) for split in splits
    }
    content = hashlib.sha256()
    try:
        for document in documents:
            on_document(document)
            writer, text = None, hashlib.sha256()
            for piece in filter(None, document.pieces):
                writer = writer or writers[split_of(piece, held_out, test, seed)]
                writer.add(tokenizer.encode(piece))
                text.update(piece.encode())
            if writer is not None:
                writer.end_document(tokenizer.end)
                content.update(text.digest())
        for writer in writers.values():
            writer.close()
        counts: dict[str, int] = {split: writer.documents for split, writer in writers.items()}
        _check_split(counts, {"held_out": held_out, "test": test})
        shards = Shards(
            folder,
            tokenizer.fingerprint,
            content.hexdigest(),
            tokenizer.vocabulary,
            dtype.str,
            counts,
            {s: w.files for s, w in writers.items()},
        )
        if tokenizer.model is not None:
            write_atomically(partial / MODEL, tokenizer.model)
        index = {name: value for name, value in asdict(shards).items() if name != "folder"}
        write_atomically(partial / INDEX, json.dumps(index, indent=1) + "\n")
        _take_name(partial, folder)
    except BaseException:
        for writer in writers.values():
            writer.close()
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return shards


def _partial_folder(folder: Path) -> Path:
    """A temporary folder beside `folder`; removes those of killed writers after an hour.

    An active writer touches its files about every minute.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > 3600:
            shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir()
    return partial


def _take_name(partial: Path, folder: Path) -> None:
    """Rename; if another process was faster, keep its folder, which has the same content."""
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / INDEX).is_file():
            raise
        shutil.rmtree(partial)


def open_shards(folder: Path) -> Shards:
    """The shards in `folder`, with each file's length checked.

    Raises `InputError` for files that are missing, truncated or of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"{folder} has no {INDEX}, so it is not a folder of token shards; "
            "write one with `cli.py tokenize`"
        )
    try:
        index: dict[str, Any] = json.loads(path.read_text())
        files = {
            split: [Shard(**shard) for shard in shards]
            for split, shards in index.pop("files").items()
        }
        shards = Shards(folder, files=files, **index)
        width = np.dtype(shards.dtype).itemsize
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not what `cli.py tokenize` writes ({error}); write the shards again"
        ) from error
    for shard in (shard for split in files.values() for shard in split):
        file, expected = folder / shard.file, shard.tokens * width
        if not file.is_file():
            raise InputError(f"{file} is missing; write the shards again")
        if file.stat().st_size != expected:
            raise InputError(
                f"{file} has {file.stat().st_size} bytes, {path.name} says {expected}: "
                "it is truncated; write the shards again"
            )
    return shards


def split_of(first_piece: str, held_out: float, test: float = 0.0, seed: int = 0) -> Split:
    """The split of a document, by a hash of its first piece and `seed`, independent of the others.

    `held_out` and `test` are fractions of all documents; the held-out split does not depend on
    `test`.
    """
    digest = hashlib.sha256(f"{seed}\n{first_piece}".encode()).digest()
    place = int.from_bytes(digest[:8], "big")
    return (
        "held_out"
        if place < held_out * 2**64
        else "test"
        if place < (held_out + test) * 2**64
        else "train"
    )


class TokenStream:
    """The tokens of one split as one array, read lazily from the files."""

    def __init__(self, shards: Shards, split: Split) -> None:
        self._parts = [
            np.memmap(shards.folder / s.file, np.dtype(shards.dtype), "r")
            for s in shards.files[split]
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


class _Writer:
    """Appends the tokens of one split to files of at most `shard_tokens`."""

    def __init__(self, folder: Path, split: str, dtype: "np.dtype[Any]", shard_tokens: int) -> None:
        self.files: list[Shard] = []
        self.documents = 0
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, shard_tokens
        self._file: BinaryIO | None = None

    def add(self, ids: Int[np.ndarray, "tokens"]) -> None:
        """Append a piece's tokens."""
        while len(ids):
            if self._file is None:
                self.files.append(Shard(f"{self._split}-{len(self.files):05d}.bin", 0))
                self._file = (self._folder / self.files[-1].file).open("wb")
            before = self.files[-1]
            now, ids = np.split(ids, [self._limit - before.tokens])
            self._file.write(now.astype(self._dtype).tobytes())
            self.files[-1] = Shard(before.file, before.tokens + len(now))
            if self.files[-1].tokens == self._limit:
                self.close()

    def end_document(self, end: int) -> None:
        """Append the end token."""
        self.add(np.array([end], np.int32))
        self.documents += 1

    def close(self) -> None:
        """Truncate the current file to its length."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _check_split(documents: dict[str, int], fractions: dict[str, float]) -> None:
    total = sum(documents.values())
    if total == 0:
        raise InputError("the corpus has no text; give documents that are not empty")
    for split, number in documents.items():
        if number == 0:
            asked = " and ".join(
                f"a {name.replace('_', '-')} fraction of {value}"
                for name, value in fractions.items()
                if value
            )
            raise InputError(
                f"none of {total} documents went to the {split.replace('_', '-')} split at "
                f"{asked}; "
                "documents are split whole: give more documents, another fraction or another seed"
            )
