"""Intervals are what they are called, or none with the reason: Student's on linear laws, quantiles of draws elsewhere."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student

from fit.diagnose import warnings_for
from fit.engine.refit import Refits
from fit.engine.solve import Fit, fit_law
from fit.estimate import Estimate, Status
from fit.laws import BILINEAR, BOUNDED, DENSE, SEPARABLE
from fit.quantities import log10_loss_quantity, loss_quantity
from fit.runs.schema import E, N
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Draws, Scheme, noise_residuals, resample
from fit.uncertainty.intervals import difference, draws_needed, estimates, new_run_estimates, tail
from tests.fit.designs import CONSTANT, bilinear_losses, ends, grid, made_up

Theta = Float[np.ndarray, "draws 0"]
Beta = Float[np.ndarray, "draws features"]


def coefficients(theta: Theta, beta: Beta) -> Beta:
    """The coefficients themselves."""
    del theta
    return beta


def _linear(sizes: int = 5, counts: int = 5) -> Fit:
    return fit_law(SEPARABLE, grid(sizes, counts), bilinear_losses(grid(sizes, counts)))


def _students(fit: Fit, level: float) -> Float[np.ndarray, "ends figures"]:
    x = fit.law.features(np.zeros(0), fit.problem.data)
    freedom = fit.num_runs - x.shape[1]
    half = student.ppf((1 + level) / 2, freedom) * np.sqrt(np.sum(fit.residuals**2) / freedom * np.diag(np.linalg.inv(x.T @ x)))
    return np.stack([fit.beta - half, fit.beta + half])


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_coefficients_of_a_linear_law_have_students_interval_exactly(level: float) -> None:
    fit = _linear()
    found = estimates(fit, resample(fit, "residuals", 20), coefficients, level)
    np.testing.assert_allclose(ends(found), _students(fit, level), rtol=1e-6)
    assert {one.status for one in found} == {Status.OK}


def test_of_linear_and_curved_figures_asked_for_together_the_linear_ones_alone_have_students_interval() -> None:
    fit = _linear()
    draws = resample(fit, draws=1500)
    found = ends(
        estimates(fit, draws, lambda theta, beta: np.concatenate([beta[:, :1] ** 3, beta[:, 1:], 1e9 * beta[:, 1:2] ** 2], axis=1), 0.9)
    )
    students, reach = _students(fit, 0.9), student.ppf(0.95, 22)
    np.testing.assert_allclose(found[:, 1:3], students[:, 1:], rtol=1e-6)
    levels = [norm.cdf(-reach), norm.cdf(reach)]
    np.testing.assert_allclose(found[:, 0], np.quantile(draws.beta[:, 0] ** 3, levels, method="weibull"), rtol=1e-6)
    np.testing.assert_allclose(found[:, 3], np.quantile(1e9 * draws.beta[:, 1] ** 2, levels, method="weibull"), rtol=1e-6)


@pytest.mark.parametrize("degrees", [1, 2])
def test_with_one_or_two_degrees_of_freedom_a_linear_law_has_the_exact_interval(degrees: int) -> None:
    data, loss = made_up(DENSE)
    fit = fit_law(DENSE, {N: data[N][:: 14 // (2 + degrees)][: 2 + degrees]}, loss[:: 14 // (2 + degrees)][: 2 + degrees])
    assert fit.degrees == degrees
    found = estimates(fit, resample(fit, draws=100), coefficients)
    np.testing.assert_allclose(ends(found), _students(fit, 0.95), rtol=1e-6)
    # N_c is no linear figure: its quantiles lie far beyond 100 draws.
    assert estimates(fit, resample(fit, draws=100), fit.law.parameter_values)[1].status is Status.TOO_FEW_DRAWS


def test_without_degrees_of_freedom_there_is_no_interval() -> None:
    data, loss = made_up(DENSE)
    fit = fit_law(DENSE, {N: data[N][[0, 13]]}, loss[[0, 13]])
    for draws in (None, resample(fit, draws=100)):
        found = estimates(fit, draws, fit.law.parameter_values)
        assert {(one.status, one.low, one.high) for one in found} == {(Status.NO_DEGREES, None, None)}
    assert {one.status for one in new_run_estimates(fit, resample(fit, draws=100), {N: np.array([1e8])})} == {Status.NO_DEGREES}


def test_one_cluster_has_no_interval_and_the_warning_says_that_it_is_too_few() -> None:
    fit = _linear()
    draws = resample(fit, "wild-clusters", 100, 0, np.ones(25))
    assert tail(draws, 0.95) == 0
    for found in (estimates(fit, draws, coefficients), difference(draws, draws, coefficients, lambda theta, beta: 0 * beta)):
        assert {(one.status, one.low, one.high) for one in found} == {(Status.TOO_FEW_DRAWS, None, None)}
    (text,) = [one.message for one in warnings_for(fit, "", draws=draws) if one.code in ("too-few-draws", "few-clusters")]
    assert text.startswith("1 cluster is too few")


@pytest.mark.parametrize("scheme", ["residuals", "pairs", "wild-clusters"])
def test_elsewhere_the_ends_are_the_draws_quantiles_at_students_level(scheme: Scheme) -> None:
    fit = _linear()
    draws = resample(fit, scheme, 1500, 0, fit.problem.data[N])
    # Hesterberg's expanded levels: Phi of Student's quantile, for pairs times sqrt(n/(n - p)); clusters have one less than their number.
    reach = student.ppf(0.95, 4 if scheme == "wild-clusters" else 22) * (np.sqrt(25 / 22) if scheme == "pairs" else 1)
    found = estimates(fit, draws, lambda theta, beta: beta**3, 0.9)
    expected = np.quantile(draws.beta**3, [norm.cdf(-reach), norm.cdf(reach)], axis=0, method="weibull")
    np.testing.assert_allclose(ends(found), expected, rtol=1e-6)
    assert tail(draws, 0.9) == pytest.approx(norm.cdf(-reach), rel=1e-6)


@pytest.mark.parametrize("scheme", ["residuals", "pairs"])
def test_intervals_from_draws_are_as_wide_as_students_on_a_linear_law(scheme: Scheme) -> None:
    """Over 16 data sets: without the leverages, of a quarter, or n/(n - p) of the pairs' variance, they would be a tenth too narrow.

    Pairs of six runs of a mean, whose bootstrap variance is exactly (n - 1)/n of the unbiased one; with a slope only nearly so.
    """
    ratios: list[Float[np.ndarray, "features"]] = []
    for seed in range(16):
        generator = np.random.default_rng(seed)
        if scheme == "pairs":
            fit = fit_law(CONSTANT, {"x": np.ones(6)}, 10 ** (0.4 + 0.001 * generator.standard_normal(6)))
        else:
            fit = fit_law(BILINEAR, grid(4, 4), bilinear_losses(grid(4, 4), noise=0.0) * 10 ** (0.001 * generator.standard_normal(16)))
        both = ends(estimates(fit, resample(fit, scheme, 800, seed), coefficients, 0.8, exact=False))
        ratios.append((both[1] - both[0]) / np.diff(_students(fit, 0.8), axis=0)[0])
    # Each ratio is good to 4 % from its 800 draws, the mean of 16 to 1 %; residuals and means of six are not quite normal.
    assert np.mean(ratios) == pytest.approx(1, abs=0.045)


def test_a_level_beyond_the_draws_has_no_interval_and_says_how_many_it_needs() -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    draws = resample(fit, "residuals", 60)
    found = estimates(fit, draws, fit.law.parameter_values, 0.99)
    assert {one.status for one in found} == {Status.TOO_FEW_DRAWS}
    assert all(one.low is None and one.high is None for one in found)
    needed = draws_needed(draws, 0.99)
    # The least of n draws is the quantile 1/(n + 1).
    assert needed == np.ceil(1 / norm.cdf(-student.ppf(0.995, 24)))
    many = _synthetic(fit, needed, failed=0)
    assert {one.status for one in estimates(fit, many, fit.law.parameter_values, 0.99)} == {Status.OK}
    few = _synthetic(fit, needed - 2, failed=0)
    assert {one.status for one in estimates(fit, few, fit.law.parameter_values, 0.99)} == {Status.TOO_FEW_DRAWS}


def _synthetic(fit: Fit, count: int, failed: int, unfinished: int = 0) -> Draws:
    """Draws beside the fit, of which the first ones failed."""
    generator = np.random.default_rng(0)
    beta = fit.beta * (1 + 0.01 * generator.standard_normal((count, len(fit.beta))))
    theta = fit.theta * (1 + 0.01 * generator.standard_normal((count, len(fit.theta))))
    remaining, identified = np.where(np.arange(count) >= unfinished, 0.0, 1.0), np.arange(count) >= failed
    refits = Refits(theta, beta, np.ones(count), remaining, identified, np.zeros(count, dtype=bool))
    return Draws(fit, "residuals", 0, refits, np.arange(fit.num_runs), noise_residuals(fit))


@pytest.mark.parametrize(("level", "allowed"), [(0.95, 25), (0.9, 49), (0.8, 99)])
def test_more_failed_draws_than_half_of_what_an_interval_leaves_out_are_no_interval(level: float, allowed: int) -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    for failed, unfinished in ((allowed, 0), (0, allowed)):
        kept = estimates(fit, _synthetic(fit, 1000, failed, unfinished), fit.law.parameter_values, level)
        assert {one.status for one in kept} == {Status.OK}
        gone = estimates(
            fit, _synthetic(fit, 1000, failed + 2 * (failed > 0), unfinished + 2 * (unfinished > 0)), fit.law.parameter_values, level
        )
        assert {(one.status, one.low, one.high) for one in gone} == {(Status.NOT_IDENTIFIED, None, None)}


def test_failed_draws_are_not_in_the_interval() -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    draws = _synthetic(fit, 400, failed=5, unfinished=3)
    wild = replace(draws.refits, beta=np.where(draws.refits.usable[:, None], draws.refits.beta, 1e9))
    found = ends(estimates(fit, replace(draws, refits=wild), fit.law.parameter_values, 0.9))
    np.testing.assert_array_equal(found, ends(estimates(fit, draws, fit.law.parameter_values, 0.9)))
    assert (draws.failed, draws.unfinished, len(draws.beta)) == (5, 3, 395)


def test_without_draws_none_was_asked_for() -> None:
    fit = _linear()
    found = estimates(fit, None, coefficients, unit="nats")
    assert {(one.status, one.low, one.high, one.unit) for one in found} == {(Status.NOT_ASKED, None, None, "nats")}
    assert [one.value for one in found] == fit.beta.tolist()


def test_an_interval_that_does_not_hold_its_figure_is_none() -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    draws = _synthetic(fit, 400, 0)

    def beside(theta: Float[np.ndarray, "draws 2"], beta: Float[np.ndarray, "draws 4"]) -> Float[np.ndarray, "draws 2"]:
        """The fit's own figures, below and above all of those of its draws."""
        return np.full((len(theta), 2), [-1.0, 1.0]) if len(theta) == 1 else 0.01 * beta[:, :2]

    assert [(one.status, one.low) for one in estimates(fit, draws, beside, errors=False)] == [(Status.NOT_IDENTIFIED, None)] * 2


