"""The laws against each other: which predicts sizes it was not fitted to, and which answers survive a change of law.

The laws to go by are those not shown to predict held-out sizes worse than the best one. A law without an interaction c takes for granted
that the gain from experts does not change with size: it has no answer to whether it shrinks and where it ends (N_cutoff). Laws of dense
runs are asked for the floor, the exponents, the loss of the largest run and of one of ten times its compute, and tokens per parameter.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from common.document import Document, Note, Section, Table
from common.document.numbers import count, listing, many
from common.errors import InputError
from fit.analysis import OTHER_DRAWS, PAPER_LAW, Analysis, Options, Result, analyse
from fit.budget.allocate import allocate
from fit.causes import vary
from fit.derived import Point, default_points
from fit.design.answer import best_experts
from fit.design.predictor import of_result
from fit.design.question import SERVING_BYTES, Question
from fit.estimate import Estimate
from fit.gains import PATHS, gain_ratio, most_experts, paths_of
from fit.held_out import AXES_IN_WORDS, held_out_scores, held_out_table
from fit.laws import Law, law_named
from fit.quantities import FLOPS_PER_TOKEN, has_allocation, has_cutoff, has_epc
from fit.report import notes_of
from fit.report.record import cleaned, fit_json, simulated_runs
from fit.report.tables import table
from fit.report.view import FAR, OUTSIDE, View, cell, router_name
from fit.report.words import bullets, made
from fit.runs import Runs, routers
from fit.runs.schema import A, C, D, E, G, N
from fit.uncertainty.intervals import estimates

WITH_TOKENS = ("tokens-experts", "bounded-tokens", "bounded-tokens-interaction", "saturating-tokens", "joint")
"""Laws that are compared besides where runs have several numbers of experts and of tokens."""

COMPARED = ("separable", "bilinear", "bounded", "floor", "bounded-floor", "floor-interaction", "bounded-floor-interaction")
SAME, WIDE = 1.25, 2.0
"""Figures within the first factor agree, too little to change a decision; an interval wider than the second knows none (our choices)."""

LOSSES = 1.02, 1.2
"""The same two factors for losses, which move less: 2 % is what a third more compute gains at an exponent of 0.07 (our choices)."""

BUDGETS, GROWN = (1.0, 100.0), 10.0
"""Budgets of which tokens per parameter are asked, and how much larger than the largest run the model is whose loss is: in its compute."""

ALL, BEST, SHRINKS, FLOOR = "all", "Best router", "Gain falls with N", "Floor L_0"
"""The router of a question about all of them, and that question; those that a law without an interaction, or a floor, has no answer to."""

FORM = 1e-9
"""An interval narrower than this is rounding about a figure that a law's form fixes."""

_EXPONENTS: Mapping[tuple[str, str], str] = {
    (N, "a"): "Exponent of N", (N, "alpha_N"): "Exponent of N", (D, "b"): "Exponent of D", (C, "a"): "Exponent of C",
}  # fmt: skip
"""The question that a parameter of a law of dense runs answers, by the column that the law must read."""

Verdict = Literal["every law", "best laws", "depends on the law", "unknown"]
_VERDICTS: Mapping[Verdict, tuple[str, str, str]] = {
    "every law": ("every", "holds under every law", "hold under every law"),
    "best laws": ("best", "holds under the laws that predict best alone", "hold under the laws that predict best alone"),
    "depends on the law": ("depends", "depends on the law", "depend on the law"),
    "unknown": ("unknown", "is unknown", "are unknown"),
}
"""Each verdict in a table's cell, and in a sentence of one answer and of several."""


@dataclass(frozen=True)
class Answer:
    """What one law answers: a word (yes, no, unknown; a router) or, where `says` is empty, the figure, cut at `limit`, where data end.

    For the best router `chance` is the share of the draws in which it has the least predicted loss. `same` and `wide` are the factors
    within which figures agree, and beyond which an interval knows none.
    """

    question: str
    router: str
    law: str
    says: str
    figure: Estimate
    limit: float = math.inf
    chance: float | None = None
    same: float = SAME
    wide: float = WIDE

    @property
    def ends(self) -> tuple[float, float, float]:
        """The figure and the ends of its interval; from 0 to the limit where there is none."""
        low, high = (0.0, math.inf) if self.figure.low is None or self.figure.high is None else (self.figure.low, self.figure.high)
        return min(self.figure.value, self.limit), min(low, self.limit), min(high, self.limit)


