"""What a reader must know before believing a fit: what it leaves over, and warnings with a code, a severity and the fit they belong to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from common.document.numbers import count, listing
from fit.causes import vary
from fit.engine.losses import squared_log
from fit.engine.solve import Fit
from fit.estimate import Estimate, Status
from fit.laws.interface import FloorLink
from fit.laws.paper import utilisation_of
from fit.runs import codes
from fit.runs.schema import NUMBERS, SEED, STEP, TEXTS, C, D, E, F, N, P, short
from fit.select import AXES, RollOutStep, furthest, missed, pooled
from fit.uncertainty.distributions import f_tail
from fit.uncertainty.draws import FEW_DEGREES, WEBB, Draws, Scheme, spread_along
from fit.uncertainty.intervals import degrees_of_freedom, draws_needed, tail, too_many_failed
from fit.uncertainty.spread import Spread, clearest

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SEVERITY: Mapping[str, Severity] = {
    "not-converged": "error",  # the fit did not end at an optimum
    "not-identified": "error",  # too many draws do not identify the law, or never ended: there are no intervals
    "no-degrees": "error",  # as many parameters as runs: nothing is known of the noise
    "held-out-failure": "error",  # prediction intervals miss most runs of the largest size, held out
    "lack-of-fit": "warning",  # residuals are larger than the noise between seeds, or bend along a column
    "clustered-residuals": "warning",  # runs of a size err together, so that they are not as many as they seem
    "tokens-ignored": "warning",  # the runs differ in tokens, and the law has none
    "not-confirmed": "warning",  # no second search ended at the same optimum
    "wrong-sign": "warning",  # an estimate has another sign than expected
    "at-bound": "warning",  # a parameter ended where its search range ends
    "ill-conditioned": "warning",  # parameters that the runs can hardly tell apart
    "few-runs": "warning",  # hardly more runs than parameters
    "few-clusters": "warning",  # the clusters have too few different draws
    "too-few-draws": "warning",  # the level asks for quantiles beyond the draws
    "wide-interval": "note",  # an interval spans more than the runs do, or reaches beyond them
    "sign-not-shown": "note",  # an interval does not exclude zero
    "failed-draws": "note",  # a few draws did not identify the law or never ended
    "uneven-spread": "note",  # residuals are wider at one end of the runs: the draws allow for it
    "few-residuals": "note",  # too few residuals to draw from: a normal took their place
    "extrapolated": "note",  # a figure lies outside the runs
}
"""Every code, which does not change, and how bad it is."""

_FITTED = {N: "smaller sizes", D: "fewer tokens", C: "less compute"}

_MANY_DRAWS = 1_000_000
"""More draws than this are not worth asking for."""

_ILL = 1e6
"""A tenth of the condition number at which parameters count as not identified."""

CLUSTERED, ALIKE = 0.01, 0.2
"""Residuals are called clustered where the F test between clusters has a smaller p, and its runs share more than this of the variance."""

_MISFIT = 1e-3
"""Lack of fit is called so where its F test has a smaller p: residuals of a fit are not raw data, so the test is a guide."""


@dataclass(frozen=True)
class FitWarning:
    """A code that does not change, how bad it is, the fit it belongs to, and one sentence."""

    code: str
    severity: Severity
    about: str
    message: str


@dataclass(frozen=True)
class SeedNoise:
    """How much runs differ that differ in the seed alone: pooled standard deviation over groups of them.

    `sd_log10` of log10 loss, `sd_nats` of the loss in nats per token; `runs` in `groups` have
    `degrees` = runs - groups degrees of freedom.
    """

    sd_log10: float
    sd_nats: float
    degrees: int
    groups: int
    runs: int


def seed_noise(columns: Mapping[str, Shaped[np.ndarray, "runs"]], loss: Float[np.ndarray, "runs"]) -> SeedNoise | None:
    """Noise between seeds, from the groups of runs whose settings are equal in everything but `seed`.

    Settings are the release's columns. Of runs alike in the seed too the first counts: what makes them differ is not known. None without
    replicates, or where they agree to the last digit: copies, that is.
    """
    if SEED not in columns:
        return None
    settings = [column for name, column in columns.items() if name in (NUMBERS | TEXTS) - {STEP, SEED}]
    group = codes(settings) if settings else np.zeros(len(loss), dtype=np.int64)
    _, first = np.unique(codes([group, columns[SEED]]), return_index=True)
    members = np.bincount(group[first])
    taken = first[members[group[first]] > 1]
    groups = int(np.sum(members > 1))
    degrees = len(taken) - groups
    if degrees < 1:
        return None
    index = np.unique(group[taken], return_inverse=True)[1]
    sds: list[float] = []
    for values in (np.log10(loss[taken]), loss[taken]):
        mean = np.bincount(index, values) / np.bincount(index)
        sds.append(float(np.sqrt(np.sum((values - mean[index]) ** 2) / degrees)))
    return SeedNoise(sds[0], sds[1], degrees, groups, len(taken)) if sds[1] > 0 else None


@dataclass(frozen=True)
class Misfit:
    """What a law misses. Residuals are log10 of observed over predicted loss.

    `seed_ratio`: RMSE over the noise between seeds, `seed_p` the p of the F test of lack of fit against it; None without replicates.
    `bends`: for each column the share of the residuals' variance that a parabola along it explains, and the p of its terms being zero.
    `alike`: intraclass correlation, the share of the variance that runs of one size have in common, and `alike_p` the p of the F test
    between sizes; None where no size has two runs or there is one size. `spread`: how the residuals' spread changes along each column.
    A small p says that the law is not the whole truth, not that it is useless.
    """

    seed_ratio: float | None = None
    seed_p: float | None = None
    bends: Mapping[str, tuple[float, float]] | None = None
    alike: float | None = None
    alike_p: float | None = None
    spread: tuple[Spread, ...] = ()

    @property
    def uneven(self) -> Spread | None:
        """The spread along the column where it changes most clearly; None where it is even."""
        return clearest(self.spread)

    @property
    def scheme(self) -> Scheme:
        """The resampling scheme that these residuals ask for."""
        return "wild-clusters" if self.clustered else "wild" if self.uneven else "residuals"

    @property
    def clustered(self) -> bool:
        """Whether runs of a size err together."""
        return self.alike is not None and self.alike_p is not None and self.alike > ALIKE and self.alike_p < CLUSTERED


def misfit(fit: Fit, clusters: Float[np.ndarray, "runs"] | None = None, noise: SeedNoise | None = None) -> Misfit:
    """Residuals against seed noise, along each column, and between clusters."""
    r = fit.residuals
    seed_ratio = seed_p = alike = alike_p = None
    if noise is not None:
        left, degrees = max(float(np.sum(r**2)) - noise.degrees * noise.sd_log10**2, 0.0), fit.degrees - noise.degrees
        seed_ratio = fit.rmse_log10 / noise.sd_log10
        if degrees > 0 and fit.problem.loss == squared_log():
            seed_p = f_tail(left / degrees / noise.sd_log10**2, degrees, noise.degrees)
    bends: dict[str, tuple[float, float]] = {}
    total, freedom = float(np.sum((r - r.mean()) ** 2)), len(r) - 3
    for name, column in fit.problem.data.items():
        x = np.log10(column) - np.log10(column).mean()
        if len(np.unique(x)) > 2 and freedom > 0 and total > 0:
            basis = np.stack([np.ones_like(x), x, x * x], axis=-1)
            rest = float(np.sum((r - basis @ np.linalg.lstsq(basis, r)[0]) ** 2))
            bends[name] = 1 - rest / total, f_tail((total - rest) / 2 / max(rest / freedom, 1e-300), 2, freedom)
    if clusters is not None:
        alike, alike_p = _between(r, np.unique(clusters, return_inverse=True)[1])
    return Misfit(seed_ratio, seed_p, bends, alike, alike_p, spread_along(fit))


def _between(r: Float[np.ndarray, "runs"], unit: Shaped[np.ndarray, "runs"]) -> tuple[float | None, float | None]:
    """Intraclass correlation of residuals by one-way analysis of variance, and the p of its F test."""
    counts = np.bincount(unit)
    groups, within = len(counts), len(r) - len(counts)
    if groups < 2 or within < 1:
        return None, None
    means = np.bincount(unit, r) / counts
    between_ms = float(np.sum(counts * (means - r.mean()) ** 2)) / (groups - 1)
    within_ms = float(np.sum((r - means[unit]) ** 2)) / within
    size = (len(r) - float(np.sum(counts**2)) / len(r)) / (groups - 1)
    if between_ms + within_ms <= 0:
        return None, None
    alike = (between_ms - within_ms) / (between_ms + (size - 1) * within_ms)
    return float(alike), f_tail(between_ms / max(within_ms, 1e-300), groups - 1, within)


def warnings_for(
    fit: Fit, about: str, *, draws: Draws | None = None, found: Misfit | None = None, figures: Mapping[str, Estimate] | None = None,
    steps: Sequence[RollOutStep] = (), level: float = 0.95, tokens: Float[np.ndarray, "runs"] | None = None,
) -> tuple[FitWarning, ...]:  # fmt: skip
    """Everything about this fit that its figures do not say themselves, worst first.

    `figures` are coefficients and derived ones, `tokens` those of the runs fitted, where these say them.
    """
    figures = figures or {}
    parts = (
        _about_tokens(fit, tokens), _about_optimum(fit), _about_misfit(found or Misfit()), _held_out(steps), _about_draws(draws, level),
        _about_width(fit, figures, draws, level), _about_signs(fit, figures, level), _about_ranges(fit, figures, level),
    )  # fmt: skip
    warned = [FitWarning(code, SEVERITY[code], about, text) for part in parts for code, text in part]
    return tuple(sorted(warned, key=lambda warning: SEVERITIES.index(warning.severity)))


_Found = Iterator[tuple[str, str]]
"""Codes with their sentences."""


def _about_tokens(fit: Fit, tokens: Float[np.ndarray, "runs"] | None) -> _Found:
    if tokens is not None and not {D, C} & set(fit.law.columns) and (times := vary(tokens)):
        held = f"law {fit.law.name} has none: its parameters hold what tokens did"
        yield "tokens-ignored", f"tokens differ {times:.3g} times among the runs, and {held}"


def _about_optimum(fit: Fit) -> _Found:
    known, law, degrees = fit.certificate, fit.law, fit.degrees
    if not known.converged:
        yield (
            "not-converged",
            f"the fit did not end at an optimum: a further step would lower the objective by {known.remaining:.0e} of itself",
        )
    if not known.confirmed:
        yield "not-confirmed", f"{known.searches} searches from different starts ended at different optima; the lowest is given"
    for name in known.at_bounds:
        ratio = next((f" ({key} = {over}/{under})" for key, (over, under) in law.ratios.items() if under == name), "")
        held = f"{name} is 0, its bound: without it the fit would be lower still (--unbounded)"
        ended = f"{name}{ratio} ended at the end of its range: the runs set no limit there"
        yield "at-bound", held if name in law.nonnegative and fit.parameters.get(name) == 0 else ended
    if known.identified and known.condition > _ILL:
        yield "ill-conditioned", f"condition number {known.condition:.1e}: the runs hardly tell some parameters apart"
    if degrees < FEW_DEGREES:
        noise = f"the noise is known to {1 / np.sqrt(2 * degrees):.0%} at best" if degrees else "there are no intervals"
        left = f"{fit.num_runs} runs for {fit.problem.num_free} parameters leave {degrees} degrees of freedom"
        yield "few-runs" if degrees else "no-degrees", f"{left}: {noise}"


def _about_misfit(found: Misfit) -> _Found:
    if found.seed_p is not None and found.seed_p < _MISFIT:
        yield "lack-of-fit", f"residuals are {found.seed_ratio:.0f} times the noise between seeds (F test, p = {found.seed_p:.0e})"
    for name, (share, p) in (found.bends or {}).items():
        if p < _MISFIT:
            yield "lack-of-fit", f"a bend along {short(name)} explains {share:.0%} of the residuals' variance (p = {p:.0e})"
    if found.clustered:
        shared = f"runs of one size share {found.alike:.0%} of the residuals' variance"
        yield "clustered-residuals", f"{shared}: they err together (F test, p = {found.alike_p:.0e})"
    if one := found.uneven:
        end, ratio = ("large", one.times) if one.times > 1 else ("small", 1 / one.times)
        wider = f"residuals are {ratio:.1f} times wider at the {end} end of {short(one.column)} (p = {one.p:.0e})"
        yield "uneven-spread", f"{wider}: --scheme auto lets each run keep the size of its own"


def _held_out(steps: Sequence[RollOutStep]) -> _Found:
    for by in AXES:
        last = furthest(steps, by)
        score = pooled(last)
        if score is not None and missed(score):
            hold = f"hold {score.covered} of {score.runs} runs at {short(by)} = {count(last[0].size)}"
            yield "held-out-failure", f"fitted to {_FITTED[by]}, its prediction intervals {hold}"


def _about_draws(draws: Draws | None, level: float) -> _Found:
    if draws is None:
        return
    if draws.scheme == "residuals" and 0 < draws.fit.degrees < FEW_DEGREES:
        few = f"{draws.fit.num_runs} residuals are too few to draw from"
        yield "few-residuals", f"{few}: noise was drawn from a normal with their spread"
    if tail(draws, level) * (len(draws) - draws.failed + 1) < 1:
        yield _too_few(draws, level)
    if draws.failed:
        lost = {"did not converge": draws.unfinished, "do not identify the law": draws.failed - draws.unfinished}
        text = f"of {len(draws)} draws {' and '.join(f'{many} {what}' for what, many in lost.items() if many)}"
        gone = too_many_failed(draws.refits.usable, level)
        yield ("not-identified", f"{text}: no intervals") if gone else ("failed-draws", text)


def _too_few(draws: Draws, level: float) -> tuple[str, str]:
    """What draws that do not reach an interval's ends lack: clusters, number, or degrees of freedom."""
    needed, ends = draws_needed(draws, level), f"do not reach the ends of a {level:.4g} interval"
    if draws.scheme == "wild-clusters" and needed > (different := len(WEBB) ** draws.units):
        few = "1 cluster is" if draws.units == 1 else f"{draws.units} clusters are"
        return "few-clusters", f"{few} too few: {different:,} different draws {ends}"
    never = f"no number of draws does with {degrees_of_freedom(draws):.0f} degrees of freedom"
    return "too-few-draws", f"{len(draws)} draws {ends}: {f'{needed:,} draws would reach' if needed <= _MANY_DRAWS else never}"


