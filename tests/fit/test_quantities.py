"""Effective parameter counts, N_cutoff and slopes: the paper's closed forms, and what each is by definition for any law."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from fit.laws import BILINEAR, BOUNDED, CATALOGUE, SEPARABLE, TOKENS_EXPERTS, UTILISATION, Law, per_size
from fit.quantities import (
    D,
    E,
    N,
    beyond,
    cutoff,
    cutoff_quantity,
    effective_parameter_count,
    epc_quantity,
    expert_slope,
    has_allocation,
    has_cutoff,
    has_epc,
    log10_loss_quantity,
    loss_quantity,
    size_reaching,
    slope,
)
from tests.checks import unchecked
from tests.fit.designs import CURVED, TRUTH, e_hat

WITH_EPC = tuple(law for law in CATALOGUE.values() if has_epc(law))
SIZES = np.array([5e6, 1.6e7, 3.7e8, 1.3e9])
COUNTS = np.array([128.0, 2.0, 64.0, 512.0])
BENT = np.array([-0.65, 0.035, -0.1, 0.008, 3.5])
"""CURVED falling up to N = 10^(0.65/0.07) = 1.9e9, and rising above."""


def _truth(law: Law) -> tuple[np.ndarray, np.ndarray]:
    theta, beta = TRUTH[law.name]
    return np.array(theta, dtype=np.float64), np.array(beta)


def _others(law: Law) -> dict[str, np.ndarray]:
    """What the law reads besides N and E."""
    return {D: np.array([2e9, 2e10, 3e10, 1e11])} if D in law.columns else {}


@pytest.mark.parametrize("law", WITH_EPC, ids=lambda law: law.name)
def test_a_dense_model_of_the_effective_size_has_the_routed_models_loss(law: Law) -> None:
    theta, beta = _truth(law)
    effective = effective_parameter_count(law, theta, beta, SIZES, COUNTS, _others(law))
    routed, others = law.log10_loss(theta, beta, {N: SIZES, E: COUNTS, **_others(law)}), _others(law)
    # Yun's last factor takes large routed models below all dense ones.
    reached = np.isfinite(effective)
    assert reached.all() or (law.name == "saturating-tokens" and reached.any())
    everything = {name: values[reached] for name, values in {N: effective, E: np.ones(4), **others}.items()}
    # 52 halvings of a bracket of a factor of 1.8.
    np.testing.assert_allclose(law.log10_loss(theta, beta, everything), routed[reached], rtol=1e-12)
    assert (effective > SIZES).all()


@settings(max_examples=40)
@given(
    a=st.floats(-0.15, -0.05), b=st.floats(-0.3, -0.01), c=st.floats(0, 0.01),
    e_start=st.floats(1, 8), e_max=st.floats(20, 1e5), n=st.floats(1e6, 1e11), e=st.floats(1, 1e4),
)  # fmt: skip
@unchecked()
def test_the_effective_size_is_equation_11(a: float, b: float, c: float, e_start: float, e_max: float, n: float, e: float) -> None:
    rho = e_start / e_max
    saturated = float(e_hat(np.array([e]), e_start, e_start / rho)[0])

    def alpha(x: float) -> float:
        return a + c * np.log10(x)

    if alpha(e_start) >= -1e-3:
        return  # where the dense curve hardly falls, both forms lose their digits
    expected = n ** (alpha(saturated) / alpha(e_start)) * (saturated / e_start) ** (b / alpha(e_start))
    found = effective_parameter_count(BOUNDED, np.array([e_start, rho]), np.array([a, b, c, 1.1]), np.array([n]), np.array([e]))[0]
    if 1e-11 < expected / n < 1e11:
        np.testing.assert_allclose(np.log10(found), np.log10(expected), rtol=1e-10)
    elif not 1e-12 < expected / n < 1e12:
        assert found in (0, np.inf)


def test_one_expert_is_worth_the_model_itself_for_every_law() -> None:
    for law in (*WITH_EPC, CURVED):
        theta, beta = _truth(law) if law is not CURVED else (np.zeros(0), BENT)
        np.testing.assert_allclose(effective_parameter_count(law, theta, beta, SIZES, np.ones(4), _others(law)), SIZES, rtol=1e-13)


def test_a_law_that_bends_has_the_effective_size_at_which_its_dense_curve_meets_the_loss() -> None:
    n, e = np.array([1e7, 1e8]), np.array([4.0, 16.0])
    found = effective_parameter_count(CURVED, np.zeros(0), BENT, n, e)
    target = CURVED.log10_loss(np.zeros(0), BENT, {N: n, E: e})
    # The lower root of the parabola in log N.
    a, q, d = BENT[0], BENT[1], BENT[4]
    expected = 10 ** ((-a - np.sqrt(a**2 - 4 * q * (d - target))) / (2 * q))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_where_the_dense_curve_rises_no_size_is_the_worth_of_experts() -> None:
    """Above 1.9e9 parameters CURVED rises, and never again goes below its least: no dense model is as good as the routed one."""
    assert effective_parameter_count(CURVED, np.zeros(0), BENT, np.array([1.8e9]), np.array([64.0]))[0] == np.inf
    # A falling law turned over: more parameters are worse at every size.
    rising = np.array([0.08, -0.1, 0.0, 0.5])
    assert effective_parameter_count(BILINEAR, np.zeros(0), rising, np.array([1e8]), np.array([64.0]))[0] == np.inf


def test_experts_that_hurt_are_worth_a_smaller_model_and_where_none_is_as_bad_nothing() -> None:
    hurts = np.array([-0.08, 0.05, 0.0, 1.0])
    found = effective_parameter_count(BILINEAR, np.zeros(0), hurts, np.array([1e8]), np.array([16.0]))
    np.testing.assert_allclose(found, 1e8 * 16 ** (0.05 / -0.08), rtol=1e-10)
    flat = np.array([-1e-3, 0.5, 0.0, 1.0])
    assert effective_parameter_count(BILINEAR, np.zeros(0), flat, np.array([1e8]), np.array([16.0]))[0] == 0


def test_a_loss_that_is_not_defined_has_no_size() -> None:
    found = size_reaching(BILINEAR, np.zeros(0), np.array([-0.08, -0.1, 0.0, 1.0]), np.array([np.nan]), {N: np.array([1e8]), E: np.ones(1)})
    assert np.isnan(found).all()


def test_draws_have_each_their_own_effective_size() -> None:
    theta = np.stack([[2.0, 0.01], [1.2, 0.3], [6.0, 0.001]])
    beta = np.array([-0.08, -0.1, 0.008, 1.1]) * np.array([[1.0], [1.1], [0.9]])
    both = epc_quantity(BOUNDED, {N: SIZES, E: COUNTS})(theta, beta)
    for k in range(3):
        np.testing.assert_allclose(both[k], effective_parameter_count(BOUNDED, theta[k], beta[k], SIZES, COUNTS), rtol=1e-12)


def test_without_interaction_a_floor_law_multiplies_the_size_by_a_factor_of_experts_alone() -> None:
    law = CATALOGUE["bounded-floor"]
    theta, beta = _truth(law)
    factor = effective_parameter_count(law, theta, beta, SIZES, np.full(4, 64.0)) / SIZES
    saturated = e_hat(np.array([64.0]), theta[1:2], theta[1:2] / theta[2:3])
    np.testing.assert_allclose(factor, np.broadcast_to((saturated / theta[1]) ** (beta[1] / beta[0]), 4), rtol=1e-10)


def test_at_the_cutoff_experts_no_longer_change_the_loss() -> None:
    beta = np.array([-0.082, -0.108, 0.009, 1.104])
    size = cutoff(BOUNDED, beta)
    np.testing.assert_allclose(size, 10 ** (0.108 / 0.009), rtol=1e-12)
    np.testing.assert_allclose(expert_slope(BOUNDED, beta, size.reshape(1)), 0, atol=1e-15)
    losses = BILINEAR.log10_loss(np.zeros(0), beta, {N: np.repeat(size, 3), E: COUNTS[:3]})
    np.testing.assert_allclose(losses, losses[0], rtol=1e-13)
    # With a floor exponents are written -a and -b, in natural logarithms.
    floor = CATALOGUE["floor-interaction"]
    theta, beta = _truth(floor)
    size = cutoff_quantity(floor)(theta[None], beta[None])[0]
    np.testing.assert_allclose(size, np.exp(0.12 / 0.002), rtol=1e-12)
    np.testing.assert_allclose(np.ptp(floor.log10_loss(theta, beta, {N: np.repeat(size, 3), E: COUNTS[:3]})), 0, atol=1e-12)


def test_a_gain_that_does_not_shrink_has_no_cutoff() -> None:
    assert cutoff(BILINEAR, np.array([-0.08, -0.1, -0.001, 1.1])) == np.inf
    assert cutoff(BILINEAR, np.array([-0.08, -0.1, 0.0, 1.1])) == np.inf


@pytest.mark.parametrize("law", [*WITH_EPC, CURVED], ids=lambda law: law.name)
def test_slopes_are_those_of_the_links_scale_by_finite_differences(law: Law) -> None:
    theta, beta = _truth(law) if law is not CURVED else (np.zeros(0), BENT)
    base, h = law.roles.base if law.roles else np.e, 1e-5
    for name in (N, E):
        data = {N: SIZES, E: COUNTS, **_others(law)}
        found = slope(law, theta, beta, data, name)
        sides = [law.eta(theta, beta, {**data, name: data[name] * base**step}) for step in (h, -h)]
        # Central differences of eta near 1 with step 1e-5: rounding of 1e-16/1e-5.
        np.testing.assert_allclose(found, (sides[0] - sides[1]) / (2 * h), atol=1e-9)


def test_the_slope_of_eq_1_in_size_is_a_plus_c_log_e_hat() -> None:
    theta, beta = np.array([2.0, 0.01]), np.array([-0.08, -0.1, 0.01, 1.1])
    expected = -0.08 + 0.01 * np.log10(e_hat(COUNTS, theta[:1], theta[:1] / theta[1:]))
    np.testing.assert_allclose(slope(BOUNDED, theta, beta, {N: SIZES, E: COUNTS}, N), expected, rtol=1e-10)


def test_the_slope_in_experts_is_b_plus_c_log_n_with_the_laws_sign() -> None:
    np.testing.assert_allclose(expert_slope(BILINEAR, np.array([-0.08, -0.1, 0.01, 1.1]), SIZES), -0.1 + 0.01 * np.log10(SIZES), rtol=1e-12)
    np.testing.assert_allclose(expert_slope(SEPARABLE, np.array([-0.08, -0.1, 1.1]), SIZES), np.full(4, -0.1), rtol=1e-12)
    floor = np.array([0.25, 0.12, 0.002, 4.5])
    np.testing.assert_allclose(expert_slope(CATALOGUE["floor-interaction"], floor, SIZES), -0.12 + 0.002 * np.log(SIZES), rtol=1e-12)


def test_losses_are_the_laws() -> None:
    theta, beta = _truth(BOUNDED)
    data = {N: SIZES, E: COUNTS}
    logs = log10_loss_quantity(BOUNDED, data)(theta[None], beta[None])[0]
    np.testing.assert_array_equal(logs, BOUNDED.log10_loss(theta, beta, data))
    np.testing.assert_allclose(loss_quantity(BOUNDED, data)(theta[None], beta[None])[0], 10**logs, rtol=1e-15)


def test_beyond_is_the_ratio_to_the_nearest_run() -> None:
    values = np.array([2.0, 8.0])
    assert [beyond(values, value) for value in (1.0, 2.0, 5.0, 8.0, 24.0)] == [2.0, 1.0, 1.0, 1.0, 3.0]


def test_laws_without_these_quantities_say_so() -> None:
    later = ["granularity", "sparsity", "sparsity-dense", "leverage"]
    without_epc = ["dense", "dense-floor", "tokens", "data-constrained", "frontier", "utilisation", *later]
    assert [law.name for law in CATALOGUE.values() if not has_epc(law)] == without_epc
    # Lines at single sizes are no curve in N: nothing between or beyond them.
    lines = per_size([1e7, 1e8])
    assert not has_epc(lines)
    loss = lines.log10_loss(np.zeros(0), np.array([-0.1, -0.1, 0.5, 0.4]), {N: np.array([1e7, 2e7, 1e8]), E: np.full(3, 10.0)})
    np.testing.assert_allclose(loss, [0.4, np.nan, 0.3])
    with_cutoff = ["bilinear", "bounded", "utilisation", "floor-interaction", "bounded-floor-interaction"]
    assert [law.name for law in CATALOGUE.values() if has_cutoff(law)] == with_cutoff
    assert [law.name for law in CATALOGUE.values() if has_allocation(law)] == ["tokens", "data-constrained"]
    with pytest.raises(InputError, match="no effective parameter count"):
        effective_parameter_count(UTILISATION, np.array([1.0, 0.1]), np.zeros(4), SIZES, COUNTS)
    with pytest.raises(InputError, match="reads tokens_seen too"):
        effective_parameter_count(TOKENS_EXPERTS, *_truth(TOKENS_EXPERTS), SIZES, COUNTS)
    with pytest.raises(InputError, match="no N_cutoff"):
        cutoff(SEPARABLE, np.zeros(3))
    with pytest.raises(InputError, match="no slope in the number of experts"):
        expert_slope(CATALOGUE["dense"], np.zeros(2), SIZES)


def test_a_size_is_found_though_the_curve_turns_up_again_right_after_it() -> None:
    """CURVED falls to its least at 1.93e9; the loss of 1.5e9 is met again at 2.5e9, between the second size tried and the third."""
    least = 10 ** (0.65 / 0.07)
    target = CURVED.log10_loss(np.zeros(0), BENT, {N: np.array([1.5e9]), E: np.ones(1)})
    found = size_reaching(CURVED, np.zeros(0), BENT, target, {N: np.array([1e9]), E: np.ones(1)})
    assert 1e9 < found[0] < least
    np.testing.assert_allclose(found, 1.5e9, rtol=1e-9)


def test_without_roles_slopes_are_per_natural_logarithm() -> None:
    plain, h = replace(CURVED, roles=None), 1e-5
    data = {N: SIZES, E: COUNTS}
    sides = [plain.eta(np.zeros(0), BENT, {**data, N: SIZES * np.exp(step)}) for step in (h, -h)]
    np.testing.assert_allclose(slope(plain, np.zeros(0), BENT, data, N), (sides[0] - sides[1]) / (2 * h), atol=1e-9)


def test_of_many_draws_each_has_its_own_slope_and_cutoff_whatever_they_are() -> None:
    """Cutoffs beyond what a float holds and a gain of zero everywhere are no errors and no warnings."""
    beta = np.array([[-0.08, -0.1, 0.01, 1.1], [-0.08, -0.1, 1e-5, 1.1], [-0.08, 0.0, 0.0, 1.1]])
    np.testing.assert_allclose(expert_slope(BILINEAR, beta, SIZES), beta[:, 1:2] + beta[:, 2:3] * np.log10(SIZES), rtol=1e-12)
    np.testing.assert_allclose(cutoff(BILINEAR, beta), [1e10, np.inf, np.inf], rtol=1e-12)
