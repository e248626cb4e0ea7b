"""What users ask of a fitted law, and whether the answer is the law's or the data's: which conclusions survive a change of law.

Five questions: do experts help at every size; does their gain shrink with size (c > 0); where does it end (N_cutoff); what is
a routed model worth (EPC/N); which router is best. A law without the interaction term takes for granted that EPC/N is the same
at every size: it has no answer to the second and third, and is left out of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fit.analysis import Estimate, Options, Point, Result
from fit.epc import epc_quantity, has_cutoff, has_epc
from fit.intervals.bootstrap import interval
from fit.load.schema import E, N
from fit.studies.candidates import Candidate, Ranking

YES, OPEN, NO = "yes", "not shown", "no"
UNDECIDED = "undecided"
"""The draws do not agree on the best router at the level asked for."""

SAME = 1.25
"""Figures of two laws within this factor of each other agree, whatever their intervals: too little to change a decision (our choice)."""

ALL = "all"
"""The router column of a question that is about all of them."""


@dataclass(frozen=True)
class Question:
    """A question: a key that does not change, how a reader would ask it, and what it is about in the middle of a sentence.

    A `scale` question is answered by a positive figure; others by a word, and `yes` is what a sentence says if it is yes.
    """

    key: str
    text: str
    about: str
    yes: str = ""
    scale: bool = False


@dataclass(frozen=True)
class Answer:
    """What one law says: in a word (`says`: yes, not shown, no; a router, or undecided), with the figure behind it.

    For the best router: `favours` is the one with the least predicted loss, `share` the part of the draws in which it is.
    """

    question: Question
    router: str
    law: str
    says: str
    figure: Estimate | None = None
    favours: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Whether laws agree on an answer. `survives`: `every` law that answers says the same; only the `best` do, those that
    predict about equally well; or `none`: it depends on the law even among these. `abstain`: laws ranked with the best that have no answer.
    """

    question: Question
    router: str
    survives: str
    best: tuple[Answer, ...]
    others: tuple[Answer, ...]
    abstain: tuple[str, ...]


HELP = Question(
    "experts_help", "Do experts help at every size tried?", "whether experts help at every size tried", "experts help at every size tried"
)
SHRINKS = Question(
    "gain_shrinks",
    "Does the gain from experts shrink with N?",
    "whether the gain from experts shrinks with N",
    "the gain from experts shrinks with N",
)
CUTOFF = Question("n_cutoff", "At which N does it end (N_cutoff)?", "N_cutoff, the N at which it ends", scale=True)


def worth(point: Point) -> Question:
    """How many times its own size a routed model is worth."""
    return Question(f"epc_ratio({point.label})", f"What is {point.label} worth (EPC/N)?", f"EPC/N at {point.label}", scale=True)


def best_router(point: Point) -> Question:
    """Which router has the lowest loss."""
    return Question(f"best_router({point.label})", f"Which router is best at {point.label}?", f"the best router at {point.label}")


def answers(candidates: Sequence[Candidate], options: Options) -> tuple[Answer, ...]:
    """Every answer of every law in N and E, the headline first, the best router last. `options.points` are the models asked about."""
    found: list[Answer] = []
    for candidate in candidates:
        result = candidate.result
        if has_epc(result.law):
            found += [_help(result, options), *_shrinks(result), *(_worth(result, options, point) for point in options.points)]
    laws = dict.fromkeys(candidate.law for candidate in candidates if has_epc(candidate.result.law))
    for law in laws:
        results = {c.router: c.result for c in candidates if c.law == law}
        if len(results) > 1:
            found += [_best(law, results, point, options.level) for point in options.points if point.e > 1]
    headlines = (SHRINKS, CUTOFF, HELP)
    return tuple(sorted(found, key=lambda answer: headlines.index(answer.question) if answer.question in headlines else len(headlines)))


def _ratio(result: Result, n: Float[np.ndarray, "points"], e: Float[np.ndarray, "points"], options: Options) -> list[Estimate]:
    """EPC/N at these points."""
    quantity = epc_quantity(result.law, n, e)
    if result.draws is None:
        values = quantity(result.fit.theta[None], result.fit.beta[None])[0] / n
        return [Estimate(float(value)) for value in values]
    found = interval(result.draws, quantity, options.level, options.method)
    rows = zip(found.value / n, found.low / n, found.high / n, strict=True)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in rows]


def _verdict(lows: Sequence[float | None], highs: Sequence[float | None], null: float) -> str:
    """Whether intervals lie above the null value, all of them; `no` if one lies below it."""
    if any(high is not None and high < null for high in highs):
        return NO
    return YES if all(low is not None and low > null for low in lows) else OPEN


