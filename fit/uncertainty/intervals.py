"""From draws to intervals, each with a status: the one place where it is decided whether a figure has an interval.

Draws that did not converge or did not identify the law may all lie on one side, so an interval of level `l` is given only where they are
at most (1 - l)/2 of all. An interval that does not hold its own figure is none. Where the law is linear in its coefficients and so is
the figure, the interval is Student's, exactly.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from fit.engine.solve import Fit
from fit.estimate import Estimate, Status
from fit.uncertainty.delta import Quantity, covariance, evaluate, gradient, standard_errors
from fit.uncertainty.distributions import t_quantile
from fit.uncertainty.draws import NOISES, Draws

Method = Literal["percentile", "bca"]


def estimates(
    fit: Fit,
    draws: Draws | None,
    quantity: Quantity,
    level: float = 0.95,
    method: Method = "percentile",
    *,
    unit: str | Sequence[str] = "",
    errors: bool = True,
    exact: bool = True,
) -> list[Estimate]:
    """Figures of a fit with their intervals and standard errors.

    `percentile`: the draws' own quantiles, at expanded levels. `bca`: the same, corrected for bias and skew (Efron 1987).
    `exact`: Student's where it holds; not for a quantity that adds noise of its own, and so has other rows than its fits.
    """
    value = evaluate(fit, quantity)
    se = standard_errors(fit, quantity) if errors else np.full_like(value, np.nan)
    low, high, status = _ends(fit, draws, quantity, value, level, method, exact)
    units = [unit] * len(value) if isinstance(unit, str) else list(unit)
    return [_estimate(*row) for row in zip(value, low, high, status, units, se, strict=True)]


def _estimate(value: float, low: float, high: float, status: Status, unit: str = "", se: float = np.nan) -> Estimate:
    """A figure with the ends that its status allows."""
    ends = (float(low), float(high)) if status in (Status.OK, Status.OPEN) else (None, None)
    return Estimate(float(value), *ends, status, unit, float(se) if np.isfinite(se) else None)


def _ends(
    fit: Fit, draws: Draws | None, quantity: Quantity, value: Float[np.ndarray, "quantities"], level: float, method: Method, exact: bool
) -> tuple[Float[np.ndarray, "quantities"], Float[np.ndarray, "quantities"], list[Status]]:
    """Both ends of every figure's interval, and its status."""
    without = _without_interval(fit, draws, level)
    if draws is None or without is not None:
        nothing = np.full_like(value, np.nan)
        return nothing, nothing, [without or Status.NOT_ASKED] * len(value)
    low, high, enough = _from_draws(draws, quantity, value, level, method)
    if exact and draws.scheme == "residuals":
        exact_low, exact_high, linear = _exact(fit, quantity, value, level)
        low, high, enough = np.where(linear, exact_low, low), np.where(linear, exact_high, high), linear | enough
    return low, high, [_status(*row) for row in zip(value, low, high, enough.tolist(), strict=True)]


def _without_interval(fit: Fit, draws: Draws | None, level: float) -> Status | None:
    """Why no figure of this fit has an interval from these draws; None where they may."""
    if not fit.certificate.identified:
        return Status.NOT_IDENTIFIED
    if fit.degrees < 1:
        return Status.NO_DEGREES
    if draws is None:
        return Status.NOT_ASKED
    return Status.NOT_IDENTIFIED if too_many_failed(draws.refits.usable, level) else None


def too_many_failed(usable: Bool[np.ndarray, "draws"], level: float) -> bool:
    """Whether more draws are lost than lie beyond one end of an interval of this level (but for rounding of that share)."""
    return bool(np.mean(~usable) > (1 - level) / 2 + 1e-12)


def _status(value: float, low: float, high: float, enough: bool) -> Status:
    if not enough:
        return Status.TOO_FEW_DRAWS
    if np.isnan(low) or np.isnan(high) or not low <= value <= high or (np.isinf(low) and np.isinf(high)):
        return Status.NOT_IDENTIFIED
    return Status.OPEN if np.isinf(low) or np.isinf(high) else Status.OK


def degrees_of_freedom(draws: Draws) -> float:
    """Degrees of freedom of Student's t for intervals from these draws: those of the residuals, or one less than the clusters."""
    return float(draws.units - 1 if draws.scheme == "wild-clusters" else draws.fit.degrees)


def draws_needed(draws: Draws, level: float) -> int:
    """The fewest draws whose quantiles reach the ends of an interval of this level; 10^300 where no number does."""
    return int(np.ceil(1 / max(tail(draws, level), 1e-300)))


def tail(draws: Draws, level: float) -> float:
    """The draws' quantile level at which an interval's lower end lies, for a small sample (Hesterberg 2015, section 4.3.2).

    Draws scatter like a normal with the sample's own variance, where the truth asks for Student's t: the ends move out to the
    normal level of the t quantile. Resampling runs also makes the variance too small by (n - p)/n; resampled residuals were already
    raised for it. Without a degree of freedom no quantile is far enough out: 0.
    """
    freedom = degrees_of_freedom(draws)
    if freedom < 1:
        return 0.0
    widening = np.sqrt(draws.units / freedom) if draws.scheme == "pairs" else 1.0
    return NormalDist().cdf(-float(widening) * t_quantile((1 + level) / 2, freedom))


