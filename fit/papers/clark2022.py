"""Clark et al. 2022, Unified Scaling Laws for Routed Language Models: its published figures and conclusions beside ours.

Three things stand between Table 3 and a refit of the same runs, and are computed here: its rounding to three places, which alone moves
N_cutoff by factors; the seed filter of the release's notebook, which drops every dense 130M run; and the valley of the objective, along
which very different rows fit alike. A fourth cannot be: the notebook's search, which rarely ends at the optimum (FACTS section 7).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

import fit
from common.document import Document, Section, Table
from common.document.numbers import count, decimals, interval, listing, many, plain
from fit.analysis import Analysis, Options, Result
from fit.quantities import cutoff_quantity
from fit.report import notes_of
from fit.report.record import cleaned, fit_json, simulated_runs
from fit.uncertainty.distributions import f_tail, t_quantile

DENSE, BOUNDED, WITH_FLOOR = "dense", "bounded", "bounded-floor-interaction"
"""The laws that figures are published of, and Eq. 1 with a floor, which shows what of them is the law's form."""

HALF = 5e-4
"""Half a unit of the third decimal, in which Table 3 is printed."""

BEST = "S-Base"
"""The router that the paper advises."""


@dataclass(frozen=True)
class Line:
    """A published figure beside ours; `independent` is our interval with residuals drawn one by one; `why` they differ, if it is known."""

    router: str
    name: str
    published: float
    ours: fit.Estimate
    independent: fit.Estimate
    why: str = ""

    @property
    def delta(self) -> float:
        """Ours minus the published value."""
        return self.ours.value - self.published

    @property
    def large(self) -> bool:
        """Whether it is a count of parameters."""
        return self.name.startswith("N_c")

    @property
    def text(self) -> str:
        """The published value as people write it."""
        return count(self.published) if self.large else f"{self.published:g}"

    @property
    def inside(self) -> bool | None:
        """Whether the published value lies in our interval; None without one."""
        return inside(self.ours, self.published)


@dataclass(frozen=True)
class Claim:
    """A conclusion of the paper: yes, half, no, `artefact` (of the law's form), `advice` (no figure decides it) or `not shown`."""

    name: str
    verdict: str
    why: str


@dataclass(frozen=True, eq=False)
class Reproduction:
    """The published figures and conclusions beside ours."""

    analysis: Analysis
    figures: tuple[Line, ...]
    claims: tuple[Claim, ...]

    @property
    def verdict(self) -> str:
        """How many published figures lie inside our intervals, in a sentence."""
        judged = [line.inside for line in self.figures if line.inside is not None]
        text = f"{sum(judged)} of {len(judged)} published figures lie inside our {self.analysis.options.level:.0%} intervals."
        return "Simulated runs. " * bool(simulated_runs(self.analysis)) + text


def inside(figure: fit.Estimate, value: float) -> bool | None:
    """Whether a value lies in the figure's interval; None without one."""
    return None if figure.low is None or figure.high is None else figure.low <= value <= figure.high


def reproduce(runs: fit.Runs, options: Options | None = None, progress: Callable[[int, int, str], None] | None = None) -> Reproduction:
    """Fit the paper's laws and put its figures and conclusions beside ours, for the routers that it publishes and the runs have.

    `options.laws` are not used. Raises `InputError` where a router asked for, or every router, is not published, or is not there.
    """
    options, published = options or Options(), [row.name for row in fit.law_named(BOUNDED).published]
    asked = fit.routers(runs, options.routers)
    routers = tuple(router for router in published if router in asked)
    if not routers or (options.routers and len(routers) < len(asked)):
        raise fit.InputError(f"figures are published for {listing(published)}; the runs have {listing(fit.routers(runs)) or 'no router'}")
    analysis = fit.analyse(runs, replace(options, laws=(DENSE, BOUNDED, WITH_FLOOR), routers=routers), progress)
    figures = [line for result in analysis.results for line in _lines(result)]
    return Reproduction(analysis, tuple(figures), tuple(_claims(analysis)))


def _lines(result: Result) -> list[Line]:
    """Every published figure of this fit's law and router."""
    row, law, options = result.law.published_for(result.router), result.law, result.options
    if row is None:
        return []
    draws = result.draws and fit.resample(result.fit, "residuals", options.draws, options.seed)
    quantities = [law.parameter_values, *([cutoff_quantity(law)] if law.name == BOUNDED else [])]
    alone = [one for quantity in quantities for one in fit.estimates(result.fit, draws, quantity, options.level)]
    ours = [*result.coefficients.values(), *(one for name, one in result.derived.items() if name == "n_cutoff")]
    rows = zip(row.values.items(), ours, alone, strict=True)
    lines = [Line(result.router, name, value, one, independent) for (name, value), one, independent in rows]
    if law.name != BOUNDED:
        return lines
    seeds, valley = _most_common_seed(result), _valley(result, row.values)
    return [replace(line, why="; ".join(_reasons(line, row.values, seeds, valley))) for line in lines]