def _help(result: Result, options: Options) -> Answer:
    """EPC/N above 1 with its whole interval at every size of the runs, at E = 64 or the largest below; shown is the least."""
    sizes, experts = np.unique(result.runs.numeric(N)), result.runs.numeric(E)
    e = min(64.0, float(experts.max()))
    ratios = _ratio(result, sizes, np.full_like(sizes, e), options)
    says = _verdict([r.low for r in ratios], [r.high for r in ratios], 1.0)
    return Answer(HELP, result.router, result.law.name, says, min(ratios, key=lambda r: r.low if r.low is not None else r.value))


def _shrinks(result: Result) -> list[Answer]:
    if not has_cutoff(result.law):
        return []
    c, cutoff = result.coefficients["c"], result.derived["n_cutoff"]
    router, law = result.router, result.law.name
    return [
        Answer(SHRINKS, router, law, _verdict([c.low], [c.high], 0.0), c),
        Answer(CUTOFF, router, law, "", cutoff),
    ]


def _worth(result: Result, options: Options, point: Point) -> Answer:
    ratio = _ratio(result, np.array([point.n]), np.array([point.e]), options)[0]
    epc = result.derived[f"epc({point.label})"]
    return Answer(worth(point), result.router, result.law.name, "", Estimate(ratio.value, ratio.low, ratio.high, epc.extrapolated))


def _best(law: str, results: Mapping[str, Result], point: Point, level: float) -> Answer:
    """The router of least predicted loss, and the chance that it is: over every combination of one draw of each router."""
    predicted = {router: result.derived[f"loss({point.label})"] for router, result in results.items()}
    best = min(predicted, key=lambda router: predicted[router].value)
    share = _share(results, best, point)
    says = best if share is None or share >= level else UNDECIDED
    return Answer(best_router(point), ALL, law, says, predicted[best], best, share)


def _share(results: Mapping[str, Result], best: str, point: Point) -> float | None:
    """The draws of different routers are independent, so a draw of the best one wins with the product of its chances against each."""
    data = {N: np.array([point.n]), E: np.array([point.e])}
    samples: dict[str, Float[np.ndarray, "draws"]] = {}
    for router, result in results.items():
        if result.draws is None or not len(result.draws):
            return None
        refits = result.draws.refits
        samples[router] = np.sort(result.law.log10_loss(refits.theta, refits.beta, data)[:, 0])
    wins = np.ones(len(samples[best]))
    for router, sample in samples.items():
        if router != best:
            wins *= 1 - np.searchsorted(sample, samples[best], side="right") / len(sample)
    return float(wins.mean())


def agreements(found: Sequence[Answer], rankings: Mapping[str, Ranking]) -> tuple[Agreement, ...]:
    """Question by question and router by router, what survives a change of law."""
    pairs = dict.fromkeys((answer.question, answer.router) for answer in found)
    order = {question: place for place, question in enumerate(dict.fromkeys(question for question, _ in pairs))}
    out: list[Agreement] = []
    for question, router in sorted(pairs, key=lambda pair: order[pair[0]]):
        mine = [answer for answer in found if (answer.question, answer.router) == (question, router)]
        equal = equally_good(rankings, router)
        best = tuple(answer for answer in mine if answer.law in equal)
        others = tuple(answer for answer in mine if answer.law not in equal)
        asked = {answer.law for answer in found if answer.router == router}
        abstain = tuple(law for law in equal if law in asked and law not in {answer.law for answer in mine})
        survives = "every" if agree(mine) else "best" if best and agree(best) else "none"
        out.append(Agreement(question, router, survives, best, others, abstain))
    return tuple(out)


def equally_good(rankings: Mapping[str, Ranking], router: str) -> tuple[str, ...]:
    """The laws that predict about equally well: for one router, or (`all`) for every one of them."""
    if router != ALL:
        return rankings[router].equal if router in rankings else ()
    chosen = list(rankings.values())
    return tuple(law for law in chosen[0].equal if all(law in ranking.equal for ranking in chosen)) if chosen else ()


def agree(found: Sequence[Answer]) -> bool:
    """Whether answers are the same: the same word; or figures whose intervals have a value in common, or within `SAME` of each other."""
    if len({answer.says for answer in found}) > 1:
        return False
    figures = [answer.figure for answer in found if answer.figure is not None]
    if not figures or not found[0].question.scale:
        return True
    values = [figure.value for figure in figures]
    if max(values) <= SAME * min(values):
        return True
    ends = [(figure.low, figure.high) for figure in figures if figure.low is not None and figure.high is not None]
    return len(ends) == len(figures) and max(low for low, _ in ends) <= min(high for _, high in ends)
