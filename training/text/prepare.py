"""The text of a run: token shards of each corpus, cached by content in the user's cache folder."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.terminal import Say
from training.config import DataOptions
from training.text.bpe import TOKENIZER_TEXT, trained_tokenizer, training_version
from training.text.fetch import local_path
from training.text.files import further_texts, mixture
from training.text.given import is_shards, settled, shards_tokenizer
from training.text.interrupt import interruptible
from training.text.read import READER_VERSION, Corpus, read_corpus
from training.text.shards import INDEX, SHARDS_VERSION, Shards, TokenStream, open_shards
from training.text.split import Fractions, Split, Splitter, splitter_for
from training.text.tokenizer import Tokenizer, load_tokenizer
from training.text.write import OnRead, write_shards


@dataclass(frozen=True)
class PreparedText:
    """The text of a run as token ids."""

    parts: tuple[tuple[float, Shards], ...]
    """The corpora of a mixture, each with its weight."""
    held_out: Shards | None = None
    """The text that is held out, if it is another one: all of it."""
    others: dict[str, Shards] = field(default_factory=dict)
    """Further texts to evaluate on, by name: all of each."""

    def tokens(self, split: Split) -> int:
        """Number of tokens of `split`."""
        return sum(len(stream) for _, stream in self.streams(split))

    def streams(self, split: Split) -> list[tuple[float, TokenStream]]:
        """The tokens of `split` of each corpus, with its weight."""
        if split == "held_out" and self.held_out is not None:
            return [(1.0, TokenStream(self.held_out, "held_out"))]
        return [(weight, TokenStream(shards, split)) for weight, shards in self.parts]

    @property
    def content(self) -> str:
        """SHA-256 of the text; of a mixture, also of its weights."""
        if len(self.parts) == 1 and self.held_out is None:
            return self.parts[0][1].content
        parts = [f"{weight:g} {shards.content}" for weight, shards in self.parts]
        parts += [f"held out {self.held_out.content}"] if self.held_out else []
        return _digest(*parts)

    @property
    def read_as(self) -> str:
        """What the files were read as."""
        all_of_them = [shards for _, shards in self.parts] + ([self.held_out] * bool(self.held_out))
        return "; ".join(shards.read_as for shards in all_of_them if shards)


def prepare(
    data: DataOptions,
    cache: Path,
    say: Say = lambda message: None,
    *,
    tokenizer: Tokenizer | None = None,
) -> tuple[Tokenizer, PreparedText]:
    """The tokenizer and the text that `data` asks for.

    Opened where a corpus is a folder of shards or the cache has its content, otherwise written.
    `tokenizer`: instead of the one that `data` names. Ctrl-C and SIGTERM end it at once. Raises
    `InputError` for text that cannot be read, split or encoded.
    """
    with interruptible() as check:
        data = settled(data)
        held_out = 0.0 if data.held_out_corpus else data.held_out
        texts = _texts(data, Fractions(held_out, data.test), say, check)
        tokenizer = tokenizer or _tokenizer(data, texts, cache, say)
        parts = tuple((text.weight, _shards(text, tokenizer, cache, say)) for text in texts)
        for shards in (shards for _, shards in parts if shards.cut and held_out):
            say(
                f"the corpus is one document: its last {shards.tokens('held_out'):,} tokens "
                f"of {shards.tokens('train') + shards.tokens('held_out'):,} are held out"
            )
        used = tokenizer

        def _whole(source: str) -> Shards:
            return whole_text(source, used, cache, data, say)

        held_out_text = _whole(data.held_out_corpus) if data.held_out_corpus else None
        others = {name: _whole(source) for name, source in further_texts(data.also).items()}
        return used, PreparedText(parts, held_out_text, others)


def whole_text(
    source: str,
    tokenizer: Tokenizer,
    cache: Path,
    data: DataOptions,
    say: Say = lambda message: None,
) -> Shards:
    """All of `source` as the held-out split of shards; of a folder of shards, its held-out split.

    `data` has the options of reading. Raises `InputError` for text that cannot be read, and for
    shards of another tokenizer.
    """
    with interruptible() as check:
        text = _text(source, 1.0, Fractions(1.0), data, say, check)
        return _shards(text, tokenizer, cache, say)


def tokenize(
    data: DataOptions, folder: Path, cache: Path, say: Say, on_read: OnRead
) -> tuple[Tokenizer, Shards]:
    """Write the shards of the corpus into `folder`; as `prepare`, without the cache."""
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or write the tokens to another folder")
    with interruptible() as check:
        text, *others = _texts(data, Fractions(data.held_out, data.test), say, check)
        if others or text.corpus is None:
            raise InputError("tokenize writes the shards of one text; mix them in `train --corpus`")
        tokenizer = _tokenizer(data, [text], cache, say)
        fractions, splitter = text.fractions, text.splitter
        shards = write_shards(
            text.corpus, tokenizer, folder, fractions, splitter=splitter, on_read=on_read
        )
        _say_skipped(text.corpus, say)
        return tokenizer, shards


def cached_text(
    names: Sequence[tuple[float, str]], held_out: str, cache: Path
) -> PreparedText | None:
    """The text of the cache's entries `names` with weights; None if the cache lacks one."""
    folders = [cache / name for _, name in names] + [cache / held_out] * bool(held_out)
    if not folders or not all((folder / INDEX).is_file() for folder in folders):
        return None
    shards = [open_shards(folder) for folder in folders]
    parts = tuple((weight, each) for (weight, _), each in zip(names, shards, strict=False))
    return PreparedText(parts, shards[-1] if held_out else None)


