"""Tokenizers lose nothing, and the same text gives the same tokenizer."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from training.corpus import documents
from training.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_bpe, trained_tokenizer

SOME_TEXT = ["".join(document.pieces) for document in islice(documents(), 4)]
MODEL = train_bpe(SOME_TEXT, 600)
TOKENIZERS: list[Tokenizer] = [ByteTokenizer(), SentencePieceTokenizer(MODEL, "bpe:600")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "bpe"])
@settings(max_examples=500)
@given(text=st.text() | st.text(alphabet=" \n\r\t\u2581▁<>0x4é\u2028", max_size=40))
def test_decoding_what_was_encoded_gives_the_text_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert np.all((ids >= 0) & (ids < tokenizer.end))
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "bpe"])
def test_the_end_of_a_document_has_no_text(tokenizer: Tokenizer) -> None:
    ids = np.concatenate([tokenizer.encode("one"), np.array([tokenizer.end], np.int32), tokenizer.encode(" two")])
    assert tokenizer.decode(ids) == "one two"


def test_pieces_are_longer_than_bytes() -> None:
    text = SOME_TEXT[0]
    # 600 pieces, 256 of them single bytes, learnt from this very text: over 2 bytes to a token.
    assert len(TOKENIZERS[1].encode(text)) < len(text.encode()) / 2


def test_the_same_text_gives_the_same_tokenizer() -> None:
    assert train_bpe(SOME_TEXT, 600) == MODEL


def test_a_trained_tokenizer_is_found_again_in_the_cache(tmp_path: Path) -> None:
    first = trained_tokenizer(SOME_TEXT, 600, tmp_path, "content")
    again = trained_tokenizer([], 600, tmp_path, "content")
    assert again.fingerprint == first.fingerprint
    assert load_tokenizer(str(next(tmp_path.iterdir()))).fingerprint == first.fingerprint


def test_a_tokenizer_that_cannot_be_trained_is_said_so() -> None:
    with pytest.raises(InputError, match="cannot be trained on this corpus"):
        train_bpe(["short"], 5000)


def test_a_file_that_is_no_tokenizer_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        load_tokenizer(str(tmp_path / "a.model"))
    with pytest.raises(InputError, match="there is no tokenizer"):
        load_tokenizer(str(tmp_path / "b.model"))
