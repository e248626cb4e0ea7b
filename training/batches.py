"""Batches of packed sequences: a grain pipeline over a token stream.

Documents are concatenated. Sequence i is tokens i*C to i*C + C of the stream, one more than the
context C, so that each token but the first is the target of exactly one position; the last sequence
is padded with `PADDING`. An epoch is all sequences in an order of its own, drawn from the seed. The
pipeline's whole state is the number of the next batch.
"""

from collections.abc import Iterator

import grain
import numpy as np
from jaxtyping import Int

from common.errors import InputError
from reference.objective import PADDING
from training.shards import TokenStream


class Sequences:
    """The sequences of a stream, by index: grain's data source."""

    def __init__(self, stream: TokenStream, context: int) -> None:
        """Raises `InputError` if the stream has fewer than two tokens."""
        if len(stream) < 2:
            raise InputError(f"the text has {len(stream)} tokens; a sequence needs at least 2")
        self._stream, self._context = stream, context

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self._context)

    def __getitem__(self, index: int) -> Int[np.ndarray, "context_and_one"]:
        start = int(index) * self._context
        tokens = self._stream.read(start, start + self._context + 1)
        return np.pad(tokens, (0, self._context + 1 - len(tokens)), constant_values=PADDING)


Batch = Int[np.ndarray, "batch context_and_one"]


def training_batches(
    sequences: Sequences, batch: int, seed: int, *, rows: Int[np.ndarray, "rows"] | None = None
) -> "grain.DatasetIterator[Batch]":
    """Endless batches, epoch after epoch; `rows` are those that this process reads (default: all).

    `get_state` and `set_state` save and restore the position, the same in every process. Raises
    `InputError` if the corpus is too small for one batch.
    """
    if len(sequences) < batch:
        raise InputError(
            f"the training text has {len(sequences)} sequences, fewer than a batch of {batch}; "
            "give more text, a smaller batch or context"
        )
    endless = grain.MapDataset.source(sequences).seed(seed).shuffle().repeat()
    shares = grain.MapDataset.source(
        _Shares(endless, batch, np.arange(batch) if rows is None else rows)
    )
    return iter(shares.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


class _Shares:
    """Some rows of each batch, by the batch's index."""

    def __init__(
        self,
        sequences: "grain.MapDataset[Int[np.ndarray, 'context_and_one']]",
        batch: int,
        rows: Int[np.ndarray, "rows"],
    ) -> None:
        self._sequences, self._batch, self._rows = sequences, batch, rows.tolist()

    def __len__(self) -> int:
        return len(self._sequences) // self._batch

    def __getitem__(self, index: int) -> Batch:
        return np.stack([self._sequences[int(index) * self._batch + row] for row in self._rows])


class EvaluationBatches:
    """All sequences in order, read lazily; the last batch is padded."""

    def __init__(
        self,
        sequences: Sequences,
        batch: int,
        *,
        tokens: int = 0,
        rows: Int[np.ndarray, "rows"] | None = None,
    ) -> None:
        """`tokens`: read only as many batches as hold this many, at least one; 0 for all.

        `rows`: the rows of each batch that this process reads.
        """
        self._sequences, self._batch = sequences, batch
        self._rows = np.arange(batch) if rows is None else rows
        all_batches = -(-len(sequences) // batch)
        width = len(sequences[0]) - 1
        self._number = min(all_batches, -(-tokens // (batch * width))) if tokens else all_batches

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self._number):
            yield np.stack([self._row(i * self._batch + row) for row in self._rows.tolist()])

    def _row(self, index: int) -> Int[np.ndarray, "context_and_one"]:
        return (
            self._sequences[index]
            if index < len(self._sequences)
            else np.full_like(self._sequences[0], PADDING)
        )