def _from_draws(
    draws: Draws, quantity: Quantity, value: Float[np.ndarray, "quantities"], level: float, method: Method
) -> tuple[Float[np.ndarray, "quantities"], Float[np.ndarray, "quantities"], np.ndarray]:
    """Ends read off the draws, and whether the draws reach that far."""
    low = tail(draws, level)
    if low == 0:
        return np.full_like(value, np.nan), np.full_like(value, np.nan), np.zeros(len(value), dtype=bool)
    sample = quantity(draws.theta, draws.beta)
    levels = np.repeat(np.array([[low], [1 - low]]), len(value), axis=1)
    if method == "bca":
        others = draws.left_out
        levels = _bca_levels(value, sample, quantity(others.theta[others.usable], others.beta[others.usable]), levels)
    # A quantile below that of the least draw is not in the draws.
    enough = np.asarray((np.minimum(levels, 1 - levels) * (len(sample) + 1) >= 1).all(axis=0))
    ends = [_quantiles(sample, row) for row in levels]
    return ends[0], ends[1], enough


def _exact(
    fit: Fit, quantity: Quantity, value: Float[np.ndarray, "quantities"], level: float
) -> tuple[Float[np.ndarray, "quantities"], Float[np.ndarray, "quantities"], np.ndarray]:
    """Student's interval of the figures that are linear in the coefficients of a linear law, and which these are."""
    nothing = np.full_like(value, np.nan)
    if not fit.problem.quadratic or fit.problem.free_shapes.any() or np.isfinite(fit.problem.box[fit.problem.free_coefficients]).any():
        return nothing, nothing, np.zeros(len(value), dtype=bool)
    spread = np.sqrt(np.diag(covariance(fit)))
    first, second = gradient(fit, quantity, spread)
    linear = np.abs(second).max(axis=-1) <= 1e-6 * np.abs(first).max(axis=-1)
    reach = t_quantile((1 + level) / 2, float(fit.degrees)) * standard_errors(fit, quantity)
    return value - reach, value + reach, linear


def _quantiles(sample: Float[np.ndarray, "draws quantities"], levels: Float[np.ndarray, "quantities"]) -> Float[np.ndarray, "quantities"]:
    """Quantiles, one level per quantity: the draw of rank level x (draws + 1), unbiased for interval ends.

    Unlike numpy's, an infinite draw does not turn its neighbours into NaN.
    """
    ordered = np.sort(sample, axis=0)
    place = np.clip(levels * (len(ordered) + 1) - 1, 0, len(ordered) - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high, part = ordered[below, columns], ordered[above, columns], place - below
    with np.errstate(invalid="ignore"):
        between = low + part * (high - low)
    return np.where(np.isfinite(low) & np.isfinite(high), between, np.where(part > 0, high, low))


def _bca_levels(
    value: Float[np.ndarray, "quantities"],
    sample: Float[np.ndarray, "draws quantities"],
    left_out: Float[np.ndarray, "units quantities"],
    levels: Float[np.ndarray, "ends quantities"],
) -> Float[np.ndarray, "ends quantities"]:
    """The draws' quantiles at which BCa puts the interval's ends; the percentiles where the correction has no value."""
    normal = NormalDist()
    below = (np.mean(sample < value, axis=0) + np.mean(sample <= value, axis=0)) / 2
    corrected = levels.copy()
    for j in range(len(value)):
        finite = left_out[np.isfinite(left_out[:, j]), j]
        if not 0 < below[j] < 1 or len(finite) < 3:
            continue
        influence = finite.mean() - finite
        spread = float(np.sum(influence**2))
        acceleration = float(np.sum(influence**3)) / (6 * spread**1.5) if spread > 0 else 0.0
        bias = normal.inv_cdf(float(below[j]))
        for end in range(len(levels)):
            shifted = bias + normal.inv_cdf(float(levels[end, j]))
            if (stretch := 1 - acceleration * shifted) > 0:
                corrected[end, j] = normal.cdf(bias + shifted / stretch)
    return corrected


def new_run_estimates(
    fit: Fit, draws: Draws | None, data: Mapping[str, Float[np.ndarray, "points"]], level: float = 0.95
) -> list[Estimate]:
    """Loss (nats per token) that a new run at each point would have: every draw's curve with every residual of the noise.

    A row for every pair, so that the ends do not move with the luck of one pairing; of many residuals, 64 quantiles stand for all.
    Percentile ends only: BCa corrects for the estimate's bias, of which noise has none.
    """
    law = fit.law

    def losses(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "pairs quantities"]:
        """A row for every pair of a curve and a residual; for the fit alone, its curve."""
        curve = law.log10_loss(theta, beta, data)
        if draws is None or len(curve) == 1:
            return 10**curve
        count = min(len(draws.noise), NOISES)
        noise = np.quantile(draws.noise, (np.arange(count) + 0.5) / count, method="hazen")
        return 10 ** (curve[:, None] + noise[:, None]).reshape(-1, curve.shape[-1])

    return estimates(fit, draws, losses, level, unit="nats per token", errors=False, exact=False)


def difference(first: Draws, second: Draws, of: Quantity, other: Quantity, level: float = 0.95) -> list[Estimate]:
    """Figures of one fit less those of another, draw by draw: shared runs and sizes move both, and drop out of the interval."""
    value = evaluate(first.fit, of) - evaluate(second.fit, other)
    both = first.refits.usable & second.refits.usable
    status = [Status.NOT_IDENTIFIED] * len(value)
    low = high = np.full_like(value, np.nan)
    if not too_many_failed(both, level):
        sample = of(first.refits.theta[both], first.refits.beta[both]) - other(second.refits.theta[both], second.refits.beta[both])
        least = min(tail(first, level), tail(second, level))
        low, high = (_quantiles(sample, np.full(len(value), end)) for end in (least, 1 - least))
        status = [_status(v, a, b, least * (len(sample) + 1) >= 1) for v, a, b in zip(value, low, high, strict=True)]
    return [_estimate(*row) for row in zip(value, low, high, status, strict=True)]