def text_digests(data: DataOptions, text: PreparedText) -> dict[str, str]:
    """SHA-256 of every file of token ids, and of the tokenizer, by corpus and name."""
    named = {
        source or "the default corpus": shards
        for source, (_, shards) in zip(mixture(data.corpus), text.parts, strict=True)
    }
    if text.held_out is not None:
        named[f"held out {data.held_out_corpus}"] = text.held_out
    named |= {
        f"{name}={source}": text.others[name] for name, source in further_texts(data.also).items()
    }
    files = {
        f"{source}, {shard.file}": shard.sha256
        for source, shards in named.items()
        for some in shards.files.values()
        for shard in some
    }
    return files | {f"{source}, tokenizer": shards.tokenizer for source, shards in named.items()}


@dataclass(frozen=True)
class _Text:
    """A corpus that is not yet token ids, or a folder of shards."""

    source: str
    """Empty: the default corpus."""
    weight: float
    fractions: Fractions
    corpus: Corpus | None = None
    """None: shards."""
    key: str = ""
    """Hash of the files' content and what it is read as."""
    splitter: Splitter | None = None


def _texts(
    data: DataOptions, fractions: Fractions, say: Say, check: Callable[[], None]
) -> list[_Text]:
    return [
        _text(name, weight, fractions, data, say, check)
        for name, weight in mixture(data.corpus).items()
    ]


def _text(
    source: str,
    weight: float,
    fractions: Fractions,
    data: DataOptions,
    say: Say,
    check: Callable[[], None],
) -> _Text:
    """A text, of which it is known that it can be split."""
    if is_shards(source):
        return _Text(source, weight, fractions)
    skip = data.skip_bad_records
    corpus = read_corpus(
        source or None, text_field=data.text_field, skip_bad_records=skip, check=check
    )
    if corpus.files.left_out:
        say(f"{source}: {', '.join(corpus.files.left_out)} left out")
    splitter = splitter_for(corpus.documents, fractions)
    return _Text(source, weight, fractions, corpus, _corpus_key(corpus), splitter)


