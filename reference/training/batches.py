"""Batches of packed sequences: a grain pipeline over a token stream, whose whole state is the number of the next batch.

Documents lie one after the other in the stream. Sequence i is tokens i*C to i*C + C of it, one more than the context C, so that each
token but the first is the target of exactly one position; the last sequence is filled up with `PADDING`. An epoch is all sequences
in an order of its own, drawn from the seed.
"""

import grain
import numpy as np
from jaxtyping import Int

from common.errors import InputError
from reference.training.shards import TokenStream

PADDING = -1
"""Stands where a sequence has no token; as a target it counts for nothing."""


class Sequences:
    """The sequences of a stream, by number: what grain reads from."""

    def __init__(self, stream: TokenStream, context: int) -> None:
        """Raises `InputError` if the stream has no two tokens."""
        if len(stream) < 2:
            raise InputError(f"the text has {len(stream)} tokens; a sequence needs at least 2")
        self._stream, self._context = stream, context

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self._context)

    def __getitem__(self, index: int) -> Int[np.ndarray, "context_and_one"]:
        start = int(index) * self._context
        tokens = self._stream.read(start, start + self._context + 1)
        return np.pad(tokens, (0, self._context + 1 - len(tokens)), constant_values=PADDING)


def training_batches(
    sequences: Sequences, batch: int, seed: int, *, process: int = 0, processes: int = 1
) -> "grain.DatasetIterator[Int[np.ndarray, 'batch context_and_one']]":
    """Endless batches, epoch after epoch; `get_state` and `set_state` save and restore the place.

    Of `batch` sequences a process reads its share only, and the shares side by side are the batch of one process. Raises `InputError`
    if the corpus is too small for one batch, or the batch does not come out even.
    """
    if len(sequences) < batch:
        raise InputError(
            f"the training text has {len(sequences)} sequences, fewer than a batch of {batch}; give more text, a smaller batch or context"
        )
    if batch % processes:
        raise InputError(f"a batch of {batch} does not come out even over {processes} processes; make it a multiple of {processes}")
    endless = grain.MapDataset.source(sequences).seed(seed).shuffle().repeat()
    shares = endless.batch(batch // processes, drop_remainder=True)[process::processes]
    return iter(shares.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def evaluation_batches(sequences: Sequences, batch: int) -> list[Int[np.ndarray, "batch context_and_one"]]:
    """All sequences in order, the last batch filled up with padding."""
    rows = [sequences[i] for i in range(len(sequences))]
    filler = np.full_like(rows[0], PADDING)
    rows += [filler] * (-len(rows) % batch)
    return [np.stack(rows[i : i + batch]) for i in range(0, len(rows), batch)]
