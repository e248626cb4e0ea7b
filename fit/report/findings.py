"""What a fit found, in sentences computed from its results, the most important first.

A sentence calls two figures different only where their intervals separate, and a sign known only where the interval keeps clear of nought.
"""

import math
from collections.abc import Mapping, Sequence

from fit.analysis import DENSE_ROUTER, POOLED, Analysis, Estimate, Result
from fit.report.record import simulated_runs
from fit.show.display import count, estimate, listing, many, plain, with_interval

_PREFERRED = ("bounded", "bilinear", "bounded-floor-interaction", "floor-interaction", "separable", "bounded-floor", "floor")
"""The law whose results the findings quote: the first of these that was fitted, the paper's main law (Eq. 1) before all."""


def headline(analysis: Analysis) -> list[Result]:
    """The results that the findings quote, one per router: those of the first law of `_PREFERRED` that was fitted, or of any."""
    fitted = [result for result in analysis.results if result.router not in (DENSE_ROUTER, POOLED)]
    names = [*_PREFERRED, *(result.law.name for result in fitted)]
    chosen = next((name for name in names if any(result.law.name == name for result in fitted)), "")
    return [result for result in fitted if result.law.name == chosen]


def findings(analysis: Analysis) -> tuple[str, ...]:
    """Three to six sentences: what the data are, who is best, whether gains shrink, where they end, and how far to believe it."""
    results = headline(analysis)
    sentences = [_simulated(analysis)]
    if results and _points(results):
        sentences.append(_ranking(results, _points(results)[-1]))
    elif not results:
        sentences.append(_dense(analysis))
    if results and "c" in results[0].coefficients:
        sentences += [_interaction(results), _cutoffs(results)]
    sentences += [_trust(analysis, results), _depends(analysis, results)]
    return tuple(sentence for sentence in sentences if sentence)


def title(analysis: Analysis) -> str:
    """What was fitted; simulated runs are called so."""
    kind = ""
    if number := simulated_runs(analysis):
        kind = "simulated " if number == len(analysis.runs) else "partly simulated "
    return f"Scaling laws fitted to {len(analysis.runs):,} {kind}run{'s' if len(analysis.runs) > 1 else ''} ({analysis.runs.target})"


def _simulated(analysis: Analysis) -> str:
    number, total = simulated_runs(analysis), len(analysis.runs)
    if not number:
        return ""
    share = "These runs are simulated" if number == total else f"{number} of these {total} runs are simulated"
    return f"{share}: drawn from a known law, not trained. Nothing below says anything of real models."


def law_phrase(result: Result) -> str:
    """How sentences call a law: by its name and the paper's equation, if it has one."""
    equation = result.law.source.rpartition("Eq. ")[2]
    return f"the {result.law.name} law" + (f" (Eq. {equation})" if "Eq. " in result.law.source else "")


def _points(results: Sequence[Result]) -> list[str]:
    """The points at which loss was asked for, those within the data last and the largest of all at the end."""
    names = [name for name in results[0].derived if name.startswith("loss(")]
    return sorted(names, key=lambda name: not results[0].derived[name].extrapolated)


def _ranking(results: Sequence[Result], point: str) -> str:
    """Who reaches the lowest loss at a point, and what dense model that is worth."""
    place = point.removeprefix("loss(").removesuffix(")")
    ordered = sorted((r for r in results if point in r.derived), key=lambda r: r.derived[point].value)
    best = ordered[0]
    outside = ", outside the runs: extrapolated" if best.derived[point].extrapolated else ""
    there = f"At {place} (dense size and experts{outside}), {law_phrase(best)}"
    loss = f"{_figure(best.derived[point])} nats per token"
    worth = best.derived.get(f"epc({place})")
    as_good = f", what a dense model of {_figure(worth)} parameters would reach{_beyond_dense(best, worth)}" if worth else ""
    if len(ordered) == 1:
        return f"{there} gives {_who(best.router)} a loss of {loss}{as_good}."
    others = listing(f"{r.router} {plain(r.derived[point].value, 3)}" for r in ordered[1:])
    apart = _separate(best.derived[point], ordered[1].derived[point])
    verdict = {
        True: "their intervals separate",
        False: "their intervals overlap, so the order is not certain",
        None: "no intervals are known",
    }
    return f"{there} puts {best.router} first: loss {loss}{as_good}. Then {others}; of the first two, {verdict[apart]}."


def _figure(figure: Estimate) -> str:
    """A figure with its interval; that it is extrapolated is for the sentence to say."""
    return with_interval(figure.value, figure.low, figure.high, figure.unit)


def _beyond_dense(result: Result, worth: Estimate) -> str:
    """A warning where an effective parameter count lies beyond the largest dense run, on the dense line's extrapolation."""
    n, e = result.runs.numeric("dense_parameter_count"), result.runs.numeric("num_experts")
    largest = float(n[e == e.min()].max())
    if not worth.value > largest:
        return ""
    return f" ({_times(worth.value / largest)} times the largest one trained: extrapolated)"


def _ends(figure: Estimate) -> tuple[float, float] | None:
    """An estimate's interval; None where no draws were made, or too few."""
    if figure.low is None or figure.high is None or math.isnan(figure.low) or math.isnan(figure.high):
        return None
    return figure.low, figure.high


def _separate(first: Estimate, second: Estimate) -> bool | None:
    """Whether two intervals have nothing in common; None without intervals."""
    ends, others = _ends(first), _ends(second)
    if ends is None or others is None:
        return None
    return ends[1] < others[0] or others[1] < ends[0]


