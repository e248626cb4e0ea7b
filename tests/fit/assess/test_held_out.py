"""Leave-one-out and roll-out: against the hat matrix, scipy's refits, and what is known of the release."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import least_squares

from common.errors import InputError
from fit.assess.held_out import RollOutStep, leave_one_out, pooled, roll_out, score
from fit.laws import BILINEAR, BOUNDED, DENSE, FLOOR, SEPARABLE, UTILISATION, Law
from fit.laws.saturation import saturate
from fit.load.grid import canonical
from fit.load.runs import Runs
from fit.solver.solve import fit_law

Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]
Samples = Callable[[str], Sample]
ROUTERS = ("S-Base", "Hash", "RL-R")
NEXT_TO_LARGEST = 368_123_904.0


def test_leaving_runs_out_of_a_linear_law_is_the_hat_matrix_formula(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    x, e = np.log10(data["dense_parameter_count"]), np.log10(data["num_experts"])
    design = np.stack([x, e, x * e, np.ones_like(x)], axis=1)
    hat = design @ np.linalg.pinv(design)
    y = np.log10(loss)
    # The residual of a run that the fit did not see: (y - Hy)/(1 - h), predicted minus observed with the other sign.
    expected = -(y - hat @ y) / (1 - np.diag(hat))
    found = leave_one_out(fit_law(BILINEAR, data, loss))
    # The pseudo-inverse loses about condition^2 x 1e-16 = 1e-12 of losses near 0.4.
    np.testing.assert_allclose(found.errors_log10, expected, rtol=0, atol=1e-11)
    assert found.failed == 0


def test_leaving_runs_out_a_few_at_a_time_changes_nothing(simulated: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    data, loss = simulated("Hash")
    fit = fit_law(BOUNDED, data, loss)
    whole = leave_one_out(fit)
    monkeypatch.setattr("fit.assess.held_out._CELLS", 7 * len(loss))
    # A resample's polish ends at a relative gain of 1e-14: its predictions are good to the square root of that.
    np.testing.assert_allclose(leave_one_out(fit).predicted, whole.predicted, rtol=1e-7)


def _scipys_prediction(data: Mapping[str, Float[np.ndarray, "runs"]], loss: Float[np.ndarray, "runs"], left_out: int) -> float:
    """log10 of the loss of one run by Eq. 1 fitted to the others with scipy, all six parameters at once, from several starts."""
    x, e = np.log10(data["dense_parameter_count"]) - 8, data["num_experts"]
    kept = np.arange(len(loss)) != left_out

    def curve(t: Float[np.ndarray, "6"]) -> Float[np.ndarray, "runs"]:
        e_hat = np.log10(saturate(e, np.exp(t[4:5]), t[5:6]))
        return t[0] * x + t[1] * e_hat + t[2] * x * e_hat + t[3]

    start = [-0.08, -0.04, 0.01, 0.45]
    fits = [
        least_squares(
            lambda t: (curve(t) - np.log10(loss))[kept],
            [*start, np.log(e_start), rho],
            bounds=([-np.inf] * 4 + [0, 1e-6], [np.inf] * 4 + [np.log(64), 0.95]),
            x_scale=[0.1, 0.1, 0.01, 1, 1, 0.01],
            xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000,
        )
        for e_start in (1.5, 5.0)
        for rho in (0.003, 0.02)
    ]  # fmt: skip
    return float(curve(min(fits, key=lambda found: found.cost).x)[left_out])


@pytest.mark.parametrize("left_out", [0, 17, 59])
def test_leaving_a_run_out_of_the_bounded_law_predicts_what_scipys_own_refit_does(simulated: Samples, left_out: int) -> None:
    data, loss = simulated("S-Base")
    found = leave_one_out(fit_law(BOUNDED, data, loss))
    # scipy stops in the flat valley at a relative gain of 1e-15; its predictions are then good to the square root of that.
    assert np.log10(found.predicted[left_out]) == pytest.approx(_scipys_prediction(data, loss, left_out), abs=2e-7)


def test_a_run_without_which_the_law_is_not_identified_is_counted_and_not_scored() -> None:
    data = {"dense_parameter_count": np.array([1e8, 1e8, 1e8, 1e9])}
    found = leave_one_out(fit_law(DENSE, data, np.array([2.6, 2.61, 2.62, 2.2])))
    assert found.failed == 1
    np.testing.assert_array_equal(np.isnan(found.predicted), [False, False, False, True])
    assert found.score is not None
    assert found.score.runs == 3


def test_the_score_is_what_its_fields_say() -> None:
    observed, predicted = np.array([2.0, 3.0, 4.0]), np.array([2.2, 2.7, np.nan])
    found = score(predicted, observed, observed - 0.1, observed + 0.1)
    assert found is not None
    assert (found.runs, found.too_low, found.covered) == (2, 1, 2)
    # Errors 0.2 and -0.3 of losses 2 and 3, about whose mean the squares are 0.5.
    assert found.mean_error == pytest.approx(-0.05)
    assert found.rmse_percent == pytest.approx(10.0)
    assert found.r2 == pytest.approx(1 - 0.13 / 0.5)
    assert found.rmse_log10 == pytest.approx(np.sqrt((np.log10(1.1) ** 2 + np.log10(0.9) ** 2) / 2))


def test_a_score_says_none_where_there_is_nothing_to_say() -> None:
    one = np.array([2.0])
    assert score(np.array([np.nan]), one) is None
    found = score(one, one)
    assert found is not None
    assert found.r2 is None
    assert found.covered is None


def test_every_size_above_every_split_is_predicted_once(simulated: Samples) -> None:
    data, loss = simulated("Hash")
    n = data["dense_parameter_count"]
    sizes = np.unique(n)
    steps = roll_out(BILINEAR, data, loss, draws=0)
    splits = [(low, high) for k in range(2, 5) for low, high in [(sizes[k], size) for size in sizes[k + 1 :]]]
    assert [(step.trained_up_to, step.size) for step in steps] == splits
    for step in steps:
        np.testing.assert_array_equal(step.runs, np.flatnonzero(n == step.size))
        assert step.fitted == np.sum(n <= step.trained_up_to)
        assert step.distance == step.size / step.trained_up_to
        assert step.score is not None
        assert step.score.covered is None


def test_predictions_do_not_see_what_they_predict(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    above = data["dense_parameter_count"] > NEXT_TO_LARGEST
    (step,) = roll_out(FLOOR, data, loss, draws=50, least_sizes=5)
    (blind,) = roll_out(FLOOR, data, np.where(above, 9.0, loss), draws=50, least_sizes=5)
    for name in ("predicted", "low", "high"):
        np.testing.assert_array_equal(getattr(step, name), getattr(blind, name))


def test_intervals_cover_new_runs_where_the_law_is_true() -> None:
    # Losses from the separable law with normal noise: the intervals of 40 roll-outs, 10 runs each, with nominal 95 %. Runs of one
    # roll-out share their fit's error, so the share covered has a standard deviation of at most sqrt(0.05 x 0.95/40) = 3.4 %.
    generator = np.random.default_rng(7)
    n, e = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(10)))
    data = {"dense_parameter_count": n, "num_experts": e}
    curve = -0.07 * np.log10(n) - 0.03 * np.log10(e) + 1
    steps = [
        step
        for seed in range(40)
        for step in roll_out(
            SEPARABLE,
            data,
            10 ** (curve + 0.003 * generator.standard_normal(len(n))),
            draws=300,
            seed=seed,
            least_sizes=4,
        )
    ]
    found = pooled(steps)
    assert found is not None
    assert found.covered is not None
    assert found.runs == 400
    assert 0.85 <= found.covered / found.runs <= 0.99


def test_a_split_that_is_not_identified_is_shown_with_the_reason() -> None:
    n = np.repeat(np.geomspace(1e7, 1e9, 5), 4)
    # Up to the third size every run is dense: nothing is known of experts there.
    e = np.where(n < 2e8, 1.0, np.tile([1.0, 8.0, 64.0, 512.0], 5))
    loss = 10 ** (-0.07 * np.log10(n) - 0.03 * np.log10(e) + 1)
    steps = roll_out(SEPARABLE, {"dense_parameter_count": n, "num_experts": e}, loss, draws=0)
    assert [step.reason is not None for step in steps] == [True, True, False]
    assert steps[0].reason is not None
    assert "num_experts" in steps[0].reason
    assert steps[0].score is None
    whole = pooled(steps)
    assert whole is not None
    assert whole.runs == 4


def test_a_law_without_n_is_rolled_out_by_size_all_the_same(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    steps = roll_out(UTILISATION, data, loss, draws=0)
    assert len(steps) == 6
    without = {name: data[name] for name in UTILISATION.columns}
    with pytest.raises(InputError, match="dense_parameter_count"):
        roll_out(UTILISATION, without, loss, draws=0)


def test_few_sizes_give_no_steps(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    few = data["dense_parameter_count"] < 1e8
    assert roll_out(BILINEAR, {name: column[few] for name, column in data.items()}, loss[few], draws=0) == ()


def _largest_size(released: Samples, law: Law) -> list[RollOutStep]:
    """The routed runs at 1.3B, predicted from the runs up to 370M, one step for each router."""
    steps: list[RollOutStep] = []
    for router in ROUTERS:
        data, loss = released(router)
        (step,) = roll_out(law, data, loss, least_sizes=5)
        assert step.trained_up_to == NEXT_TO_LARGEST
        steps.append(step.only(data["num_experts"] > 1))
    return steps


def test_on_the_release_eq_1_predicts_all_27_largest_routed_runs_too_low(released: Samples) -> None:
    found = pooled(_largest_size(released, BOUNDED))
    assert found is not None
    assert found.covered is not None
    assert (found.runs, found.too_low) == (27, 27)
    assert found.mean_error == pytest.approx(-0.0426, abs=5e-5)
    # The nearest two lie at the very edge of their intervals, 2 % of a half-width in or out: plain quantiles cover none.
    assert found.covered <= 1


def test_on_the_release_a_floor_covers_all_27_largest_routed_runs(released: Samples) -> None:
    found = pooled(_largest_size(released, FLOOR))
    assert found is not None
    assert (found.runs, found.covered) == (27, 27)


def test_on_the_releases_own_seed_42_runs_the_mean_error_of_eq_1_is_minus_0_042_nats(released_runs: Runs) -> None:
    steps: list[RollOutStep] = []
    for router in ROUTERS:
        runs = canonical(released_runs, router).where("seed == 42")
        data = {name: runs.numeric(name) for name in BOUNDED.columns}
        (step,) = roll_out(BOUNDED, data, runs.loss, draws=0, least_sizes=5)
        steps.append(step.only(data["num_experts"] > 1))
    found = pooled(steps)
    assert found is not None
    assert (found.runs, found.too_low) == (27, 27)
    assert found.mean_error == pytest.approx(-0.042, abs=5e-4)