def test_an_unbounded_draw_makes_an_open_end_and_no_nan() -> None:
    fit = _linear()
    draws = resample(fit, "pairs", 200, seed=0)

    def half_infinite(theta: Theta, beta: Beta) -> Float[np.ndarray, "draws 2"]:
        del theta
        high, low = beta[:, :1] > fit.beta[0], beta[:, :1] < fit.beta[0]
        return np.concatenate([np.where(high, np.inf, beta[:, :1]), np.where(low, -np.inf, beta[:, :1])], axis=1)

    above, below = estimates(fit, draws, half_infinite, 0.9, errors=False)
    assert (above.status, above.high) == (Status.OPEN, np.inf)
    assert above.low is not None
    assert np.isfinite(above.low)
    assert (below.status, below.low) == (Status.OPEN, -np.inf)

    def both(theta: Theta, beta: Beta) -> Float[np.ndarray, "draws 1"]:
        del theta
        return np.where(np.abs(beta[:, :1] - fit.beta[0]) > 1e-9, np.copysign(np.inf, beta[:, :1] - fit.beta[0]), beta[:, :1])

    assert estimates(fit, draws, both, 0.9, errors=False)[0].status is Status.NOT_IDENTIFIED

    def size(theta: Theta, beta: Beta) -> Float[np.ndarray, "draws 2"]:
        """Figures of sizes: infinite in the upper draws, and zero in the lower ones too."""
        del theta
        high, low = beta[:, :1] > fit.beta[0] + 1e-9, beta[:, :1] < fit.beta[0] - 1e-9
        return np.concatenate([np.where(high, np.inf, 1e9), np.where(high, np.inf, np.where(low, 0.0, 1e9))], axis=1)

    one, none = estimates(fit, draws, size, 0.9, errors=False)
    assert (one.status, one.low, one.high) == (Status.OPEN, 1e9, np.inf)
    assert none.status is Status.NOT_IDENTIFIED