def sign(figure: Estimate) -> int | None:
    """+1 or -1 where the interval keeps clear of nought, 0 where it does not, None without one."""
    ends = _ends(figure)
    if ends is None:
        return None
    return 1 if ends[0] > 0 else -1 if ends[1] < 0 else 0


def _interaction(results: Sequence[Result]) -> str:
    """Whether the gain from experts shrinks with size: the sign of c."""
    figures = {r.router: r.coefficients["c"] for r in results}
    shown = _by_router(figures)
    signs = {router: sign(figure) for router, figure in figures.items()}
    if None in signs.values():
        return f"Under {law_phrase(results[0])}, c (above nought where gains from experts shrink with size) is {shown}."
    words = {1: "shrink with model size for", -1: "grow with model size for", 0: "may or may not change with model size for"}
    groups = [(words[value], [_who(router) for router, s in signs.items() if s == value]) for value in (1, -1, 0)]
    said = listing(f"{word} {listing(members)}" for word, members in groups if members)
    return f"Under {law_phrase(results[0])} the gains from experts {said}: c = {shown}."


def _by_router(figures: Mapping[str, Estimate]) -> str:
    """`0.0104 [0.0077, 0.0149] (S-Base) and ...`; marks of extrapolation are left to the sentence."""
    shown = {router: _figure(figure) for router, figure in figures.items()}
    return next(iter(shown.values())) if len(shown) == 1 else listing(f"{text} ({router})" for router, text in shown.items())


def _cutoffs(results: Sequence[Result]) -> str:
    """Where the gains would end, and how far beyond the data that is."""
    figures = {r.router: r.derived["n_cutoff"] for r in results if "n_cutoff" in r.derived}
    ending = {router: figure for router, figure in figures.items() if math.isfinite(figure.value)}
    endless = [_who(router) for router in figures if router not in ending]
    never = f"By the same law experts never stop helping for {listing(endless)}: c is not above nought." if endless else ""
    if not ending:
        return never
    largest = max(float(r.runs.numeric("dense_parameter_count").max()) for r in results)
    said = f"By the same law experts stop helping at an N_cutoff of {_by_router(ending)} parameters"
    beyond = [figure.value / largest for figure in ending.values() if figure.extrapolated]
    if beyond:
        which = "" if len(beyond) == len(ending) else f"{len(beyond)} of them "
        times = " to ".join(dict.fromkeys([_times(min(beyond)), _times(max(beyond))]))
        said += f": extrapolated, {which}{times} times the largest size in the runs ({count(largest)})"
    return " ".join(filter(None, [f"{said}.", never]))


_FAR_OFF = 1e4
"""A multiple of the largest size beyond which its digits say nothing more."""


def _times(ratio: float) -> str:
    return f"over {_FAR_OFF:,.0f}" if ratio > _FAR_OFF else f"{float(f'{ratio:.2g}'):,g}"


def _who(router: str) -> str:
    """How sentences call a router; the runs of a file that names none are "all"."""
    return "all runs" if router == "all" else router


def _dense(analysis: Analysis) -> str:
    result = analysis.result(DENSE_ROUTER, "dense")
    if result is None:
        return ""
    figures = "; ".join(f"{name} = {estimate(figure)}" for name, figure in result.coefficients.items())
    return f"The dense power law, {result.law.formula}, on {many(result.fit.num_runs, 'run')}: {figures}."


def _trust(analysis: Analysis, results: Sequence[Result]) -> str:
    """Whether the fits are optima, how close they come, and how much is warned about."""
    everything = analysis.results
    gradient = max(result.fit.certificate.gradient for result in everything)
    missed = [r for r in everything if r.fit.certificate.best_in_search < r.fit.certificate.objective * (1 - 1e-9)]
    said = {1: "The fit", 2: "Both fits"}.get(len(everything), f"All {len(everything)} fits")
    optimum = f"{said} ended at the best point met in the search (largest gradient {gradient:.0e})"
    if missed:
        optimum = (
            f"{len(missed)} of {many(len(everything), 'fit')} missed a better point met in the search ({listing(_name(r) for r in missed)})"
        )
    bound = [r for r in everything if r.fit.certificate.at_bounds]
    if bound:
        optimum += f"; a parameter ended at its bound in {listing(_name(r) for r in bound)}"
    if results:
        low, high = min(r.fit.rmse_log10 for r in results), max(r.fit.rmse_log10 for r in results)
        spread = f"{100 * (10**low - 1):.2g}" if low == high else f"{100 * (10**low - 1):.2g} to {100 * (10**high - 1):.2g}"
        optimum += f"; {law_phrase(results[0])} misses a run's loss by {spread}% (RMSE)"
    return f"{optimum}."


def _name(result: Result) -> str:
    return f"{result.router} {result.law.name}"


def _depends(analysis: Analysis, results: Sequence[Result]) -> str:
    """What a change of law does to the sign of c, where several laws with one were fitted; else where to find out."""
    if not results:
        return ""
    signs: dict[str, set[int]] = {}
    for result in analysis.results:
        if "c" in result.coefficients and "n_cutoff" in result.derived and (s := sign(result.coefficients["c"])) is not None:
            signs.setdefault(result.router, set()).add(s)
    torn = [router for router, found in signs.items() if len(found) > 1]
    if torn:
        return f"Whether gains shrink with size depends on the law for {listing(torn)}: see c under each law below."
    return "These answers rest on the law's form: the compare command shows which survive another, one with a floor above all."
