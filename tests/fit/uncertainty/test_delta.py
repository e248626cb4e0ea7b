"""Covariances, standard errors and correlations are those of scipy's curve_fit and of the textbook's linear regression."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import curve_fit

from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, BOUNDED, DENSE, DENSE_FLOOR, SEPARABLE
from fit.quantities import log10_loss_quantity
from fit.runs.schema import E, N
from fit.uncertainty.delta import correlations, covariance, prediction_sd, standard_errors
from tests.fit.designs import LAWS, made_up


def _floor(n: Float[np.ndarray, "runs"], floor: float, c: float, a: float) -> Float[np.ndarray, "runs"]:
    return np.log10(floor + c * n**-a)


@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_and_correlations_are_scipys(weighted: bool) -> None:
    data, loss = made_up(DENSE_FLOOR)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(loss)) if weighted else np.ones(len(loss))
    fit = fit_law(DENSE_FLOOR, data, loss, weights=weights)
    start, least = list(fit.parameters.values()), 1e-15
    _, pcov = curve_fit(_floor, data[N], np.log10(loss), p0=start, sigma=weights**-0.5, xtol=least, ftol=least, gtol=least)
    # scipy's derivatives are finite differences of step 1e-8, and the condition number is 300.
    np.testing.assert_allclose(standard_errors(fit, fit.law.parameter_values), np.sqrt(np.diag(pcov)), rtol=1e-3)
    corr = pcov / np.sqrt(np.outer(np.diag(pcov), np.diag(pcov)))
    found = correlations(fit)
    assert set(found) == {("L_0", "C"), ("L_0", "a"), ("C", "a")}
    for (first, second), value in found.items():
        i, j = (fit.law.parameter_names.index(name) for name in (first, second))
        assert value == pytest.approx(corr[i, j], abs=1e-4)


def test_the_covariance_of_a_linear_law_is_s2_times_the_inverse_of_xtx(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("bilinear", "log")
    x = BILINEAR.features(np.zeros(0), fit.problem.data)
    s2 = float(np.sum(fit.residuals**2)) / (fit.num_runs - 4)
    # An inverse of condition 1e3 squared leaves ten digits.
    np.testing.assert_allclose(covariance(fit), s2 * np.linalg.inv(x.T @ x), rtol=1e-7)


def test_the_spread_of_a_new_run_is_curve_and_noise(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("separable", "log")
    new = {N: np.array([1e10, 1e8]), E: np.array([64.0, 1.0])}
    x, at = (SEPARABLE.features(np.zeros(0), data) for data in (fit.problem.data, new))
    s2 = float(np.sum(fit.residuals**2)) / (fit.num_runs - 3)
    expected = np.sqrt(s2 * (1 + np.einsum("pi,ij,pj->p", at, np.linalg.inv(x.T @ x), at)))
    np.testing.assert_allclose(prediction_sd(fit, log10_loss_quantity(fit.law, new)), expected, rtol=1e-6)


def test_the_first_order_errors_are_the_draws_spread(drawn: Callable[..., object], fitted: Callable[[str, str], Fit]) -> None:
    draws = drawn("separable", "residuals")
    spread = np.std(draws.beta, axis=0, ddof=1)  # pyright: ignore[reportAttributeAccessIssue]
    # 200 draws give a standard deviation to 5 %; four of these, and the resampled noise's own variance.
    np.testing.assert_allclose(standard_errors(fitted("separable", "log"), lambda theta, beta: beta), spread, rtol=0.25)


def test_what_is_fixed_or_at_a_bound_has_no_spread() -> None:
    data, loss = made_up(BOUNDED)
    for fit in (fit_law(BOUNDED, data, loss, fixed={"c": 0.008}), fit_law(BOUNDED, data, loss, bounds={"c": (0.05, 0.06)})):
        found = dict(zip(fit.law.parameter_names, standard_errors(fit, fit.law.parameter_values), strict=True))
        assert found.pop("c") == 0
        assert all(np.isfinite(value) for value in found.values())
        assert not any("c" in pair for pair in correlations(fit))


def test_without_degrees_of_freedom_or_identification_nothing_is_known() -> None:
    data, loss = made_up(SEPARABLE)
    three = [0, 7, 12]
    exact = fit_law(SEPARABLE, {name: column[three] for name, column in data.items()}, loss[three])
    lost = fit_law(SEPARABLE, {N: data[N], E: np.ones(len(loss))}, loss)
    for fit in (exact, lost):
        assert np.isnan(covariance(fit)).all()
        assert np.isnan(standard_errors(fit, fit.law.parameter_values)).all()
        assert correlations(fit) == {}


def test_every_law_has_standard_errors(fitted: Callable[[str, str], Fit]) -> None:
    for law in LAWS:
        fit = fitted(law.name, "log")
        assert (standard_errors(fit, fit.law.parameter_values) > 0).all()


def test_a_parameter_whose_variance_is_beyond_any_float_has_no_correlation_and_no_warning() -> None:
    """A loss that hardly falls with size: N_c is 10^200 and more, its square infinite."""
    n = np.geomspace(1e7, 1e9, 12)
    fit = fit_law(DENSE, {N: n}, 3 * n**-0.0024 * np.exp(1e-5 * np.random.default_rng(0).standard_normal(12)))
    assert 1e150 < fit.parameters["N_c"] < np.inf
    assert standard_errors(fit, fit.law.parameter_values)[1] == np.inf
    assert correlations(fit) == {}


def test_with_one_degree_of_freedom_the_noise_is_the_sum_of_squares() -> None:
    data, loss = made_up(DENSE)
    fit = fit_law(DENSE, {N: data[N][::6]}, loss[::6])
    assert fit.degrees == 1
    at = log10_loss_quantity(DENSE, {N: np.array([1e8])})
    expected = np.sqrt(standard_errors(fit, at) ** 2 + np.sum(fit.residuals**2))
    np.testing.assert_allclose(prediction_sd(fit, at), expected, rtol=1e-12)
