"""Batches of packed sequences: a grain pipeline over a token stream.

Documents are concatenated. Sequence i is tokens i*C to i*C + C of the stream, one more than the
context C, so that each token but the first is the target of exactly one position; the last sequence
is padded with `PADDING`. An epoch is all sequences in an order of its own, drawn from the seed. The
parts of a mixture take turns by their weights, each in epochs of its own. The pipeline's whole
state is the number of the next batch.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int

from common.errors import InputError
from reference.objective import PADDING
from training.text.shards import TokenStream


class Sequences:
    """The sequences of a stream, by index: grain's data source."""

    def __init__(self, stream: TokenStream, context: int) -> None:
        """Raises `InputError` if the stream has fewer than two tokens."""
        if len(stream) < 2:
            raise InputError(f"the text has {len(stream)} tokens; a sequence needs at least 2")
        self._stream, self.context = stream, context

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted: all but the first."""
        return len(self._stream) - 1

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self.context)

    def __getitem__(self, index: int) -> Int[np.ndarray, "context_and_one"]:
        start = int(index) * self.context
        tokens = self._stream.read(start, start + self.context + 1)
        return np.pad(tokens, (0, self.context + 1 - len(tokens)), constant_values=PADDING)


Batch = Int[np.ndarray, "batch context_and_one"]


def training_batches(
    parts: Sequence[Sequences],
    batch: int,
    seed: int,
    *,
    weights: Sequence[float] = (1.0,),
    rows: Int[np.ndarray, "rows"] | None = None,
) -> "grain.DatasetIterator[Batch]":
    """Endless batches, epoch after epoch; `rows` are those that this process reads (default: all).

    Of several `parts`, each has its share by `weights` of the sequences. `get_state` and
    `set_state` save and restore the position, the same in every process. Raises `InputError` if the
    corpus is too small for one batch.
    """
    number = sum(map(len, parts))
    if number < batch:
        raise InputError(
            f"the training text has {number} sequences, fewer than a batch of {batch}; "
            "give more text, a smaller batch or context"
        )
    endless = [grain.MapDataset.source(part).seed(seed).shuffle().repeat() for part in parts]
    mixed = grain.MapDataset.mix(endless, weights) if len(parts) > 1 else endless[0]
    shares = grain.MapDataset.source(
        _Shares(mixed, batch, np.arange(batch) if rows is None else rows)
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
    """Sequences spread evenly over a text, read lazily; the last batch is padded.

    The sequences depend on the text, the context and the number of tokens alone, not on the batch.
    """

    def __init__(
        self,
        parts: Sequence[Sequences],
        batch: int,
        *,
        tokens: int = 0,
        weights: Sequence[float] = (1.0,),
        rows: Int[np.ndarray, "rows"] | None = None,
    ) -> None:
        """`tokens`: the number of tokens to predict, 0 for all; of several `parts` by `weights`.

        `rows`: the rows of each batch that this process reads.
        """
        self._parts, self._batch = parts, batch
        self._rows = np.arange(batch) if rows is None else rows
        self._chosen: list[int] = []
        for part, weight in zip(parts, weights, strict=True):
            share = max(1, round(tokens * weight / sum(weights))) if tokens else part.targets
            self._chosen.append(min(part.targets, share))
        self.tokens = sum(self._chosen)
        """Number of tokens to predict, of `of_tokens`."""
        self.of_tokens = sum(part.targets for part in parts)
        self._numbers = [
            -(-chosen // part.context) for chosen, part in zip(self._chosen, parts, strict=True)
        ]

    def __len__(self) -> int:
        return -(-sum(self._numbers) // self._batch)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(len(self)):
            yield np.stack([self._row(i * self._batch + row) for row in self._rows.tolist()])

    def _row(self, index: int) -> Int[np.ndarray, "context_and_one"]:
        """Sequence `index` of those chosen; the last of a part is cut to the tokens asked for."""
        for part, number, chosen in zip(self._parts, self._numbers, self._chosen, strict=True):
            if index < number:
                row = part[index * len(part) // number]
                left = chosen - index * part.context
                if left < part.context and chosen < part.targets:
                    row = np.where(np.arange(len(row)) <= left, row, PADDING).astype(row.dtype)
                return row
            index -= number
        return np.full(self._parts[0].context + 1, PADDING, np.int32)
