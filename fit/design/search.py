"""The least loss within limits: every number of experts and granularity a cell, the best size of each cell found exactly.

For fixed E and G every law here is a sum of exponentials in log N_a along a budget, hence convex in it: a search that narrows down
between the smallest size and the largest that the limits allow ends at the least; an end that a limit sets is tried itself. What is left, E
and G, is a list: all whole numbers of experts up to 64, beyond it steps of 4 % and then every number about the best; powers of two for G.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from fit.design.memory import training_bytes
from fit.design.predictor import Predictor
from fit.design.question import SERVING_BYTES, Question
from fit.laws.repeats import PUBLISHED_STAR, worth
from fit.runs.schema import A, C, D, E, G, K, N, P, U

SMALLEST, LARGEST = 1e3, 1e15
"""The search box of the active parameters: ends that are no answer."""

MOST_EXPERTS = 4096
"""The search box of E."""

GRANULARITIES = tuple(2**power for power in range(11))
"""G that are tried where a law reads it."""

_EVERY, _STEP = 64, 1.04
"""Up to the first all numbers of experts are tried, beyond it steps of the second."""

_POINTS = 17
_ROUNDS = 9
"""Of the search along N_a: its step is 1e-7 of a factor in the end, of which the loss feels the square where no limit binds."""

Line = Float[np.ndarray, "*batch cells"]


@dataclass(frozen=True, eq=False)
class Space:
    """The designs by one law that a question is about: `e` and `g` a value for each cell."""

    question: Question
    predictor: Predictor
    e: Float[np.ndarray, "cells"]
    g: Float[np.ndarray, "cells"]

    @property
    def k(self) -> float:
        """In units of a dense feed-forward's width."""
        return float(self.question.k or 1)

    def total(self, log_n: Line) -> Line:
        """All parameters."""
        return self.predictor.architecture.total(np.exp(log_n), self.e, self.k, self.g)

    def memory(self, log_n: Line) -> Line:
        """Bytes of a training step, on all devices."""
        return training_bytes(self.predictor.architecture, np.exp(log_n), self.e, self.k, self.g, self.question.devices)

    def flops_per_token(self, log_n: Line) -> Line:
        """Training FLOPs per token; a forward pass is a third."""
        return self.predictor.architecture.flops(np.exp(log_n), self.e, self.k, self.g)

    def tokens(self, log_n: Line) -> Line:
        """The most training tokens that the limits allow; at or below 0 where none."""
        if self.predictor.tokens is not None:
            return np.full_like(log_n + self.e, self.predictor.tokens)
        flops, served = self.question.flops, self.question.lifetime_tokens or 0.0
        with np.errstate(over="ignore"):
            found = np.inf if flops is None else flops / self.flops_per_token(log_n) - served / 3
        repeats = self.question.repeat or U in self.predictor.law.columns
        return np.minimum(found, np.inf if self.question.tokens is None or repeats else self.question.tokens) + 0 * log_n

    def allows(self, log_n: Line) -> Bool[np.ndarray, "*batch cells"]:
        """Whether models of this size keep every limit."""
        return self.holds(log_n) & self.affords(log_n)

    def holds(self, log_n: Line) -> Bool[np.ndarray, "*batch cells"]:
        """Whether they keep the limits on memory."""
        asked, within = self.question, np.ones(np.broadcast_shapes(log_n.shape, self.e.shape), dtype=bool)
        if asked.memory is not None:
            within &= self.memory(log_n) <= asked.memory
        if asked.serve_memory is not None:
            within &= self.total(log_n) <= asked.serve_memory / SERVING_BYTES
        return within

    def affords(self, log_n: Line) -> Bool[np.ndarray, "*batch cells"]:
        """Whether they keep the limits on a token's FLOPs."""
        asked, within = self.question, np.ones(np.broadcast_shapes(log_n.shape, self.e.shape), dtype=bool)
        if asked.flops is not None or asked.serve_flops is not None:
            fixed, served = self.predictor.tokens or 0.0, (asked.lifetime_tokens or 0.0) / 3
            most = np.inf if asked.flops is None or not fixed + served else asked.flops / (fixed + served)
            within &= self.flops_per_token(log_n) <= min(most, np.inf if asked.serve_flops is None else 3 * asked.serve_flops)
        return within

    @cached_property
    def every(self) -> "Space":
        """A cell for every point of a search in each cell."""
        return Space(self.question, self.predictor, np.tile(self.e, _POINTS), np.tile(self.g, _POINTS))

    @cached_property
    def largest(self) -> Float[np.ndarray, "cells"]:
        """log N_a of the largest model within the limits; NaN where none is."""
        asked, found = self.question, np.full_like(self.e, np.log(LARGEST))
        if asked.memory is not None or asked.serve_memory is not None:
            alone = Question(tokens=1.0, memory=asked.memory, devices=asked.devices, serve_memory=asked.serve_memory, k=asked.k)
            found = np.minimum(found, _largest_held(alone, self.predictor, self.e.tobytes(), self.g.tobytes()))
        if not (self.affords(np.full_like(self.e, np.log(LARGEST)))).all():
            found = np.minimum(found, self.largest_where(self.every.affords))
        return found

    def largest_where(self, allowed: Callable[[Line], Bool[np.ndarray, "*batch many"]]) -> Float[np.ndarray, "cells"]:
        """log N_a of the largest model that is allowed, of costs that rise with size; NaN where none is. `allowed` as in `every`."""
        low, high = np.full_like(self.e, np.log(SMALLEST)), np.full_like(self.e, np.log(LARGEST))
        ends = allowed(_points(low, high).ravel()).reshape(_POINTS, -1)
        for _ in range(11):
            low, high = _between(low, high, np.maximum(allowed(_points(low, high).ravel()).reshape(_POINTS, -1).sum(axis=0) - 1, 0))
        return np.where(ends[-1], np.log(LARGEST), np.where(ends[0], low, np.nan))

    def columns(self, log_n: Line, tokens: Line) -> dict[str, Line]:
        """The law's columns of these models; tokens that are read again count as what they are worth, where the law does not say."""
        asked = self.question
        repeats = asked.repeat and asked.tokens is not None and U not in self.predictor.law.columns
        fresh = worth(tokens, np.asarray(asked.tokens), np.asarray(PUBLISHED_STAR)) if repeats else tokens
        values = {
            N: lambda: np.exp(log_n), P: lambda: self.total(log_n), D: lambda: fresh, E: lambda: self.e,
            K: lambda: np.full_like(self.e, self.k), G: lambda: self.g, A: lambda: self.k / self.e,
            C: lambda: self.flops_per_token(log_n) * tokens, U: lambda: np.minimum(tokens, asked.tokens or np.inf),
        }  # fmt: skip
        return {name: values[name]() for name in self.predictor.law.columns}

    def loss(self, log_n: Line, theta: Float[np.ndarray, "*batch shapes"], beta: Float[np.ndarray, "*batch features"]) -> Line:
        """Loss with the most tokens allowed; infinite where the law has none."""
        tokens = self.tokens(log_n)
        with np.errstate(all="ignore"):
            found = 10 ** self.predictor.law.log10_loss(theta, beta, self.columns(log_n, np.maximum(tokens, 1e-300)))
        return np.where((tokens > 0) & ~np.isnan(found), found, np.inf)

    def least(
        self, theta: Float[np.ndarray, "*batch shapes"], beta: Float[np.ndarray, "*batch features"], rounds: int = _ROUNDS
    ) -> tuple[Line, Line]:
        """log N_a of the best model of each cell, and its loss: infinite in a cell without a model within the limits."""
        there = np.isfinite(self.largest)
        high = np.broadcast_to(np.where(there, self.largest, np.log(SMALLEST)), (*theta.shape[:-1], len(self.e)))
        place, loss = least_between(lambda x: self.every.loss(x, theta, beta), np.full_like(high, np.log(SMALLEST)), high, rounds)
        return place, np.where(there, loss, np.inf)

    def at(self, chosen: Bool[np.ndarray, "cells"]) -> "Space":
        """The same with fewer cells."""
        return Space(self.question, self.predictor, self.e[chosen], self.g[chosen])