def _reasons(line: Line, row: Mapping[str, float], seeds: Mapping[str, float], valley: tuple[float, float]) -> list[str]:
    """What is known to move this figure from ours."""
    found: list[str] = []
    if line.name == "N_cutoff":
        ends = [10 ** (-(row["b"] + db) / (row["c"] + dc)) for db, dc in product((-HALF, HALF), repeat=2)]
        found.append(f"its b and c, as rounded, give {count(min(ends))} to {count(max(ends))}")
    theirs = seeds.get(line.name, line.ours.value)
    if abs(theirs - line.published) < abs(line.delta):
        found.append(f"nearer with the notebook's seed filter: {count(theirs, 3) if line.name == 'N_cutoff' else plain(theirs)}")
    if line.inside is False and valley[1] > 0.05:
        found.append(f"the valley: its row has {valley[0]:.2f} times the least sum of squares (F test, p = {valley[1]:.2g})")
    return found


def _most_common_seed(result: Result) -> dict[str, float]:
    """Figures of the fit to the most common seed's runs alone, as the release's notebook has it with seed 42; none where there is one."""
    seeds, counts = np.unique(result.runs.numeric("seed"), return_counts=True) if result.runs.has("seed") else (np.empty(0), np.empty(0))
    if len(seeds) < 2:
        return {}
    runs = result.runs.keep(result.runs.numeric("seed") == seeds[counts.argmax()], "most common seed")
    again = fit.fit_law(result.law, {name: runs.numeric(name) for name in result.law.columns}, runs.loss, result.options.loss)
    return {**again.parameters, "N_cutoff": float(fit.cutoff(again.law, again.beta))}


def _valley(result: Result, row: Mapping[str, float]) -> tuple[float, float]:
    """Sum of squares of the best row that rounds to this one over the least, and the p of the F test of all parameters (Beale 1960)."""
    held = {name: row[name] for name in ("E_start", "E_max")}
    box = {name: (row[name] - HALF, row[name] + HALF) for name in "abcd"}
    best = fit.fit_law(result.law, result.fit.problem.data, result.runs.loss, result.options.loss, fixed=held, bounds=box)
    ratio = best.certificate.objective / max(result.fit.certificate.objective, 1e-300)
    p, left = result.fit.problem.num_free, max(result.fit.degrees, 1)
    return ratio, f_tail((ratio - 1) * left / p, p, left)


def _claims(analysis: Analysis) -> list[Claim]:
    """The paper's conclusions, as far as the runs have what decides them."""
    pairs = [(one, other) for one in analysis.of_law(BOUNDED) if (other := analysis.find(one.router, WITH_FLOOR))]
    lowest = _lowest_losses(analysis)
    found = [_shrinks(pairs), _ends(pairs), _helps(lowest, pairs), _best_router(lowest, pairs), _experts(pairs)] if pairs else []
    runs = analysis.runs
    if {"k", "routing_frequency", "flops_per_step", "router_type"} <= set(runs.columns):
        k, r = runs.columns["k"], runs.columns["routing_frequency"]
        found += [
            _advice("k = 1", runs, {"k = 2": k == 2, "k = 4": k == 4}, ("k = 2", "k = 4")),
            _advice("R of 1/2 to 1", runs, {"R < 1/2": (k == 1) & (r < 0.5), "R = 1": (k == 1) & (r == 1)}, ("R < 1/2",)),
        ]
    return [claim for claim in found if claim]


Pairs = Sequence[tuple[Result, Result]]
"""Each router's fits of Eq. 1, without and with a floor."""


def _judged(holds: int, lost: int, of: int) -> str:
    """`no` where a conclusion does not hold under Eq. 1 as it should; `artefact` where with a floor it is lost throughout."""
    return "no" if not holds else "artefact" if lost == of else "half" if lost else "yes"


def _shrinks(pairs: Pairs) -> Claim:
    """c > 0 under Eq. 1, and with a floor."""
    under = [one.router for one, _ in pairs if one.coefficients["c"].sign > 0]
    lost = [other.router for _, other in pairs if other.coefficients["c"].sign <= 0]
    why = f"with a floor not for {listing(lost)}" if lost else f"c > 0 for {listing(under) or 'none'}"
    return Claim("gains shrink with N", _judged(len(under) == len(pairs), len(lost), len(pairs)), why)


