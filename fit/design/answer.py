"""The answer by each law: the best design, the band of designs as good, what each limit is worth, and what an answer rests on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import root_scalar

from common.errors import InputError
from fit.design.predictor import Predictor
from fit.design.question import SERVING_BYTES, Question, amount, flag
from fit.design.search import GRANULARITIES, LARGEST, MOST_EXPERTS, SMALLEST, Space, neighbours, space
from fit.estimate import Estimate
from fit.runs.schema import NATS
from fit.uncertainty.intervals import estimates

NEAR = 0.005
"""A design is as good as the best within this part of its loss, where the law has no interval (our choice)."""

_CHEAPEST, _DEAREST = 1e3, 1e36
"""Training FLOPs between which the least for a loss is sought."""

_DRAW_ROUNDS = 5
"""Of the search along N_a for each draw: to a step of 4e-4 of a factor, of which the loss feels the square."""

_NO_SLOPE = 1e-9
"""Rounding of a loss, over the step of the difference."""

_FARTHEST = 1e12
"""Factor up to which a limit is lifted in search of a remedy."""


@dataclass(frozen=True)
class Design:
    """A model by a law: N_a, E, k, G, D, what it costs, and its loss. E and k in units of a dense feed-forward's width."""

    active: float
    experts: float
    k: float
    granularity: float
    tokens: float
    total: float
    training_flops: float
    inference_flops: float
    """Of the lifetime's tokens."""
    memory: float
    """Bytes of a training step, on all devices."""
    serve_memory: float
    serve_flops: float
    """Per token."""
    loss: Estimate


@dataclass(frozen=True)
class Band:
    """Every design with a loss of at most `threshold`: ranges of E, of N_a and of G. `open_experts`: the search box ends it above."""

    threshold: float
    experts: tuple[float, float]
    active: tuple[float, float]
    granularity: tuple[float, float]
    open_experts: bool


@dataclass(frozen=True)
class Price:
    """What a limit is worth: how the best loss changes when it is doubled, and d loss / d log limit at the best design's E and G."""

    doubled: Estimate
    slope: float


@dataclass(frozen=True, eq=False)
class Answer:
    """By one law. `best` is None where `stopped` says that an edge of the search box, no limit, would be the answer."""

    predictor: Predictor
    question: Question
    best: Design | None
    band: Band | None = None
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    stopped: str = ""
    flags: tuple[str, ...] = ()
    outside: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def across(self) -> str:
        """What there is to choose beside the size: `E`, else `G`, else nothing."""
        cells = space(self.question, self.predictor)
        return "E" if len(np.unique(cells.e)) > 1 else "G" if len(np.unique(cells.g)) > 1 else ""


@dataclass(frozen=True, eq=False)
class _Found:
    """The best cell of a space, with the loss of every cell."""

    cells: Space
    log_n: Float[np.ndarray, "cells"]
    losses: Float[np.ndarray, "cells"]
    e: float
    g: float
    size: float
    loss: float


def solve(question: Question, predictor: Predictor) -> _Found | None:
    """The design of least loss within the limits, by the law's own coefficients; None where there is none."""
    cells = space(question, predictor)
    if not np.isfinite(cells.largest).any():
        return None
    log_n, losses = cells.least(predictor.theta, predictor.beta)
    if not np.isfinite(losses).any():
        return None
    near = neighbours(cells, int(np.argmin(losses)))
    near_n, near_losses = near.least(predictor.theta, predictor.beta)
    at = int(np.argmin(near_losses))
    return _Found(cells, log_n, losses, float(near.e[at]), float(near.g[at]), float(near_n[at]), float(near_losses[at]))