@dataclass(frozen=True)
class Agreement:
    """Whether an answer survives a change of law. `best`: answers of the laws to go by; `abstain`: those of these laws without one."""

    question: str
    router: str
    verdict: Verdict
    best: tuple[Answer, ...]
    others: tuple[Answer, ...]
    abstain: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The answer of the laws to go by, a word or the range of their figures; empty where they have none."""
        words = {one.says for one in self.best}
        return "" if self.verdict == "unknown" or len(words) != 1 else words.pop() or spread(self.best)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The fits with their ranking, the laws to go by, and which answers survive a change of law."""

    analysis: Analysis
    trusted: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    held_out_by: Mapping[str, Mapping[str, float]]
    """Mean CRPS of ln loss by the column held out and law (`held_out_scores`)."""


def compare(runs: Runs, options: Options | None = None, progress: Callable[[int, int, str], None] | None = None) -> Comparison:
    """Fit every law to every router's runs, with draws, and hold their answers against each other.

    `options.points` are the models asked about. Raises `InputError` for an unknown router, runs without N and E, or laws that answer none
    of the questions, `NotIdentifiedError` where no law can be fitted.
    """
    analysis = analyse(runs, asked(runs, options), progress)
    laws = tuple(dict.fromkeys(result.law.name for result in analysis.results if comparable(result.law)))
    trusted = analysis.ranking.equal if analysis.ranking else laws
    return Comparison(analysis, trusted, agreements(tuple(answers(analysis)), trusted), held_out_scores(analysis))


def comparable(law: Law) -> bool:
    """Whether a law has answers, or scores of what it predicts, that others can be held against."""
    return has_epc(law) or law.dense or bool({A, G} & set(law.columns))


def asked(runs: Runs, options: Options | None = None) -> Options:
    """The options, with the laws, models and draws of a comparison where none are asked for."""
    options = options or Options()
    laws = [law if isinstance(law, Law) else law_named(law) for law in options.laws if law != "per-size"]
    if options.laws and not any(comparable(law) for law in laws):
        raise InputError("nothing to compare: no law asked for is one in N and E, in k/E or G, or of dense runs")
    fewer = OTHER_DRAWS if options.other_draws is None else options.other_draws
    if not routers(runs) or (runs.has(E) and len(np.unique(runs.numeric(E))) == 1):
        return replace(options, points=options.points or _largest(runs), other_draws=fewer)
    with_tokens = WITH_TOKENS if runs.has(D) and vary(runs.numeric(D)) else ()
    known = {name: runs.numeric(name) for name in (N, E, D) if runs.has(name)}
    points = options.points or (default_points(known) if N in known else ())
    return replace(options, laws=options.laws or (*with_tokens, *COMPARED), points=points, other_draws=fewer)


def _largest(runs: Runs) -> tuple[Point, ...]:
    """The run of most compute, and a model of `GROWN` times as much: of as many tokens a parameter, or of the only number of tokens."""
    if not runs.has(N):
        return ()
    n, d = runs.numeric(N), runs.numeric(D) if runs.has(D) else None
    k, e = int(np.argmax(n if d is None else n * d)), float(runs.numeric(E)[0]) if runs.has(E) else 1.0
    if d is None:
        return Point(float(n[k]), e), Point(GROWN * float(n[k]), e)
    more = (GROWN**0.5, GROWN**0.5) if vary(d) else (GROWN, 1.0)
    return Point(float(n[k]), e, float(d[k])), Point(more[0] * float(n[k]), e, more[1] * float(d[k]))


