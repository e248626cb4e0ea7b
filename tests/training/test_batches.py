"""Packed sequences: no token lost or repeated in an epoch; the place in the stream is saved and restored; processes share a batch."""

from collections import Counter
from pathlib import Path

import grain
import numpy as np
import pytest

from common.errors import InputError
from reference.objective import PADDING
from training.batches import EvaluationBatches, Sequences, training_batches
from training.corpus import Document
from training.shards import TokenStream, write_shards
from training.tokenizer import ByteTokenizer

CONTEXT = 10


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TokenStream:
    texts = [f"{i}: " + "abcdefghij"[: i % 10] * 3 for i in range(50)]
    documents = (Document(str(i), (text,)) for i, text in enumerate(texts))
    folder: Path = tmp_path_factory.mktemp("batches") / "tokens"
    return TokenStream(write_shards(documents, ByteTokenizer(), folder, held_out=0.2, shard_tokens=111), "train")


def test_each_token_but_the_first_is_a_target_exactly_once_in_an_epoch(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    batches = training_batches(sequences, 1, seed=3)
    rows = np.concatenate([next(batches) for _ in range(len(sequences))])
    whole = stream.read(0, len(stream))
    targets = rows[:, 1:][rows[:, 1:] != PADDING]
    assert Counter(targets.tolist()) == Counter(whole[1:].tolist())
    by_start = {tuple(row) for row in rows.tolist()}
    assert by_start == {tuple(sequences[i].tolist()) for i in range(len(sequences))}


def test_the_order_depends_on_the_seed_and_the_epoch(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)

    def _epochs(seed: int) -> list[bytes]:
        batches = training_batches(sequences, 1, seed)
        return [b"".join(next(batches).tobytes() for _ in range(len(sequences))) for _ in range(2)]

    first, again, other = _epochs(0), _epochs(0), _epochs(1)
    assert first == again
    assert len({*first, *other}) == 4


def test_processes_read_their_rows_of_the_batch_of_one(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    whole = training_batches(sequences, 6, seed=0)
    # On a mesh a process's rows need be neither apart from another's (devices along `model` share them) nor next to each other.
    rows = [np.array([0, 1]), np.array([2, 5]), np.array([3, 4]), np.array([0, 1])]
    shares = [training_batches(sequences, 6, seed=0, rows=own) for own in rows]
    for _ in range(2 * len(sequences) // 6):
        batch = next(whole)
        for own, share in zip(rows, shares, strict=True):
            assert np.array_equal(next(share), batch[own])
    assert all(share.get_state() == whole.get_state() for share in shares)


def test_the_place_is_saved_and_restored(stream: TokenStream) -> None:
    grain.experimental.assert_equal_output_after_checkpoint(
        grain.MapDataset.source(Sequences(stream, CONTEXT)).seed(0).shuffle().batch(4, drop_remainder=True).to_iter_dataset()
    )
    batches = training_batches(Sequences(stream, CONTEXT), 4, seed=0)
    for _ in range(7):
        next(batches)
    state, expected = batches.get_state(), next(batches)
    fresh = training_batches(Sequences(stream, CONTEXT), 4, seed=0)
    fresh.set_state(state)
    assert np.array_equal(next(fresh), expected)


def test_evaluation_sees_every_token_once_in_order(stream: TokenStream) -> None:
    batches = EvaluationBatches(Sequences(stream, CONTEXT), 4)
    targets = np.concatenate([batch[:, 1:].reshape(-1) for batch in batches])
    assert np.array_equal(targets[targets != PADDING], stream.read(1, len(stream)))
    assert {batch.shape for batch in batches} == {(4, CONTEXT + 1)}


def test_an_evaluation_can_be_cut_short_and_shared(stream: TokenStream) -> None:
    sequences = Sequences(stream, CONTEXT)
    some = list(EvaluationBatches(sequences, 4, tokens=4 * CONTEXT + 1))
    assert len(some) == 2
    assert np.array_equal(np.concatenate(some), np.stack([sequences[i] for i in range(8)]))
    own = list(EvaluationBatches(sequences, 4, tokens=4 * CONTEXT + 1, rows=np.array([1, 3])))
    assert np.array_equal(np.stack(own), np.stack(some)[:, [1, 3]])
    assert len(EvaluationBatches(sequences, 4, tokens=1)) == 1


def test_a_batch_that_does_not_fit_is_refused(stream: TokenStream) -> None:
    with pytest.raises(InputError, match="smaller batch"):
        training_batches(Sequences(stream, CONTEXT), 10_000, seed=0)
