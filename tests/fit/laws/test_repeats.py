"""The data-constrained law: its authors' figures to the last digit, recovery of every parameter, and what it is where nothing repeats."""

import numpy as np
import pytest

from fit.engine.solve import fit_law
from fit.laws import DATA_CONSTRAINED, TOKENS
from fit.laws.interface import Law
from fit.runs.schema import D, N, U
from fit.uncertainty.draws import resample
from fit.uncertainty.intervals import estimates
from tests.fit.designs import TRUTH, Columns, design, ends

PUBLISHED = {
    "L_0": np.exp(0.6254804), "A": np.exp(6.255414), "a": 0.3526596, "B": np.exp(7.3049974), "b": 0.3526596, "R_D_star": 15.387756,
    "R_N_star": 5.309743,
}  # fmt: skip
"""The README of github.com/huggingface/datablations, "Parametric Fit"."""


def published() -> tuple[np.ndarray, np.ndarray]:
    """Its shape parameters and coefficients."""
    p = PUBLISHED
    best = (p["a"] * p["A"] / (p["b"] * p["B"])) ** (1 / p["a"]) * 1e9 ** (p["b"] / p["a"])
    return np.array([p["a"], p["b"], p["R_D_star"], p["R_N_star"], best]), np.array([p["L_0"], p["B"]])


def _runs(columns: list[tuple[float, float, float]]) -> Columns:
    n, d, u = np.array(columns).T
    return {N: n, D: d, U: u}


def test_the_published_coefficients_give_the_losses_that_the_authors_print() -> None:
    theta, beta = published()
    values = dict(zip(DATA_CONSTRAINED.parameter_names, DATA_CONSTRAINED.parameter_values(theta, beta).tolist(), strict=True))
    np.testing.assert_allclose([values[name] for name in PUBLISHED], list(PUBLISHED.values()), rtol=1e-12)
    found = 10 ** DATA_CONSTRAINED.log10_loss(theta, beta, _runs([(6.34e9, 242e9, 25e9), (8.67e9, 178e9, 25e9)]))
    np.testing.assert_allclose(found, [2.2256440889984477, 2.2269634075087867], rtol=1e-14)


@pytest.mark.parametrize("truth", [published(), tuple(map(np.array, TRUTH["data-constrained"]))], ids=["published", "a-not-b"])
def test_every_parameter_of_noise_free_runs_is_recovered(truth: tuple[np.ndarray, np.ndarray]) -> None:
    data = design(DATA_CONSTRAINED)
    fit = fit_law(DATA_CONSTRAINED, data, 10 ** DATA_CONSTRAINED.log10_loss(*truth, data))
    assert fit.certificate.certified
    np.testing.assert_allclose(list(fit.parameters.values()), DATA_CONSTRAINED.parameter_values(*truth), rtol=1e-6)


def _at_tokens(law: Law, theta: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The law `tokens` with the same A, a, B, b and L_0."""
    p = dict(zip(law.parameter_names, law.parameter_values(theta, beta).tolist(), strict=True))
    return np.array([p["a"], p["b"]]), np.array([p["L_0"], p["A"], p["B"]])


def test_where_no_token_repeats_and_no_model_is_too_large_it_is_the_law_of_size_and_tokens() -> None:
    theta, beta = published()
    # 20 tokens a parameter are the optimum; these models are smaller. More unique tokens than are read change nothing.
    data = _runs([(1e8, 1e10, 1e10), (1e9, 1e11, 1e12), (1e9, 4e10, 4e10)])
    np.testing.assert_allclose(
        DATA_CONSTRAINED.log10_loss(theta, beta, data), TOKENS.log10_loss(*_at_tokens(DATA_CONSTRAINED, theta, beta), data), rtol=1e-13
    )


def test_repeats_and_excess_parameters_are_worth_what_the_two_limits_say() -> None:
    theta, beta = published()
    # R_D* times U more than U is all that repeats ever give; so of parameters, beyond U_N = (aA/bB)^(1/a) U^(b/a).
    u_n = theta[4] * 10 ** (theta[1] / theta[0])
    endless = DATA_CONSTRAINED.log10_loss(theta, beta, _runs([(1e8, 1e16, 1e10), (1e17, 1e10, 1e10)]))
    as_tokens = TOKENS.log10_loss(
        *_at_tokens(DATA_CONSTRAINED, theta, beta), _runs([(1e8, 1e10 * (1 + theta[2]), 1e10), (u_n * (1 + theta[3]), 1e10, 1e10)])
    )
    np.testing.assert_allclose(endless, as_tokens, rtol=1e-12)


def test_without_models_too_large_the_worth_of_parameters_is_not_identified_and_can_be_held() -> None:
    theta, beta = published()
    data = {name: column[design(DATA_CONSTRAINED)[N] < 1e8] for name, column in design(DATA_CONSTRAINED).items()}
    # Spread over a decade, below what even 10^8 unique tokens ask for: 5e6 parameters.
    data[N] = np.tile(np.geomspace(3e5, 3e6, 6), len(data[N]) // 6 + 1)[: len(data[N])]
    loss = 10 ** DATA_CONSTRAINED.log10_loss(theta, beta, data)
    assert not fit_law(DATA_CONSTRAINED, data, loss).certificate.identified
    held = fit_law(DATA_CONSTRAINED, data, loss, fixed={"R_N_star": 1e6})
    assert held.certificate.identified
    np.testing.assert_allclose([held.parameters[name] for name in ("a", "b", "R_D_star")], theta[:3], rtol=1e-5)


def test_of_a_noisy_fit_every_draw_ends_and_their_spread_is_that_of_the_derivatives() -> None:
    theta, beta = published()
    data = design(DATA_CONSTRAINED)
    curve = DATA_CONSTRAINED.log10_loss(theta, beta, data)
    fit = fit_law(DATA_CONSTRAINED, data, 10 ** (curve + 0.002 * np.random.default_rng(2).standard_normal(len(curve))))
    draws = resample(fit, "residuals", 400, seed=1)
    assert draws.failed == 0
    found = estimates(fit, draws, DATA_CONSTRAINED.parameter_values)
    low, high = ends(found)
    # Student's t for 65 degrees of freedom. An end of 400 draws is known to 7 % of a standard error, and the law is not quite linear.
    np.testing.assert_allclose((high - low) / [one.se for one in found if one.se is not None], 2 * 1.997, rtol=0.15)
