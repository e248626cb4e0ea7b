"""The engine finds the true optimum: against an optimiser nobody here wrote, brute force, and the released reference values."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Complex, Float, Inexact
from scipy.optimize import curve_fit, least_squares

from common.errors import InputError
from fit.engine.losses import LN10, Loss, huber, squared, squared_log
from fit.engine.problem import make_problem
from fit.engine.solve import Fit, fit_law
from fit.errors import NotIdentifiedError
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR_INTERACTION, CATALOGUE, DENSE_FLOOR, SEPARABLE, TOKENS, Law, per_size
from fit.uncertainty.delta import covariance
from fit.uncertainty.draws import resample
from tests.checks import unchecked
from tests.fit.designs import LAWS, TRUTH, WAVE, Sample, least_wave, made_up, waves

LOSSES = ("log", "squared", "huber:0.01", "huber:0.001", "huber:0.0001")
FEW = {
    "huber:0.001": ("dense", "bilinear", "bounded", "floor", "bounded-floor-interaction"),
    "huber:0.0001": ("dense", "separable", "bilinear"),
}
"""Laws that small deltas are tried on: what is checked at every call makes their many short steps slow in tests."""

CASES = [(law, loss) for law in LAWS for loss in LOSSES if law.name in FEW.get(loss, (law.name,))]


@unchecked()
def _scipys_optimum(fit: Fit, seed: int = 0) -> float:
    """The least objective that scipy's bounded trust-region solver finds, all parameters free at once, from the truth and beside it.

    Its residuals are written from the law's formula, and Huber's loss is scipy's own.
    """
    law, problem = fit.law, fit.problem
    loss, shapes = problem.loss, len(law.shapes)
    low, high = problem.limits.T
    theta, beta = (np.array(values, dtype=np.float64) for values in TRUTH[law.name])
    scale = np.concatenate([np.maximum(theta, 1e-3), np.maximum(np.abs(beta), 1e-3)])

    def residuals(z: Inexact[np.ndarray, "unknowns"]) -> Inexact[np.ndarray, "runs"]:
        x = z * scale
        with np.errstate(all="ignore"):
            predicted = law.link.log10_loss(law.features(x[:shapes], problem.data) @ x[shapes:], x[:shapes])
            r = (
                np.exp(predicted * LN10) - 10**problem.observed
                if loss.scale == "nats"
                else (predicted - problem.observed) * (LN10 if loss.scale == "ln" else 1)
            )
        return np.where(np.isfinite(r), r, 1e3)

    def jacobian(z: Float[np.ndarray, "unknowns"]) -> Float[np.ndarray, "runs unknowns"]:
        steps: Complex[np.ndarray, "unknowns unknowns"] = z + 1e-60j * np.eye(len(z))
        return np.stack([np.clip(np.imag(residuals(row)) / 1e-60, -1e9, 1e9) for row in steps], axis=-1)

    bounds = np.concatenate([low, np.full(len(beta), -np.inf)]) / scale, np.concatenate([high, np.full(len(beta), np.inf)]) / scale
    generator, best = np.random.default_rng(seed), np.inf
    for spread in (0.0, 0.3):
        start = np.concatenate([theta, beta]) / scale
        start[:shapes] *= np.exp(spread * generator.standard_normal(shapes))
        start = np.clip(start, bounds[0] + 1e-9, bounds[1] - 1e-9)
        with np.errstate(all="ignore"):
            found = least_squares(
                residuals, start, jac=cast(Any, jacobian), bounds=bounds, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=100,
                loss="linear" if np.isinf(loss.delta) else "huber", f_scale=1.0 if np.isinf(loss.delta) else loss.delta,
            )  # fmt: skip
        best = min(best, 2 * found.cost / fit.num_runs)
    return best


@pytest.mark.parametrize(("law", "loss"), CASES, ids=[f"{law.name}-{loss}" for law, loss in CASES])
def test_the_optimum_is_scipys(law: Law, loss: str, fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted(law.name, loss)
    scipys = _scipys_optimum(fit)
    assert fit.certificate.objective <= scipys * (1 + 1e-9)
    # The other way round scipy's own end has to serve: its reweighting creeps where Huber's delta is below the noise.
    assert scipys <= fit.certificate.objective * (1 + (1e-8 if "huber" not in loss else 1e-3))


@pytest.mark.parametrize(("law", "loss"), CASES, ids=[f"{law.name}-{loss}" for law, loss in CASES])
def test_a_right_fit_is_certified(law: Law, loss: str, fitted: Callable[[str, str], Fit]) -> None:
    certificate = fitted(law.name, loss).certificate
    assert certificate.converged
    assert certificate.confirmed
    assert certificate.identified
    assert certificate.certified
    assert certificate.agreeing >= (2 if law.shapes else 1)
    assert 1 <= certificate.reached <= certificate.starts


@pytest.mark.parametrize(("law", "loss"), CASES, ids=[f"{law.name}-{loss}" for law, loss in CASES])
def test_at_the_optimum_the_gradient_is_zero(law: Law, loss: str, fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted(law.name, loss)
    r, jacobian = fit.problem.linearise(fit.theta[None], fit.beta[None])
    psi = np.clip(r[0], -fit.problem.loss.delta, fit.problem.loss.delta)
    free = fit.derivatives.any(axis=0)
    columns = jacobian[0][:, free] / np.linalg.norm(jacobian[0][:, free], axis=0)
    # The cosine between what is left and any direction: what converged means, 1e-12 of the objective, is its square; and a column's
    # share that the others do not span may be as small as the inverse of the condition number.
    assert np.abs(columns.T @ psi).max() <= 1e-6 * np.linalg.norm(psi)


def test_of_many_local_minima_the_global_one_is_found() -> None:
    for seed in range(4):
        data, loss = waves(seed)
        fit = fit_law(WAVE, data, loss)
        frequency, least = least_wave(data, np.log10(loss)[None], np.ones((1, len(loss))))
        # Neighbours on the brute-force grid are 0.003 apart.
        assert fit.parameters["w"] == pytest.approx(frequency[0], abs=0.006)
        assert fit.certificate.objective <= least[0]
        assert fit.certificate.certified


def test_the_waves_best_frequency_depends_on_the_noise() -> None:
    """Else the test above would be one of a single minimum."""
    found = [least_wave(data, np.log10(loss)[None], np.ones((1, len(loss))))[0][0] for data, loss in map(waves, range(4))]
    assert len({round(float(w)) for w in found}) > 1


@settings(max_examples=10)
@given(
    a=st.floats(-0.12, -0.04), b=st.floats(-0.2, -0.03), c=st.floats(0.0, 0.015), d=st.floats(0.9, 1.3),
    e_start=st.floats(1.05, 8), e_max=st.floats(60, 2000),
)  # fmt: skip
@unchecked()
def test_a_noiseless_law_is_recovered(a: float, b: float, c: float, d: float, e_start: float, e_max: float) -> None:
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1.5e7, 1.3e9, 6), 2.0 ** np.arange(10)))
    data = {"dense_parameter_count": n, "num_experts": e}
    truth = BOUNDED.log10_loss(np.array([e_start, e_start / e_max]), np.array([a, b, c, d]), data)
    fit = fit_law(BOUNDED, data, 10**truth)
    # The curve to float64; the parameters to what the flat valley leaves of it.
    np.testing.assert_allclose(fit.log10_loss(data), truth, atol=1e-12)


def test_a_law_in_size_and_tokens_is_recovered() -> None:
    data, loss = made_up(TOKENS, noise=0.0)
    found = fit_law(TOKENS, data, loss).parameters
    # To what rounding leaves: the scales stand for values far from the runs, so theirs is multiplied by ln 1e9.
    assert [found["L_0"], found["a"], found["b"]] == pytest.approx([1.7, 0.34, 0.3], rel=1e-6)
    assert [found["A"], found["B"]] == pytest.approx([110.0, 600.0], rel=1e-5)


def test_a_dense_law_with_a_floor_is_fitted_as_scipys_curve_fit_does(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("dense-floor", "log")
    n, y = fit.problem.data["dense_parameter_count"], fit.problem.observed

    def log_loss(n: Float[np.ndarray, "runs"], floor: float, log_c: float, a: float) -> Float[np.ndarray, "runs"]:
        return np.log10(floor + np.exp(log_c - a * np.log(n)))

    (floor, log_c, a), _ = curve_fit(log_loss, n, y, p0=[1.5, 5.0, 0.3])
    # Both stop where the objective is flat to rounding, which leaves half of a float's digits, times the problem's condition.
    assert list(fit.parameters.values()) == pytest.approx([floor, np.exp(log_c), a], rel=1e-5)


@pytest.mark.parametrize("law", [BOUNDED, BOUNDED_FLOOR_INTERACTION], ids=lambda law: law.name)
@unchecked()
def test_order_units_and_duplication_do_not_move_the_optimum(law: Law, fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted(law.name, "log")
    data, loss = made_up(law)
    order = np.random.default_rng(3).permutation(len(loss))
    shuffled = fit_law(law, {name: column[order] for name, column in data.items()}, loss[order])
    doubled = fit_law(law, {name: np.tile(column, 2) for name, column in data.items()}, np.tile(loss, 2))
    millions = fit_law(law, {**data, "dense_parameter_count": data["dense_parameter_count"] / 1e6}, loss)
    for other in (shuffled, doubled):
        np.testing.assert_allclose(list(other.parameters.values()), list(fit.parameters.values()), rtol=1e-7)
    # A unit moves what carries it (b, d, C); the shapes and the curve stay.
    np.testing.assert_allclose(millions.theta, fit.theta, rtol=1e-7)
    np.testing.assert_allclose(millions.residuals, fit.residuals, atol=1e-10)


def test_whole_weights_are_runs_that_are_there_so_many_times() -> None:
    data, loss = made_up(BOUNDED)
    times = np.random.default_rng(0).integers(1, 4, len(loss))
    weighted = fit_law(BOUNDED, data, loss, weights=times.astype(np.float64))
    repeated = fit_law(BOUNDED, {name: np.repeat(column, times) for name, column in data.items()}, np.repeat(loss, times))
    np.testing.assert_allclose(list(weighted.parameters.values()), list(repeated.parameters.values()), rtol=1e-7)
    assert weighted.certificate.objective == pytest.approx(repeated.certificate.objective, rel=1e-12)
    assert weighted.rmse_log10 == pytest.approx(repeated.rmse_log10, rel=1e-12)
    assert weighted.r_squared == pytest.approx(repeated.r_squared, rel=1e-12)


def test_a_weight_of_zero_is_a_run_that_is_not_there() -> None:
    data, loss = made_up(SEPARABLE)
    weights = np.ones(len(loss))
    weights[::3] = 0
    there = weights > 0
    ignored = fit_law(SEPARABLE, data, np.where(there, loss, 50.0), weights=weights)
    absent = fit_law(SEPARABLE, {name: column[there] for name, column in data.items()}, loss[there])
    assert ignored.parameters == absent.parameters
    assert (ignored.num_runs, ignored.degrees) == (absent.num_runs, absent.degrees) == (20, 17)
    np.testing.assert_array_equal(covariance(ignored), covariance(absent))
    np.testing.assert_array_equal(resample(ignored, draws=5).beta, resample(absent, draws=5).beta)
    with pytest.raises(NotIdentifiedError, match="3 parameters and there are 2 runs"):
        fit_law(SEPARABLE, data, loss, weights=np.where(np.arange(len(loss)) < 2, 1.0, 0.0))


def test_bounds_that_follow_the_runs_are_those_of_the_runs_chosen() -> None:
    """To the last bit, whatever the rounding of the logarithm of the losses: a fit must not know of the runs it is to predict."""
    for seed in range(20):
        data, loss = made_up(CATALOGUE["floor"], seed)
        kept = loss > np.median(loss)
        problem = make_problem(CATALOGUE["floor"], data, loss)
        chosen = problem.subset(kept)
        assert chosen.limits[0, 1] == pytest.approx(0.99 * loss[kept].min(), rel=1e-12)
        assert make_problem(CATALOGUE["floor"], data, loss, bounds={"L_0": (0.0, 0.5)}).subset(kept).limits.tolist() == [[0.0, 0.5]]


def test_r_squared_and_rmse_are_numpys(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("bilinear", "log")
    y, x = fit.problem.observed, BILINEAR.features(np.zeros(0), fit.problem.data)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert fit.rmse_log10 == pytest.approx(np.sqrt(np.mean(rest**2)), rel=1e-10)
    assert fit.r_squared == pytest.approx(1 - np.var(rest) / np.var(y), rel=1e-10)
    assert fit.degrees == len(y) - 4


def test_the_laws_of_one_size_each_are_numpys_lines() -> None:
    data, loss = made_up(BILINEAR)
    sizes = np.unique(data["dense_parameter_count"])
    fit = fit_law(per_size(sizes.tolist()), data, loss)
    for i, size in enumerate(sizes):
        here = data["dense_parameter_count"] == size
        slope, intercept = np.polyfit(np.log10(data["num_experts"][here]), np.log10(loss[here]), 1)
        np.testing.assert_allclose([fit.beta[i], fit.beta[i + len(sizes)]], [slope, intercept], rtol=1e-10)


def test_fewer_runs_than_parameters_are_refused_in_one_line() -> None:
    data = {"dense_parameter_count": np.array([1e7, 1e8, 1e9]), "num_experts": np.array([1.0, 2.0, 4.0])}
    with pytest.raises(NotIdentifiedError, match="4 parameters and there are 3 runs") as caught:
        fit_law(BILINEAR, data, np.array([3.0, 2.5, 2.2]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": np.nan}, "losses must be finite and above 0, and 1 of 25 are not"),
        ({"loss": -1.0}, "losses must be finite"),
        ({"num_experts": np.nan}, "column 'num_experts' must be finite and above 0, and 1 of its 25"),
        ({"num_experts": -5.0}, "column 'num_experts' must be finite"),
        ({"num_experts": None}, "reads the column 'num_experts', and there are: dense_parameter_count"),
        ({"num_experts": "short"}, r"has shape \(24,\), and there are 25 losses"),
    ],
    ids=["nan-loss", "negative-loss", "nan", "negative", "missing", "ragged"],
)
def test_values_that_no_run_has_are_refused_by_column(change: dict[str, float | str | None], words: str) -> None:
    data, loss = made_up(BILINEAR)
    data, loss = {name: column[:25].copy() for name, column in data.items()}, loss[:25].copy()
    for name, value in change.items():
        if value is None:
            del data[name]
        elif isinstance(value, str):
            data[name] = data[name][:-1]
        else:
            (loss if name == "loss" else data[name])[3] = value
    with pytest.raises(InputError, match=words):
        fit_law(BILINEAR, data, loss)


def test_weights_that_are_none_are_refused() -> None:
    data, loss = made_up(SEPARABLE)
    for weights in (np.full(len(loss), -1.0), np.zeros(len(loss)), np.full(len(loss), np.nan)):
        with pytest.raises(InputError, match="weights must be"):
            fit_law(SEPARABLE, data, loss, weights=weights)


def test_derivatives_by_complex_steps_are_those_of_finite_differences(fitted: Callable[[str, str], Fit]) -> None:
    for law in LAWS:
        fit = fitted(law.name, "squared")
        problem = fit.problem
        _, jacobian = problem.linearise(fit.theta[None], fit.beta[None])
        q = problem.to_coordinates(fit.theta)
        for k in range(len(q)):
            step = 1e-5 * np.eye(len(q))[k]
            sides = [problem.residuals(problem.unclipped(q + s)[None], fit.beta[None])[0] for s in (step, -step)]
            # Central differences of step 1e-5 of smooth functions near 1.
            np.testing.assert_allclose((sides[0] - sides[1]) / 2e-5, jacobian[0][:, len(fit.beta) + k], rtol=1e-4, atol=1e-7)


def test_a_fit_says_in_a_line_what_it_is(fitted: Callable[[str, str], Fit]) -> None:
    assert len(repr(fitted("bounded-floor-interaction", "log"))) < 300
    values = ", ".join(f"{name}={value:.4g}" for name, value in fitted("dense", "log").parameters.items())
    assert repr(fitted("dense", "log")).startswith(f"Fit(dense on 14 runs: {values}; RMSE 0.00")


def _digits(fit: Fit) -> list[str]:
    return [f"{value:.{digits}f}" for value, digits in zip(fit.parameters.values(), (4, 4, 4, 4, 3, 2), strict=True)]


def test_the_reference_fit_of_the_release_is_reproduced_to_every_digit(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    assert _digits(fit) == ["-0.0838", "-0.1234", "0.0104", "1.1216", "2.394", "217.65"]
    assert (f"{fit.rmse_log10:.6f}", fit.num_runs) == ("0.003203", 61)


def test_the_reference_fit_without_the_dense_130m_runs_is_reproduced_to_every_digit(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    kept = ~((data["num_experts"] == 1) & (data["dense_parameter_count"] == 132163584))
    fit = fit_law(BOUNDED, {name: column[kept] for name, column in data.items()}, loss[kept])
    assert _digits(fit) == ["-0.0830", "-0.1180", "0.0099", "1.1136", "2.075", "238.67"]
    assert (f"{fit.rmse_log10:.6f}", fit.num_runs) == ("0.003228", 58)


@unchecked()
def test_floor_laws_reach_the_reference_errors_and_interaction(released: Callable[[str], Sample]) -> None:
    data, loss = released("S-Base")
    plain, saturating = (fit_law(CATALOGUE[name], data, loss) for name in ("floor-interaction", "bounded-floor-interaction"))
    assert f"{plain.rmse_log10 * LN10:.4f}" == "0.0054"
    assert [f"{fit.parameters['c']:.4f}" for fit in (plain, saturating)] == ["0.0008", "0.0011"]
    assert f"{fit_law(CATALOGUE['bounded-floor'], data, loss).rmse_log10 * LN10:.4f}" == "0.0036"


@pytest.mark.parametrize("loss", [squared_log(), squared(), huber(1e-2)], ids=lambda loss: loss.label)
def test_the_default_loss_is_squared_log_and_another_is_another(loss: Loss) -> None:
    data, losses = made_up(DENSE_FLOOR)
    default, other = fit_law(DENSE_FLOOR, data, losses), fit_law(DENSE_FLOOR, data, losses, loss)
    assert (default.certificate == other.certificate) is (loss == squared_log())
