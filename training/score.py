"""Log-probabilities of texts by a trained model: what test harnesses ask of one.

A text is scored as a document: after the end token, which begins one. Where it has more tokens
than the model's context, each token is scored once, with as much context as there is (lm-eval's
windows).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from common.errors import InputError
from reference.mesh import BATCH, laid_out, place_batch
from reference.objective import PADDING, target_log_prob
from reference.transformer import Transformer
from training.load import LoadedRun
from training.sampling import sample

SHORTEST = 16
"""Least number of tokens to which sequences are padded; above, powers of two."""


class Score(NamedTuple):
    """Of a continuation."""

    log_prob: float
    """In nats, given what is before it."""
    greedy: bool
    """Whether each of its tokens is the most probable one."""


class _Window(NamedTuple):
    text: int
    """The index of its text."""
    tokens: Int[np.ndarray, "some_tokens"]
    scored: int
    """How many of its last tokens are scored."""


@dataclass(frozen=True)
class Scorer:
    """A model that scores and continues texts."""

    run: LoadedRun
    batch: int = 8
    """Sequences at a time; on a mesh, divisible by its devices along the batch."""

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Scores of second texts after first ones; an empty first text begins a document.

        Both are encoded as one text. Raises `InputError` where that has no more tokens than the
        first alone.
        """
        texts: list[tuple[Int[np.ndarray, "_"], int]] = []
        for before, after in pairs:
            start = 1 + len(self.run.tokenizer.encode(before))
            tokens = self._document(before + after)
            if len(tokens) <= start:
                raise InputError(f"the continuation {after!r} of {before!r} adds no token to it")
            texts.append((tokens, start))
        return self._scores(texts)

    def texts(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text, in nats; 0 for an empty one."""
        return [score.log_prob for score in self._scores([(self._document(t), 1) for t in texts])]

    def continued(self, text: str, until: Sequence[str], tokens: int) -> str:
        """The most probable next tokens, up to the first of `until` or the document's end."""
        start = self._document(text)
        with self.run.on_mesh():
            key = jax.random.key(0)
            (text,) = sample(self.run.model, [start], tokens, [key], temperature=0.0)
            found = text[len(start) :]
        ends = np.flatnonzero(found == self.run.tokenizer.end)
        after = self.run.tokenizer.decode(found[: ends[0]] if len(ends) else found)
        return after[: min((after.find(stop) for stop in until if stop in after), default=None)]

    def _document(self, text: str) -> Int[np.ndarray, "all_tokens"]:
        end = np.array([self.run.tokenizer.end], np.int32)
        return np.concatenate([end, self.run.tokenizer.encode(text)])

    def _scores(self, texts: Sequence[tuple[Int[np.ndarray, "_"], int]]) -> list[Score]:
        """Scores of the tokens of each text from a position on."""
        context = self.run.model.config.context
        windows = [
            window
            for i, (tokens, start) in enumerate(texts)
            for window in _windows(i, tokens, start, context)
        ]
        # Of like lengths together, so that little is padded; the longest first, as memory has it.
        windows.sort(key=lambda window: (-len(window.tokens), window.text))
        sums, greedy = np.zeros(len(texts)), np.ones(len(texts), bool)
        for i in range(0, len(windows), self.batch):
            some = windows[i : i + self.batch]
            log_prob, best = self._of_batch(some, context)
            for row, window in enumerate(some):
                end = len(window.tokens) - 1
                sums[window.text] += log_prob[row, end - window.scored : end].sum(dtype=float)
                greedy[window.text] &= best[row, end - window.scored : end].all()
        return [Score(float(s), bool(g)) for s, g in zip(sums, greedy, strict=True)]

    def _of_batch(
        self, windows: Sequence[_Window], context: int
    ) -> tuple[Float[np.ndarray, "batch positions"], Bool[np.ndarray, "batch positions"]]:
        longest = max(len(window.tokens) for window in windows) - 1
        width = min(context, max(SHORTEST, 1 << (longest - 1).bit_length()))
        rows = np.full((self.batch, width + 1), PADDING, np.int32)
        for row, window in enumerate(windows):
            rows[row, : len(window.tokens)] = window.tokens
        mesh = self.run.mesh
        with self.run.on_mesh():
            placed = rows if mesh is None else place_batch(rows, mesh, self.batch)
            log_prob, best = _log_probs(self.run.model, placed)
        return np.asarray(log_prob), np.asarray(best)


def _windows(
    text: int, tokens: Int[np.ndarray, "_"], start: int, context: int
) -> Iterator[_Window]:
    """Windows of at most context + 1 tokens, in which each token from `start` on is scored once."""
    for first in range(start, len(tokens), context):
        end = min(first + context, len(tokens))
        yield _Window(text, tokens[max(0, end - 1 - context) : end], end - first)


@jax.jit
def _log_probs(
    model: Transformer, tokens: Int[Array, "batch positions_and_one"]
) -> tuple[Float[Array, "batch positions"], Bool[Array, "batch positions"]]:
    """Each target's log-probability, and whether it is the most probable token."""
    targets = jnp.maximum(tokens[:, 1:], 0)
    logits, _ = model(jnp.maximum(tokens[:, :-1], 0), inference=True)
    best = jnp.argmax(laid_out(logits, (BATCH, None, None)), axis=-1) == targets
    return tuple(laid_out(each, (None, None)) for each in (target_log_prob(logits, targets), best))