def test_a_linear_law_with_a_bounded_coefficient_has_its_draws_quantiles() -> None:
    data = grid()
    fit = fit_law(SEPARABLE, data, bilinear_losses(data), bounds={"b": (-0.03, 0.0)})
    draws, reach = resample(fit, draws=1500), norm.cdf(-student.ppf(0.95, 22))
    expected = np.quantile(draws.beta, [reach, 1 - reach], axis=0, method="weibull")
    # Where the bound holds every draw, the one end is the bound and Student's would be beyond it.
    np.testing.assert_allclose(ends(estimates(fit, draws, coefficients, 0.9)), expected, rtol=1e-9)


def test_a_new_runs_interval_is_the_curves_and_one_runs_noise() -> None:
    fit = _linear()
    data = {N: np.array([1e9, 3e7]), E: np.array([64.0, 4.0])}
    found = new_run_estimates(fit, resample(fit, "residuals", 1500), data, 0.9)
    x, at = (SEPARABLE.features(np.zeros(0), columns) for columns in (fit.problem.data, data))
    s2 = float(np.sum(fit.residuals**2)) / 22
    half = student.ppf(0.95, 22) * np.sqrt(s2 * (1 + np.einsum("pi,ij,pj->p", at, np.linalg.inv(x.T @ x), at)))
    both = np.log10(ends(found))
    # Resampled residuals are no normal: their quantiles are those of 25 numbers, within a tenth.
    np.testing.assert_allclose((both[1] - both[0]) / 2, half, rtol=0.15)
    assert [one.value for one in found] == (10 ** fit.log10_loss(data)).tolist()
    assert [(one.unit, one.se) for one in found] == [("nats per token", None)] * 2


