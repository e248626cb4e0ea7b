"""What a reader must know before believing a fit: warnings with codes, each one plain sentence with its numbers.

| code | what it says |
|---|---|
| `at-bound` | a shape parameter ended where its search range ends |
| `wide-interval` | an interval spans more than the runs do, or reaches beyond them |
| `wrong-sign` | an estimate, or an end of its interval, contradicts the sign that the law's story needs |
| `cutoff-beyond-data` | N_cutoff lies beyond the largest size fitted |
| `cutoff-not-identified` | there is no N_cutoff, in the fit or in more draws than an interval leaves outside |
| `extrapolated-epc` | an effective parameter count at a point outside the runs, or larger than any dense model among them |
| `few-runs` | hardly more runs than parameters |
| `few-residuals` | too few residuals to draw from: a normal took their place |
| `few-clusters` | too few clusters for resampling them |
| `failed-draws` | resamples that did not identify the law |
| `ill-conditioned` | parameters that the runs can hardly tell apart |
| `starts-disagree` | only one start of several reached the optimum |
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from fit.epc import cutoff, cutoff_quantity, effective_parameter_count, has_cutoff, has_epc
from fit.intervals.bootstrap import FEW_DEGREES, Draws, interval, parameters
from fit.laws.interface import Data, FloorLink
from fit.laws.utilisation import utilisation_of
from fit.solver.solve import Fit

_FEW_CLUSTERS = 20
"""Cluster schemes do not cover as they should with fewer (Cameron, Gelbach & Miller 2008); the release has six sizes."""

_ILL = 1e6
"""The normal equations square it: 1e12 of the 1e16 that float64 has, and a hundredth of where a resample counts as not identified."""

_RANGES: Mapping[str, tuple[str, Callable[[Data], Float[np.ndarray, "runs"]]]] = {
    "experts": ("num_experts", lambda data: data["num_experts"]),
    "parameters per multiply-add": ("B = P/F", utilisation_of),
}
"""The unit of a parameter that has a counterpart among the runs, and that counterpart."""


@dataclass(frozen=True)
class FitWarning:
    """A code that does not change, and one sentence."""

    code: str
    message: str


@runtime_checkable
class Bounded(Protocol):
    """A figure with the ends of its interval, None where there is none."""

    @property
    def value(self) -> float:
        """The figure."""
        ...

    @property
    def low(self) -> float | None:
        """Lower end."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end."""
        ...


@runtime_checkable
class Place(Protocol):
    """A model asked about: dense size (parameters) and number of experts."""

    @property
    def n(self) -> float:
        """Dense size."""
        ...

    @property
    def e(self) -> float:
        """Number of experts."""
        ...


@dataclass(frozen=True)
class _Figure:
    value: float
    low: float | None = None
    high: float | None = None


def warnings_for(
    fit: Fit,
    draws: Draws | None = None,
    coefficients: Mapping[str, Bounded] | None = None,
    derived: Mapping[str, Bounded] | None = None,
    *,
    points: Sequence[Place] = (),
    level: float = 0.95,
) -> tuple[FitWarning, ...]:
    """Everything about this fit that its figures do not say themselves.

    `coefficients` (the law's reported parameters) and `derived` (`n_cutoff` or `f_cutoff`) are figures with their intervals, if they
    are already there; else they are taken from `draws` at `level`. `points` are the models whose effective parameter count is shown.
    """
    figures = _figures(fit, draws, level) if coefficients is None else coefficients
    return (
        *_about_solution(fit),
        *_about_runs(fit, draws),
        *_wrong_signs(fit, figures, level),
        *_wide_intervals(fit, figures, level),
        *_about_cutoff(fit, draws, derived or {}, level),
        *_extrapolated(fit, points),
    )


def _figures(fit: Fit, draws: Draws | None, level: float) -> Mapping[str, Bounded]:
    if draws is None:
        return {name: _Figure(value) for name, value in fit.parameters.items()}
    found = interval(draws, parameters(fit), level)
    rows = zip(fit.law.parameter_names, found.value, found.low, found.high, strict=True)
    return {name: _Figure(float(value), float(low), float(high)) for name, value, low, high in rows}


