"""From draws to intervals, each with a status: the one place where it is decided whether a figure has an interval.

Draws that did not converge or did not identify the law may all lie on one side, so an interval of level `l` is given only where they are
at most (1 - l)/2 of all. An interval that does not hold its own figure is none. Where the law is linear in its coefficients and so is
the figure, the interval is Student's, exactly.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float

from fit.engine.solve import Fit
from fit.estimate import Estimate, Status
from fit.uncertainty.delta import Quantity, covariance, evaluate, gradient, standard_errors
from fit.uncertainty.distributions import t_quantile
from fit.uncertainty.draws import NOISES, Draws

WIDEST = 1e6
"""An interval of a positive figure whose ends are further apart says that the runs do not determine it (our choice)."""


def estimates(
    fit: Fit, draws: Draws | None, quantity: Quantity, level: float = 0.95, *, unit: str | Sequence[str] = "", errors: bool = True,
    exact: bool = True, widest: float = WIDEST,
) -> list[Estimate]:  # fmt: skip
    """Figures of a fit with their intervals, the draws' quantiles at expanded levels, and standard errors.

    `exact`: Student's where it holds; not for a quantity that adds noise of its own, and so has other rows than its fits. `widest`: the
    ratio of the ends above which a positive figure counts as not identified; infinite for a size at which something may never end.
    """
    value = evaluate(fit, quantity)
    low = high = np.full_like(value, np.nan)
    se = standard_errors(fit, quantity) if errors else low
    status = [_no_interval(fit, draws, level)] * len(value)
    if draws is not None and status[0] is None:
        low, high, reached = _from_draws(quantity(draws.theta, draws.beta), tail(draws, level))
        enough = np.full(len(value), reached)
        linear_law = fit.problem.quadratic and not fit.problem.free_shapes.any() and not fit.problem.bounded
        if exact and draws.scheme == "residuals" and linear_law:
            exact_low, exact_high, linear = _exact(fit, quantity, value, level)
            low, high, enough = np.where(linear, exact_low, low), np.where(linear, exact_high, high), linear | reached
        status = [_status(*row, widest) for row in zip(value, low, high, enough.tolist(), strict=True)]
    units = [unit] * len(value) if isinstance(unit, str) else list(unit)
    return [_estimate(*row) for row in zip(value, low, high, status, units, se, strict=True)]


def _estimate(value: float, low: float, high: float, status: Status, unit: str = "", se: float = np.nan) -> Estimate:
    """A figure with the ends that its status allows."""
    ends = (float(low), float(high)) if status in (Status.OK, Status.OPEN) else (None, None)
    return Estimate(float(value), *ends, status, unit, float(se) if np.isfinite(se) else None)


def _no_interval(fit: Fit, draws: Draws | None, level: float) -> Status | None:
    """Why no figure of the fit has an interval; None where they may."""
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


def _status(value: float, low: float, high: float, enough: bool, widest: float = WIDEST) -> Status:
    if not enough:
        return Status.TOO_FEW_DRAWS
    if np.isnan(low) or np.isnan(high) or not low <= value <= high or (np.isinf(low) and np.isinf(high)):
        return Status.NOT_IDENTIFIED
    if (low > 0 and widest * low < high < np.inf) or (low == 0 and np.isinf(high)):
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
    sample: Float[np.ndarray, "draws quantities"], least: float
) -> tuple[Float[np.ndarray, "quantities"], Float[np.ndarray, "quantities"], bool]:
    """The draws' quantiles at the levels `least` and 1 - `least`, and whether the least draw is as far out as they are."""
    return _quantiles(sample, least), _quantiles(sample, 1 - least), bool(least * (len(sample) + 1) >= 1)


def _exact(
    fit: Fit, quantity: Quantity, value: Float[np.ndarray, "quantities"], level: float
) -> tuple[Float[np.ndarray, "quantities"], Float[np.ndarray, "quantities"], Bool[np.ndarray, "quantities"]]:
    """Student's interval of the figures of a linear law, and whether it is exact: where the figure is linear in the coefficients."""
    first, second = gradient(fit, quantity, np.sqrt(np.diag(covariance(fit))))
    linear = np.abs(second).max(axis=-1) <= 1e-6 * np.abs(first).max(axis=-1)
    reach = t_quantile((1 + level) / 2, float(fit.degrees)) * standard_errors(fit, quantity)
    return value - reach, value + reach, linear


def _quantiles(sample: Float[np.ndarray, "draws quantities"], level: float) -> Float[np.ndarray, "quantities"]:
    """The draw of rank level x (draws + 1), unbiased for interval ends.

    Unlike numpy's, an infinite draw does not turn its neighbours into NaN.
    """
    place = min(max(level * (len(sample) + 1) - 1, 0), len(sample) - 1)
    below, above = int(place), min(int(place) + 1, len(sample) - 1)
    # Only these ranks are put in order, which takes a tenth of a sort.
    ordered = np.partition(sample, (below, above), axis=0)
    low, high, part = ordered[below], ordered[above], place - below
    with np.errstate(invalid="ignore"):
        between = low + part * (high - low)
    return np.where(np.isfinite(low) & np.isfinite(high), between, high if part > 0 else low)


def new_run_estimates(
    fit: Fit, draws: Draws | None, data: Mapping[str, Float[np.ndarray, "points"]], level: float = 0.95
) -> list[Estimate]:
    """Loss (nats per token) that a new run at each point would have: every draw's curve with every residual of the noise.

    A row for every pair, so that the ends do not move with the luck of one pairing; of many residuals, 64 quantiles stand for all.
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
        spread = 1.0 if draws.spread is None else draws.spread.at(data)
        return 10 ** (curve[:, None] + noise[:, None] * spread).reshape(-1, curve.shape[-1])

    return estimates(fit, draws, losses, level, unit="nats per token", errors=False, exact=False)


def difference(first: Draws, second: Draws, of: Quantity, other: Quantity, level: float = 0.95) -> list[Estimate]:
    """Figures of one fit less those of another, draw by draw: shared runs and sizes move both, and drop out of the interval."""
    value = evaluate(first.fit, of) - evaluate(second.fit, other)
    both = first.refits.usable & second.refits.usable
    if too_many_failed(both, level):
        return [Estimate(float(one), status=Status.NOT_IDENTIFIED) for one in value]
    sample = of(first.refits.theta[both], first.refits.beta[both]) - other(second.refits.theta[both], second.refits.beta[both])
    low, high, enough = _from_draws(sample, min(tail(first, level), tail(second, level)))
    return [_estimate(*row, _status(*row, enough)) for row in zip(value, low, high, strict=True)]
