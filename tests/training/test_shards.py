"""Token shards hold every token once, split by document, and a damaged folder is refused."""

import hashlib
import json
import os
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from tests.training.tiny_runs import text_corpus
from training.text.bpe import train_bpe
from training.text.read import Corpus, Document, documents, read_corpus
from training.text.shards import INDEX, Shards, TokenStream, open_shards
from training.text.split import Fractions, Split
from training.text.tokenizer import ByteTokenizer, tokenizer_from
from training.text.write import write_shards

TEXTS = [f"document {i} " * (i % 7 + 1) for i in range(60)]
BYTES = ByteTokenizer()


def _written(folder: Path, texts: list[str], fractions: Fractions, **options: Any) -> Shards:
    folder.parent.mkdir(exist_ok=True)
    return write_shards(text_corpus(folder.with_suffix(".jsonl"), texts), BYTES, folder, fractions, **options)


def _split(shards: Shards, split: Split) -> list[str]:
    stream = TokenStream(shards, split)
    ids = stream.read(0, len(stream))
    ends = np.flatnonzero(ids == BYTES.end)
    return [BYTES.decode(ids[start:end]) for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True)]


def test_every_document_is_in_one_split_whole_and_in_order(tmp_path: Path) -> None:
    shards = _written(tmp_path / "tokens", TEXTS, Fractions(0.2), shard_tokens=100)
    train, held_out = _split(shards, "train"), _split(shards, "held_out")
    assert len(shards.files["train"]) > 3
    assert sorted(train + held_out) == sorted(TEXTS)
    assert [text for text in TEXTS if text in set(held_out)] == held_out
    # 60 documents at 0.2: the number held out is binomial, 12 +- 3.1; 4 standard deviations.
    assert 0 < len(held_out) < 25


def test_a_test_split_is_taken_from_what_was_trained_on_and_leaves_the_held_out_documents_alone(tmp_path: Path) -> None:
    without = _written(tmp_path / "without", TEXTS, Fractions(0.2))
    shards = _written(tmp_path / "with", TEXTS, Fractions(0.2, 0.3))
    assert "test" not in without.files
    assert _split(shards, "held_out") == _split(without, "held_out")
    train, test = _split(shards, "train"), _split(shards, "test")
    assert sorted(train + test) == sorted(_split(without, "train"))
    # Binomial, 18 +- 3.5 of 60; 4 standard deviations.
    assert 4 <= len(test) <= 32
    assert open_shards(shards.folder) == shards


def test_a_documents_split_depends_on_its_text_and_the_seed_alone(tmp_path: Path) -> None:
    one = _split(_written(tmp_path / "a", TEXTS, Fractions(0.3)), "held_out")
    other = _split(_written(tmp_path / "b", TEXTS[::-1][:40], Fractions(0.3)), "held_out")
    seeded = _split(_written(tmp_path / "c", TEXTS, Fractions(0.3, seed=1)), "held_out")
    assert set(other) == set(one) & set(TEXTS[::-1][:40])
    assert set(seeded) != set(one)


def test_opening_gives_what_was_written(tmp_path: Path) -> None:
    written = _written(tmp_path / "tokens", TEXTS, Fractions(0.2), shard_tokens=500)
    assert open_shards(tmp_path / "tokens") == written


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStream, np.ndarray]:
    shards = _written(tmp_path_factory.mktemp("shards") / "tokens", TEXTS, Fractions(0.2), shard_tokens=97)
    parts = [np.fromfile(shards.folder / shard.file, shards.dtype) for shard in shards.files["train"]]
    return TokenStream(shards, "train"), np.concatenate(parts)