def _about_width(fit: Fit, figures: Mapping[str, Estimate], draws: Draws | None, level: float) -> _Found:
    if draws is None or not fit.certificate.identified or too_many_failed(draws.refits.usable, level):
        return
    names = [name for name in fit.law.parameter_names if name in figures and figures[name].status is Status.NOT_IDENTIFIED]
    if names:
        yield "not-identified", f"{listing(names)}: the intervals span more than six decades, or hold no end at all"


def _about_signs(fit: Fit, figures: Mapping[str, Estimate], level: float) -> _Found:
    for name, sign in fit.law.signs.items():
        figure = figures.get(name, Estimate(np.nan))
        if figure.value * sign <= 0:
            yield "wrong-sign", f"{name} is {figure.value:.4g}, where a {'positive' if sign > 0 else 'negative'} value is expected"
        elif figure.known and figure.sign != sign:
            yield "sign-not-shown", f"{_ends(name, figure, level)} does not exclude zero"


def _about_ranges(fit: Fit, figures: Mapping[str, Estimate], level: float) -> _Found:
    data, units, loss = fit.problem.data, fit.law.units, 10**fit.problem.observed
    ranges = {"experts": ("number of experts", data[E])} if E in data else {}
    if {P, F} <= set(data):
        ranges["parameters per multiply-add"] = "B = P/F", np.real(utilisation_of(data))
    for name, figure in figures.items():
        if figure.low is None or figure.high is None:
            continue
        if units.get(name) in ranges:
            what, values = ranges[units[name]]
            span = float(values.max() / values.min())
            if figure.high > span * figure.low:
                yield "wide-interval", f"{_ends(name, figure, level)} spans a larger ratio than the runs' {what} ({span:.4g})"
            elif figure.high > values.max():
                yield "wide-interval", f"{_ends(name, figure, level)} reaches beyond the largest {what} of the runs ({count(values.max())})"
        if name == "L_0" and isinstance(fit.law.link, FloorLink) and figure.high - figure.low > np.ptp(loss):
            longer = f"is longer than the range of the losses ({loss.min():.4g} to {loss.max():.4g})"
            yield "wide-interval", f"the {level:.0%} interval of L_0 {longer}"
    if far := {name: figure.distance for name, figure in figures.items() if figure.extrapolated}:
        times = (f"{name} ({f'{x:.2g}' if x < 10 else f'{x:.0f}' if x < 1000 else 'over 1,000'} times)" for name, x in far.items())
        yield "extrapolated", f"outside the runs: {', '.join(times)}"


def _ends(name: str, figure: Estimate, level: float) -> str:
    return f"the {level:.0%} interval of {name}, {figure.low:.4g} to {figure.high:.4g},"
