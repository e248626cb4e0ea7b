"""From a corpus to token shards: made once and kept, by content, in the user's cache."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from reference.training.corpus import Document, corpus_files, documents
from reference.training.shards import INDEX, MODEL, Shards, is_held_out, open_shards, write_shards
from reference.training.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer, trained_tokenizer

TOKENIZER_TEXT = 100 << 20
"""Characters, at most, that a tokenizer is trained on: the first of the training documents."""


def cache_folder() -> Path:
    """Where the user's caches are (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "routelaw"


def prepare(
    corpus: str, tokenizer: str, held_out: float, cache: Path, on_event: Callable[[str], None] = lambda message: None
) -> tuple[Tokenizer, Shards]:
    """The tokenizer and the shards of `corpus`: opened, if it is a folder of them; made, if the cache has none of this content.

    `corpus` is as `DataOptions` takes it. Raises `InputError` for text that cannot be read, split or encoded.
    """
    if corpus and (Path(corpus) / INDEX).is_file():
        return _given(Path(corpus), tokenizer)
    source = corpus or None
    content = content_hash(source)
    encoder = tokenizer_for(corpus, tokenizer, held_out, cache, on_event)
    key = hashlib.sha256(f"{content} {encoder.fingerprint} {held_out}".encode()).hexdigest()[:32]
    folder = cache / f"tokens-{key}"
    if folder.exists():
        return encoder, open_shards(folder)
    on_event(f"tokens of {corpus or 'the default corpus'}")
    return encoder, write_shards(documents(source), encoder, folder, held_out=held_out)


def tokenizer_for(
    corpus: str, tokenizer: str, held_out: float, cache: Path, on_event: Callable[[str], None] = lambda message: None
) -> Tokenizer:
    """The tokenizer called `tokenizer`; `bpe:SIZE` is trained on the corpus, or found in the cache if it was."""
    if not tokenizer.startswith("bpe:"):
        return load_tokenizer(tokenizer)
    source = corpus or None
    on_event(f"tokenizer {tokenizer}")
    return trained_tokenizer(_training_text(source, held_out), _pieces(tokenizer), cache, f"{content_hash(source)}-{held_out}")


def content_hash(source: str | None) -> str:
    """SHA-256 of the corpus's files, in order."""
    digest = hashlib.sha256()
    for path in corpus_files(source):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _given(folder: Path, tokenizer: str) -> tuple[Tokenizer, Shards]:
    shards = open_shards(folder)
    model = folder / MODEL
    own = SentencePieceTokenizer(model.read_bytes(), str(model)) if model.is_file() else load_tokenizer("bytes")
    if own.fingerprint != shards.tokenizer:
        raise InputError(f"{model} is not the tokenizer that {folder} was written with; write the shards again")
    if (
        tokenizer not in ("bytes", own.name)
        and not tokenizer.startswith("bpe:")
        and load_tokenizer(tokenizer).fingerprint != own.fingerprint
    ):
        raise InputError(f"{folder} was written with another tokenizer than {tokenizer}; leave --tokenizer out, shards have their own")
    return own, shards


def _pieces(tokenizer: str) -> int:
    number = tokenizer.removeprefix("bpe:")
    if not number.isdigit():
        raise InputError(f"tokenizer {tokenizer}: a number of pieces must follow bpe:, such as bpe:4096")
    return int(number)


def _training_text(source: str | None, held_out: float) -> Iterator[str]:
    """Text of the documents that are not held out."""
    left = TOKENIZER_TEXT
    for document in documents(source):
        for piece in _unless_held_out(document, held_out):
            yield piece
            left -= len(piece)
        if left <= 0:
            return


def _unless_held_out(document: Document, held_out: float) -> Iterator[str]:
    pieces = iter(filter(None, document.pieces))
    first = next(pieces, None)
    if first is not None and not is_held_out(first, held_out):
        yield first
        yield from pieces