@settings(max_examples=200)
@given(start=st.integers(0, 4000), length=st.integers(0, 500))
def test_reading_across_files_is_slicing_one_array(small: tuple[TokenStream, np.ndarray], start: int, length: int) -> None:
    stream, whole = small
    assert np.array_equal(stream.read(start, start + length), whole[start : start + length])


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = text_corpus(tmp_path / "corpus.jsonl", TEXTS)

    whole = list(corpus.documents())

    def _broken(self: Corpus) -> Iterator[Document]:
        yield from whole
        raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Corpus, "documents", _broken)
    with pytest.raises(KeyboardInterrupt):
        write_shards(corpus, BYTES, tmp_path / "tokens", Fractions(0.2), shard_tokens=100)
    assert sorted(tmp_path.rglob("*")) == before


def _one_in_splits(folder: Path, text: str, fractions: Fractions) -> dict[Split, str]:
    """The parts of a text that is one document."""
    shards = _written(folder, [text], fractions)
    assert shards.cut
    return {split: _split(shards, split)[0] for split in fractions.splits}


def test_of_one_document_the_last_part_is_held_out_from_a_line_on(tmp_path: Path) -> None:
    text = "".join(f"line {i} of a book\n" for i in range(1000))
    parts = _one_in_splits(tmp_path / "a", text, Fractions(0.1))
    assert parts["train"] + parts["held_out"] == text
    assert parts["held_out"].startswith("line ")
    assert len(parts["held_out"]) / len(text) == pytest.approx(0.1, abs=0.001)
    three = _one_in_splits(tmp_path / "b", text, Fractions(0.1, 0.2))
    assert three["train"] + three["test"] + three["held_out"] == text
    assert three["held_out"] == parts["held_out"]
    assert len(three["test"]) / len(text) == pytest.approx(0.2, abs=0.001)


def test_one_document_without_lines_is_cut_between_characters(tmp_path: Path) -> None:
    text = "no line ends here, é and ü " * 9
    parts = _one_in_splits(tmp_path / "a", text, Fractions(0.25))
    assert parts["train"] + parts["held_out"] == text
    assert len(parts["held_out"]) == round(len(text) * 0.25)
    # A line end so near the end would leave too little.
    assert _one_in_splits(tmp_path / "b", text + "\nx", Fractions(0.25))["held_out"].startswith(parts["held_out"][2:])


@pytest.mark.parametrize("number", [2, 3, 5, 17])
@pytest.mark.parametrize("fractions", [Fractions(0.05), Fractions(0.9), Fractions(0.01, 0.01), Fractions(0.45, 0.54)])
def test_of_several_documents_each_split_has_at_least_one(tmp_path: Path, number: int, fractions: Fractions) -> None:
    if number < len(fractions.splits):
        with pytest.raises(InputError, match="has 2 documents, too few for 3 splits"):
            _written(tmp_path / "tokens", TEXTS[:number], fractions)
        return
    shards = _written(tmp_path / "tokens", TEXTS[:number], fractions)
    assert not shards.cut
    splits = {split: _split(shards, split) for split in fractions.splits}
    assert all(splits.values())
    assert sorted(text for texts in splits.values() for text in texts) == sorted(TEXTS[:number])


def test_the_documents_held_out_first_are_those_that_a_larger_fraction_holds_out(tmp_path: Path) -> None:
    few, many = (_split(_written(tmp_path / name, TEXTS[:9], Fractions(f)), "held_out") for name, f in (("a", 0.001), ("b", 0.5)))
    assert len(few) == 1
    assert set(few) < set(many)


