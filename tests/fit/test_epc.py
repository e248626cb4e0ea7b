"""Effective parameter counts and N_cutoff are exact to the law, and equal the paper's closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from fit.epc import cutoff, effective_parameter_count, equal_loss_line, expert_slope, has_cutoff, has_epc, size_slope
from fit.laws import BILINEAR, BOUNDED, CATALOGUE, SEPARABLE, UTILISATION, Law
from fit.laws.saturation import saturate
from fit.solver.solve import fit_law
from tests.fit.conftest import Sample

WITH_EPC = tuple(law for law in CATALOGUE.values() if has_epc(law))
N = np.array([5e6, 1.6e7, 3.7e8, 1.3e9])
E = np.array([128.0, 2.0, 64.0, 512.0])


@pytest.mark.parametrize("law", WITH_EPC, ids=lambda law: law.name)
def test_a_dense_model_of_the_effective_size_has_the_routed_models_loss(law: Law, simulated: Callable[[str], Sample]) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(law, data, loss)
    effective = effective_parameter_count(law, fit.theta, fit.beta, N, E)
    dense = fit.log10_loss({"dense_parameter_count": effective, "num_experts": np.ones_like(E)})
    routed = fit.log10_loss({"dense_parameter_count": N, "num_experts": E})
    np.testing.assert_allclose(10**dense, 10**routed, rtol=1e-12)


@given(
    a=st.floats(-0.15, -0.05), b=st.floats(-0.3, -0.01), c=st.floats(0, 0.01),
    e_start=st.floats(1, 8), e_max=st.floats(20, 1e5), n=st.floats(1e6, 1e11), e=st.floats(1, 1e4),
)  # fmt: skip
def test_the_effective_size_is_equation_11(a: float, b: float, c: float, e_start: float, e_max: float, n: float, e: float) -> None:
    rho = e_start / e_max
    e_hat = float(saturate(np.array([e]), np.array([e_start]), np.array([rho]))[0])

    def alpha(x: float) -> float:
        return a + c * np.log10(x)

    expected = n ** (alpha(e_hat) / alpha(e_start)) * (e_hat / e_start) ** (b / alpha(e_start))
    found = effective_parameter_count(BOUNDED, np.array([e_start, rho]), np.array([a, b, c, 1.1]), np.array([n]), np.array([e]))
    if alpha(e_start) >= -1e-3:
        return  # where the dense curve hardly falls, both forms lose their digits
    np.testing.assert_allclose(np.log10(found), np.log10(expected), rtol=1e-10)


def test_one_expert_is_worth_the_model_itself() -> None:
    found = effective_parameter_count(BOUNDED, np.array([2.0, 0.01]), np.array([-0.08, -0.1, 0.01, 1.1]), N, np.ones(4))
    np.testing.assert_allclose(found, N, rtol=1e-12)


def test_without_interaction_a_floor_law_multiplies_the_size_by_a_factor_of_experts_alone(
    simulated: Callable[[str], Sample],
) -> None:
    data, loss = simulated("Hash")
    fit = fit_law(CATALOGUE["bounded-floor"], data, loss)
    e = np.full(4, 64.0)
    factor = effective_parameter_count(fit.law, fit.theta, fit.beta, N, e) / N
    e_hat = saturate(e[:1], fit.theta[1:2], fit.theta[2:3])
    expected = (e_hat / fit.parameters["E_start"]) ** (fit.parameters["b"] / fit.parameters["a"])
    np.testing.assert_allclose(factor, np.broadcast_to(expected, 4), rtol=1e-10)


def test_at_the_cutoff_experts_no_longer_change_the_loss() -> None:
    beta = np.array([-0.082, -0.108, 0.009, 1.104])
    size = cutoff(BOUNDED, beta)
    np.testing.assert_allclose(size, 10 ** (0.108 / 0.009), rtol=1e-12)
    np.testing.assert_allclose(expert_slope(BOUNDED, beta, size.reshape(1)), 0, atol=1e-15)
    losses = BILINEAR.log10_loss(np.zeros(0), beta, {"dense_parameter_count": np.repeat(size, 3), "num_experts": E[:3]})
    np.testing.assert_allclose(losses, losses[0], rtol=1e-13)


def test_a_gain_that_does_not_shrink_has_no_cutoff() -> None:
    assert cutoff(BILINEAR, np.array([-0.08, -0.1, -0.001, 1.1])) == np.inf
    assert cutoff(BILINEAR, np.array([-0.08, -0.1, 0.0, 1.1])) == np.inf


def test_the_slope_in_size_is_that_of_the_loss() -> None:
    theta, beta = np.array([2.0, 0.01]), np.array([-0.08, -0.1, 0.01, 1.1])
    expected = -0.08 + 0.01 * np.log10(saturate(E, theta[:1], theta[1:]))
    np.testing.assert_allclose(size_slope(BOUNDED, theta, beta, E), expected, rtol=1e-10)


def test_a_line_of_equal_loss_is_the_inverse_of_the_effective_size() -> None:
    theta, beta = np.array([2.0, 0.01]), np.array([-0.08, -0.1, 0.01, 1.1])
    sizes = equal_loss_line(BOUNDED, theta, beta, 1e9, E)
    np.testing.assert_allclose(effective_parameter_count(BOUNDED, theta, beta, sizes, E), 1e9, rtol=1e-10)


def test_laws_without_these_quantities_say_so() -> None:
    assert not has_epc(UTILISATION)
    assert not has_cutoff(SEPARABLE)
    with pytest.raises(InputError, match="no effective parameter count"):
        effective_parameter_count(UTILISATION, np.array([1.0, 0.1]), np.zeros(4), N, E)
    with pytest.raises(InputError, match="no N_cutoff"):
        cutoff(SEPARABLE, np.zeros(3))
