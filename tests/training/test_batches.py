"""Packed sequences: no token lost or repeated in an epoch; the place in the stream is saved and restored; processes share a batch."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import grain
import numpy as np
import pytest

from common.errors import InputError
from reference.objective import PADDING
from tests.training.tiny_runs import text_corpus
from training.text.batches import EvaluationBatches, Sequences, training_batches
from training.text.shards import TokenStream
from training.text.split import Fractions
from training.text.tokenizer import ByteTokenizer
from training.text.write import write_shards

CONTEXT = 10


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    texts = [f"{i}: " + "abcdefghij"[: i % 10] * 3 for i in range(50)]
    folder: Path = tmp_path_factory.mktemp("batches")
    corpus = text_corpus(folder / "texts.jsonl", texts)
    return TokenStream(write_shards(corpus, ByteTokenizer(), folder / "tokens", Fractions(0.2), shard_tokens=111), "train")


def test_each_token_but_the_first_is_a_target_exactly_once_in_an_epoch(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    batches = training_batches([sequences], 1, seed=3)
    rows = np.concatenate([next(batches) for _ in range(len(sequences))])
    whole = stream.read(0, len(stream))
    targets = rows[:, 1:][rows[:, 1:] != PADDING]
    assert Counter(targets.tolist()) == Counter(whole[1:].tolist())
    by_start = {tuple(row) for row in rows.tolist()}
    assert by_start == {tuple(sequences[i].tolist()) for i in range(len(sequences))}


def test_the_order_depends_on_the_seed_and_the_epoch(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)

    def _epochs(seed: int) -> list[bytes]:
        batches = training_batches([sequences], 1, seed)
        return [b"".join(next(batches).tobytes() for _ in range(len(sequences))) for _ in range(2)]

    first, again, other = _epochs(0), _epochs(0), _epochs(1)
    assert first == again
    assert len({*first, *other}) == 4


def test_processes_read_their_rows_of_the_batch_of_one(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    whole = training_batches([sequences], 6, seed=0)
    # On a mesh a process's rows need be neither apart from another's (devices along `model` share them) nor next to each other.
    rows = [np.array([0, 1]), np.array([2, 5]), np.array([3, 4]), np.array([0, 1])]
    shares = [training_batches([sequences], 6, seed=0, rows=own) for own in rows]
    for _ in range(2 * len(sequences) // 6):
        batch = next(whole)
        for own, share in zip(rows, shares, strict=True):
            assert np.array_equal(next(share), batch[own])
    assert all(share.get_state() == whole.get_state() for share in shares)


def test_the_place_is_saved_and_restored(stream: TokenStream) -> None:
    grain.experimental.assert_equal_output_after_checkpoint(
        grain.MapDataset.source(Sequences(stream, CONTEXT)).seed(0).shuffle().batch(4, drop_remainder=True).to_iter_dataset()
    )
    batches = training_batches([Sequences(stream, CONTEXT)], 4, seed=0)
    for _ in range(7):
        next(batches)
    state, expected = batches.get_state(), next(batches)
    fresh = training_batches([Sequences(stream, CONTEXT)], 4, seed=0)
    fresh.set_state(state)
    assert np.array_equal(next(fresh), expected)


def test_evaluation_sees_every_token_once_in_order(stream: TokenStream) -> None:
    batches = EvaluationBatches([Sequences(stream, CONTEXT)], 4)
    targets = np.concatenate([batch[:, 1:].reshape(-1) for batch in batches])
    assert np.array_equal(targets[targets != PADDING], stream.read(1, len(stream)))
    assert {batch.shape for batch in batches} == {(4, CONTEXT + 1)}


def targets_of(batches: Iterable[np.ndarray]) -> list[list[int]]:
    """The targets of each row that has any."""
    rows = np.concatenate(list(batches))[:, 1:]
    return [row[row != PADDING].tolist() for row in rows if np.any(row != PADDING)]


@pytest.mark.parametrize("tokens", [1, CONTEXT - 1, CONTEXT, 3 * CONTEXT + 4, 10 * CONTEXT])
def test_an_evaluation_has_exactly_the_tokens_asked_for_spread_evenly_whatever_the_batch(stream: TokenStream, tokens: int) -> None:
    sequences = Sequences(stream, CONTEXT)
    batches = {size: EvaluationBatches([sequences], size, tokens=tokens) for size in (1, 4, 7, 64)}
    rows = targets_of(batches[4])
    assert all(targets_of(each) == rows for each in batches.values())
    assert sum(map(len, rows)) == tokens == batches[4].tokens
    assert batches[4].of_tokens == len(stream) - 1
    number = len(rows)
    # The places are the multiples of a step, rounded down.
    expected = [sequences[int(i * (len(sequences) / number) + 1e-9)][1:].tolist() for i in range(number)]
    assert [row == whole[: len(row)] for row, whole in zip(rows, expected, strict=True)] == [True] * number


def test_an_evaluation_of_more_tokens_than_there_are_is_of_all(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    for tokens in (0, len(stream) - 1, 10**9):
        batches = EvaluationBatches([sequences], 4, tokens=tokens)
        assert batches.tokens == batches.of_tokens == len(stream) - 1
        assert [token for row in targets_of(batches) for token in row] == stream.read(1, len(stream)).tolist()


def test_processes_share_an_evaluation(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    whole = np.stack(list(EvaluationBatches([sequences], 4, tokens=77)))
    own = list(EvaluationBatches([sequences], 4, tokens=77, rows=np.array([1, 3])))
    assert np.array_equal(np.stack(own), whole[:, [1, 3]])


def test_a_mixture_draws_of_each_part_its_share_and_each_sequence_once_an_epoch(tmp_path: Path) -> None:
    parts: list[Sequences] = []
    for letter, number in (("a", 30), ("b", 50)):
        corpus = text_corpus(tmp_path / f"{letter}.jsonl", ["".join(f"{letter}{i:02d}{j}" for j in range(10)) for i in range(number)])
        shards = write_shards(corpus, ByteTokenizer(), tmp_path / letter, Fractions(1.0))
        parts.append(Sequences(TokenStream(shards, "held_out"), CONTEXT))
    batches = training_batches(parts, 6, seed=0, weights=[2.0, 1.0])
    rows = np.concatenate([next(batches) for _ in range(20)])
    is_first = np.isin(rows, list(b"a")).any(axis=1)
    # Two of every three, over any stretch to within one.
    assert np.abs(np.cumsum(is_first) - np.arange(1, 121) * 2 / 3).max() <= 1
    first = [tuple(row) for row in rows[is_first].tolist()]
    assert len(first) == 80 < len(parts[0])
    assert len({*first}) == 80
    again = training_batches(parts, 6, seed=0, weights=[2.0, 1.0])
    other = training_batches(parts, 6, seed=1, weights=[2.0, 1.0])
    assert np.array_equal(next(again), rows[:6])
    assert not np.array_equal(next(other), rows[:6])
    # Of each part its share of an evaluation.
    evaluation = EvaluationBatches(parts, 4, tokens=90, weights=[2.0, 1.0])
    counts = Counter("a" if ord("a") in row else "b" for row in targets_of(evaluation))
    assert counts == {"a": 6, "b": 3}


def test_a_batch_that_does_not_fit_is_refused(stream: TokenStream) -> None:
    with pytest.raises(InputError, match="smaller batch"):
        training_batches([Sequences(stream, CONTEXT)], 10_000, seed=0)
