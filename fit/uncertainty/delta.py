"""First-order uncertainty, for nothing: covariance, standard errors and correlations from the derivatives at the optimum.

    cov = s^2 (J' J)^-1,   s^2 = RSS/(n - p),   se(q) = sqrt(g' cov g),   g the gradient of the figure

It holds where the law is nearly linear over the uncertainty of its parameters; the draws do not need that.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fit.engine.solve import Fit, moving

Quantity = Callable[[Float[np.ndarray, "draws shapes"], Float[np.ndarray, "draws features"]], Float[np.ndarray, "draws quantities"]]
"""Any figures that follow from fits: takes the shape parameters and coefficients of many, gives a row for each."""

_STEP = 1e-4
"""Step of the differences in standard errors: the truncation error is its square, far below what a first-order figure is worth."""


def evaluate(fit: Fit, quantity: Quantity) -> Float[np.ndarray, "quantities"]:
    """A quantity at the fit itself."""
    return quantity(fit.theta[None], fit.beta[None])[0]


def covariance(fit: Fit) -> Float[np.ndarray, "unknowns unknowns"]:
    """Covariance of coefficients and shape parameters (on their coordinates); zero for what is fixed or at a bound.

    NaN where no degrees of freedom are left or the parameters are not identified.
    """
    free, count = moving(fit.problem, fit.theta[None], fit.beta[None])[0], len(fit.beta) + len(fit.theta)
    out = np.zeros((count, count))
    if fit.degrees < 1 or not fit.certificate.identified:
        return np.full((count, count), np.nan)
    jacobian = fit.derivatives[:, free]
    length = np.linalg.norm(jacobian, axis=0)
    _, singular, vectors = np.linalg.svd(jacobian / length, full_matrices=False)
    inverse = (vectors.T / singular**2) @ vectors / np.outer(length, length)
    r = fit.problem.residuals(fit.theta[None], fit.beta[None])[0]
    variance = float(np.sum(fit.problem.weights * r**2)) / fit.degrees
    out[np.ix_(free, free)] = variance * inverse
    return out


def gradient(
    fit: Fit, quantity: Quantity, spread: Float[np.ndarray, "unknowns"]
) -> tuple[Float[np.ndarray, "quantities unknowns"], Float[np.ndarray, "quantities unknowns"]]:
    """First and second derivatives of a quantity, per standard error `spread` of each unknown (its own direction alone)."""
    problem, features = fit.problem, len(fit.beta)
    moves = np.concatenate([_STEP * np.diag(spread), -_STEP * np.diag(spread)])
    q = problem.to_coordinates(fit.theta)[None] + moves[:, features:]
    values = quantity(problem.unclipped(q), fit.beta[None] + moves[:, :features])
    centre = evaluate(fit, quantity)
    above, below = values[: len(spread)], values[len(spread) :]
    with np.errstate(invalid="ignore", over="ignore"):
        return ((above - below) / (2 * _STEP)).T, ((above + below - 2 * centre) / _STEP**2).T


def figure_covariance(fit: Fit, quantity: Quantity) -> Float[np.ndarray, "quantities quantities"]:
    """Covariance of figures; NaN where that of the parameters is."""
    cov = covariance(fit)
    spread = np.sqrt(np.diag(cov))
    if np.isnan(spread).any():
        return np.full(2 * evaluate(fit, quantity).shape, np.nan)
    unit = np.where(spread > 0, spread, 1.0)
    first, _ = gradient(fit, quantity, spread)
    with np.errstate(over="ignore", invalid="ignore"):
        return first @ (cov / unit[:, None] / unit) @ first.T


def standard_errors(fit: Fit, quantity: Quantity) -> Float[np.ndarray, "quantities"]:
    """Standard errors of figures; NaN where the covariance is."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.diag(figure_covariance(fit, quantity)))


def correlations(fit: Fit) -> dict[tuple[str, str], float]:
    """Correlations between the reported parameters, each pair once; empty where the covariance is not known."""
    whole, names = figure_covariance(fit, fit.law.parameter_values), fit.law.parameter_names
    with np.errstate(invalid="ignore"):
        sd = np.sqrt(np.diag(whole))
    # A parameter that the runs hardly know may have no finite variance.
    pairs = [(i, j) for i in range(len(names)) for j in range(i) if 0 < sd[i] < np.inf and 0 < sd[j] < np.inf]
    return {(names[j], names[i]): float(whole[i, j] / (sd[i] * sd[j])) for i, j in pairs}


def prediction_sd(fit: Fit, log10_loss: Quantity) -> Float[np.ndarray, "quantities"]:
    """Standard deviation of a new run's log10 loss about the fitted curve: curve and noise, to first order."""
    noise = float(np.sum(fit.problem.weights * fit.residuals**2)) / max(fit.degrees, 1)
    return np.sqrt(standard_errors(fit, log10_loss) ** 2 + noise)
