"""Further evaluation texts, packed like the training text and read lazily."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from reference.objective import PADDING
from training.batches import Batch
from training.corpus import Document, documents
from training.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextBatches:
    """The documents of `source`, from the beginning, in batches; this process reads the `rows`."""

    source: str
    tokenizer: Tokenizer
    context: int
    batch: int
    tokens: int
    """Maximum tokens to read, rounded up to a batch; 0 for all."""
    rows: Int[np.ndarray, "rows"]

    def __post_init__(self) -> None:
        """Raises `InputError` for a text that cannot be read, or has fewer than two tokens."""
        if next(iter(self), None) is None:
            raise InputError(f"the text {self.source} has fewer than two tokens; give a longer one")

    def __iter__(self) -> Iterator[Batch]:
        limit = -(-self.tokens // (self.batch * self.context)) if self.tokens else None
        for batch in islice(
            text_batches(documents(self.source), self.tokenizer, self.context, self.batch), limit
        ):
            yield batch[self.rows]


def text_batches(
    texts: Iterable[Document], tokenizer: Tokenizer, context: int, batch: int
) -> Iterator[Batch]:
    """Batches of texts, packed like the training text; the last batch is padded."""
    rows: list[Int[np.ndarray, "context_and_one"]] = []
    for row in _sequences(texts, tokenizer, context):
        rows.append(row)
        if len(rows) == batch:
            yield np.stack(rows)
            rows = []
    if rows:
        filler = np.full_like(rows[0], PADDING)
        yield np.stack(rows + [filler] * (batch - len(rows)))


def _sequences(
    texts: Iterable[Document], tokenizer: Tokenizer, context: int
) -> Iterator[Int[np.ndarray, "context_and_one"]]:
    """Each sequence begins with the last token of the previous one."""
    rest = np.zeros(0, np.int32)
    for text in texts:
        for ids in (
            *map(tokenizer.encode, filter(None, text.pieces)),
            np.array([tokenizer.end], np.int32),
        ):
            rest = np.concatenate([rest, ids])
            while len(rest) > context:
                yield rest[: context + 1]
                rest = rest[context:]
    if len(rest) > 1:
        yield np.pad(rest, (0, context + 1 - len(rest)), constant_values=PADDING)
