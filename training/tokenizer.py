"""Text to token ids and back, without loss: bytes, or SentencePiece BPE trained on the corpus.

The paper's tokenizer is SentencePiece with 32,000 pieces and byte fallback; its training text is
not public, so ours is trained on the corpus at hand. Lossless settings are our choice:
decode(encode(text)) == text for every text.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from common.files import write_atomically

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space; where the text has it itself, it is encoded as bytes."""


class Tokenizer(ABC):
    """Token ids from 0 to `vocabulary` - 1, the last of which a text never has:
    `end`, put after each document."""

    vocabulary: int
    name: str
    """As `--tokenizer` takes it, or the file's name."""
    fingerprint: str
    """Same for the same tokenizer; kept in token shards."""
    model: bytes | None
    """What `load_tokenizer` reads from a file; None for bytes."""

    @property
    def end(self) -> int:
        """The id that ends a document."""
        return self.vocabulary - 1

    @abstractmethod
    def encode(self, text: str) -> Int[np.ndarray, "tokens"]:
        """Ids of `text`."""

    @abstractmethod
    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of `ids`;
        `end` has none, and bytes that are not UTF-8 (which only a model makes) show as U+FFFD."""

    @abstractmethod
    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """Bytes of text, in UTF-8, that each id stands for; `end` stands for none."""


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes: 256 ids and `end`."""

    def __init__(self) -> None:
        self.vocabulary, self.name, self.fingerprint, self.model = 257, "bytes", "bytes", None

    def encode(self, text: str) -> Int[np.ndarray, "tokens"]:
        """The bytes."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of the bytes."""
        return bytes(ids[ids < 256].astype(np.uint8)).decode(errors="replace")

    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """One, but for `end`."""
        return (np.arange(257) < 256).astype(np.int32)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback; `end` is one id past its pieces."""

    def __init__(self, model: bytes, name: str) -> None:
        """Raises `InputError` if `model` is no such model."""
        import sentencepiece

        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError(
                f"tokenizer {name} is not a SentencePiece model; give bytes, bpe:SIZE or a .model file"
            ) from error
        self._bytes = np.array(
            [self._pieces.PieceToId(f"<0x{byte:02X}>") for byte in range(256)], np.int32
        )
        if self._pieces.unk_id() in self._bytes:
            raise InputError(
                f"tokenizer {name} has no byte fallback, so some text would be lost; train it with byte_fallback=True"
            )
        self.vocabulary, self.name = self._pieces.GetPieceSize() + 1, name
        self.fingerprint, self.model = hashlib.sha256(model).hexdigest(), model

    def encode(self, text: str) -> Int[np.ndarray, "tokens"]:
        """Ids, line by line: one long text is ten times slower."""
        mark = self._bytes[list(SPACE_MARK.encode())].tolist()
        ids: list[int] = []
        for line in text.splitlines(keepends=True):
            for i, part in enumerate(line.split(SPACE_MARK)):
                ids += (mark if i else []) + self._pieces.EncodeAsIds(part)
        return np.array(ids, np.int32)

    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of the pieces."""
        return self._pieces.DecodeIds(ids[ids < self.end].tolist())

    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """Of the pieces as they are decoded:
        those of single bytes have one, and so has the mark of a space."""
        single = set(self._bytes.tolist())
        pieces = (self._pieces.IdToPiece(i).replace(SPACE_MARK, " ") for i in range(self.end))
        lengths = [1 if i in single else len(piece.encode()) for i, piece in enumerate(pieces)]
        lengths[self._pieces.unk_id()] = 0
        return np.array([*lengths, 0], np.int32)


def train_bpe(texts: Iterable[str], pieces: int) -> bytes:
    """A SentencePiece BPE model of `pieces` pieces, learnt from `texts`; the same texts give the
    same model.

    Raises `InputError` if the text is too little for so many pieces.
    """
    import sentencepiece

    def _lines() -> Iterator[str]:
        for text in texts:
            yield from (line for line in text.splitlines() if line)

    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_lines(), model_writer=model, model_type="bpe", vocab_size=pieces, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, user_defined_symbols=["\n"],
            bos_id=-1, eos_id=-1, max_sentence_length=1 << 20, num_threads=1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).split(". ")[-1].strip() or str(error)
        raise InputError(
            f"a tokenizer of {pieces} pieces cannot be trained on this corpus ({reason}); ask for another number"
        ) from error
    return model.getvalue()


def load_tokenizer(name: str) -> Tokenizer:
    """ "bytes", or the SentencePiece model in the file called `name`.

    Raises `InputError` if there is none.
    """
    if name == "bytes":
        return ByteTokenizer()
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no tokenizer {name}; give bytes, bpe:SIZE, or a SentencePiece model's file"
        )
    return SentencePieceTokenizer(path.read_bytes(), name)


def trained_tokenizer(
    texts: Iterable[str], pieces: int, cache: Path, content: str
) -> SentencePieceTokenizer:
    """The BPE tokenizer of `pieces` pieces for texts whose content hashes to `content`, from
    `cache` or trained and put there.
    """
    path = cache / f"bpe-{pieces}-{content[:32]}.model"
    if not path.exists():
        write_atomically(path, train_bpe(texts, pieces))
    return SentencePieceTokenizer(path.read_bytes(), f"bpe:{pieces}")
