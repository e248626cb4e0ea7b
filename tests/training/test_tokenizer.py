"""Tokenizers lose nothing, and the same text gives the same tokenizer."""

import importlib.util
import json
from io import BytesIO
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from common.errors import InputError, WorkError
from training.config import DataOptions
from training.text.bpe import train_bpe, trained_tokenizer
from training.text.prepare import prepare
from training.text.read import documents
from training.text.split import Fractions
from training.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_from,
)

SOME_TEXT = ["".join(document.pieces) for document in islice(documents(), 4)]
MODEL = train_bpe(SOME_TEXT, 600)


def hugging_face(*, prefix: bool = False, normalizer: Any = None, ending: bool = True) -> bytes:
    """A tokenizer.json of byte-level BPE; lossless as it is."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    built.decoder = decoders.ByteLevel()
    if normalizer is not None:
        built.normalizer = normalizer
    special = ["<|end|>"] if ending else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(SOME_TEXT, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=special))
    return built.to_str().encode()


TOKENIZERS: list[Tokenizer] = [
    ByteTokenizer(),
    SentencePieceTokenizer(MODEL, "bpe:600"),
    HuggingFaceTokenizer(hugging_face(), "tokenizer.json"),
]
NAMES = ["bytes", "bpe", "hugging face"]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@settings(max_examples=500)
@given(text=st.text() | st.text(alphabet=" \n\r\t\u2581▁<>0x4é\u2028", max_size=40))
def test_decoding_what_was_encoded_gives_the_text_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert np.all((ids >= 0) & (ids < tokenizer.end))
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
def test_the_end_of_a_document_has_no_text(tokenizer: Tokenizer) -> None:
    ids = np.concatenate([tokenizer.encode("one"), np.array([tokenizer.end], np.int32), tokenizer.encode(" two")])
    assert tokenizer.decode(ids) == "one two"


@pytest.mark.parametrize("tokenizer", TOKENIZERS[1:], ids=NAMES[1:])
def test_pieces_are_longer_than_bytes(tokenizer: Tokenizer) -> None:
    text = SOME_TEXT[0]
    # 600 ids, 256 of them single bytes, learnt from this very text: over 2 bytes to a token.
    assert len(tokenizer.encode(text)) < len(text.encode()) / 2


def test_a_vocabulary_has_the_size_asked_for_with_the_end_of_a_document() -> None:
    tokenizer = TOKENIZERS[1]
    assert (tokenizer.vocabulary, tokenizer.end, len(tokenizer.byte_lengths())) == (600, 599, 600)
    assert tokenizer.encode("".join(SOME_TEXT)).max() < tokenizer.end


def sentencepiece_model(**options: Any) -> bytes:
    """A SentencePiece model with byte fallback, trained as its users do."""
    import sentencepiece

    model = BytesIO()
    lines = [line for text in SOME_TEXT for line in text.splitlines() if line]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=600, byte_fallback=True, minloglevel=2, **options
    )
    return model.getvalue()


LOSSLESS = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "add_dummy_prefix=False"),
        (LOSSLESS | {"add_dummy_prefix": True}, r"another.*is decoded as 'one line\\n another"),
        (LOSSLESS | {"remove_extra_whitespaces": True}, "changes text"),
        (LOSSLESS | {"normalization_rule_name": "nfkc"}, "changes text"),
    ],
    ids=["default", "dummy prefix", "extra whitespace", "nfkc"],
)
def test_a_sentencepiece_model_that_changes_text_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.model"
    path.write_bytes(sentencepiece_model(**options))
    with pytest.raises(InputError, match=words) as raised:
        load_tokenizer(str(path))
    assert str(raised.value).startswith(f"tokenizer {path} changes text: ")
    assert "\n" not in str(raised.value)


def test_a_sentencepiece_model_that_is_lossless_is_taken(tmp_path: Path) -> None:
    (tmp_path / "theirs.model").write_bytes(sentencepiece_model(**LOSSLESS))
    assert load_tokenizer(str(tmp_path / "theirs.model")).vocabulary == 601


@pytest.mark.parametrize(
    ("options", "words"),
    [({"prefix": True}, "changes text.*add_prefix_space off"), ({"normalizer": normalizers.NFKC()}, "changes text.*no normalizer")],
    ids=["prefix", "nfkc"],
)
def test_a_tokenizer_json_that_changes_text_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(hugging_face(**options))
    with pytest.raises(InputError, match=words):
        load_tokenizer(str(path))


def test_a_tokenizer_json_whose_bytes_are_unknown_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizers.Tokenizer(models.WordPiece(unk_token="?")).to_str())
    with pytest.raises(InputError, match="the decoder None"):
        load_tokenizer(str(path))
    path.write_text('{"model": 1}')
    with pytest.raises(InputError, match=r"is not a tokenizer\.json"):
        load_tokenizer(str(path))


def test_special_tokens_of_a_tokenizer_json_are_text_of_their_own_bytes() -> None:
    tokenizer = TOKENIZERS[2]
    text = "one<|end|> two"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths()[ids].sum() == len(text)
    assert tokenizer_from(tokenizer.model or b"", "again").fingerprint == tokenizer.fingerprint


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(hugging_face())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkError, match=r"not installed: uv sync --extra tokenizers$"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))


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


def test_a_tokenizer_is_trained_on_the_training_documents_alone(tmp_path: Path) -> None:
    # Each document is of a word of its own, which becomes one piece if its document is read.
    texts = [f"{word} " * 40 for word in ("".join(letters) for letters in permutations("qxzj", 4))]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataOptions(str(tmp_path / "corpus.jsonl"), "bpe:280", held_out=0.3, test=0.3)
    fractions = Fractions(0.3, 0.3)
    split = {text: fractions.split_at(fractions.place(text)) for text in texts}
    assert len({*split.values()}) == 3
    found = prepare(data, tmp_path / "cache")[0].model
    assert found == train_bpe([text for text in texts if split[text] == "train"], 280)
    assert found != train_bpe(texts, 280)
