"""The solver finds the true optimum: against the released reference values, and against an optimiser nobody here wrote."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.optimize import curve_fit, least_squares

from fit.errors import NotIdentifiedError
from fit.laws import BILINEAR, BOUNDED, CATALOGUE, DENSE, DENSE_FLOOR, DENSE_LAWS, SEPARABLE, TOKENS, Law, per_size
from fit.solver.losses import LN10, Huber, Loss, Squared
from fit.solver.solve import Fit, fit_law
from tests.fit.conftest import Sample

ROUTERS = ("S-Base", "Hash", "RL-R")
ROUTED = tuple(law for law in CATALOGUE.values() if law.name not in DENSE_LAWS)


def _independent_optimum(fit: Fit, starts: int, seed: int = 0) -> float:
    """The least objective that scipy's bounded trust-region solver finds from random starts, all parameters free at once.

    Coefficients are scaled by their size so that the solver's own tolerances mean something; its residuals are written from the law's
    formula, `Law.log10_loss`, and share nothing else with the solver under test.
    """
    law, problem = fit.law, fit.problem
    shapes = len(law.shapes)
    low, high = problem.limits.T
    generator = np.random.default_rng(seed)

    def residuals(x: Float[np.ndarray, "unknowns"]) -> Float[np.ndarray, "runs"]:
        with np.errstate(all="ignore"):
            r = problem.loss.residual(law.log10_loss(x[:shapes], x[shapes:] * fit_scale, problem.data), problem.observed)
            cost = np.sqrt(problem.loss.rho(r))
        return np.where(np.isfinite(cost), np.sign(r) * cost, 1e3)

    fit_scale = np.abs(fit.beta) + 1e-3
    best = np.inf
    for _ in range(starts):
        theta = np.array([np.exp(generator.uniform(np.log(max(a, 1e-4)), np.log(b))) for a, b in zip(low, high, strict=True)])
        theta = np.clip(theta, low + 1e-9, high - 1e-9)
        # Coefficients from an ordinary least-squares fit at the random shapes, as any user would start.
        features = law.features(theta, problem.data)
        beta, *_ = np.linalg.lstsq(features, law.link.of_loss(10**problem.observed, theta), rcond=None)
        found = least_squares(
            residuals,
            np.concatenate([theta, beta / fit_scale]),
            bounds=(np.concatenate([low, np.full(len(beta), -np.inf)]), np.concatenate([high, np.full(len(beta), np.inf)])),
            x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400,
        )  # fmt: skip
        best = min(best, 2 * found.cost / fit.num_runs)
    return best


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("law", ROUTED, ids=lambda law: law.name)
def test_no_law_is_fitted_worse_than_by_an_independent_optimiser(law: Law, router: str, released: Callable[[str], Sample]) -> None:
    data, loss = released(router)
    fit = fit_law(law, data, loss)
    assert fit.certificate.objective <= _independent_optimum(fit, starts=6) * (1 + 1e-9)


@pytest.mark.parametrize("objective", [Squared(), Huber(1e-3), Huber(1e-2)], ids=lambda loss: loss.name)
@pytest.mark.parametrize("law", [BILINEAR, BOUNDED, CATALOGUE["floor-interaction"]], ids=lambda law: law.name)
def test_no_loss_is_minimised_worse_than_by_an_independent_optimiser(law: Law, objective: Loss, released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    fit = fit_law(law, data, loss, objective)
    assert fit.certificate.objective <= _independent_optimum(fit, starts=6) * (1 + 1e-9)


def test_the_reference_fit_of_the_release_is_reproduced_to_every_digit(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    found = [f"{value:.{digits}f}" for value, digits in zip(fit.parameters.values(), (4, 4, 4, 4, 3, 2), strict=True)]
    assert found == ["-0.0838", "-0.1234", "0.0104", "1.1216", "2.394", "217.65"]
    assert f"{fit.rmse_log10:.6f}" == "0.003203"
    assert fit.num_runs == 61


def test_the_reference_fit_without_the_dense_130m_runs_is_reproduced_to_every_digit(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    kept = ~((data["num_experts"] == 1) & (data["dense_parameter_count"] == 132163584))
    fit = fit_law(BOUNDED, {name: column[kept] for name, column in data.items()}, loss[kept])
    found = [f"{value:.{digits}f}" for value, digits in zip(fit.parameters.values(), (4, 4, 4, 4, 3, 2), strict=True)]
    assert found == ["-0.0830", "-0.1180", "0.0099", "1.1136", "2.075", "238.67"]
    assert f"{fit.rmse_log10:.6f}" == "0.003228"
    assert fit.num_runs == 58


def test_floor_laws_reach_the_reference_errors_and_interaction(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    plain, saturating = (fit_law(CATALOGUE[name], data, loss) for name in ("floor-interaction", "bounded-floor-interaction"))
    assert f"{plain.rmse_log10 * LN10:.4f}" == "0.0054"
    assert f"{plain.parameters['c']:.4f}" == "0.0008"
    assert f"{saturating.parameters['c']:.4f}" == "0.0011"
    assert f"{fit_law(CATALOGUE['bounded-floor'], data, loss).rmse_log10 * LN10:.4f}" == "0.0036"


def test_a_dense_law_with_a_floor_is_fitted_as_scipys_curve_fit_does(released: Callable[[str], Sample]) -> None:
    data, loss = released("Dense")
    fit = fit_law(DENSE_FLOOR, data, loss)

    def _log_loss(n: Float[np.ndarray, "runs"], floor: float, log_c: float, a: float) -> Float[np.ndarray, "runs"]:
        return np.log(floor + np.exp(log_c - a * np.log(n)))

    found, _ = curve_fit(_log_loss, data["dense_parameter_count"], np.log(loss), p0=[1.0, 3.0, 0.15])
    floor, log_c, a = found
    # Both stop where the objective is flat to rounding, which leaves half of a float's digits, 1.5e-8, times the problem's condition, 311.
    assert list(fit.parameters.values()) == pytest.approx([floor, np.exp(log_c), a], rel=1e-5)
    # A power law alone misses the eight runs more than three times as far.
    assert fit.rmse_log10 < fit_law(DENSE, data, loss).rmse_log10 / 3


@pytest.mark.parametrize("law", [BOUNDED, CATALOGUE["bounded-floor-interaction"]], ids=lambda law: law.name)
def test_order_units_and_duplication_do_not_move_the_optimum(law: Law, released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    fit = fit_law(law, data, loss)
    order = np.random.default_rng(3).permutation(len(loss))
    shuffled = fit_law(law, {name: column[order] for name, column in data.items()}, loss[order])
    doubled = fit_law(law, {name: np.tile(column, 2) for name, column in data.items()}, np.tile(loss, 2))
    millions = fit_law(law, {**data, "dense_parameter_count": data["dense_parameter_count"] / 1e6}, loss)
    for other in (shuffled, doubled):
        np.testing.assert_allclose(list(other.parameters.values()), list(fit.parameters.values()), rtol=1e-8)
    # A unit moves what carries it (b, d, C); the shapes, the exponent a where experts are one, and the curve stay.
    np.testing.assert_allclose(millions.theta, fit.theta, rtol=1e-8)
    np.testing.assert_allclose(millions.rmse_log10, fit.rmse_log10, rtol=1e-8)
    np.testing.assert_allclose(millions.residuals, fit.residuals, atol=1e-10)


def test_certificates_hold_on_the_release(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    for law in ROUTED:
        certificate = fit_law(law, data, loss).certificate
        # Rounding of residuals near 0.003 in predictions near 0.4 leaves a cosine of about 1e-16 x 100 x sqrt(61).
        assert certificate.gradient < 1e-11
        assert certificate.best_in_search >= certificate.objective * (1 - 1e-12)
        assert certificate.reached >= 1
        assert np.isfinite(certificate.condition)


def test_the_certificate_names_parameters_at_a_bound() -> None:
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(9)))
    # Unsaturated at both ends, and steeper below than any E_start allows.
    loss = 10 ** (1.1 - 0.08 * np.log10(n) - 0.03 * np.log10(e) - 0.001 * np.log10(e) ** 2)
    certificate = fit_law(BOUNDED, {"dense_parameter_count": n, "num_experts": e}, loss).certificate
    assert certificate.at_bounds


@settings(max_examples=10, deadline=None)
@given(
    a=st.floats(-0.12, -0.04), b=st.floats(-0.2, -0.03), c=st.floats(0.0, 0.015), d=st.floats(0.9, 1.3),
    e_start=st.floats(1.05, 8), e_max=st.floats(60, 2000),
)  # fmt: skip
def test_a_noiseless_law_is_recovered(a: float, b: float, c: float, d: float, e_start: float, e_max: float) -> None:
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1.5e7, 1.3e9, 6), 2.0 ** np.arange(10)))
    data = {"dense_parameter_count": n, "num_experts": e}
    truth = BOUNDED.log10_loss(np.array([e_start, e_start / e_max]), np.array([a, b, c, d]), data)
    fit = fit_law(BOUNDED, data, 10**truth)
    # The curve to float64; the parameters to what the flat valley leaves of it.
    np.testing.assert_allclose(fit.log10_loss(data), truth, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.3, 3),
    st.floats(0.2, 0.6),
    st.floats(0.2, 0.6),
    st.floats(0.3, 1.5),
    st.floats(0.3, 1.5),
)
def test_a_law_in_size_and_tokens_is_recovered(floor: float, a: float, b: float, of_size: float, of_tokens: float) -> None:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(7e7, 1.6e10, 6), np.geomspace(5e9, 5e11, 5)))
    # `of_size` and `of_tokens` nats at the smallest, as in the published fit of Hoffmann et al., where they are 0.9 and 0.8.
    scales = of_size * 7e7**a, of_tokens * 5e9**b
    fit = fit_law(TOKENS, {"dense_parameter_count": n, "tokens_seen": d}, floor + scales[0] * n**-a + scales[1] * d**-b)
    found = fit.parameters
    # To what rounding leaves: the scales stand for values far from the runs, so theirs is multiplied by ln 5e9.
    assert [found["L_0"], found["a"], found["b"]] == pytest.approx([floor, a, b], rel=1e-6)
    assert [found["A"], found["B"]] == pytest.approx(list(scales), rel=1e-4)


def test_linear_laws_agree_with_least_squares(released: Callable[[str], Sample]) -> None:
    data, loss = released("Hash")
    x, e = np.log10(data["dense_parameter_count"]), np.log10(data["num_experts"])
    for law, columns in ((SEPARABLE, [x, e, np.ones_like(x)]), (BILINEAR, [x, e, x * e, np.ones_like(x)])):
        expected, *_ = np.linalg.lstsq(np.stack(columns, axis=1), np.log10(loss), rcond=None)
        # Both are exact but for rounding, with a condition number of about 1e3.
        np.testing.assert_allclose(fit_law(law, data, loss).beta, expected, rtol=1e-10)


def test_a_slope_per_size_is_the_line_through_that_size_alone(released: Callable[[str], Sample]) -> None:
    data, loss = released("RL-R")
    sizes = np.unique(data["dense_parameter_count"])
    fit = fit_law(per_size(sizes.tolist()), data, loss)
    for i, size in enumerate(sizes):
        here = data["dense_parameter_count"] == size
        slope, intercept = np.polyfit(np.log10(data["num_experts"][here]), np.log10(loss[here]), 1)
        np.testing.assert_allclose([fit.beta[i], fit.beta[i + len(sizes)]], [slope, intercept], rtol=1e-10)


@pytest.mark.parametrize(
    ("n", "e", "words"),
    [
        ([1e7, 1e8, 1e9], [1.0, 2.0, 4.0], "4 parameters and there are 3 runs"),
        ([1e7] * 12, [1.0, 2.0, 4.0, 8.0] * 3, "one only of dense_parameter_count"),
        ([1e7, 1e8, 1e9] * 4, [8.0] * 12, "one only of num_experts"),
        ([1e7, 1e8] * 6, [2.0, 8.0] * 6, "not identified"),
    ],
    ids=["few-runs", "one-size", "one-expert-count", "size-and-experts-together"],
)
def test_runs_that_cannot_identify_a_law_are_refused_in_one_line(n: list[float], e: list[float], words: str) -> None:
    loss = 3 - 0.1 * np.log10(np.array(n)) - 0.01 * np.array(e) + np.random.default_rng(0).normal(0, 0.01, len(n))
    with pytest.raises(NotIdentifiedError, match=words) as caught:
        fit_law(BILINEAR, {"dense_parameter_count": np.array(n), "num_experts": np.array(e)}, loss)
    assert "\n" not in str(caught.value)


def test_derivatives_by_complex_steps_are_those_of_finite_differences(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    r, jacobian = fit.problem.linearise(fit.theta[None], fit.beta[None], fit.problem.observed[None])
    theta, beta = fit.theta * np.exp([1e-6, 0]), fit.beta
    moved = fit.problem.residuals(theta[None], beta[None], fit.problem.observed[None])
    # A forward difference of step 1e-6 is good to about 1e-6 of the derivative.
    np.testing.assert_allclose((moved - r)[0] / 1e-6, jacobian[0][:, 4], rtol=1e-4, atol=1e-7)