def _corpus_key(corpus: Corpus) -> str:
    """Hash of the files' content, in order, and of what each is read as."""
    parts = [f"reader {READER_VERSION}"]
    for file in corpus.files.files:
        corpus.check()
        with file.path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        delimiter = ".tsv" if ".tsv" in file.path.suffixes else ""
        parts.append(f"{file.kind}{delimiter}{file.packing} {digest}")
    if any(file.kind != "text" for file in corpus.files.files):
        parts.append(f"field {corpus.text_field} {corpus.skip_bad_records}")
    return _digest(*parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _tokenizer(data: DataOptions, texts: Sequence[_Text], cache: Path, say: Say) -> Tokenizer:
    """The tokenizer that `data` names, or that of shards.

    `bpe:SIZE` is trained on the training text, or read from the cache.
    """
    for text in texts:
        if text.corpus is None:
            return shards_tokenizer(Path(local_path(text.source)))
    if not data.tokenizer.startswith("bpe:"):
        return load_tokenizer(data.tokenizer)
    vocabulary = data.tokenizer.removeprefix("bpe:")
    if not vocabulary.isdecimal():
        raise InputError(
            f"tokenizer {data.tokenizer}: the number of ids must follow bpe:, such as bpe:4096"
        )
    say(f"tokenizer {data.tokenizer}")
    made_of = [f"{text.weight} {text.key} {text.fractions}" for text in texts]
    key = _digest(training_version(), *made_of)[:32]
    return trained_tokenizer(_training_text(texts), int(vocabulary), cache, key)


def _training_text(texts: Sequence[_Text]) -> Iterator[str]:
    """The beginning of the training text, of a mixture as much of each as it has weight."""
    weights = sum(text.weight for text in texts)
    for text in texts:
        left = TOKENIZER_TEXT * text.weight / weights
        assert text.corpus is not None
        assert text.splitter is not None
        for split, piece in text.splitter.pieces(text.corpus.documents()):
            if split == "train" and piece:
                yield piece
                left -= len(piece)
            if left <= 0:
                break


def _shards(text: _Text, tokenizer: Tokenizer, cache: Path, say: Say) -> Shards:
    if text.corpus is None:
        folder = Path(local_path(text.source))
        shards = open_shards(folder)
        if shards_tokenizer(folder).fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{folder} was written with the tokenizer {shards.tokenizer_name}, "
                f"not {tokenizer.name}; write shards with this one"
            )
        return shards
    made_of = (text.key, tokenizer.fingerprint, repr(text.fractions), str(SHARDS_VERSION))
    folder = cache / f"tokens-{_digest(*made_of)[:32]}"
    if folder.exists():
        return open_shards(folder)
    name = text.source or "the default corpus"
    say(f"tokens of {name}")
    on_read = _Lines(name, say)
    try:
        shards = write_shards(
            text.corpus, tokenizer, folder, text.fractions, splitter=text.splitter, on_read=on_read
        )
    except InputError:
        # Another process has been faster.
        if not (folder / INDEX).is_file():
            raise
        return open_shards(folder)
    _say_skipped(text.corpus, say)
    return shards


def _say_skipped(corpus: Corpus, say: Say) -> None:
    if corpus.num_skipped:
        first = "; ".join(corpus.skipped)
        say(f"{corpus.num_skipped} records were skipped, the first of them: {first}")


class _Lines:
    """Says how far a corpus has been read: every five seconds at first, then ever more seldom."""

    def __init__(self, name: str, say: Say) -> None:
        self._name, self._say = name, say
        self._begun = time.monotonic()
        self._next = 5.0

    def __call__(self, corpus: Corpus) -> None:
        """Say it if it is due."""
        taken = time.monotonic() - self._begun
        if taken >= self._next:
            self._next = 1.2 * taken + 5
            self._say(f"tokens of {self._name}: {how_far(corpus, taken)}")


def how_far(corpus: Corpus, seconds: float) -> str:
    """Megabytes read of all, speed, and the time left."""
    speed = corpus.done / max(seconds, 1e-9)
    left = (corpus.total - corpus.done) / max(speed, 1.0)
    return (
        f"{corpus.done / 1e6:,.1f} of {corpus.total / 1e6:,.1f} MB, "
        f"{speed / 1e6:.1f} MB/s, {left:,.0f} s left"
    )