@pytest.mark.parametrize(("texts", "words"), [([], "no text"), (["", ""], "no text"), (["x"], "has 1 characters, too few for 2 splits")])
def test_a_corpus_that_cannot_be_split_is_refused(tmp_path: Path, texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _written(tmp_path / "tokens", texts, Fractions(0.05))
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.jsonl"]


@pytest.fixture
def index(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Shards and their index."""
    folder = _written(tmp_path / "tokens", TEXTS, Fractions(0.2), shard_tokens=500).folder
    return folder, json.loads((folder / INDEX).read_text(encoding="utf-8"))


def test_a_flipped_bit_in_a_shard_is_found(index: tuple[Path, dict[str, Any]]) -> None:
    file = index[0] / "train-00001.bin"
    data = bytearray(file.read_bytes())
    data[501] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00001\.bin is damaged: its SHA-256"):
        open_shards(index[0])


def test_ids_above_the_vocabulary_are_found_though_the_checksum_is_right(index: tuple[Path, dict[str, Any]]) -> None:
    folder, changed = index
    ids = np.fromfile(folder / "train-00001.bin", "<u2")
    ids[7] = 32_868
    ids.tofile(folder / "train-00001.bin")
    changed["files"]["train"][1]["sha256"] = hashlib.sha256(ids.tobytes()).hexdigest()
    (folder / INDEX).write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(InputError, match=r"train-00001\.bin has the id 32868, but tokens\.json says a vocabulary of 257"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocabulary": 100}, "a vocabulary of 100"),
        ({"dtype": "<f2"}, "dtype <f2, not <u2 or <u4"),
        ({"dtype": "<u4"}, "it is truncated"),
        ({"documents": {"train": 3, "held_out": 9}}, "documents end in the train split"),
        ({"version": 2}, "version 2, not 3"),
        ({"split": {"half": 1}}, "not what `cli.py tokenize` writes"),
    ],
)
def test_an_index_that_is_not_of_its_files_is_refused(index: tuple[Path, dict[str, Any]], change: dict[str, Any], words: str) -> None:
    (index[0] / INDEX).write_text(json.dumps(index[1] | change), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        open_shards(index[0])


def test_a_damaged_folder_is_refused_with_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shards = _written(folder, TEXTS, Fractions(0.2), shard_tokens=500)
    file = folder / shards.files["train"][1].file
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"train-00001\.bin has 999 bytes, tokens\.json says 1000: it is truncated"):
        open_shards(folder)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        open_shards(folder)
    (folder / INDEX).write_text(json.dumps({"something": "else"}))
    with pytest.raises(InputError, match=r"not what `cli\.py tokenize` writes"):
        open_shards(folder)
    with pytest.raises(InputError, match=r"has no tokens\.json"):
        open_shards(tmp_path)


def test_a_corpus_larger_than_memory_allows_is_streamed(tmp_path: Path) -> None:
    line = "sixteen bytes..\n" * 4096
    (tmp_path / "texts").mkdir()
    for i in range(16):
        (tmp_path / "texts" / f"{i:02d}.txt").write_text(f"{i}\n" + line * 32)
    corpus = read_corpus(str(tmp_path / "texts"))
    tracemalloc.start()
    shards = write_shards(corpus, BYTES, tmp_path / "tokens", Fractions(0.2), shard_tokens=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shards.tokens("train") + shards.tokens("held_out") > 32_000_000
    # Two splits of up to a shard of 2 MiB, held twice while it is written, and a piece: far below the 64 MiB of all tokens.
    assert peak < 16 << 20
    assert corpus.done == corpus.total == sum(path.stat().st_size for path in (tmp_path / "texts").iterdir())


def test_the_tokens_do_not_depend_on_how_many_cores_encode_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["".join(document.pieces) for document in islice(documents(), 3)] + ["", "a▁b \r\n\u2028 ü"]
    tokenizer = tokenizer_from(train_bpe(texts, 400), "bpe:400")
    corpus, written = text_corpus(tmp_path / "texts.jsonl", texts), {}
    for cores in (1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr("training.text.write.BATCH", 1000 * cores)
        shards = write_shards(corpus, tokenizer, tmp_path / f"tokens-{cores}", Fractions(0.3))
        written[cores] = [shard.sha256 for files in shards.files.values() for shard in files]
    assert written[1] == written[2] == written[7]
    ids = [tokenizer.encode(text) for text in texts]
    assert all(np.array_equal(one, each) for one, each in zip(tokenizer.encode_all(texts), ids, strict=True))