@lru_cache(maxsize=64)
def _largest_held(question: Question, predictor: Predictor, e: bytes, g: bytes) -> Float[np.ndarray, "cells"]:
    """log N_a of the largest model of each cell that memory holds: the same for every budget that is tried."""
    cells = Space(question, predictor, np.frombuffer(e), np.frombuffer(g))
    return cells.largest_where(cells.every.holds)


def _points(low: Line, high: Line) -> Float[np.ndarray, "*batch points cells"]:
    """Points from each low end to each high end, both among them."""
    return low[..., None, :] + np.linspace(0, 1, _POINTS)[:, None] * (high - low)[..., None, :]


def _between(low: Line, high: Line, first: Int[np.ndarray, "*batch cells"], steps: int = 1) -> tuple[Line, Line]:
    """The part of each interval from its point `first` on, so many steps long, within the interval."""
    step = (high - low) / (_POINTS - 1)
    return low + np.maximum(first, 0) * step, low + np.minimum(first + steps, _POINTS - 1) * step


def least_between(
    loss: Callable[[Float[np.ndarray, "*batch many"]], Float[np.ndarray, "*batch many"]], low: Line, high: Line, rounds: int
) -> tuple[Line, Line]:
    """The least of convex curves, each between its ends: seventeen points, then as many between the neighbours of the best, and again.

    `loss` takes the points of all cells as one axis, point by point. Values that are infinite lie at the upper end. Where the least is at
    an end, it is the end itself.
    """
    place, least = low, np.full_like(low, np.inf)
    for _ in range(rounds):
        points = _points(low, high)
        losses = loss(points.reshape(*low.shape[:-1], -1)).reshape(points.shape)
        best = np.argmin(losses, axis=-2)
        here, at = (np.take_along_axis(values, best[..., None, :], axis=-2)[..., 0, :] for values in (losses, points))
        better = here <= least
        place, least = np.where(better, at, place), np.where(better, here, least)
        low, high = _between(low, high, best - 1, 2)
    return place, least