def cheapest(question: Question, predictor: Predictor) -> Question | None:
    """The question with the least FLOPs that reach its loss within the other limits; None where none do."""
    target, free = question.loss, replace(question, loss=None, flops=question.flops or _DEAREST)
    if target is None:
        return question

    def excess(log_flops: float) -> float:
        """How far the best loss of this budget is above the target."""
        found = solve(replace(free, flops=float(np.exp(log_flops))), predictor)
        return 1e6 if found is None else min(found.loss, 1e6) - target

    most, least = float(np.log(free.flops or _DEAREST)), float(np.log(_CHEAPEST))
    if excess(most) > 0:
        return None
    if excess(least) <= 0:
        return replace(question, flops=_CHEAPEST)
    return replace(question, flops=float(np.exp(_root(excess, least, most))))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is just at or below 0."""
    root, step = float(root_scalar(falling, bracket=(low, high), method="brentq", xtol=1e-11).root), 1e-11
    while falling(root) > 0:
        root, step = min(root + step, high), 2 * step
    return root


def answer(question: Question, predictor: Predictor) -> Answer | str:
    """What a law says, or why it says nothing: what it cannot be asked, or the limit to lift and by how much."""
    if reason := predictor.refuses(question):
        return reason
    asked = cheapest(question, predictor)
    found = solve(asked, predictor) if asked is not None else None
    if asked is None or found is None:
        return remedy(question, predictor)
    flags = tuple(predictor.flags(question))
    if predictor.architecture.body(np.array([np.exp(found.size)]))[0] < np.exp(found.size) / 2:
        flags = (*flags, "more than half of its N_active are embeddings: too small for this law")
    if words := _edge(question, found):
        return Answer(predictor, asked, None, stopped=words, flags=flags)
    figures = _figures(asked, found)
    best = _design(found, figures["loss"])
    prices = {name: Price(figures[name], _slope(asked, found, name)) for name in asked.limits}
    point = Space(asked, predictor, np.array([found.e]), np.array([found.g]))
    size = np.array([found.size])
    columns = point.columns(size, point.tokens(size)) | {"num_experts": point.e, "training_flops": np.array([best.training_flops])}
    outside = predictor.outside({name: float(values[0]) for name, values in columns.items()})
    return Answer(predictor, asked, best, _band(found, best.loss), prices, "", flags, outside)


def answers(
    question: Question, predictors: Sequence[Predictor], left_out: Iterable[tuple[str, str]] = ()
) -> tuple[list[Answer], list[tuple[str, str]]]:
    """The answer of each law that has one, and the laws without, with the reason. Raises `InputError` where no law has one."""
    found, without = list[Answer](), list(left_out)
    for one in predictors:
        made = answer(question, one)
        if isinstance(made, str):
            without.append((one.name, made))
        else:
            found.append(made)
    if not found:
        reasons = [f"{name}: {reason}" for name, reason in without if name in {one.name for one in predictors}] or ["no law was asked"]
        raise InputError("no law has a design within these limits\n" + "\n".join(reasons[:2]))
    return found, without


def _design(found: _Found, loss: Estimate) -> Design:
    cells = Space(found.cells.question, found.cells.predictor, np.array([found.e]), np.array([found.g]))
    size = np.array([found.size])
    total, per_token, tokens = float(cells.total(size)[0]), float(cells.flops_per_token(size)[0]), float(cells.tokens(size)[0])
    served = per_token / 3 * (cells.question.lifetime_tokens or 0.0)
    return Design(
        float(np.exp(found.size)), found.e, cells.k, found.g, tokens, total, per_token * tokens, served, float(cells.memory(size)[0]),
        SERVING_BYTES * total, per_token / 3, loss,
    )  # fmt: skip


def _edge(question: Question, found: _Found) -> str:
    """Which edge of the search box the best design lies at, in words; empty at none."""
    cells = found.cells
    wide = question.max_experts is None or question.max_experts // found.g >= MOST_EXPERTS
    if found.e >= MOST_EXPERTS and wide and question.experts is None:
        sizes = [flag(name) for name in ("memory", "serve_memory") if getattr(question, name) is not None]
        if not sizes:
            return "no interior optimum in E by FLOPs alone; give --memory or --serve-memory"
        return f"no interior optimum in E: {' and '.join(sizes)} would not bind below {MOST_EXPERTS:,} experts; give less, or --max-experts"
    free = len(np.unique(cells.g)) > 1
    if free and found.g >= GRANULARITIES[-1]:
        return f"no interior optimum in G up to {GRANULARITIES[-1]:,}; give --granularity or --max-experts"
    if found.size > np.log(LARGEST) - 1e-3:
        return "no interior optimum in N: nothing given limits the size; give --flops, --memory or --serve-flops"
    if found.size < np.log(SMALLEST) + 1e-3:
        return f"no interior optimum in N above {SMALLEST:,.0f} parameters: these limits leave no room for a larger model"
    return ""


def _few(cells: Space, e: float) -> Space:
    """Cells at steps of a square root of two in E and the best one's, for thousands of draws."""
    steps = np.unique(np.append(np.round(2 ** (np.arange(2 * 12 + 1) / 2)), e))
    own = np.unique(cells.e)
    steps = np.unique(np.append(own[np.searchsorted(own, steps[(steps >= own[0]) & (steps <= own[-1])])], own[[0, -1]]))
    return cells.at(np.isin(cells.e, steps))


def _figures(asked: Question, found: _Found) -> dict[str, Estimate]:
    """The best design's loss, and the change of the least loss at each limit doubled, with intervals where the law is fitted."""
    predictor, names = found.cells.predictor, list(asked.limits)
    doubled = {name: asked.scaled(name, 2.0) for name in names}
    result = predictor.result
    if result is None:
        changes = {name: _at(more, predictor) - found.loss for name, more in doubled.items()}
        return {"loss": Estimate(found.loss, unit=NATS)} | {name: Estimate(min(0.0, change), unit=NATS) for name, change in changes.items()}
    point = Space(asked, predictor, np.array([found.e]), np.array([found.g]))
    spaces = [_few(space(question, predictor), found.e) for question in (asked, *doubled.values())]

    def quantity(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "draws quantities"]:
        """The design's loss, and the differences of each draw's own least losses."""
        here = point.loss(np.full((len(theta), 1), found.size), theta, beta)
        least = [np.min(one.least(theta, beta, _DRAW_ROUNDS)[1], axis=-1, keepdims=True) for one in spaces]
        return np.concatenate([here, *(np.minimum(one - least[0], 0.0) for one in least[1:])], axis=-1)

    rows = estimates(result.fit, result.draws, quantity, result.options.level, unit=result.runs.unit, errors=False, exact=False)
    return dict(zip(("loss", *names), rows, strict=True))


