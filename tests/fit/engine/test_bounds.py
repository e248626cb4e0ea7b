"""Coefficients that are at least 0: at every shape scipy's non-negative least squares, and the whole fit its bounded optimum."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import minimize, nnls

from fit.diagnose import warnings_for
from fit.engine.losses import Loss, loss_named, squared
from fit.engine.problem import make_problem
from fit.engine.project import project
from fit.engine.refit import refit
from fit.engine.shared import fit_shared, shared_law
from fit.engine.solve import Fit, fit_law, why_not_identified
from fit.estimate import Status
from fit.laws import TOKENS
from fit.runs.schema import D, N
from fit.uncertainty.delta import covariance, standard_errors
from fit.uncertainty.draws import resample
from fit.uncertainty.intervals import estimates
from tests.checks import unchecked
from tests.fit.designs import Sample, made_up

NEGATIVE_FLOOR = (
    (1e+07, 1e+09, 6.554), (1e+07, 1e+10, 5.989), (1e+07, 1e+11, 5.290), (1e+08, 1e+09, 5.657), (1e+08, 1e+10, 5.114),
    (1e+08, 1e+11, 4.668), (1e+09, 1e+09, 5.046), (1e+09, 1e+10, 4.477), (1e+09, 1e+11, 3.965),
)  # fmt: skip
"""N, D and loss."""

LOSSES = ("log", "squared", "huber:0.001")


def _design() -> dict[str, Float[np.ndarray, "runs"]]:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 4), np.geomspace(1e9, 1e11, 3)))
    return {N: n, D: d}


def _floorless(seed: int) -> Sample:
    """Losses of a law with a floor of zero: in half of all samples the best floor is below zero."""
    data = _design()
    curve = 22 * data[N] ** -0.12 + 23 * data[D] ** -0.1
    return data, curve * np.exp(0.005 * np.random.default_rng(seed).standard_normal(len(curve)))


@pytest.mark.parametrize("seed", range(4))
def test_at_every_shape_the_coefficients_are_scipys_nonnegative_least_squares(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = _design()
    # Anything from a law of these features to losses that rise with size: every set of coefficients ends at 0 somewhere.
    slope = generator.uniform(-0.5, 0.5, (60, 2))
    loss = np.exp(1 - slope[:, :1] * np.log(data[N] / 1e8) - slope[:, 1:] * np.log(data[D] / 1e10))
    loss *= np.exp(0.1 * generator.standard_normal(loss.shape))
    theta = np.exp(generator.uniform(np.log(0.02), np.log(3), (60, 2)))
    problem = make_problem(TOKENS, data, np.ones(12), squared()).resampled(None, np.log10(loss))
    found = project(problem, theta)
    zero: set[tuple[bool, ...]] = set()
    for row in range(60):
        columns = TOKENS.features(theta[row], data)
        length = np.linalg.norm(columns, axis=0)
        expected, rest = nnls(columns / length, loss[row])
        # scipy's is good to 1e-16 times the condition, up to 1e4, squared.
        assert found.objective[row] == pytest.approx(rest**2 / 12, rel=1e-8)
        np.testing.assert_allclose(found.beta[row] * length, expected, atol=1e-6 * expected.max())
        zero.add(tuple(found.held[row].tolist()))
    assert len(zero) >= 4


@pytest.mark.parametrize("value", [1.0, 20.0, 60.0])
def test_a_fixed_coefficient_stays_where_others_are_bounded(value: float) -> None:
    data, loss = _floorless(1)
    theta = np.array([[0.02, 0.02], [0.12, 0.1], [0.5, 0.4]])
    found = project(make_problem(TOKENS, data, loss, squared(), fixed={"A": value}), theta)
    for row in range(3):
        columns = TOKENS.features(theta[row], data)
        # What is left of the losses may be negative: then both of the others are 0.
        expected, _ = nnls(columns[:, [0, 2]], loss - value * columns[:, 1])
        np.testing.assert_allclose(found.beta[row], [expected[0], value, expected[1]], rtol=1e-8)


def test_a_start_at_a_bound_leaves_it_for_a_gain_of_one_in_a_million() -> None:
    data, loss = _floorless(1)
    theta = np.array([[0.12, 0.1]])
    # The floor shifts with the losses: here it is 1e-4 in residuals of 0.05.
    shifted = loss - project(make_problem(TOKENS, data, loss, squared(), unbounded=True), theta).beta[0, 0] + 1e-4
    problem = make_problem(TOKENS, data, shifted, squared())
    free = project(problem, theta)
    found = project(problem, theta, start=free.beta * np.array([0.0, 1.0, 1.0]))
    held = project(make_problem(TOKENS, data, shifted, squared(), fixed={"L_0": 0.0}), theta)
    assert 1e-9 < held.objective[0] / free.objective[0] - 1 < 1e-5
    np.testing.assert_allclose(found.beta, free.beta, rtol=1e-12)
    assert found.beta[0, 0] == pytest.approx(1e-4, rel=1e-6)


def _by_scipy(data: dict[str, Float[np.ndarray, "runs"]], observed: Float[np.ndarray, "runs"], loss: Loss, least: float) -> float:
    """Least objective from thirty starts of L-BFGS-B on all five parameters, A and B in units of 10^8 parameters and 10^10 tokens."""
    n, d = np.log(data[N] / 1e8), np.log(data[D] / 1e10)

    def cost(x: Float[np.ndarray, "5"]) -> float:
        predicted = x[0] + x[1] * np.exp(-x[3] * n) + x[2] * np.exp(-x[4] * d)
        return float(np.mean(loss.rho(loss.residual(np.log10(np.maximum(predicted, 1e-9)), observed)))) * 1e4

    starts = np.random.default_rng(0).uniform([0, 0.1, 0.1, 0.03, 0.03], [3, 5, 5, 1, 1], (8, 5))
    box = [(least, None), (0, None), (0, None), (0.02, 3), (0.02, 3)]
    options = {"maxiter": 5000, "maxfun": 50000, "ftol": 1e-15, "gtol": 1e-10}
    ends: list[Any] = [minimize(cost, start, method="L-BFGS-B", bounds=box, options=options) for start in starts]
    return min(float(end.fun) for end in ends) / 1e4


def _sample(holds: bool) -> Sample:
    return _floorless(1) if holds else made_up(TOKENS)


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@unchecked()
def test_the_whole_fit_is_no_worse_than_the_best_of_scipys_many_starts(loss: str, holds: bool) -> None:
    data, losses = _sample(holds)
    fit = fit_law(TOKENS, data, losses, loss_named(loss))
    expected = _by_scipy(dict(data), np.log10(losses), loss_named(loss), 0.0)
    # L-BFGS-B with differenced gradients stops up to 1e-4 of the objective short of a valley's end, and never below it.
    assert fit.certificate.objective <= expected * (1 + 1e-9)
    assert fit.certificate.objective == pytest.approx(expected, rel=1e-2)
    assert fit.certificate.certified
    assert ("L_0" in fit.certificate.at_bounds) == holds


@pytest.mark.parametrize("loss", LOSSES)
def test_a_bound_that_does_not_hold_changes_nothing_and_one_that_does_is_lifted(loss: str) -> None:
    free, bounded = (fit_law(TOKENS, *_sample(False), loss_named(loss), unbounded=flag) for flag in (True, False))
    # Both end where a step would gain less than 1e-20 of the objective.
    assert free.parameters == pytest.approx(bounded.parameters, rel=1e-8)
    free, bounded = (fit_law(TOKENS, *_sample(True), loss_named(loss), unbounded=flag) for flag in (True, False))
    assert free.parameters["L_0"] < 0 == bounded.parameters["L_0"]
    assert free.certificate.objective < bounded.certificate.objective


def test_the_floor_that_hoffmanns_form_does_not_have_is_zero() -> None:
    """Runs of a file that somebody fitted: a floor of -11 without the bound. The figures at 0 are scipy's."""
    rows = np.array(NEGATIVE_FLOOR)
    fit = fit_law(TOKENS, {N: rows[:, 0], D: rows[:, 1]}, rows[:, 2])
    expected = {"L_0": 0.0, "A": 22.545, "a": 0.11615, "B": 22.651, "b": 0.09683}
    assert fit.parameters == pytest.approx(expected, rel=1e-4)
    assert fit.certificate.at_bounds == ("L_0",)
    assert any(one.code == "at-bound" and one.message.startswith("L_0") for one in warnings_for(fit, "x"))


