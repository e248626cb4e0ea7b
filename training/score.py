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
from reference.mesh import BATCH, laid_out
from reference.objective import PADDING, of_logits, target_log_prob
from reference.transformer import Transformer
from training.load import LoadedRun
from training.placing import place_batch
from training.sampling import sample

SHORTEST = 16
"""Least number of tokens to which sequences are padded; above, powers of two."""


class Score(NamedTuple):
    """Of a continuation."""

    log_prob: float
    """In nats, given what is before it."""
    greedy: bool
    """Whether each of its tokens is the most probable one."""


class Window(NamedTuple):
    """Some tokens of a text."""

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

    def continued(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The most probable next `tokens` of each text, or fewer where its document ends."""
        found: list[str] = []
        for first in range(0, len(texts), self.batch):
            starts = [self._document(text) for text in texts[first : first + self.batch]]
            keys = [jax.random.key(0)] * len(starts)
            with self.run.on_mesh():
                written = sample(self.run.model, starts, tokens, keys, temperature=0.0)
            for start, row in zip(starts, written, strict=True):
                after = row[len(start) :]
                ends = np.flatnonzero(after == self.run.tokenizer.end)
                found.append(self.run.tokenizer.decode(after[: ends[0]] if len(ends) else after))
        return found

    def _document(self, text: str) -> Int[np.ndarray, "all_tokens"]:
        end = np.array([self.run.tokenizer.end], np.int32)
        return np.concatenate([end, self.run.tokenizer.encode(text)])

    def _scores(self, texts: Sequence[tuple[Int[np.ndarray, "_"], int]]) -> list[Score]:
        """Scores of the tokens of each text from a position on."""
        context = self.run.model.config.context
        all_of_them = [
            window
            for i, (tokens, start) in enumerate(texts)
            for window in windows(i, tokens, start, context)
        ]
        # Of like lengths together, so that little is padded; the longest first, as memory has it.
        all_of_them.sort(key=lambda window: (-len(window.tokens), window.text))
        sums, greedy = np.zeros(len(texts)), np.ones(len(texts), bool)
        for i in range(0, len(all_of_them), self.batch):
            some = all_of_them[i : i + self.batch]
            log_prob, best = self._of_batch(some, context)
            for row, window in enumerate(some):
                end = len(window.tokens) - 1
                sums[window.text] += log_prob[row, end - window.scored : end].sum(dtype=float)
                greedy[window.text] &= best[row, end - window.scored : end].all()
        return [Score(float(s), bool(g)) for s, g in zip(sums, greedy, strict=True)]

    def _of_batch(
        self, some: Sequence[Window], context: int
    ) -> tuple[Float[np.ndarray, "batch positions"], Bool[np.ndarray, "batch positions"]]:
        longest = max(len(window.tokens) for window in some) - 1
        width = min(context, max(SHORTEST, 1 << (longest - 1).bit_length()))
        rows = np.full((self.batch, width + 1), PADDING, np.int32)
        for row, window in enumerate(some):
            rows[row, : len(window.tokens)] = window.tokens
        mesh = self.run.mesh
        with self.run.on_mesh():
            placed = rows if mesh is None else place_batch(rows, mesh, self.batch)
            log_prob, best = _log_probs(self.run.model, placed)
        return np.asarray(log_prob), np.asarray(best)


def windows(text: int, tokens: Int[np.ndarray, "_"], start: int, context: int) -> Iterator[Window]:
    """Windows of at most context + 1 tokens, in which each token from `start` on is scored once."""
    for first in range(start, len(tokens), context):
        end = min(first + context, len(tokens))
        yield Window(text, tokens[max(0, end - 1 - context) : end], end - first)


@jax.jit
def _log_probs(
    model: Transformer, tokens: Int[Array, "batch positions_and_one"]
) -> tuple[Float[Array, "batch positions"], Bool[Array, "batch positions"]]:
    """Each target's log-probability, and whether it is the most probable token."""
    targets = jnp.maximum(tokens[:, 1:], 0)
    x, _ = model.features(jnp.maximum(tokens[:, :-1], 0), inference=True)
    log_prob, best = of_logits(_target_and_best, model, x, targets)
    return laid_out(log_prob, (None, None)), laid_out(best, (None, None))


def _target_and_best(
    logits: Float[Array, "batch positions vocabulary"], targets: Int[Array, "batch positions"]
) -> tuple[Float[Array, "batch positions"], Bool[Array, "batch positions"]]:
    best = jnp.argmax(laid_out(logits, (BATCH, None, None)), axis=-1) == targets
    return target_log_prob(logits, targets), best