def expert_counts(question: Question, predictor: Predictor, granularity: int) -> Float[np.ndarray, "counts"]:
    """Numbers of experts E to try at this G; empty where none is allowed."""
    least, allowed = question.k or 1, np.inf if question.max_experts is None else question.max_experts // granularity
    only = 1 if predictor.dense else question.experts or predictor.experts
    if only is not None:
        return np.array([only] if least <= only <= allowed else [], dtype=np.float64)
    most = min(MOST_EXPERTS, allowed)
    far = np.round(_EVERY * _STEP ** np.arange(1, int(np.log(MOST_EXPERTS / _EVERY) / np.log(_STEP)) + 2))
    all_counts = np.concatenate([np.arange(1, _EVERY + 1), far, [most]])
    return np.unique(all_counts[(all_counts >= least) & (all_counts <= most)])


def space(question: Question, predictor: Predictor, experts: Float[np.ndarray, "counts"] | None = None) -> Space:
    """The cells of a question by a law; `experts`: these numbers of experts alone."""
    free = G in predictor.law.columns and question.granularity is None and not predictor.dense
    pairs = [
        (float(e), float(g))
        for g in (GRANULARITIES if free else (question.granularity or 1,))
        for e in expert_counts(question, predictor, g)
        if experts is None or e in experts
    ]
    cells = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return Space(question, predictor, cells[:, 0], cells[:, 1])


def neighbours(among: Space, cell: int) -> Space:
    """Every number of experts between the two that were tried about a cell, at its G."""
    own = np.sort(among.e[among.g == among.g[cell]])
    place = int(np.searchsorted(own, among.e[cell]))
    ends = own[max(place - 1, 0)], own[min(place + 1, len(own) - 1)]
    e = np.arange(ends[0], ends[1] + 1)
    return Space(among.question, among.predictor, e, np.full_like(e, among.g[cell]))