@unchecked()
def test_every_resample_ends_at_its_own_bounded_optimum() -> None:
    data, losses = _floorless(1)
    fit = fit_law(TOKENS, data, losses)
    observed = fit.log10_loss(data) + 0.004 * np.random.default_rng(5).standard_normal((6, 12))
    found = refit(fit, observed=observed)
    assert found.converged.all()
    for row, objective, beta in zip(observed, found.objective, found.beta, strict=True):
        expected = _by_scipy(dict(data), row, Loss(), 0.0)
        assert objective <= expected * (1 + 1e-9)
        assert objective == pytest.approx(expected, rel=1e-2)
        assert beta[0] >= 0
    assert 0 < (found.beta[:, 0] == 0).sum() < 6
    np.testing.assert_array_equal(found.at_bound[found.beta[:, 0] == 0], True)


def test_draws_at_a_bound_are_answers_and_percentiles_stand() -> None:
    fit = fit_law(TOKENS, *_floorless(1))
    draws = resample(fit, draws=400)
    assert draws.failed == 0
    floor = estimates(fit, draws, TOKENS.parameter_values)[0]
    assert (floor.value, floor.low, floor.status) == (0.0, 0.0, Status.OK)
    assert floor.high is not None
    assert floor.high > 0


def test_standard_errors_at_a_bound_are_those_of_the_law_without_that_coefficient() -> None:
    data, losses = _floorless(1)
    held, without = fit_law(TOKENS, data, losses), fit_law(TOKENS, data, losses, fixed={"L_0": 0.0})
    np.testing.assert_allclose(held.theta, without.theta, rtol=1e-8)

    def scaled(fit: Fit) -> Float[np.ndarray, "quantities"]:
        return standard_errors(fit, TOKENS.parameter_values) * np.sqrt(fit.degrees)

    assert not covariance(held)[0].any()
    # The held coefficient still counts as fitted: one degree of freedom less.
    np.testing.assert_allclose(scaled(held), scaled(without), rtol=1e-5)


def test_a_law_whose_tokens_do_not_matter_is_not_identified_and_says_which_coefficient_is_zero() -> None:
    data = _design()
    fit = fit_law(TOKENS, data, 2 + 60 * data[N] ** -0.3 + 1e-3 * np.log(data[D]))
    assert fit.parameters["B"] == 0
    assert not fit.certificate.identified
    assert "B ended at 0" in why_not_identified(fit.problem, fit.certificate.at_bounds)


def test_groups_that_share_a_bounded_coefficient_and_groups_that_do_not_are_all_bounded() -> None:
    groups = {"x": _floorless(1), "y": _floorless(1)}
    floors = [fit_shared(TOKENS, groups, ("L_0", "a", "b"), unbounded=flag).parameters["L_0[y]"] for flag in (False, True)]
    assert floors[0] == 0 > floors[1]
    assert shared_law(TOKENS, ("x", "y"), ("L_0",)).nonnegative == ("L_0", "A[x]", "A[y]", "B[x]", "B[y]")
