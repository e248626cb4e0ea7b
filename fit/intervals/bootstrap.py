"""Resampling a fit: residuals, pairs or clusters of runs, every draw fitted to its own optimum; and the intervals that follow.

A derived quantity is a function of shape parameters and coefficients; its interval is that function over the draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from common.errors import InputError
from fit.intervals.student import t_quantile
from fit.solver.refit import Refits, refit
from fit.solver.solve import Fit

Scheme = Literal["residuals", "pairs", "clusters"]
Method = Literal["percentile", "bca"]

Quantity = Callable[[Float[np.ndarray, "draws shapes"], Float[np.ndarray, "draws features"]], Float[np.ndarray, "draws quantities"]]
"""Any figures that follow from fits: takes the shape parameters and coefficients of many, gives a row for each."""

_NOISES = 64
"""Residuals that each draw's curve is paired with for a new run: enough that an interval's end moves by under 1 % with their number."""

FEW_DEGREES = 10
"""Below this many residual degrees of freedom Student's t asks for intervals a seventh wider than a normal's."""

_LEAST_DRAWS = 20
"""Fewer identified draws than this give no interval: its ends would be the extremes of a handful."""


@dataclass(frozen=True)
class Interval:
    """A figure and its interval, per quantity. `low` or `high` is infinite where draws are unbounded, NaN where there are too few."""

    value: Float[np.ndarray, "quantities"]
    low: Float[np.ndarray, "quantities"]
    high: Float[np.ndarray, "quantities"]


@dataclass(frozen=True)
class Draws:
    """The refits of a fit to resamples.

    `refits` are the identified draws; `failed` the number of those that were not. `unit_of` gives each run's resampling unit,
    the run itself or its cluster; `noise` the residuals of log10 loss that new runs are drawn with.
    """

    fit: Fit
    scheme: Scheme
    seed: int
    refits: Refits
    failed: int
    unit_of: Int[np.ndarray, "runs"]
    noise: Float[np.ndarray, "residuals"]

    def __len__(self) -> int:
        return len(self.refits)

    @property
    def units(self) -> int:
        """Number of resampling units: runs, or clusters."""
        return int(self.unit_of.max()) + 1

    @cached_property
    def left_out(self) -> Refits:
        """Identified refits without each unit in turn, from which BCa takes its acceleration."""
        return _identified(refit(self.fit, weights=(self.unit_of != np.arange(self.units)[:, None]).astype(np.float64)))


def leverage(fit: Fit) -> Float[np.ndarray, "runs"]:
    """How much of its own residual each run's weight in the fit hides: the diagonal of the hat matrix, from 0 to 1."""
    _, jacobian = fit.problem.linearise(fit.theta[None], fit.beta[None], fit.problem.observed[None])
    held = np.array([shape.name in fit.certificate.at_bounds for shape in fit.law.shapes], dtype=bool)
    free = np.concatenate([np.ones(len(fit.beta), dtype=bool), ~held])
    basis, _ = np.linalg.qr(jacobian[0][:, free])
    return np.sum(basis**2, axis=-1)


def noise_residuals(fit: Fit) -> Float[np.ndarray, "residuals"]:
    """What noise is drawn from, in log10 loss: the residuals, each raised to the noise's own spread, r/sqrt(1 - leverage), and centred.

    With fewer than `FEW_DEGREES` residual degrees of freedom the handful of residuals is a poor likeness of the noise, and quantiles
    of a normal with their spread, sqrt(RSS/(n - p)), take their place (our choice: on the eight dense runs intervals of resampled
    residuals were measured to cover 89 to 95 % in place of 95).
    """
    degrees = fit.num_runs - fit.law.num_parameters
    if 0 < degrees < FEW_DEGREES:
        quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / _NOISES) for i in range(_NOISES)])
        return quantiles * (np.sqrt(np.sum(fit.residuals**2) / degrees) / quantiles.std())
    scaled = fit.residuals / np.sqrt(np.maximum(1 - leverage(fit), 1e-3))
    return scaled - scaled.mean()


def _multiplicities(picks: Int[np.ndarray, "draws units"], units: Int[np.ndarray, "runs"]) -> Float[np.ndarray, "draws runs"]:
    """How often each run is in each resample, from the units picked."""
    count = int(units.max()) + 1
    flat = picks + count * np.arange(len(picks))[:, None]
    table = np.bincount(flat.ravel(), minlength=count * len(picks)).reshape(len(picks), count)
    return table[:, units].astype(np.float64)