def _ends(pairs: Pairs) -> Claim:
    """N_cutoff as published: an artefact where our interval with a floor lies wholly above it."""
    figures = [(row.values["N_cutoff"], *pair) for pair in pairs if (row := pair[0].law.published_for(pair[0].router))]
    under = sum(bool(inside(one.derived["n_cutoff"], value)) for value, one, _ in figures)
    above = sum((other.derived["n_cutoff"].low or 0.0) > value for value, _, other in figures)
    why = f"with a floor it is above, for {above} of {len(pairs)}" if above else f"inside for {under} of {len(pairs)}"
    return Claim("gains end at N_cutoff", _judged(under, above, len(pairs)), why)


Lowest = Mapping[tuple[float, float], Mapping[str, float]]
"""The lowest loss of each router, `Dense` too, by size and number of experts."""


def _lowest_losses(analysis: Analysis) -> Lowest:
    found: dict[tuple[float, float], dict[str, float]] = {}
    for result in analysis.of_law(BOUNDED):
        for n, e, loss in zip(result.runs.numeric("N"), result.runs.numeric("E"), result.runs.loss, strict=True):
            losses, router = found.setdefault((float(n), float(e)), {}), result.router if e > 1 else "Dense"
            losses[router] = min(float(loss), losses.get(router, np.inf))
    return found


def _helps(lowest: Lowest, pairs: Pairs) -> Claim:
    """Every routed run against the dense one of its size, as measured, and EPC/N at the largest size under both laws."""
    dense = {n: losses["Dense"] for (n, e), losses in lowest.items() if e == 1}
    gains = [dense[n] > loss for (n, e), losses in lowest.items() if e > 1 and n in dense for loss in losses.values()]
    n = max(n for n, _ in lowest)
    ratios = [one.derived[name].value / n for pair in pairs for one in pair for name in one.derived if name.startswith(f"epc({count(n)}")]
    shown = f"; there EPC/N {min(ratios):.2g} to {max(ratios):.2g}" if ratios else ""
    verdict = "yes" if all(gains) and min(ratios, default=2.0) > 1 else "half" if any(gains) else "no"
    return Claim(f"routing helps to {count(n)}", verdict, f"in {sum(gains)} of {len(gains)} cells{shown}")


def _best_router(lowest: Lowest, pairs: Pairs) -> Claim | None:
    """In how many cells of the grid, of those where every router has a run, the advised router has the lowest loss."""
    routers = {one.router for one, _ in pairs}
    full = [losses for losses in lowest.values() if routers <= set(losses)]
    if BEST not in routers or len(routers) < 2 or not full:
        return None
    wins = sum(min(losses, key=lambda router: losses[router]) == BEST for losses in full)
    return Claim(f"{BEST} is best", "yes" if 2 * wins > len(full) else "no", f"lowest loss in {wins} of {len(full)} cells")


def _experts(pairs: Pairs) -> Claim:
    """What the last doubling, to 128 experts, gains at the largest size under Eq. 1, as a share of the best doubling."""
    shares, experts = list[float](), 2.0 ** np.arange(10)
    for result, _ in pairs:
        largest = np.full(len(experts), result.runs.numeric("N").max())
        gains = -np.diff(result.fit.log10_loss({"dense_parameter_count": largest, "num_experts": experts}))
        shares.append(float(gains[6] / gains.max()))
    return Claim("64 to 128 experts", "advice", f"doubling to 128: {min(shares):.0%} to {max(shares):.0%} of the best one")


def _advice(name: str, runs: fit.Runs, settings: Mapping[str, Bool[np.ndarray, "runs"]], worse: Sequence[str]) -> Claim | None:
    """Advice held against runs at equal FLOPs: settings in `worse` should have a higher loss than the plain one, the others no higher."""
    verdicts, parts = list[bool | None](), list[str]()
    for setting, chosen in settings.items():
        losses = losses_at_equal_flops(runs, chosen)
        if len(losses) > 1:
            mean = float(losses.mean())
            reach = t_quantile(0.975, float(len(losses) - 1)) * float(losses.std(ddof=1)) / len(losses) ** 0.5
            shown = None if abs(mean) <= reach else mean > 0
            verdicts.append(shown if setting in worse else shown is not True)
            parts.append(f"{setting}: {100 * mean:+.1f} ± {100 * reach:.1f}%")
    verdict = "no" if False in verdicts else "yes" if None not in verdicts else "half" if True in verdicts else "not shown"
    return Claim(name, verdict, ", ".join(parts)) if parts else None


