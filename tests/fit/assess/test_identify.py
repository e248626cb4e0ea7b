"""Every warning's code appears where its cause is, with its numbers, and not where it isn't."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from jaxtyping import Float

from fit.assess.identify import FitWarning, beyond, warnings_for
from fit.intervals.bootstrap import resample
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, DENSE, FLOOR, FLOOR_INTERACTION, SEPARABLE, UTILISATION
from fit.solver.solve import Fit, fit_law

Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]
Samples = Callable[[str], Sample]


@dataclass(frozen=True)
class Figure:
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    n: float
    e: float


def _grid(sizes: int = 5) -> Mapping[str, Float[np.ndarray, "runs"]]:
    n, e = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, sizes), 4.0 ** np.arange(5)))
    return {"dense_parameter_count": n, "num_experts": e}


def _losses(data: Mapping[str, Float[np.ndarray, "runs"]], c: float = 0.0, b: float = -0.03) -> Float[np.ndarray, "runs"]:
    """Losses of the bilinear law, centred at N = 10^8, with a noise of 0.001."""
    x, e = np.log10(data["dense_parameter_count"]) - 8, np.log10(data["num_experts"])
    return 10 ** (0.5 - 0.07 * x + b * e + c * x * e + 0.001 * np.random.default_rng(0).standard_normal(len(x)))


def _codes(warnings: tuple[FitWarning, ...]) -> list[str]:
    return [warning.code for warning in warnings]


def _message(warnings: tuple[FitWarning, ...], code: str) -> str:
    (message,) = [warning.message for warning in warnings if warning.code == code]
    return message


def _figures(fit: Fit, **others: Figure) -> dict[str, Figure]:
    return {name: Figure(value) for name, value in fit.parameters.items()} | others


def test_a_good_fit_has_no_warning() -> None:
    data = _grid()
    fit = fit_law(SEPARABLE, data, _losses(data))
    assert warnings_for(fit, resample(fit, draws=100), points=(Point(1e8, 4.0),)) == ()


def test_no_saturation_is_a_parameter_at_its_bound() -> None:
    data = _grid()
    # Losses that fall faster with every further doubling of E: no curve that saturates can follow.
    loss = _losses(data) * 10 ** (-0.004 * np.log10(data["num_experts"]) ** 2)
    message = _message(warnings_for(fit_law(BOUNDED, data, loss)), "at-bound")
    assert message == "rho (E_max = E_start/rho) ended at the lower end of its search range, 1e-06: the runs set no limit there"


def test_an_interval_of_e_max_that_spans_more_than_the_runs_is_wide(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    wide = warnings_for(fit, coefficients=_figures(fit, E_max=Figure(300, 1.5, 1000)))
    assert "spans a larger ratio than the runs' num_experts (512)" in _message(wide, "wide-interval")
    far = warnings_for(fit, coefficients=_figures(fit, E_max=Figure(300, 200, 600)))
    assert "200 to 600, reaches beyond the largest num_experts of the runs (512)" in _message(far, "wide-interval")
    within = warnings_for(fit, coefficients=_figures(fit, E_max=Figure(300, 200, 500)))
    assert "wide-interval" not in _codes(within)


def test_the_range_of_b_is_that_of_p_over_f(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(UTILISATION, data, loss)
    largest = 2**20 * np.max(data["total_parameter_count"] / data["flops_per_step"])
    for high, expected in ((1.01 * largest, True), (0.99 * largest, False)):
        found = warnings_for(fit, coefficients=_figures(fit, B_max=Figure(30, 20, high)))
        assert ("wide-interval" in _codes(found)) is expected


def test_a_floor_known_to_no_better_than_the_losses_range_is_wide(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(FLOOR, data, loss)
    span = float(loss.max() - loss.min())
    for length, expected in ((1.01 * span, True), (0.99 * span, False)):
        found = warnings_for(fit, coefficients=_figures(fit, L_0=Figure(0.5, 0.1, 0.1 + length)))
        assert ("wide-interval" in _codes(found)) is expected


def test_a_sign_against_the_laws_story_is_named_whether_estimated_or_not_excluded() -> None:
    data = _grid()
    hurt = fit_law(SEPARABLE, data, _losses(data, b=0.03))
    assert "b is 0.0" in _message(warnings_for(hurt), "wrong-sign")
    fit = fit_law(SEPARABLE, data, _losses(data))
    doubtful = warnings_for(fit, coefficients=_figures(fit, b=Figure(-0.03, -0.07, 0.01)))
    assert _message(doubtful, "wrong-sign") == ("the 95% interval of b, -0.07 to 0.01, does not exclude 0; the law's story needs it below")


def test_a_cutoff_beyond_the_largest_size_is_an_extrapolation_with_its_distance() -> None:
    data = _grid()
    # b + c log N is nought where -0.03 + 0.01 (log N - 8) is: at 10^11, a hundred times the largest size.
    fit = fit_law(BILINEAR, data, _losses(data, c=0.01))
    message = _message(warnings_for(fit, resample(fit, draws=200)), "cutoff-beyond-data")
    value, times = float(message.split()[1]), float(message.split(" is ")[1].split()[0])
    assert value == pytest.approx(1e11, rel=0.5)
    assert times == pytest.approx(value / 1e9, rel=0.01)
    assert "95% interval" in message


def test_a_cutoff_within_the_data_is_no_warning() -> None:
    data = _grid()
    fit = fit_law(BILINEAR, data, _losses(data, c=0.06))
    assert not {"cutoff-beyond-data", "cutoff-not-identified"} & set(_codes(warnings_for(fit, resample(fit, draws=100))))


def test_a_gain_that_grows_with_size_has_no_cutoff() -> None:
    data = _grid()
    found = warnings_for(fit_law(BILINEAR, data, _losses(data, c=-0.01)))
    assert "there is no N_cutoff" in _message(found, "cutoff-not-identified")
    assert "cutoff-beyond-data" not in _codes(found)


def test_with_a_floor_the_released_s_base_runs_identify_no_cutoff(released: Samples) -> None:
    data, loss = released("S-Base")
    fit = fit_law(FLOOR_INTERACTION, data, loss)
    draws = resample(fit, draws=400)
    found = warnings_for(fit, draws)
    assert {"wrong-sign", "cutoff-not-identified"} <= set(_codes(found))
    # c is the third coefficient; where it is positive but next to nought, 10^308 does not hold the cutoff either.
    share = float(np.mean(draws.refits.beta[:, 2] <= 0))
    stated = float(_message(found, "cutoff-not-identified").split()[1].rstrip("%")) / 100
    assert 0.1 < share <= stated + 0.0005 < share + 0.05


def test_an_effective_parameter_count_outside_the_runs_says_how_far() -> None:
    data = _grid()
    fit = fit_law(SEPARABLE, data, _losses(data))
    assert _codes(warnings_for(fit, points=(Point(1e8, 4), Point(5e6, 4), Point(1e8, 512)))) == ["extrapolated-epc"] * 2
    assert "N lies 2 times outside the runs' sizes" in _message(warnings_for(fit, points=(Point(5e6, 4),)), "extrapolated-epc")
    assert "E lies 2 times outside" in _message(warnings_for(fit, points=(Point(1e8, 512),)), "extrapolated-epc")


def test_an_effective_parameter_count_above_every_dense_run_is_extrapolated_too() -> None:
    data = _grid()
    fit = fit_law(SEPARABLE, data, _losses(data))
    message = _message(warnings_for(fit, points=(Point(1e9, 256),)), "extrapolated-epc")
    # N (E)^(b/a) = 1e9 x 256^(3/7) = 10.8e9 without noise.
    assert "is 10." in message or "is 11." in message
    assert "times the largest dense size of the runs (1e+09)" in message


def test_beyond_is_the_ratio_to_the_nearest_run() -> None:
    values = np.array([2.0, 8.0])
    assert [beyond(values, value) for value in (1.0, 2.0, 5.0, 8.0, 24.0)] == [2.0, 1.0, 1.0, 1.0, 3.0]


def test_few_runs_say_how_well_the_noise_is_known() -> None:
    n = np.geomspace(1e7, 1e9, 4)
    data = {"dense_parameter_count": n}
    loss = 10 ** (1.0 - 0.07 * np.log10(n) + np.array([0.001, -0.001, 0.001, -0.001]))
    message = _message(warnings_for(fit_law(DENSE, data, loss)), "few-runs")
    assert message == "4 runs for 2 parameters leave 2 residual degrees of freedom: the noise is known to 50% at best"
    two = fit_law(DENSE, {"dense_parameter_count": n[:2]}, loss[:2])
    assert "leave no residual degrees of freedom" in _message(warnings_for(two), "few-runs")


def test_few_clusters_are_a_warning_only_where_clusters_are_resampled() -> None:
    data = _grid()
    fit = fit_law(SEPARABLE, data, _losses(data))
    clusters = resample(fit, "clusters", draws=50, clusters=data["dense_parameter_count"])
    assert _message(warnings_for(fit, clusters), "few-clusters").startswith("5 clusters were resampled")
    assert "few-clusters" not in _codes(warnings_for(fit, resample(fit, "pairs", draws=50)))


def test_draws_that_do_not_identify_the_law_are_counted() -> None:
    data = _grid(3)
    fit = fit_law(SEPARABLE, data, _losses(data))
    # One of three clusters is drawn three times in a ninth of the resamples: then nothing is known of N.
    draws = resample(fit, "clusters", draws=200, clusters=data["dense_parameter_count"])
    assert draws.failed > 0
    found = _message(warnings_for(fit, draws), "failed-draws")
    assert found == f"{draws.failed} of 200 draws did not identify the law and are in no interval"


def test_parameters_the_runs_hardly_tell_apart_are_ill_conditioned() -> None:
    # Sizes that differ in the seventh digit: slope and intercept of the dense law move as one.
    n = 1e8 * (1 + 1e-7 * np.arange(20))
    fit = fit_law(DENSE, {"dense_parameter_count": n}, 2.5 + 0.001 * np.sin(np.arange(20.0)))
    assert fit.certificate.condition > 1e6
    assert "ill-conditioned" in _codes(warnings_for(fit))


def test_a_single_start_at_the_optimum_is_confirmed_by_none(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(BOUNDED_FLOOR, data, loss)
    assert "starts-disagree" not in _codes(warnings_for(fit))
    alone = replace(fit, certificate=replace(fit.certificate, reached=1))
    assert "starts-disagree" in _codes(warnings_for(alone))


def test_too_few_draws_for_an_interval_give_no_warning_about_one() -> None:
    data = _grid()
    fit = fit_law(BOUNDED, data, _losses(data))
    assert "wide-interval" not in _codes(warnings_for(fit, resample(fit, draws=5)))


def test_few_residuals_are_warned_about_where_they_are_what_is_drawn(released: Callable[[str], Sample]) -> None:
    data, loss = released("Dense")
    fit = fit_law(DENSE, data, loss)
    assert "few-residuals" in {warning.code for warning in warnings_for(fit, resample(fit, "residuals", 40, 0))}
    assert "few-residuals" not in {warning.code for warning in warnings_for(fit, resample(fit, "pairs", 40, 0))}
