"""Token shards hold every token once, split by document, and a damaged folder is refused."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from training.corpus import Document
from training.shards import INDEX, Shards, Split, TokenStream, open_shards, write_shards
from training.tokenizer import ByteTokenizer

TEXTS = [f"document {i} " * (i % 7 + 1) for i in range(60)]
BYTES = ByteTokenizer()


def _documents(texts: list[str]) -> Iterator[Document]:
    return (Document(str(i), (text[: len(text) // 2], text[len(text) // 2 :])) for i, text in enumerate(texts))


def _split(shards: Shards, split: Split) -> list[str]:
    stream = TokenStream(shards, split)
    ids = stream.read(0, len(stream))
    ends = np.flatnonzero(ids == BYTES.end)
    return [BYTES.decode(ids[start:end]) for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True)]


def test_every_document_is_in_one_split_whole_and_in_order(tmp_path: Path) -> None:
    shards = write_shards(_documents(TEXTS), BYTES, tmp_path / "tokens", held_out=0.2, shard_tokens=100)
    train, held_out = _split(shards, "train"), _split(shards, "held_out")
    assert len(shards.files["train"]) > 3
    assert sorted(train + held_out) == sorted(TEXTS)
    assert [text for text in TEXTS if text in set(held_out)] == held_out
    # 60 documents at 0.2: the number held out is binomial, 12 +- 3.1; 4 standard deviations.
    assert 0 < len(held_out) < 25


def test_a_test_split_is_taken_from_what_was_trained_on_and_leaves_the_held_out_documents_alone(tmp_path: Path) -> None:
    without = write_shards(_documents(TEXTS), BYTES, tmp_path / "without", held_out=0.2)
    shards = write_shards(_documents(TEXTS), BYTES, tmp_path / "with", held_out=0.2, test=0.3)
    assert "test" not in without.files
    assert _split(shards, "held_out") == _split(without, "held_out")
    train, test = _split(shards, "train"), _split(shards, "test")
    assert sorted(train + test) == sorted(_split(without, "train"))
    # Binomial, 18 +- 3.5 of 60; 4 standard deviations.
    assert 4 <= len(test) <= 32
    assert open_shards(shards.folder) == shards


def test_a_documents_split_depends_on_its_text_and_the_seed_alone(tmp_path: Path) -> None:
    one = _split(write_shards(_documents(TEXTS), BYTES, tmp_path / "a", held_out=0.3), "held_out")
    other = _split(write_shards(_documents(TEXTS[::-1][:40]), BYTES, tmp_path / "b", held_out=0.3), "held_out")
    seeded = _split(write_shards(_documents(TEXTS), BYTES, tmp_path / "c", held_out=0.3, seed=1), "held_out")
    assert set(other) == set(one) & set(TEXTS[::-1][:40])
    assert set(seeded) != set(one)


def test_opening_gives_what_was_written(tmp_path: Path) -> None:
    written = write_shards(_documents(TEXTS), BYTES, tmp_path / "tokens", held_out=0.2, shard_tokens=500)
    assert open_shards(tmp_path / "tokens") == written


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStream, np.ndarray]:
    shards = write_shards(_documents(TEXTS), BYTES, tmp_path_factory.mktemp("shards") / "tokens", held_out=0.2, shard_tokens=97)
    parts = [np.fromfile(shards.folder / shard.file, shards.dtype) for shard in shards.files["train"]]
    return TokenStream(shards, "train"), np.concatenate(parts)


@settings(max_examples=200)
@given(start=st.integers(0, 4000), length=st.integers(0, 500))
def test_reading_across_files_is_slicing_one_array(small: tuple[TokenStream, np.ndarray], start: int, length: int) -> None:
    stream, whole = small
    assert np.array_equal(stream.read(start, start + length), whole[start : start + length])


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def _broken() -> Iterator[Document]:
        yield from _documents(TEXTS)
        raise InputError("the disk went away")

    with pytest.raises(InputError, match="disk"):
        write_shards(_broken(), BYTES, tmp_path / "tokens")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "said"), [([], "no text"), (["", ""], "no text"), (["only one"], "none of 1 documents went to the train split")]
)
def test_a_corpus_that_cannot_be_split_is_refused(tmp_path: Path, texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        write_shards(_documents(texts), BYTES, tmp_path / "tokens")


def test_a_damaged_folder_is_refused_with_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shards = write_shards(_documents(TEXTS), BYTES, folder, held_out=0.2, shard_tokens=500)
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
    many = (Document(str(i), (f"{i}\n", *(line for _ in range(32)))) for i in range(16))
    tracemalloc.start()
    shards = write_shards(many, BYTES, tmp_path / "tokens", held_out=0.2, shard_tokens=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shards.tokens("train") + shards.tokens("held_out") > 32_000_000
    # Two splits of up to a shard of 2 MiB, held twice while it is written, and a piece: far below the 64 MiB of all tokens.
    assert peak < 16 << 20