def best_experts(question: Question, predictor: Predictor) -> Estimate | None:
    """E of the best design of a fitted law, its interval from each draw's own best, in steps of a square root of two; None without one."""
    found = solve(question, predictor)
    if found is None or predictor.result is None or _edge(question, found):
        return None
    cells, result = _few(space(question, predictor), found.e), predictor.result

    def quantity(theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]) -> Float[np.ndarray, "draws 1"]:
        """E of each draw's own least loss."""
        return cells.e[np.argmin(cells.least(theta, beta, _DRAW_ROUNDS)[1], axis=-1)][..., None]

    return estimates(result.fit, result.draws, quantity, result.options.level, errors=False, exact=False)[0]


def _at(question: Question, predictor: Predictor) -> float:
    found = solve(question, predictor)
    return np.inf if found is None else found.loss


def _slope(asked: Question, found: _Found, name: str) -> float:
    """d loss / d log limit: at the best E and G, the size moving along; 0 where the limit does not bind, NaN for a number of experts."""
    if name == "max_experts":
        return np.nan
    step = 1e-4
    moved: list[float] = []
    for factor in (np.exp(-step), np.exp(step)):
        cells = Space(asked.scaled(name, float(factor)), found.cells.predictor, np.array([found.e]), np.array([found.g]))
        moved.append(float(cells.least(cells.predictor.theta, cells.predictor.beta)[1][0]))
    slope = (moved[1] - moved[0]) / (2 * step)
    return slope if slope < -_NO_SLOPE else 0.0


def _band(found: _Found, loss: Estimate) -> Band:
    """The designs as good as the best, on either side of the best size of each cell."""
    threshold = loss.high if loss.high is not None and np.isfinite(loss.high) else (1 + NEAR) * found.loss
    threshold, predictor = max(threshold, found.loss), found.cells.predictor
    inside = found.losses <= threshold
    cells, middle = found.cells.at(inside), found.log_n[inside]
    ends: list[float] = [found.size]
    for edge in (np.full_like(middle, np.log(SMALLEST)), cells.largest):
        near, far = middle.copy(), edge.copy()
        whole = cells.loss(far, predictor.theta, predictor.beta) <= threshold
        for _ in range(40):
            half = (near + far) / 2
            good = cells.loss(half, predictor.theta, predictor.beta) <= threshold
            near, far = np.where(good, half, near), np.where(good, far, half)
        ends += np.where(whole, edge, near).tolist()
    e, g = np.append(cells.e, found.e), np.append(cells.g, found.g)
    return Band(
        float(threshold), (float(e.min()), float(e.max())), (float(np.exp(min(ends))), float(np.exp(max(ends)))),
        (float(g.min()), float(g.max())), bool(e.max() >= MOST_EXPERTS),
    )  # fmt: skip


def remedy(question: Question, predictor: Predictor) -> str:
    """Which one limit to lift for a design to exist, and by how much: of those that do, the one to lift least."""
    factors = {name: _least_factor(question, predictor, name) for name in question.limits}
    options = [(factor, name) for name, factor in factors.items() if factor is not None]
    words: list[str] = []
    if options:
        factor, name = min(options)
        words.append(f"lift {flag(name)} {_times(factor)}, to {question.amount(name, getattr(question, name) * _up(factor))}")
    if question.loss is not None and (factor := _least_factor(question, predictor, "loss")) is not None:
        words.append(f"lift --loss {_times(factor)}, to {amount('loss', question.loss * _up(factor))}")
    return "no design is within these limits" + (f"; {', or '.join(words)}" if words else ", whichever one of them is lifted")


def _up(factor: float) -> float:
    """Rounded up to three digits, so that what is said suffices."""
    unit = 10 ** (np.floor(np.log10(factor)) - 2)
    return float(np.ceil(factor / unit) * unit)


def _times(factor: float) -> str:
    return f"{_up(factor):.3g} times"


def _possible(question: Question, predictor: Predictor) -> bool:
    """Whether there is a design within the limits, and one that reaches the loss asked for."""
    flops = question.flops if question.flops is not None or question.loss is None else _DEAREST
    found = solve(replace(question, loss=None, flops=flops), predictor)
    return found is not None and (question.loss is None or found.loss <= question.loss)


def _least_factor(question: Question, predictor: Predictor, name: str) -> float | None:
    """The least factor of one limit at which a design exists, to 0.1 %; None where none up to 10^12 does."""
    if not _possible(question.scaled(name, _FARTHEST), predictor):
        return None
    low, high = 0.0, float(np.log(_FARTHEST))
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _possible(question.scaled(name, float(np.exp(middle))), predictor) else (middle, high)
    return float(np.exp(high))