def _ends(figure: Bounded) -> tuple[float, float] | None:
    """The ends of an interval, or None where there is none or it has too few draws."""
    if figure.low is None or figure.high is None or np.isnan(figure.low) or np.isnan(figure.high):
        return None
    return float(figure.low), float(figure.high)


def _about_solution(fit: Fit) -> Iterator[FitWarning]:
    certificate = fit.certificate
    for shape, value, (low, high) in zip(fit.law.shapes, fit.theta, fit.problem.limits, strict=True):
        if shape.name in certificate.at_bounds:
            side, bound = ("lower", low) if value - low < high - value else ("upper", high)
            meaning = next((f" ({name} = {over}/{under})" for name, (over, under) in fit.law.ratios.items() if under == shape.name), "")
            message = f"{shape.name}{meaning} ended at the {side} end of its search range, {bound:.4g}: the runs set no limit there"
            yield FitWarning("at-bound", message)
    if certificate.condition > _ILL:
        message = f"condition number {certificate.condition:.1e}: these runs hardly tell some of the law's parameters apart"
        yield FitWarning("ill-conditioned", message)
    if certificate.starts > 1 and certificate.reached < 2:
        yield FitWarning("starts-disagree", f"only one of {certificate.starts} starts reached the optimum; nothing confirms it")


def _about_runs(fit: Fit, draws: Draws | None) -> Iterator[FitWarning]:
    degrees = fit.num_runs - fit.law.num_parameters
    if degrees < FEW_DEGREES:
        known = f"the noise is known to {1 / np.sqrt(2 * degrees):.0%} at best" if degrees else "intervals mean nothing"
        message = (
            f"{fit.num_runs} runs for {fit.law.num_parameters} parameters leave {degrees or 'no'} residual degrees of freedom: {known}"
        )
        yield FitWarning("few-runs", message)
    if draws is None:
        return
    if draws.scheme == "residuals" and 0 < degrees < FEW_DEGREES:
        message = f"{fit.num_runs} residuals are too few to draw from: noise was drawn from a normal with their spread"
        yield FitWarning("few-residuals", message)
    if draws.scheme == "clusters" and draws.units < _FEW_CLUSTERS:
        message = (
            f"{draws.units} clusters were resampled: with fewer than about {_FEW_CLUSTERS} such intervals do not cover what they say; "
            "docs/coverage.md shows by how much"
        )
        yield FitWarning("few-clusters", message)
    if draws.failed:
        message = f"{draws.failed} of {draws.failed + len(draws)} draws did not identify the law and are in no interval"
        yield FitWarning("failed-draws", message)


def _wrong_signs(fit: Fit, figures: Mapping[str, Bounded], level: float) -> Iterator[FitWarning]:
    for name, sign in fit.law.signs.items():
        if (figure := figures.get(name)) is None:
            continue
        wanted = "above" if sign > 0 else "below"
        if figure.value * sign <= 0:
            yield FitWarning("wrong-sign", f"{name} is {figure.value:.4g}, where the law's story needs it {wanted} 0")
        elif (ends := _ends(figure)) and min(ends[0] * sign, ends[1] * sign) <= 0:
            message = (
                f"the {level:.0%} interval of {name}, {ends[0]:.4g} to {ends[1]:.4g}, does not exclude 0; the law's story needs it {wanted}"
            )
            yield FitWarning("wrong-sign", message)