def answers(analysis: Analysis) -> Iterator[Answer]:
    """Every answer of every law in N and E or of dense runs, the best router last."""
    options, results = analysis.options, [result for result in analysis.results if has_epc(result.law)]
    dense = [answer for result in analysis.results if result.law.dense for answer in _of_dense_runs(result, options.points)]
    order = [FLOOR, *dict.fromkeys(_EXPONENTS.values())]
    yield from sorted(dense, key=lambda answer: order.index(answer.question) if answer.question in order else len(order))
    limit = FAR * float(analysis.runs.numeric(N).max()) if results else math.inf
    for result in results:
        router, law, derived = result.router, result.law.name, result.derived
        yield _help(result)
        yield from _growth(result)
        if D in result.law.columns:
            yield from _best_experts(result)
        if has_cutoff(result.law):
            c = result.coefficients["c"]
            yield Answer(SHRINKS, router, law, {1: "yes", -1: "no", 0: "unknown"}[c.sign], c)
            yield Answer("N_cutoff", router, law, "", derived["n_cutoff"], limit)
        for point in options.points:
            if (worth := derived.get(f"epc({point.label})")) is not None:
                yield Answer(f"EPC/N {point.label}", router, law, "", worth.scaled(1 / point.n), limit / point.n)
    for law in dict.fromkeys(result.law.name for result in results):
        for point in options.points:
            there = [result for result in analysis.of_law(law) if f"loss({point.label})" in result.derived]
            if len(there) > 1 and point.e > 1:
                yield _best_router(analysis, there, point)


def _of_dense_runs(result: Result, points: Sequence[Point]) -> Iterator[Answer]:
    """Floor, exponents, losses and compute-optimal tokens per parameter, of these what the law has."""
    law, alike = result.law, dict(zip(("same", "wide"), LOSSES, strict=True))
    for name, figure in result.coefficients.items():
        if name == "L_0":
            yield Answer(FLOOR, result.router, law.name, "", figure, **alike)
        asks = [question for (column, own), question in _EXPONENTS.items() if own == name and column in law.columns]
        yield from (Answer(question, result.router, law.name, "", figure) for question in asks)
    for point in points:
        if (loss := result.derived.get(f"loss({point.label})")) is not None:
            yield Answer(f"Loss {point.label}", result.router, law.name, "", loss, **alike)
    if has_allocation(law):
        data = result.fit.problem.data
        largest = FLOPS_PER_TOKEN * float(np.max(data[N] * data[D]))
        for best in allocate(result, [times * largest for times in BUDGETS]).optima:
            yield Answer(f"Optimal D/N, {count(best.flops, 2)} FLOPs", result.router, law.name, "", best.tokens_per_parameter)


def _growth(result: Result) -> Iterator[Answer]:
    """Whether what experts are worth, EPC/N, falls or grows from the smallest to the largest size, along each path of tokens."""
    data = result.fit.problem.data
    for path in paths_of(result.law):
        quantity = gain_ratio(result.law, data, path, most_experts(data))
        ratio = estimates(result.fit, result.draws, quantity, result.options.level)[0]
        if ratio.low is not None and ratio.high is not None and ratio.high - ratio.low < FORM:
            return  # the same at every size by the law's form, which is no answer
        says = (
            "unknown" if ratio.low is None or ratio.high is None else "falls" if ratio.high < 1 else "grows" if ratio.low > 1 else "unknown"
        )
        yield Answer(f"EPC/N with N, {path}", result.router, result.law.name, says, ratio)
        if path == PATHS[0]:
            yield Answer(SHRINKS, result.router, result.law.name, {"falls": "yes", "grows": "no"}.get(says, "unknown"), ratio)


def _best_experts(result: Result) -> Iterator[Answer]:
    """E of the best design of the largest run's compute, in no more parameters than the largest run has; a law with tokens has one."""
    data, predictor = result.fit.problem.data, of_result(result)
    if isinstance(predictor, str) or predictor.tokens is not None or predictor.experts is not None:
        return
    flops = FLOPS_PER_TOKEN * float(np.max(data[N] * data[D]))
    most = float(np.max(predictor.architecture.total(data[N], data[E], 1.0, np.ones_like(data[E]))))
    question = f"Best E, {count(flops, 2)} FLOPs, {count(most, 2)} parameters"
    best = best_experts(Question(flops=flops, serve_memory=SERVING_BYTES * most), predictor)
    if best is not None:
        yield Answer(question, result.router, result.law.name, "", best, same=2.0, wide=2.0)