def test_of_a_linear_law_a_new_runs_interval_is_wider_than_the_curves_for_every_scheme() -> None:
    fit = _linear()
    data = {N: np.array([1e9]), E: np.array([64.0])}
    schemes: tuple[Scheme, ...] = ("residuals", "pairs", "wild-clusters")
    for scheme in schemes:
        draws = resample(fit, scheme, 1000, 0, fit.problem.data[N])
        curve, new = (
            ends(found) for found in (estimates(fit, draws, loss_quantity(fit.law, data), 0.9), new_run_estimates(fit, draws, data, 0.9))
        )
        assert new[0, 0] < curve[0, 0] < curve[1, 0] < new[1, 0]


def test_a_difference_is_that_of_the_figures_and_has_their_draws_quantiles() -> None:
    one, other = _linear(), fit_law(SEPARABLE, grid(), bilinear_losses(grid(), b=-0.05))
    draws = resample(one, "residuals", 500, 0), resample(other, "residuals", 500, 1)
    at: Quantity = log10_loss_quantity(SEPARABLE, {N: np.array([1e9]), E: np.array([64.0])})
    found = difference(*draws, at, at, 0.9)[0]
    sample = (at(draws[0].theta, draws[0].beta) - at(draws[1].theta, draws[1].beta))[:, 0]
    reach = norm.cdf(-student.ppf(0.95, 22))
    np.testing.assert_allclose(ends([found])[:, 0], np.quantile(sample, [reach, 1 - reach], method="weibull"), rtol=1e-9)
    assert found.value == pytest.approx(float(at(one.theta[None], one.beta[None])[0, 0] - at(other.theta[None], other.beta[None])[0, 0]))
    assert found.sign == 1


