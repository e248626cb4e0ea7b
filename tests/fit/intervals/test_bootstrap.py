"""Resamples are fitted to their own optima, and intervals are what they are called."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import t as student

from common.errors import InputError
from fit.intervals.bootstrap import (
    Draws,
    Scheme,
    evaluate,
    interval,
    leverage,
    new_run_loss,
    noise_residuals,
    parameters,
    predicted_loss,
    resample,
)
from fit.laws import BILINEAR, BOUNDED, CATALOGUE, SEPARABLE, TOKENS, Law
from fit.load.runs import load_runs
from fit.solver.polish import polish
from fit.solver.refit import refit
from fit.solver.search import project, shape_grid
from fit.solver.solve import Fit, fit_law
from golden import small_dense
from tests.fit.conftest import Sample

SHAPED = tuple(law for law in CATALOGUE.values() if law.shapes)


def _fit(law: Law, sample: Sample) -> Fit:
    return fit_law(law, *sample)


def _brute_force(fit: Fit, weights: Float[np.ndarray, "1 runs"] | None, observed: Float[np.ndarray, "1 runs"] | None) -> float:
    """Least objective from the forty best cells of a grid finer than any the solver uses."""
    problem = fit.problem
    grid, _ = shape_grid(problem, 1.3)
    beta = project(problem, grid, weights, observed)
    residuals = problem.residuals(grid, beta, problem.observed[None] if observed is None else observed)
    best = np.argsort(problem.objective(residuals, weights))[:40]
    return float(polish(problem, grid[best], beta[best], weights, observed, max_steps=80).objective.min())


def _dense_lengths() -> Sample:
    """Runs of several numbers of tokens, which the release has not: of six sizes, as it has."""
    runs = load_runs(small_dense(), target="loss_test")
    return {name: runs.numeric(name) for name in TOKENS.columns}, runs.loss


@pytest.mark.parametrize("scheme", ["pairs", "residuals", "clusters"])
@pytest.mark.parametrize("law", SHAPED, ids=lambda law: law.name)
def test_every_draw_reaches_the_optimum_brute_force_finds(law: Law, scheme: Scheme, released: Callable[[str], Sample]) -> None:
    data, loss = _dense_lengths() if law is TOKENS else released("RL-R")
    fit = fit_law(law, data, loss)
    generator = np.random.default_rng(5)
    sizes = np.unique(data["dense_parameter_count"], return_inverse=True)[1]
    weights = observed = None
    if scheme == "pairs":
        weights = np.stack([np.bincount(generator.integers(0, len(loss), len(loss)), minlength=len(loss)) for _ in range(6)]) * 1.0
    elif scheme == "clusters":
        # Draws of four sizes or more: fewer leave a floor law's valley so flat that no two optimisers agree on its end.
        picks = [p for p in generator.integers(0, 6, (60, 6)) if len(set(p.tolist())) >= 4][:6]
        weights = np.stack([np.bincount(p, minlength=6)[sizes] for p in picks]) * 1.0
    else:
        observed = fit.log10_loss(data) + noise_residuals(fit)[generator.integers(0, len(loss), (6, len(loss)))]
    found = refit(fit, weights, observed)
    for i in range(6):
        best = _brute_force(fit, None if weights is None else weights[i : i + 1], None if observed is None else observed[i : i + 1])
        assert found.objective[i] <= best * (1 + 1e-9)


def test_leverage_is_the_diagonal_of_the_hat_matrix(simulated: Callable[[str], Sample]) -> None:
    data, loss = simulated("S-Base")
    fit = _fit(BILINEAR, (data, loss))
    x = BILINEAR.features(np.zeros((1, 0)), data)[0]
    hat = x @ np.linalg.pinv(x)
    np.testing.assert_allclose(leverage(fit), np.diag(hat), rtol=1e-8)


def test_the_same_seed_gives_the_same_draws_and_another_does_not(simulated: Callable[[str], Sample]) -> None:
    fit = _fit(BOUNDED, simulated("S-Base"))
    first, again, other = (resample(fit, "residuals", 30, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.refits.theta, again.refits.theta)
    assert not np.array_equal(first.refits.theta, other.refits.theta)


def test_the_number_of_draws_in_a_batch_does_not_matter(simulated: Callable[[str], Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    data, loss = simulated("S-Base")
    fit = _fit(BOUNDED, (data, loss))
    weights = np.random.default_rng(0).integers(0, 3, (40, len(loss))).astype(np.float64)
    whole = refit(fit, weights)
    monkeypatch.setattr("fit.solver.refit._CELLS", 7 * len(loss))
    parts = refit(fit, weights)
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-12)


def test_residual_intervals_of_a_linear_law_are_students(simulated: Callable[[str], Sample]) -> None:
    data, loss = simulated("RL-R")
    fit = _fit(SEPARABLE, (data, loss))
    draws = resample(fit, "residuals", 4000, seed=0)
    found = interval(draws, parameters(fit))
    x = SEPARABLE.features(np.zeros((1, 0)), data)[0]
    freedom = len(loss) - 3
    variance = float(np.sum(fit.residuals**2)) / freedom
    half = student.ppf(0.975, freedom) * np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x)))
    # Quantiles of 4,000 draws have a standard error of 2.5 % of the half width; residuals are not quite normal.
    np.testing.assert_allclose((found.high - found.low) / 2, half, rtol=0.08)
    np.testing.assert_allclose((found.high + found.low) / 2, fit.beta, atol=0.1 * float(half.max()))


def test_with_few_runs_residual_intervals_are_students_too(released: Callable[[str], Sample]) -> None:
    data, loss = released("Dense")
    fit = fit_law(CATALOGUE["dense"], data, loss)

    def line(theta: Float[np.ndarray, "draws 0"], beta: Float[np.ndarray, "draws 2"]) -> Float[np.ndarray, "draws 2"]:
        del theta
        return beta

    found = interval(resample(fit, "residuals", 4000, seed=0), line)
    x = fit.law.features(np.zeros((1, 0)), data)[0]
    freedom = len(loss) - 2
    half = student.ppf(0.975, freedom) * np.sqrt(np.sum(fit.residuals**2) / freedom * np.diag(np.linalg.inv(x.T @ x)))
    # Quantiles of 4,000 normal draws so far out have a standard error of 3 % of the half width.
    np.testing.assert_allclose((found.high - found.low) / 2, half, rtol=0.08)


def test_bca_levels_are_scipys() -> None:
    # The mean of skewed losses by a law that is a constant but for a vanishing slope: scipy resamples the same statistic.
    generator = np.random.default_rng(2)
    y = generator.gamma(1.0, 0.1, 200)
    reference = scipy_bootstrap((y,), np.mean, method="BCa", n_resamples=20_000, rng=3)
    plain = scipy_bootstrap((y,), np.mean, method="percentile", n_resamples=20_000, rng=3)
    shift = np.array([reference.confidence_interval.low, reference.confidence_interval.high])
    shift -= np.array([plain.confidence_interval.low, plain.confidence_interval.high])
    data, loss = {"dense_parameter_count": np.tile([1e6, 1e8], 100), "num_experts": np.ones(200)}, 10 ** (y + 0.1)
    law = CATALOGUE["dense"]
    fit = fit_law(law, data, loss)
    draws = resample(fit, "pairs", 20_000, seed=3)

    def centre(theta: Float[np.ndarray, "draws 0"], beta: Float[np.ndarray, "draws 2"]) -> Float[np.ndarray, "draws 1"]:
        del theta
        return beta[:, :1] * 7 + beta[:, 1:]

    bca, percentile = interval(draws, centre, method="bca"), interval(draws, centre, method="percentile")
    ours = np.array([bca.low[0] - percentile.low[0], bca.high[0] - percentile.high[0]])
    # Both corrections move the ends the same way by about a thirtieth of the width; quantile noise is a tenth of that.
    np.testing.assert_allclose(ours, shift, atol=3e-4)
    assert (ours > 0).all()


def test_draws_that_cannot_identify_the_law_are_counted_and_left_out() -> None:
    n, e = (axis.ravel() for axis in np.meshgrid([1e7, 1e8, 1e9], [1.0, 4.0, 16.0, 64.0]))
    loss = 10 ** (1 - 0.07 * np.log10(n) - 0.03 * np.log10(e) + np.random.default_rng(0).normal(0, 1e-3, len(n)))
    fit = fit_law(SEPARABLE, {"dense_parameter_count": n, "num_experts": e}, loss)
    draws = resample(fit, "clusters", 900, seed=0, clusters=n)
    # A draw of one size alone: 3 of 27.
    assert draws.failed + len(draws) == 900
    assert 60 < draws.failed < 140
    assert np.isfinite(interval(draws, parameters(fit)).low).all()


def test_too_few_draws_give_no_interval(simulated: Callable[[str], Sample]) -> None:
    fit = _fit(SEPARABLE, simulated("Hash"))
    found = interval(resample(fit, "pairs", 5, seed=0), parameters(fit))
    assert np.isnan(found.low).all()
    np.testing.assert_array_equal(found.value, fit.beta)


def test_an_unbounded_draw_makes_an_unbounded_end_and_no_nan(simulated: Callable[[str], Sample]) -> None:
    fit = _fit(SEPARABLE, simulated("Hash"))
    draws = resample(fit, "pairs", 200, seed=0)

    def half_infinite(theta: Float[np.ndarray, "draws 0"], beta: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, "draws 1"]:
        del theta
        return np.where(beta[:, :1] > np.median(beta[:, :1]), np.inf, beta[:, :1])

    found = interval(draws, half_infinite)
    assert np.isfinite(found.low).all()
    assert np.isposinf(found.high).all()


def _spread(draws: Draws, new: bool) -> float:
    data = {"dense_parameter_count": np.array([1e9]), "num_experts": np.array([64.0])}
    found = interval(draws, new_run_loss(draws, data) if new else predicted_loss(draws.fit, data))
    return float(found.high[0] - found.low[0])


def test_a_new_runs_interval_is_the_curves_and_one_runs_noise(simulated: Callable[[str], Sample]) -> None:
    fit = _fit(BILINEAR, simulated("S-Base"))
    draws = resample(fit, "residuals", 4000, seed=0)
    curve, new = _spread(draws, new=False), _spread(draws, new=True)
    data = {"dense_parameter_count": np.array([1e9]), "num_experts": np.array([64.0])}
    loss = float(evaluate(fit, predicted_loss(fit, data))[0])
    noise = 2 * student.ppf(0.975, fit.num_runs - 4) * float(noise_residuals(fit).std()) * np.log(10) * loss
    # Two independent normals: their widths add as squares. Quantiles of 4,000 draws are good to about 3 %.
    assert new == pytest.approx(np.hypot(curve, noise), rel=0.08)


def test_what_is_no_scheme_is_refused(simulated: Callable[[str], Sample]) -> None:
    fit = _fit(SEPARABLE, simulated("Hash"))
    with pytest.raises(InputError, match="cluster of each run"):
        resample(fit, "clusters", 10)