def _help(result: Result) -> Answer:
    """Whether the loss at E = 64, or the largest E below, is under the dense one at every size; the figure is the least gain."""
    sizes, most, law = np.unique(result.runs.numeric(N)), min(64.0, float(result.runs.numeric(E).max())), result.law
    # A law with tokens is asked at the most of them.
    tokens = {D: np.full_like(sizes, result.runs.numeric(D).max())} if D in law.columns else {}
    dense, routed = ({N: sizes, E: np.full_like(sizes, e), **tokens} for e in (1.0, most))
    gains = estimates(
        result.fit, result.draws, lambda t, b: 10 ** law.log10_loss(t, b, dense) - 10 ** law.log10_loss(t, b, routed), result.options.level
    )
    signs = {gain.sign for gain in gains}
    says = "no" if -1 in signs else "yes" if signs == {1} else "unknown"
    return Answer("Experts help", result.router, law.name, says, min(gains, key=lambda gain: gain.value))


def _best_router(analysis: Analysis, results: Sequence[Result], point: Point) -> Answer:
    """The router of least predicted loss, if every difference to another one excludes zero, and the chance that it is."""
    name = f"loss({point.label})"
    best = min(results, key=lambda result: result.derived[name].value)
    gaps = [analysis.difference(best.law.name, best.router, other.router, point) for other in results if other is not best]
    says = best.router if all(gap is not None and gap.sign < 0 for gap in gaps) else "unknown"
    share = chance(results, point).get(best.router)
    return Answer(f"{BEST} {point.label}", ALL, best.law.name, says, best.derived[name], chance=share)


def chance(results: Sequence[Result], point: Point) -> dict[str, float]:
    """How often each router has the least predicted loss, draws that share their dense runs taken together; empty without draws."""
    data, drawn = point.columns(results[0].law), [(r, r.draws.refits) for r in results if r.draws is not None]
    if data is None or len(drawn) < len(results) or not (usable := np.all([refits.usable for _, refits in drawn], axis=0)).any():
        return {}
    losses = [result.law.log10_loss(refits.theta[usable], refits.beta[usable], data)[:, 0] for result, refits in drawn]
    shares = np.bincount(np.argmin(losses, axis=0), minlength=len(drawn)) / usable.sum()
    return {result.router: float(share) for result, share in zip(results, shares, strict=True)}


def agreements(found: Sequence[Answer], trusted: Sequence[str]) -> tuple[Agreement, ...]:
    """Question by question and router by router, what survives a change of law; `trusted` are the laws to go by."""
    out: list[Agreement] = []
    for question in dict.fromkeys(answer.question for answer in found):
        for router in dict.fromkeys(answer.router for answer in found if answer.question == question):
            these = [answer for answer in found if (answer.question, answer.router) == (question, router)]
            best, others = (tuple(answer for answer in these if (answer.law in trusted) is side) for side in (True, False))
            without = {answer.law for answer in found} - {answer.law for answer in best}
            out.append(Agreement(question, router, verdict(best, others), best, others, tuple(law for law in trusted if law in without)))
    return tuple(out)


def verdict(best: Sequence[Answer], others: Sequence[Answer] = ()) -> Verdict:
    """`unknown` comes before agreement: intervals that overlap because they are wide agree on nothing."""
    same, known = _agreed(best)
    if not same:
        return "depends on the law"
    return "unknown" if not known else "every law" if all(_agreed([*best, *others])) else "best laws"


def _agreed(found: Sequence[Answer]) -> tuple[bool, bool]:
    """Whether answers are the same: one word, or figures within `same` or with intervals that meet; and known: together within `wide`."""
    words = {answer.says for answer in found}
    if words != {""}:
        return len(words) == 1, "unknown" not in words
    values, lows, highs = zip(*(answer.ends for answer in found), strict=True)
    same, wide = min(answer.same for answer in found), min(answer.wide for answer in found)
    return max(values) <= same * min(values) or max(lows) <= min(highs), max(highs) <= wide * min(lows)


