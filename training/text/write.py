"""Documents to token shards: encoded on all cores, in bounded memory.

The folder is written under a temporary name and renamed when complete, so that several processes
may write it concurrently and no reader sees it incomplete.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from common.files import write_atomically
from training.text.read import Corpus
from training.text.shards import INDEX, MODEL, SHARD_TOKENS, Shard, Shards
from training.text.split import TITLES, Fractions, Split, Splitter, splitter_for
from training.text.tokenizer import Tokenizer

BATCH = 1 << 18
"""Characters per core that are encoded in one call: a tenth of a second."""

OnRead = Callable[[Corpus], None]
"""Called now and then with the corpus and how far it has been read."""


def write_shards(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    fractions: Fractions,
    *,
    splitter: Splitter | None = None,
    shard_tokens: int = SHARD_TOKENS,
    on_read: OnRead = lambda corpus: None,
) -> Shards:
    """Encode the documents of `corpus` into `folder`, each followed by the tokenizer's `end`.

    `splitter`: that of `fractions`, if it is known (`splitter_for`). Raises `InputError` if the
    corpus cannot be split, or `folder` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or write the tokens to another folder")
    splitter = splitter or splitter_for(corpus.documents, fractions)
    partial = _partial_folder(folder)
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
    writers: dict[Split, _Writer] = {
        split: _Writer(partial, split, dtype, shard_tokens) for split in fractions.splits
    }
    try:
        pieces = splitter.pieces(corpus.documents())
        content = _write_all(pieces, tokenizer, writers, lambda: on_read(corpus))
        documents: dict[str, int] = {s: w.documents for s, w in writers.items()}
        _check_documents(documents)
        shards = Shards(
            folder,
            tokenizer.fingerprint,
            tokenizer.name,
            content,
            read_as(corpus),
            corpus.num_skipped,
            tokenizer.vocabulary,
            dtype.str,
            fractions,
            bool(splitter.cuts),
            documents,
            {s: w.files for s, w in writers.items()},
        )
        _finish(shards, tokenizer, partial)
    except BaseException:
        for writer in writers.values():
            writer.close()
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return shards


def _finish(shards: Shards, tokenizer: Tokenizer, partial: Path) -> None:
    if tokenizer.model is not None:
        write_atomically(partial / MODEL, tokenizer.model)
    shards.write_index(partial)
    _take_name(partial, shards.folder)


def _check_documents(documents: dict[str, int]) -> None:
    for split, number in documents.items():
        if not number:
            raise InputError(f"the corpus has no {TITLES[split]} text; give more text")


def read_as(corpus: Corpus) -> str:
    """What the files of a corpus are read as, such as "30 text files" or "2 lines files (text)"."""
    kinds = Counter(file.kind for file in corpus.files.files)
    listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return listed if set(kinds) == {"text"} else f"{listed}; field {corpus.text_field}"


def _write_all(
    pieces: Iterator[tuple[Split, str]],
    tokenizer: Tokenizer,
    writers: "dict[Split, _Writer]",
    on_batch: Callable[[], None],
) -> str:
    """Encode and write all pieces; returns the SHA-256 of the text of all documents."""
    content, document = hashlib.sha256(), hashlib.sha256()
    batch: list[tuple[Split, str]] = []
    size, limit = 0, BATCH * (os.cpu_count() or 1)

    def _encode() -> None:
        texts = [text for _, text in batch if text]
        encoded = iter(tokenizer.encode_all(texts))
        for split, text in batch:
            if text:
                writers[split].add(next(encoded))
            else:
                writers[split].end_document(tokenizer.end)
        batch.clear()
        on_batch()

    for split, text in pieces:
        if text:
            document.update(text.encode())
        else:
            content.update(document.digest())
            document = hashlib.sha256()
        batch.append((split, text))
        size += len(text)
        if size >= limit:
            _encode()
            size = 0
    _encode()
    for writer in writers.values():
        writer.close()
    return content.hexdigest()


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


class _Writer:
    """Appends the tokens of one split to files of at most `shard_tokens`."""

    def __init__(self, folder: Path, split: str, dtype: "np.dtype[Any]", shard_tokens: int) -> None:
        self.files: list[Shard] = []
        self.documents = 0
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, shard_tokens
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def add(self, ids: Int[np.ndarray, "tokens"]) -> None:
        """Append a piece's tokens."""
        while len(ids):
            if self._file is None:
                self.files.append(Shard(f"{self._split}-{len(self.files):05d}.bin", 0, ""))
                self._file = (self._folder / self.files[-1].file).open("wb")
                self._digest = hashlib.sha256()
            before = self.files[-1]
            now, ids = np.split(ids, [self._limit - before.tokens])
            data = now.astype(self._dtype).tobytes()
            self._file.write(data)
            self._digest.update(data)
            self.files[-1] = replace(before, tokens=before.tokens + len(now))
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
            self.files[-1] = replace(self.files[-1], sha256=self._digest.hexdigest())