def test_the_ends_of_a_difference_are_as_far_out_as_the_fit_with_fewer_degrees_asks_whichever_comes_first() -> None:
    many, few = (resample(fit, draws=500) for fit in (_linear(), _linear(3, 3)))
    at: Quantity = log10_loss_quantity(SEPARABLE, {N: np.array([1e9]), E: np.array([64.0])})
    one, other = difference(many, few, at, at, 0.9)[0], difference(few, many, at, at, 0.9)[0]
    assert (one.low, one.high) == (pytest.approx(-(other.high or np.nan), rel=1e-9), pytest.approx(-(other.low or np.nan), rel=1e-9))
    reach = norm.cdf(-student.ppf(0.95, 6))
    sample = (at(many.theta, many.beta) - at(few.theta, few.beta))[:, 0]
    assert one.low == pytest.approx(np.quantile(sample, reach, method="weibull"), rel=1e-9)


def test_a_difference_with_too_many_failed_draws_is_not_identified() -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    good, bad = _synthetic(fit, 200, 0), _synthetic(fit, 200, 20)
    assert {one.status for one in difference(good, bad, fit.law.parameter_values, fit.law.parameter_values)} == {Status.NOT_IDENTIFIED}
    assert {one.status for one in difference(good, good, fit.law.parameter_values, fit.law.parameter_values)} == {Status.OK}


def test_an_estimates_sign_spread_and_scale_follow_from_its_ends() -> None:
    plain = Estimate(2.0, 1.0, 4.0, Status.OK, se=0.5)
    assert (plain.known, plain.sign, plain.spread, plain.extrapolated) == (True, 1, 4.0, False)
    assert Estimate(-2.0, -4.0, -1.0, Status.OK).sign == -1
    assert Estimate(2.0, -1.0, 4.0, Status.OK).sign == 0
    assert (Estimate(2.0).sign, Estimate(2.0).known, Estimate(2.0).spread) == (0, False, np.inf)
    assert Estimate(2.0, -1.0, 4.0, Status.OK).spread == np.inf
    assert Estimate(2.0, distance=1.5).extrapolated
    assert plain.scaled(10.0, "x") == Estimate(20.0, 10.0, 40.0, Status.OK, "x", 5.0)
    assert Estimate(2.0).scaled(3.0) == Estimate(6.0)


def test_every_draw_based_figure_of_every_law_is_within_its_interval(drawn: Callable[[str, Scheme], Draws]) -> None:
    schemes: tuple[Scheme, ...] = ("residuals", "pairs")
    for name in ("bounded", "bounded-floor", "tokens", "utilisation", "dense-floor"):
        for scheme in schemes:
            draws = drawn(name, scheme)
            for one in estimates(draws.fit, draws, draws.fit.law.parameter_values, 0.9):
                low, high = ends([one])[:, 0]
                assert low <= one.value <= high
