"""Compute-optimal N and D: closed forms and exact slopes against SciPy, published figures, and intervals with their statuses."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from common.errors import InputError
from fit.analysis import Options, fit_runs
from fit.budget.allocate import allocate, optimum_quantity
from fit.engine.solve import Fit, fit_law
from fit.estimate import Status
from fit.laws import DATA_CONSTRAINED, DENSE_FLOOR, TOKENS, Law
from fit.runs import Runs
from fit.runs.schema import D, N, U
from fit.uncertainty.draws import resample
from tests.fit.designs import TRUTH, design, made_up
from tests.fit.laws.test_repeats import published

HOFFMANN = np.array([0.34, 0.28]), np.array([1.69, 406.4, 410.7])


def _scipy(law: Law, theta: np.ndarray, beta: np.ndarray, product: float, unique: float) -> float:
    """The N of least loss where N D = product."""

    def loss(x: float) -> float:
        """log10 loss at a size of e^x."""
        n = np.array([np.exp(x)])
        return float(law.log10_loss(theta, beta, {N: n, D: product / n, U: np.array([unique])})[0])

    found: Any = minimize_scalar(loss, bounds=(np.log(1e4), np.log(1e14)), method="bounded", options={"xatol": 1e-12})
    return float(np.exp(found.x))


@pytest.mark.parametrize("flops", [1e18, 5.76e23])
def test_the_optimum_is_scipys_and_spends_the_budget(flops: float) -> None:
    # Unique tokens that are read about five times, and more of them than are read.
    repeated = 0.2 * (flops / 120) ** 0.5 * 20
    for law, theta, beta, unique in (
        (TOKENS, *HOFFMANN, 1.0), (DATA_CONSTRAINED, *published(), repeated), (DATA_CONSTRAINED, *published(), 1e15),
    ):  # fmt: skip
        quantity = optimum_quantity(law, [flops], unique if law is DATA_CONSTRAINED else None)
        _, _, n, d, loss, ratio = quantity(theta[None], beta[None])[0]
        np.testing.assert_allclose(6 * n * d, flops, rtol=1e-12)
        # The loss is flat at its least: a search on values alone finds half of its digits.
        np.testing.assert_allclose(n, _scipy(law, theta, beta, flops / 6, unique), rtol=1e-5)
        at = {N: np.array([n]), D: np.array([d]), U: np.array([unique])}
        np.testing.assert_allclose(loss, 10 ** law.log10_loss(theta, beta, at)[0], rtol=1e-14)
        assert ratio == pytest.approx(d / n, rel=1e-14)


def test_of_many_draws_each_has_its_own_optimum_whatever_it_is() -> None:
    """A scale that is negative or zero, and sizes beyond any float, are no errors and no warnings."""
    theta, beta = np.tile(HOFFMANN[0], (4, 1)), HOFFMANN[1] * np.array([[1, 1, 1], [1, -1, 1], [1, 2, 1], [1, 1, 0]])
    n, d = optimum_quantity(TOKENS, [1e20])(theta, beta)[:, 2:4].T
    assert np.isnan([n[1], d[1]]).all()
    assert (n[3], d[3]) == (np.inf, 0)
    # Twice the A makes models larger by 2^(1/(a + b)).
    assert n[2] / n[0] == pytest.approx(2 ** (1 / 0.62), rel=1e-12)
    far = optimum_quantity(TOKENS, [1e21])(np.array([[0.02, 0.02]]), np.array([[1.0, 1e20, 1e-5]]))
    assert far[0, 2:4].tolist() == [np.inf, 0.0]


def test_hoffmanns_coefficients_give_the_exponents_that_hoffmann_prints_and_those_of_a_finite_difference() -> None:
    """Table 2 there, approach 3: 0.46 and 0.54. The printed coefficients are rounded: 0.28/0.62 is 0.4516."""
    first, second, n, more, d, _ = optimum_quantity(TOKENS, [1e20, 1e22])(HOFFMANN[0][None], HOFFMANN[1][None])[0][:6]
    np.testing.assert_allclose([first, second], [0.46, 0.54], atol=0.01)
    assert np.log(more / n) / np.log(100) == pytest.approx(first, rel=1e-12)
    exact = np.array([0.3392, 0.2849]), np.array([1.6934, 1.0, 1.0])
    np.testing.assert_allclose(optimum_quantity(TOKENS, [1e20])(exact[0][None], exact[1][None])[0][:2], [0.46, 0.54], atol=0.005)
    assert d == pytest.approx(1e20 / 6 / n, rel=1e-12)


def test_with_25e9_unique_tokens_the_best_model_is_the_one_that_muennighoff_prints() -> None:
    """README of huggingface/datablations, for the FLOPs of 8.67e9 parameters and 178e9 tokens: 227B tokens, 9.1 epochs, 6.8B parameters."""
    theta, beta = published()
    _, _, n, d, _, _ = optimum_quantity(DATA_CONSTRAINED, [6 * 8.67e9 * 178e9], 25e9)(theta[None], beta[None])[0]
    # Printed to these digits, from a grid search in steps of a factor of 1.004.
    assert (d / 1e9, d / 25e9, n / 1e9) == (pytest.approx(227, rel=0.005), pytest.approx(9.1, rel=0.006), pytest.approx(6.8, rel=0.008))


def test_a_budget_that_repeats_no_token_has_the_allocation_of_the_law_without_repeats() -> None:
    theta, beta = published()
    p = DATA_CONSTRAINED.parameter_values(theta, beta)
    tokens = np.array([[p[2], p[4]]]), np.array([[p[0], p[1], p[3]]])
    found = optimum_quantity(DATA_CONSTRAINED, [1e19, 1e23], 1e15)(theta[None], beta[None])
    np.testing.assert_allclose(found, optimum_quantity(TOKENS, [1e19, 1e23])(*tokens), rtol=1e-9)


def _tokens(noise: float = 0.002) -> Fit:
    return fit_law(TOKENS, *made_up(TOKENS, noise=noise))


def test_figures_have_intervals_that_hold_them_and_distances_from_the_runs() -> None:
    fit = _tokens()
    found = allocate(fit, [1e19, 1e25], draws=resample(fit, "residuals", 300))
    runs = 6 * fit.problem.data[N] * fit.problem.data[D]
    near, far = found.optima
    assert near.n.distance == near.loss.distance == 1.0
    assert far.d.distance == pytest.approx(max(1e25 / runs.max(), far.n.value / 1e10, far.d.value / 1e11), rel=1e-12)
    for one in (found.exponent_n, found.exponent_d, near.n, near.d, near.loss, near.tokens_per_parameter, far.n, far.d, far.loss):
        assert one.status is Status.OK
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
    # True by the truth's a = .34, b = .3.
    assert found.exponent_n.low is not None
    assert found.exponent_n.high is not None
    assert found.exponent_n.low < 0.3 / 0.64 < found.exponent_n.high
    table = found.table()
    assert table.shape == (10, 9)
    assert table.filter(table["figure"] == "n")["value"].to_list() == [near.n.value, far.n.value]
    assert len(repr(found)) < 100


def test_a_result_brings_its_own_draws_and_a_fit_without_draws_no_interval() -> None:
    data, loss = made_up(TOKENS)
    result = fit_runs(TOKENS, Runs.from_columns({**data, "loss_validation": loss}), "Dense", Options(draws=0))
    assert allocate(result, 1e21).exponent_n.status is Status.NOT_ASKED
    assert allocate(result.fit, 1e21).optima[0].n.value == allocate(result, 1e21).optima[0].n.value


def test_runs_on_a_ray_have_no_allocation() -> None:
    n = np.geomspace(1e7, 1e10, 12)
    theta, beta = (np.array(one) for one in TRUTH["tokens"])
    data = {N: n, D: 20 * n}
    noise = 10 ** (0.002 * np.random.default_rng(0).standard_normal(12))
    fit = fit_law(TOKENS, data, noise * 10 ** TOKENS.log10_loss(theta, beta, data))
    found = allocate(fit, 1e21, draws=resample(fit, "residuals", 10))
    assert {found.exponent_n.status, found.optima[0].n.status} == {Status.NOT_IDENTIFIED}


def test_a_law_of_repeats_has_intervals_too() -> None:
    fit = fit_law(DATA_CONSTRAINED, *made_up(DATA_CONSTRAINED))
    found = allocate(fit, 1e22, draws=resample(fit, "residuals", 40), level=0.9, unique_tokens=1e10)
    assert found.optima[0].n.status is Status.OK
    # More tokens than there are different ones: beyond what one epoch has.
    assert found.optima[0].d.value > 1e10
    # A budget of 1,000 parameters and 1,000 tokens, where the search ends: no figure, and so nowhere near the runs.
    none = allocate(fit, 6e6, unique_tokens=1e10).optima[0]
    assert np.isnan(none.n.value)
    assert none.n.distance == np.inf


def test_where_no_size_is_best_the_figure_is_not_a_number() -> None:
    theta, beta = published()
    found = optimum_quantity(DATA_CONSTRAINED, [1e20], 1e9)(theta[None], np.array([[beta[0], -0.1]]))
    assert np.isnan(found[0, 2])


def test_what_cannot_be_allocated_is_refused_in_a_line() -> None:
    fit = _tokens()
    with pytest.raises(InputError, match="'dense-floor' has no best N and D"):
        allocate(fit_law(DENSE_FLOOR, *made_up(DENSE_FLOOR)), 1e20)
    with pytest.raises(InputError, match="finite and above 0"):
        allocate(fit, [1e20, -1.0])
    data = design(DATA_CONSTRAINED)
    theta, beta = (np.array(one) for one in TRUTH["data-constrained"])
    with pytest.raises(InputError, match="unique_tokens=1e11"):
        allocate(fit_law(DATA_CONSTRAINED, data, 10 ** DATA_CONSTRAINED.log10_loss(theta, beta, data)), 1e20)
