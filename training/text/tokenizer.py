"""Lossless tokenizers: bytes, SentencePiece, or a Hugging Face tokenizer.json.

The paper's tokenizer is SentencePiece with 32,000 pieces and byte fallback; its training text is
not public, so ours is trained on the given corpus. Losslessness is our choice: decode(encode(text))
== text for every text. A tokenizer from a file is tested on `PROBES` when it is loaded, and
rejected if it changes one of them.
"""

import hashlib
import importlib.util
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from common.errors import InputError, WorkError
from training.text.hub import HUB, hub_tokenizer

SPACE_MARK = "\u2581"
"""SentencePiece's replacement for a space; where the text has it, it is encoded as bytes."""

PROBES = (
    "one line\nanother\n\nafter a blank line\n",
    " a leading blank, two  blanks,\ta tab and a line end\r\n",
    "trailing blank \n",
    "größer Ναι да 日本語 العربية ½ ﬁ Å",
    "🙂 👩‍👩‍👧",
    "\u2581 a \u2581mark\u2581",
)
"""Texts that lossy tokenizers change: line ends, blanks, composed characters, scripts, emoji."""


class Tokenizer(ABC):
    """Token ids 0 to `vocabulary` - 1, the last of which is `end`, the end-of-document token."""

    vocabulary: int
    name: str
    """The argument of `--tokenizer`, or the file's name."""
    fingerprint: str
    """Identifies the tokenizer in token shards."""
    model: bytes | None
    """The bytes that `tokenizer_from` reads; None for bytes."""

    @property
    def end(self) -> int:
        """The end-of-document id."""
        return self.vocabulary - 1

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Token ids of each of `texts`, encoded on all cores."""

    def encode(self, text: str) -> Int[np.ndarray, "tokens"]:
        """Token ids of `text`."""
        return self.encode_all([text])[0]

    @abstractmethod
    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of `ids`, without `end`.

        Bytes that are not valid UTF-8, which only a model generates, decode to U+FFFD.
        """

    @abstractmethod
    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """Number of UTF-8 bytes of each id; 0 for `end`."""


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes: 256 ids and `end`."""

    def __init__(self) -> None:
        self.vocabulary, self.name, self.fingerprint, self.model = 257, "bytes", "bytes", None

    def encode_all(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """The bytes."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of the bytes."""
        return bytes(ids[ids < 256].astype(np.uint8)).decode(errors="replace")

    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """One, but for `end`."""
        return (np.arange(257) < 256).astype(np.int32)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback; `end` is one id past its pieces."""

    def __init__(self, model: bytes, name: str) -> None:
        """Raises `InputError` if `model` is not a SentencePiece model, or not lossless."""
        import sentencepiece

        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError(
                f"tokenizer {name} is not a SentencePiece model; "
                "give bytes, bpe:SIZE, or a .model or .json file"
            ) from error
        self._bytes = np.array(
            [self._pieces.PieceToId(f"<0x{byte:02X}>") for byte in range(256)], np.int32
        )
        if self._pieces.unk_id() in self._bytes:
            raise InputError(
                f"tokenizer {name} has no byte fallback, so some text would be lost; "
                "train it with byte_fallback=True"
            )
        self.vocabulary, self.name = self._pieces.GetPieceSize() + 1, name
        self.fingerprint, self.model = hashlib.sha256(model).hexdigest(), model
        check_lossless(
            self,
            "train it with normalization_rule_name=identity, add_dummy_prefix=False "
            "and remove_extra_whitespaces=False",
        )

    def encode_all(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Encodes line by line: one long text is ten times slower."""
        mark: list[int] = self._bytes[list(SPACE_MARK.encode())].tolist()
        parts, owners = list[str](), list[int]()
        for owner, text in enumerate(texts):
            for line in text.splitlines(keepends=True):
                for i, part in enumerate(line.split(SPACE_MARK)):
                    # An empty part stands for a mark.
                    some = [""] * (i > 0) + [part] * (part != "")
                    parts += some
                    owners += [owner] * len(some)
        encoded = self._pieces.EncodeAsIds(parts, num_threads=os.cpu_count() or 1)
        ids: list[list[int]] = [[] for _ in texts]
        for owner, part, some in zip(owners, parts, encoded, strict=True):
            ids[owner] += some if part else mark
        return [np.array(each, np.int32) for each in ids]

    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of the pieces."""
        return self._pieces.DecodeIds(ids[ids < self.end].tolist())

    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """Bytes of the decoded pieces: 1 for byte-fallback pieces and for the mark of a space."""
        single = set(self._bytes.tolist())
        pieces = (self._pieces.IdToPiece(i).replace(SPACE_MARK, " ") for i in range(self.end))
        lengths = [1 if i in single else len(piece.encode()) for i, piece in enumerate(pieces)]
        lengths[self._pieces.unk_id()] = 0
        return np.array([*lengths, 0], np.int32)


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json of byte-level BPE (as GPT-2's); `end` is one past its largest id.

    Special tokens are not added. Needs the optional dependency tokenizers.
    """

    def __init__(self, model: bytes, name: str) -> None:
        """Raises `InputError` if `model` is not such a tokenizer, or not lossless.

        Raises `WorkError` if the package is not installed.
        """
        if importlib.util.find_spec("tokenizers") is None:
            raise WorkError(
                f"tokenizer {name} needs the package tokenizers, which is not installed: "
                "uv sync --extra tokenizers"
            )
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_buffer(model)
            decoder = (json.loads(model).get("decoder") or {}).get("type")
        # The library raises plain exceptions.
        except Exception as error:
            raise InputError(f"tokenizer {name} is not a tokenizer.json ({error})") from error
        if decoder != "ByteLevel":
            raise InputError(
                f"tokenizer {name} has the decoder {decoder}, so the bytes of its tokens are "
                "unknown; give one with the decoder ByteLevel"
            )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary, self.name = max(self._ids.values()) + 2, name
        self.fingerprint, self.model = hashlib.sha256(model).hexdigest(), model
        check_lossless(
            self, "it needs no normalizer, and the pre-tokenizer ByteLevel, add_prefix_space off"
        )

    def encode_all(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Ids, without special tokens."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in encoded]

    def decode(self, ids: Int[np.ndarray, "tokens"]) -> str:
        """The text of the tokens."""
        return self._tokenizer.decode(ids[ids < self.end].tolist(), skip_special_tokens=False)

    def byte_lengths(self) -> Int[np.ndarray, "vocabulary"]:
        """One byte per character of a token in the byte-level alphabet; added tokens are text."""
        added = self._tokenizer.get_added_tokens_decoder()
        lengths = np.zeros(self.vocabulary, np.int32)
        for token, i in self._ids.items():
            lengths[i] = len(token.encode()) if i in added else len(token)
        return lengths


def check_lossless(tokenizer: Tokenizer, remedy: str) -> None:
    """Raises `InputError`, with the `remedy`, if a probe does not round-trip.

    Also if the bytes of its tokens do not add up to its own.
    """
    sizes = tokenizer.byte_lengths()
    for probe in PROBES:
        ids = tokenizer.encode(probe)
        decoded = tokenizer.decode(ids)
        if decoded != probe:
            raise InputError(
                f"tokenizer {tokenizer.name} changes text: {probe!r} is decoded as {decoded!r}; "
                f"{remedy}"
            )
        if sizes[ids].sum() != len(probe.encode()):
            raise InputError(
                f"tokenizer {tokenizer.name} encodes {probe!r}, {len(probe.encode())} bytes, as "
                f"tokens of {sizes[ids].sum()} bytes; {remedy}"
            )


def tokenizer_from(model: bytes, name: str) -> Tokenizer:
    """The tokenizer in a file's bytes: Hugging Face's if they are JSON, else SentencePiece's.

    Raises `InputError` if it is neither, or not lossless.
    """
    if model.lstrip()[:1] == b"{":
        return HuggingFaceTokenizer(model, name)
    return SentencePieceTokenizer(model, name)


def load_tokenizer(name: str) -> Tokenizer:
    """The byte tokenizer for "bytes", that of "hf:NAME", or the tokenizer in the file `name`.

    Raises `InputError` if the file does not exist.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name.startswith(HUB):
        return HuggingFaceTokenizer(hub_tokenizer(name), name)
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no tokenizer {name}; give bytes, bpe:SIZE, a SentencePiece model's file, "
            "a tokenizer.json, or hf:NAME"
        )
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path.read_bytes(), name)
    return tokenizer_from(path.read_bytes(), name)