def losses_at_equal_flops(runs: fit.Runs, chosen: Bool[np.ndarray, "runs"]) -> Float[np.ndarray, "compared"]:
    """ln of each chosen routed run's loss over that of the plain setting (k = 1, R = 1/2) of its router and E at its FLOPs.

    The plain loss is read between plain runs, in logarithms; runs whose FLOPs are outside them are left out.
    """
    loss, flops, e, router = np.log(runs.loss), np.log(runs.columns["flops_per_step"]), runs.columns["num_experts"], runs["router_type"]
    plain_runs = (runs.columns["k"] == 1) & (runs.columns["routing_frequency"] == 0.5)
    if runs.has("flop_increase"):
        plain_runs &= runs.columns["flop_increase"] == 1
    out: list[float] = []
    for i in np.flatnonzero(chosen & ~plain_runs & (e > 1)):
        same = np.flatnonzero(plain_runs & (router == router[i]) & (e == e[i]))
        same = same[np.argsort(flops[same], kind="stable")]
        if len(same) > 1 and flops[same[0]] <= flops[i] <= flops[same[-1]]:
            out.append(float(loss[i] - np.interp(flops[i], flops[same], loss[same])))
    return np.array(out)


def reproduce_document(found: Reproduction) -> Document:
    """How many published figures are inside our intervals; Table 3 and the conclusions first, every figure with its reasons after."""
    analysis, level = found.analysis, f"{found.analysis.options.level:.0%}"
    title = f"Clark et al. 2022 beside {many(len(analysis.runs), 'run')} ({analysis.runs.target})"
    wild = any(result.draws and result.draws.scheme == "wild-clusters" for result in analysis.of_law(BOUNDED))
    independent = sum(bool(inside(line.independent, line.published)) for line in found.figures)
    schemes = (f"Eq. 1: wild clusters by size; with residuals drawn one by one {independent} are inside.",) if wild else ()
    claims = tuple((claim.name, claim.verdict, claim.why) for claim in found.claims)
    conclusions = Table("Conclusions", ("The paper", "Verdict", "Why"), claims, first=True)
    note = f"Inside: in our {level} interval. Delta: ours minus published, for N_cutoff and N_c ours over published."
    heads = ("Figure", "Published", "Ours", "Inside", "Delta", "What moves it")
    figures = Table("Every figure", heads, tuple(_row(line) for line in found.figures), note)
    section = Section("Figures and conclusions", (_side_by_side(found, level), conclusions, figures))
    return Document(title, found.verdict, schemes, notes_of(analysis, BOUNDED), (section,))


def _side_by_side(found: Reproduction, level: str) -> Table:
    cells = {(line.name, line.router): _short(line) for line in found.figures}
    routers = [result.router for result in found.analysis.of_law(BOUNDED)]
    names = dict.fromkeys(name for name, router in cells if router in routers)
    rows = tuple((name, *(cells.get((name, router), "") for router in routers)) for name in names)
    dense = [f"{name} {cell}" for (name, router), cell in cells.items() if router not in routers]
    note = f"Dense law: {listing(dense)}." if dense else ""
    return Table(f"Table 3 [our {level} interval], * outside", ("", *routers), rows, note, first=True)


def _short(line: Line) -> str:
    """Published value, starred where it is outside, and our interval to one digit of its half."""
    low, high = line.ours.low, line.ours.high
    if low is None or high is None:
        return f"{line.text} ({line.ours.status})"
    places = max((decimals((high - low) / 2) or 1) - 1, 0)
    ends = [count(float(f"{end:.2g}")) if line.large else plain(end, places) for end in (low, high)]
    return f"{line.text}{'*' * (line.inside is False)} [{ends[0]},{ends[1]}]"


def _row(line: Line) -> tuple[str, ...]:
    low, high, value = line.ours.low, line.ours.high, line.ours.value
    ours = f"{value:.4g}" if low is None or high is None else interval(value, low, high, counted=line.large)
    delta = f"x {value / line.published:.3g}" if line.large else f"{line.delta:+.3g}"
    inside = {True: "yes", False: "no", None: ""}[line.inside]
    return f"{line.router} {line.name}", line.text, ours, inside, delta, line.why


def reproduce_json(found: Reproduction) -> dict[str, Any]:
    """The reproduction at full precision, with all that `fit --json` holds; docs/json.md says what the keys mean."""
    figures = [{**cleaned(line), "inside": line.inside, "delta": line.delta} for line in found.figures]
    own = {"verdict": found.verdict, "figures": figures, "claims": cleaned(found.claims)}
    return {**fit_json(found.analysis), "schema": "routelaw.reproduce/2", **own}
