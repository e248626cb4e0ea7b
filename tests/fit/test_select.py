"""Held-out scores, rankings and tests between laws: explicit refits, numerical integration, the textbook's formulas."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.integrate import quad
from scipy.stats import f as f_distribution
from scipy.stats import norm
from scipy.stats import t as student

from common.errors import InputError
from fit.engine.losses import huber, squared
from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, BOUNDED, DENSE, FLOOR, SEPARABLE, UTILISATION
from fit.runs.schema import E, N
from fit.select import akaike_weights, cells_of, criteria, crps, nested_test, pooled, rank, roll_out, score
from tests.checks import unchecked
from tests.fit.designs import Sample, bilinear_losses, grid, made_up

Losses = Float[np.ndarray, "runs"]


@settings(max_examples=20)
@given(error=st.floats(-3, 3), sd=st.floats(0.05, 2))
def test_crps_is_the_integral_of_the_squared_distance_of_the_distributions(error: float, sd: float) -> None:
    """Of a normal with mean `error` and the step at 0."""
    below, _ = quad(lambda x: norm.cdf(x, error, sd) ** 2, -40, 0, points=[error] if error < 0 else None, limit=200)
    above, _ = quad(lambda x: norm.sf(x, error, sd) ** 2, 0, 40, points=[error] if error > 0 else None, limit=200)
    # quad promises 1.5e-8.
    assert crps(np.array([error]), np.array([sd]))[0] == pytest.approx(below + above, abs=1e-7)


def test_without_spread_crps_is_the_absolute_error() -> None:
    np.testing.assert_allclose(crps(np.array([0.3, -0.2]), np.zeros(2)), [0.3, 0.2], rtol=1e-15)


def test_crps_is_least_for_the_true_spread() -> None:
    errors = np.random.default_rng(0).standard_normal(4000)
    scores = {sd: float(crps(errors, np.full(4000, sd)).mean()) for sd in (0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(scores, key=lambda sd: scores[sd]) == 1.0


def test_the_score_is_what_its_fields_say() -> None:
    observed, predicted = np.array([2.0, 3.0, 4.0]), np.array([2.2, 2.7, np.nan])
    sd = np.array([0.02, 0.05, 0.01])
    found = score(predicted, observed, sd, observed - 0.1, observed + 0.1)
    assert found is not None
    assert (found.runs, found.too_low, found.covered) == (2, 1, 2)
    # Errors 0.2 and -0.3 of losses 2 and 3, about whose mean the squares are 0.5.
    assert found.mean_error == pytest.approx(-0.05)
    assert found.rmse_percent == pytest.approx(10.0)
    assert found.r2 == pytest.approx(1 - 0.13 / 0.5)
    assert found.rmse_log10 == pytest.approx(np.sqrt((np.log10(1.1) ** 2 + np.log10(0.9) ** 2) / 2))
    assert found.crps == pytest.approx(crps(np.log([1.1, 0.9]), sd[:2] * np.log(10)).mean())


def test_a_score_says_none_where_there_is_nothing_to_say() -> None:
    one = np.array([2.0])
    assert score(np.array([np.nan]), one) is None
    assert pooled(()) is None
    found = score(one, one)
    assert found is not None
    assert (found.r2, found.covered, found.crps) == (None, None, None)


def _hash(sizes: int = 5, law: str = "separable") -> tuple[Fit, Losses]:
    data = grid(sizes, 4)
    fit = fit_law(SEPARABLE if law == "separable" else FLOOR, data, bilinear_losses(data))
    return fit, data[N]


def test_every_size_above_every_split_is_predicted_by_the_fit_to_those_below() -> None:
    fit, n = _hash()
    sizes, steps = np.unique(n), roll_out(*_hash(), level=0.9)
    splits = [(low, high) for k in range(2, 4) for low, high in [(sizes[k], size) for size in sizes[k + 1 :]]]
    assert [(step.trained_up_to, step.size) for step in steps] == splits
    assert [step.following for step in steps] == [True, False, True]
    for step in steps:
        below, here = n <= step.trained_up_to, n == step.size
        np.testing.assert_array_equal(step.runs, np.flatnonzero(here))
        assert (step.fitted, step.distance) == (below.sum(), step.size / step.trained_up_to)
        other = fit_law(SEPARABLE, {name: column[below] for name, column in fit.problem.data.items()}, 10 ** fit.problem.observed[below])
        new = {name: column[here] for name, column in fit.problem.data.items()}
        np.testing.assert_allclose(step.predicted, 10 ** other.log10_loss(new), rtol=1e-10)
        # Student's prediction interval of a linear regression.
        x, at = (SEPARABLE.features(np.zeros(0), columns) for columns in (other.problem.data, new))
        s2 = np.sum(other.residuals**2) / other.degrees
        sd = np.sqrt(s2 * (1 + np.einsum("pi,ij,pj->p", at, np.linalg.inv(x.T @ x), at)))
        np.testing.assert_allclose(step.sd, sd, rtol=1e-6)
        half = student.ppf(0.95, other.degrees) * sd
        np.testing.assert_allclose(np.log10(step.high / step.predicted), half, rtol=1e-6)
        np.testing.assert_allclose(np.log10(step.predicted / step.low), half, rtol=1e-6)
        assert step.score is not None
        assert step.score.crps == pytest.approx(crps(np.log(step.predicted / step.observed), sd * np.log(10)).mean(), rel=1e-6)


@unchecked()
def test_predictions_do_not_see_what_they_predict() -> None:
    data = grid(5, 4)
    loss = 1.4 + bilinear_losses(data)
    above = data[N] > 5e8
    (step,) = roll_out(fit_law(FLOOR, data, loss), data[N], least=4)
    (blind,) = roll_out(fit_law(FLOOR, data, np.where(above, 9.0, loss)), data[N], least=4)
    for name in ("predicted", "low", "high", "sd"):
        # A fit ends at a relative gain of 1e-12: from other starts it is the same to a millionth of its standard errors.
        np.testing.assert_allclose(getattr(step, name), getattr(blind, name), rtol=1e-6)


@unchecked()
def test_prediction_intervals_cover_new_runs_where_the_law_is_true() -> None:
    # Of 40 roll-outs, 10 runs each, at 90 %. Runs of one roll-out share their fit's error, so the share covered has a standard deviation
    # of at most sqrt(0.1 x 0.9/40) = 4.7 %.
    generator = np.random.default_rng(7)
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), 2.0 ** np.arange(10)))
    curve = -0.07 * np.log10(n) - 0.03 * np.log10(e) + 1
    steps = [
        step
        for _ in range(40)
        for step in roll_out(fit_law(SEPARABLE, {N: n, E: e}, 10 ** (curve + 0.003 * generator.standard_normal(40))), n, level=0.9)
    ]
    found = pooled(steps)
    assert found is not None
    assert found.covered is not None
    assert found.runs == 400
    assert 0.8 <= found.covered / found.runs <= 0.98


def test_a_split_that_is_not_identified_is_shown_with_the_reason() -> None:
    n = np.repeat(np.geomspace(1e7, 1e9, 5), 4)
    # Up to the third size every run is dense: nothing is known of experts there.
    e = np.where(n < 2e8, 1.0, np.tile([1.0, 8.0, 64.0, 512.0], 5))
    loss = 10 ** (-0.07 * np.log10(n) - 0.03 * np.log10(e) + 1 + 0.001 * np.random.default_rng(0).standard_normal(20))
    steps = roll_out(fit_law(SEPARABLE, {N: n, E: e}, loss), n)
    assert [step.reason is not None for step in steps] == [True, True, False]
    assert "num_experts" in (steps[0].reason or "")
    assert steps[0].score is None
    whole = pooled(steps)
    assert whole is not None
    assert whole.runs == 4
    few = roll_out(fit_law(DENSE, {N: n[::4]}, loss[::4]), n[::4], least=2)
    assert few[0].reason == "2 runs for 2 parameters"


def test_a_law_without_n_is_rolled_out_by_size_all_the_same() -> None:
    data, loss = made_up(UTILISATION)
    sizes = np.sort(np.repeat(np.geomspace(1e7, 1e9, 5), 6))
    assert len(roll_out(fit_law(UTILISATION, data, loss), sizes, least=4)) == 1
    with pytest.raises(InputError, match="size of each of 30 runs"):
        roll_out(fit_law(UTILISATION, data, loss), sizes[:5])


def test_few_sizes_give_no_steps() -> None:
    assert roll_out(*_hash(3)) == ()


def test_a_step_for_some_of_its_runs_has_their_values() -> None:
    fit, n = _hash()
    step = roll_out(fit, n)[0]
    routed = step.only(fit.problem.data[E] > 1)
    np.testing.assert_array_equal(routed.predicted, step.predicted[1:])
    np.testing.assert_array_equal(routed.runs, step.runs[1:])


def test_cells_are_the_next_sizes_scores_by_router() -> None:
    fit, n = _hash()
    steps = roll_out(fit, n)
    found = cells_of({"x": steps})
    next_ones = [step for step in steps if step.following]
    assert list(found) == [("x", step.size) for step in next_ones]
    assert [found["x", step.size] for step in next_ones] == [step.score.crps for step in next_ones if step.score]


def _cells(*values: float) -> dict[tuple[str, float], float]:
    return {("x", float(k)): value for k, value in enumerate(values)}


def test_laws_are_ranked_by_mean_score_and_paired_differences() -> None:
    good, near, bad = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.1, 1.9, 3.2, 4.0]), np.array([2.0, 3.1, 4.0, 5.0])
    found = rank({"bad": _cells(*bad), "near": _cells(*near), "good": _cells(*good)})
    assert found is not None
    assert (found.laws, found.best, found.cells) == (("good", "near", "bad"), "good", 4)
    assert found.scores["near"] == pytest.approx(near.mean())
    for law, values in (("near", near), ("bad", bad)):
        mean, error = found.behind[law]
        difference = values - good
        assert mean == pytest.approx(difference.mean())
        assert error == pytest.approx(difference.std(ddof=1) / 2)
        worse = bool(mean / error > student.ppf(0.95, 3))
        assert (law not in found.equal) is worse
    # By paired differences the bad law is worse though the scores overlap.
    assert found.equal == ("good", "near")


def test_laws_are_ranked_over_the_held_out_sizes_that_give_the_most_scores_in_all() -> None:
    # Two sizes of three laws are as many scores as three of two: then more laws.
    few = {**_cells(0.1, 0.1), ("x", 2.0): np.nan}
    found = rank({"whole": _cells(1.0, 2.0, 3.0), "part": few, "other": _cells(1.5, 2.5, 3.5)})
    assert found is not None
    assert (found.laws, found.cells) == (("part", "whole", "other"), 2)
    # Four of two are more: the law that lacks two of them has no place.
    found = rank({"whole": _cells(1.0, 2.0, 3.0, 4.0), "part": few, "other": _cells(1.5, 2.5, 3.5, 4.5)})
    assert found is not None
    assert (found.laws, found.cells) == (("whole", "other"), 4)


def test_a_law_that_a_routers_runs_do_not_identify_has_no_place() -> None:
    both = {("Hash", 1.0): 1.0, ("Hash", 2.0): 1.0, ("RL-R", 1.0): 1.0}
    found = rank({"all": both, "other": dict.fromkeys(both, 2.0), "one": {("Hash", 1.0): 0.1, ("Hash", 2.0): 0.1}})
    assert found is not None
    assert found.laws == ("all", "other")


def test_a_size_that_no_law_predicts_is_no_size() -> None:
    late = rank({"one": {**_cells(1.0, 2.0), ("x", 2.0): np.nan}, "two": {**_cells(1.2, 2.2), ("x", 2.0): np.nan}})
    assert late is not None
    assert late.cells == 2


def test_one_held_out_size_ranks_nothing() -> None:
    assert rank({"one": _cells(1.0), "two": _cells(2.0)}) is None
    assert rank({}) is None
    assert rank({"one": _cells(np.nan, np.nan)}) is None


def test_information_criteria_are_scipys_log_likelihood_with_their_penalties(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("bilinear", "log")
    n, k = 30, 5
    likelihood = norm.logpdf(fit.residuals, scale=np.sqrt(np.mean(fit.residuals**2))).sum()
    found = criteria(fit)
    assert found is not None
    assert found.aic == pytest.approx(-2 * likelihood + 2 * k, rel=1e-12)
    assert found.aicc == pytest.approx(-2 * likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1), rel=1e-12)
    assert found.bic == pytest.approx(-2 * likelihood + k * np.log(n), rel=1e-12)


def test_a_fixed_parameter_is_not_penalised() -> None:
    data, loss = made_up(BILINEAR)
    fixed, separable = criteria(fit_law(BILINEAR, data, loss, fixed={"c": 0.0})), criteria(fit_law(SEPARABLE, data, loss))
    assert fixed is not None
    assert separable is not None
    assert fixed.aicc == pytest.approx(separable.aicc, rel=1e-12)


def test_criteria_are_for_squared_log_loss_and_more_runs_than_they_correct_for() -> None:
    data, loss = made_up(SEPARABLE)
    for objective in (squared(), huber()):
        assert criteria(fit_law(SEPARABLE, data, loss, objective)) is None
    few = [0, 3, 5, 8, 14]
    found = criteria(fit_law(SEPARABLE, {name: column[few] for name, column in data.items()}, loss[few]))
    assert found is not None
    assert found.aicc is None


def test_a_nested_test_is_the_f_test_of_regression() -> None:
    data = grid()
    loss = bilinear_losses(data, c=0.0006)
    found = nested_test(fit_law(SEPARABLE, data, loss), fit_law(BILINEAR, data, loss))
    rss = [
        float(
            np.sum((y := np.log10(loss) - (x := law.features(np.zeros(0), data)) @ np.linalg.lstsq(x, np.log10(loss), rcond=None)[0]) ** 2)
        )
        for law in (SEPARABLE, BILINEAR)
    ]
    del y
    f = (rss[0] - rss[1]) / (rss[1] / 21)
    assert found.f == pytest.approx(f, rel=1e-8)
    assert (found.degrees, found.residual_degrees) == (1, 21)
    assert found.p_value == pytest.approx(f_distribution.sf(f, 1, 21), rel=1e-6)


def test_what_cannot_be_nested_is_refused() -> None:
    data, other = grid(), bilinear_losses(grid(), c=0.01)
    small, large = fit_law(SEPARABLE, data, bilinear_losses(data)), fit_law(BILINEAR, data, bilinear_losses(data))
    with pytest.raises(InputError, match="adds -1 parameters"):
        nested_test(large, small)
    with pytest.raises(InputError, match="same runs"):
        nested_test(small, fit_law(BILINEAR, data, other))
    with pytest.raises(InputError, match="squared error of log10"):
        nested_test(fit_law(SEPARABLE, data, bilinear_losses(data), huber()), fit_law(BILINEAR, data, bilinear_losses(data), huber()))


def test_akaike_weights_are_relative_likelihoods_and_sum_to_one() -> None:
    data = grid()
    fits = [fit_law(law, data, bilinear_losses(data, c=0.0008)) for law in (SEPARABLE, BILINEAR, BOUNDED)]
    found = akaike_weights(fits)
    assert sum(found) == pytest.approx(1, rel=1e-12)
    aicc = [one.aicc for fit in fits if (one := criteria(fit)) is not None and one.aicc is not None]
    assert found[0] / found[1] == pytest.approx(np.exp((aicc[1] - aicc[0]) / 2), rel=1e-9)
    with pytest.raises(InputError, match="same runs"):
        akaike_weights([fits[0], fit_law(SEPARABLE, data, bilinear_losses(data, c=0.01))])
    with pytest.raises(InputError, match="AICc"):
        akaike_weights([fits[0], fit_law(SEPARABLE, data, bilinear_losses(data), huber())])


@unchecked()
def test_on_the_release_eq_1_predicts_all_27_largest_routed_runs_too_low_and_a_floor_covers_26(released: Callable[[str], Sample]) -> None:
    found = {}
    for law in (BOUNDED, FLOOR):
        steps = []
        for router in ("S-Base", "Hash", "RL-R"):
            data, loss = released(router)
            fit = fit_law(law, {name: data[name] for name in law.columns}, loss)
            (step,) = roll_out(fit, data[N], least=5)
            steps.append(step.only(data[E] > 1))
        found[law.name] = pooled(steps)
    assert (found["bounded"].runs, found["bounded"].too_low, found["bounded"].covered, found["floor"].covered) == (27, 27, 0, 26)
    assert found["bounded"].mean_error == pytest.approx(-0.0426, abs=5e-5)