def spread(found: Sequence[Answer]) -> str:
    """The range of figures, such as `4.8 to 5.1`; `beyond 1.3T` where they are further from the data than makes sense."""
    values, limit, coarse = sorted(answer.ends[0] for answer in found), found[0].limit, found[0].same >= SAME
    low, high = (f"{'beyond ' * (x >= limit)}{count(float(f'{x:.2g}')) if coarse else count(x, 3)}" for x in (values[0], values[-1]))
    mark = OUTSIDE * (values[-1] < limit and any(answer.figure.extrapolated for answer in found))
    return (low if low == high else f"{low} to {high}") + mark


def compare_document(comparison: Comparison) -> Document:
    """Verdict, findings and the table of what survives first; then every law's answers and scores."""
    scores = comparison.held_out_by
    analysis, view, verdicts = comparison.analysis, View(comparison.analysis), [one.verdict for one in comparison.agreements]
    ranking, found = analysis.ranking, comparison.agreements
    laws = dict.fromkeys(result.law.name for result in analysis.results)
    title = f"{many(len(laws), 'law')} compared on {many(len(analysis.runs), 'run')} ({analysis.runs.target})"
    shares = [f"{number} {words[1 if number == 1 else 2]}" for name, words in _VERDICTS.items() if (number := verdicts.count(name))]
    says = f"Of {many(len(verdicts), 'answer')} {listing(shares) or 'none is known'}."
    others = [table(view, name) for name in ("ranking", "held_out", "warnings", "provenance")]
    tables = (_survives(comparison), held_out_table(scores), _answers(comparison), *others)
    sections = (Section("All answers, and what they rest on", tuple(one for one in tables if one)),)
    others = f", {analysis.options.fewer_draws:,} under the others" * (len(laws) > 1)
    draws = Note("note", "", "draws", f"{analysis.options.draws:,} draws under {analysis.quoted}{others}")
    verdict = "Simulated runs. " * bool(simulated_runs(analysis)) + says
    findings = bullets(
        "compare.j2", ranking=ranking,
        shown=[law for law in dict.fromkeys((analysis.quoted, PAPER_LAW)) if ranking and law in ranking.scores],
        without=next((one.abstain for one in found if one.question == SHRINKS), ()), held_out=view.held_out,
        floorless=next((one.abstain for one in found if one.question == FLOOR), ()),
        routed=[one for one in found if one.question.startswith(BEST)],
        by_axis=[(AXES_IN_WORDS[by], *next(iter(own.items()))) for by, own in scores.items()] if D in scores else [],
    )  # fmt: skip
    return Document(title, verdict, findings, (*notes_of(analysis, analysis.quoted), draws), sections)


def _survives(comparison: Comparison) -> Table | None:
    there = {(one.question, router_name(one.router)): one for one in comparison.agreements if not one.question.startswith(BEST)}
    cells = {key: ", ".join(filter(None, (one.answer, _VERDICTS[one.verdict][0]))) for key, one in there.items()}
    questions, names = (list(dict.fromkeys(key[k] for key in there)) for k in (0, 1))
    rows = [(question, *(cells.get((question, name), "") for name in names)) for question in questions]
    return made("survives", rows, ("Question", *names), trusted=listing(comparison.trusted))


def _answers(comparison: Comparison) -> Table | None:
    runs, rows = comparison.analysis.runs, list[tuple[str, ...]]()
    for one in comparison.agreements:
        for answer in (*one.best, *one.others):
            figure = cell(answer.figure, float(runs.numeric(N).max()) if one.question == "N_cutoff" else math.inf)
            share = "" if answer.chance is None else f" ({answer.chance:.0%})"
            rows.append((one.question, router_name(one.router), answer.law + " *" * (answer in one.best), answer.says, figure + share))
    return made("answers", rows, level=f"{comparison.analysis.options.level:.0%}")


def compare_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison at full precision, with all that `fit --json` holds; docs/json.md says what the keys mean."""
    document = compare_document(comparison)
    own = {name: getattr(comparison, name) for name in ("trusted", "agreements", "held_out_by")}
    return {
        **fit_json(comparison.analysis), "schema": "routelaw.compare/3", "verdict": document.verdict, "findings": list(document.findings),
        **cleaned(own),
    }  # fmt: skip