def _wide_intervals(fit: Fit, figures: Mapping[str, Bounded], level: float) -> Iterator[FitWarning]:
    for name, figure in figures.items():
        if not (ends := _ends(figure)):
            continue
        shown = f"the {level:.0%} interval of {name}, {ends[0]:.4g} to {ends[1]:.4g},"
        if (unit := fit.law.units.get(name, "")) in _RANGES:
            column, of = _RANGES[unit]
            values = of(fit.problem.data)
            span = float(values.max() / values.min())
            if ends[1] > span * ends[0]:
                yield FitWarning("wide-interval", f"{shown} spans a larger ratio than the runs' {column} ({span:.4g})")
            elif ends[1] > values.max():
                yield FitWarning("wide-interval", f"{shown} reaches beyond the largest {column} of the runs ({values.max():.4g})")
    if isinstance(fit.law.link, FloorLink) and (floor := figures.get(fit.law.shapes[0].name)) and (ends := _ends(floor)):
        loss = 10**fit.problem.observed
        if ends[1] - ends[0] > loss.max() - loss.min():
            shown = f"the {level:.0%} interval of {fit.law.shapes[0].name}, {ends[0]:.4g} to {ends[1]:.4g} nats,"
            yield FitWarning("wide-interval", f"{shown} is longer than the range of the losses ({loss.min():.4g} to {loss.max():.4g})")


def _about_cutoff(fit: Fit, draws: Draws | None, derived: Mapping[str, Bounded], level: float) -> Iterator[FitWarning]:
    if not has_cutoff(fit.law):
        return
    name, column = ("N_cutoff", "dense_parameter_count")
    if column not in fit.law.columns:
        name, column = ("F_cutoff", "flops_per_step")
    value, largest = float(cutoff(fit.law, fit.beta)), float(fit.problem.data[column].max())
    if not np.isfinite(value):
        yield FitWarning("cutoff-not-identified", f"the fitted gain from experts does not shrink with size: there is no {name}")
        return
    figure = derived.get(name.lower()) or (_interval_of_cutoff(draws, level) if draws is not None else _Figure(value))
    ends = _ends(figure)
    if value > largest:
        between = f" ({level:.0%} interval {ends[0]:.3g} to {ends[1]:.3g})" if ends else ""
        message = f"{name} {value:.3g}{between} is {value / largest:.3g} times the largest {column} of the runs ({largest:.3g})"
        yield FitWarning("cutoff-beyond-data", message)
    if draws is not None and ends and not np.isfinite(ends[1]):
        share = float(np.mean(~np.isfinite(cutoff(fit.law, draws.refits.beta))))
        message = (
            f"in {share:.1%} of {len(draws)} draws {name} is infinite, the gain from experts not shrinking with size: it has no upper limit"
        )
        yield FitWarning("cutoff-not-identified", message)


def _interval_of_cutoff(draws: Draws, level: float) -> _Figure:
    found = interval(draws, cutoff_quantity(draws.fit.law), level)
    return _Figure(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def beyond(values: Float[np.ndarray, "runs"], value: float) -> float:
    """How far outside the runs' values one lies, as a ratio to the nearest of them: 1 within, above 1 outside."""
    return float(max(value / values.max(), values.min() / value, 1.0))


def _extrapolated(fit: Fit, points: Sequence[Place]) -> Iterator[FitWarning]:
    if not has_epc(fit.law):
        return
    sizes, experts = fit.problem.data["dense_parameter_count"], fit.problem.data["num_experts"]
    dense = sizes[experts == 1]
    largest = float((dense if len(dense) else sizes).max())
    for n, e in ((float(point.n), float(point.e)) for point in points):
        worth = float(effective_parameter_count(fit.law, fit.theta, fit.beta, np.array([n]), np.array([e]))[0])
        reasons = [
            f"{name} lies {ratio:.3g} times outside the runs' {what}"
            for name, what, ratio in (("N", "sizes", beyond(sizes, n)), ("E", "expert counts", beyond(experts, e)))
            if ratio > 1
        ]
        if worth > largest:
            reasons.append(f"it is {worth / largest:.3g} times the largest dense size of the runs ({largest:.3g})")
        if reasons:
            at = f"the effective parameter count at N = {n:.3g}, E = {e:g} ({worth:.3g}) is extrapolated"
            yield FitWarning("extrapolated-epc", f"{at}: {'; '.join(reasons)}")
