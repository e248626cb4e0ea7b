"""From a corpus to token shards, cached by content in the user's cache folder."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError, WorkError
from training.config import DataOptions
from training.corpus import Document, corpus_files, documents
from training.shards import INDEX, MODEL, Shards, open_shards, split_of, write_shards
from training.tokenizer import Tokenizer, load_tokenizer, tokenizer_from, trained_tokenizer

SHARDS_VERSION = 2
"""Version of the shards' contents, part of their cache key."""

TOKENIZER_TEXT = 100 << 20
"""Maximum characters of training text that a tokenizer is trained on."""


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


def prepare(
    data: DataOptions, cache: Path, on_event: Callable[[str], None] = lambda message: None
) -> tuple[Tokenizer, Shards]:
    """The tokenizer and token shards of the corpus.

    Opened if the corpus is a folder of shards or the cache has its content; otherwise written.
    Raises `InputError` for text that cannot be read, split or encoded.
    """
    if data.corpus and (Path(data.corpus) / INDEX).is_file():
        return _given(Path(data.corpus), data.tokenizer, needs_test=data.test > 0)
    source = data.corpus or None
    content = content_hash(source)
    encoder = tokenizer_for(data, cache, on_event)
    key = hashlib.sha256(
        f"{content} {encoder.fingerprint} {_fractions(data)} {SHARDS_VERSION}".encode()
    ).hexdigest()[:32]
    folder = cache / f"tokens-{key}"
    if folder.exists():
        return encoder, open_shards(folder)
    on_event(f"tokens of {data.corpus or 'the default corpus'}")
    return encoder, write_shards(
        documents(source), encoder, folder, held_out=data.held_out, test=data.test
    )


def tokenizer_for(
    data: DataOptions, cache: Path, on_event: Callable[[str], None] = lambda message: None
) -> Tokenizer:
    """The tokenizer that `data` names.

    `bpe:SIZE` is trained on the corpus, or read from the cache.
    """
    if not data.tokenizer.startswith("bpe:"):
        return load_tokenizer(data.tokenizer)
    on_event(f"tokenizer {data.tokenizer}")
    return trained_tokenizer(
        _training_text(data),
        _vocabulary(data.tokenizer),
        cache,
        f"{content_hash(data.corpus or None)}-{_fractions(data)}",
    )


def _fractions(data: DataOptions) -> str:
    """The split fractions, as part of cache keys."""
    return f"{data.held_out}-{data.test}" if data.test else f"{data.held_out}"


def content_hash(source: str | None) -> str:
    """SHA-256 of the corpus's files, in order."""
    digest = hashlib.sha256()
    for path in corpus_files(source):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _given(folder: Path, tokenizer: str, *, needs_test: bool) -> tuple[Tokenizer, Shards]:
    shards = open_shards(folder)
    if needs_test and "test" not in shards.files:
        raise InputError(
            f"{folder} has no test split, but data.test asks for one; "
            "write the shards with `cli.py tokenize --test`"
        )
    model = folder / MODEL
    own = (
        tokenizer_from(model.read_bytes(), str(model))
        if model.is_file()
        else load_tokenizer("bytes")
    )
    if own.fingerprint != shards.tokenizer:
        raise InputError(
            f"{model} is not the tokenizer that {folder} was written with; write the shards again"
        )
    if (
        tokenizer not in ("bytes", own.name)
        and not tokenizer.startswith("bpe:")
        and load_tokenizer(tokenizer).fingerprint != own.fingerprint
    ):
        raise InputError(
            f"{folder} was written with another tokenizer than {tokenizer}; leave --tokenizer out, "
            "shards have their own tokenizer"
        )
    return own, shards


def _vocabulary(tokenizer: str) -> int:
    number = tokenizer.removeprefix("bpe:")
    if not number.isdigit():
        raise InputError(
            f"tokenizer {tokenizer}: the number of ids must follow bpe:, such as bpe:4096"
        )
    return int(number)


def _training_text(data: DataOptions) -> Iterator[str]:
    """Text of the training documents."""
    left = TOKENIZER_TEXT
    for document in documents(data.corpus or None):
        for piece in _if_trained_on(document, data):
            yield piece
            left -= len(piece)
        if left <= 0:
            return


def _if_trained_on(document: Document, data: DataOptions) -> Iterator[str]:
    pieces = iter(filter(None, document.pieces))
    first = next(pieces, None)
    if first is not None and split_of(first, data.held_out, data.test) == "train":
        yield first
        yield from pieces