def resample(
    fit: Fit,
    scheme: Scheme = "residuals",
    draws: int = 1000,
    seed: int = 0,
    clusters: Float[np.ndarray, "runs"] | None = None,
) -> Draws:
    """Refit `fit` to `draws` resamples.

    `residuals`: the fitted curve plus residuals drawn with replacement, each raised by its leverage: runs keep their design.
    `pairs`: runs drawn with replacement. `clusters`: whole groups of runs drawn with replacement, those of one value of
    `clusters` (such as the model size) together. The same seed gives the same draws.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"no resampling scheme is called {scheme!r}; there are: {', '.join(get_args(Scheme))}")
    if scheme == "clusters" and clusters is None:
        raise InputError("the scheme 'clusters' needs the cluster of each run, such as its dense_parameter_count")
    generator = np.random.default_rng(seed)
    noise = noise_residuals(fit)
    units = np.arange(fit.num_runs) if clusters is None or scheme != "clusters" else np.unique(clusters, return_inverse=True)[1]
    count = int(units.max()) + 1
    if scheme == "residuals":
        drawn = noise[generator.integers(0, len(noise), size=(draws, fit.num_runs))]
        refits = refit(fit, observed=fit.log10_loss(fit.problem.data) + drawn)
    else:
        refits = refit(fit, weights=_multiplicities(generator.integers(0, count, size=(draws, count)), units))
    return Draws(fit, scheme, seed, _identified(refits), int(np.sum(~refits.identified)), units, noise)


def _identified(refits: Refits) -> Refits:
    return replace(refits, **{name: value[refits.identified] for name, value in vars(refits).items()})


def evaluate(fit: Fit, quantity: Quantity) -> Float[np.ndarray, "quantities"]:
    """A quantity at the fit itself."""
    return quantity(fit.theta[None], fit.beta[None])[0]


def interval(draws: Draws, quantity: Quantity, level: float = 0.95, method: Method = "percentile") -> Interval:
    """The interval of a quantity at this confidence level.

    `percentile`: the draws' own quantiles, at expanded levels. `bca`: the same, corrected for bias and skew (Efron 1987); where
    the correction has no value (every draw on one side of the figure) the percentiles stand.
    """
    value = evaluate(draws.fit, quantity)
    if len(draws) < _LEAST_DRAWS:
        nothing = np.full_like(value, np.nan)
        return Interval(value, nothing, nothing)
    sample = quantity(draws.refits.theta, draws.refits.beta)
    levels = np.repeat(_expanded_ends(draws, level)[:, None], len(value), axis=1)
    if method == "bca":
        levels = _bca_levels(value, sample, quantity(draws.left_out.theta, draws.left_out.beta), levels)
    low, high = (_quantiles(sample, row) for row in levels)
    return Interval(value, low, high)


def _expanded_ends(draws: Draws, level: float) -> Float[np.ndarray, "2"]:
    """The draws' quantiles at which an interval of this level ends, for a small sample (Hesterberg 2015, section 4.3.2).

    Draws scatter like a normal with the sample's own variance, where the truth asks for Student's t: the ends move out to the
    normal level of the t quantile, with the degrees of freedom the residuals have left, or the clusters. Resampling runs or clusters
    also makes the variance too small by (n - p)/n or (G - 1)/G; resampled residuals were already raised for it.
    """
    units, fitted = draws.units, draws.fit.law.num_parameters
    lost = 1 if draws.scheme == "clusters" else fitted
    freedom = float(max(units - lost, 1))
    widening = 1.0 if draws.scheme == "residuals" else float(np.sqrt(units / freedom))
    low = NormalDist().cdf(-widening * t_quantile((1 + level) / 2, freedom))
    return np.array([low, 1 - low])


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
    """The draws' quantiles at which BCa puts the interval's ends."""
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


def parameters(fit: Fit) -> Quantity:
    """The law's reported parameters, as a quantity."""
    return fit.law.parameter_values


def predicted_loss(fit: Fit, data: Mapping[str, Float[np.ndarray, "quantities"]]) -> Quantity:
    """Predicted loss (nats per token) on the mean curve at new points, as a quantity."""
    return lambda theta, beta: 10 ** fit.law.log10_loss(theta, beta, data)


def new_run_loss(draws: Draws, data: Mapping[str, Float[np.ndarray, "quantities"]]) -> Quantity:
    """Loss (nats per token) that a new run at each point would have: every draw's curve with every residual, as a quantity.

    A row for every pair, so that the ends do not move with the luck of one pairing; of many residuals, 64 quantiles stand for all.
    """
    count = min(len(draws.noise), _NOISES)
    noise = np.quantile(draws.noise, (np.arange(count) + 0.5) / count, method="hazen")

    def _losses(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "pairs quantities"]:
        """A row for every pair of a curve and a residual; for the fit alone, its curve."""
        curve = draws.fit.law.log10_loss(theta, beta, data)
        if len(curve) == 1:
            return 10**curve
        return 10 ** (curve[:, None] + noise[:, None]).reshape(-1, curve.shape[-1])

    return _losses
