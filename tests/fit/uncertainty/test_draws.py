"""Resamples are drawn as their schemes say: leverages, cluster corrections, Webb's weights, numbers that belong to the run."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

from common.errors import InputError
from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, DENSE, SEPARABLE, per_size
from fit.quantities import loss_quantity
from fit.runs.schema import E, N
from fit.uncertainty.draws import FEW_DEGREES, WEBB, leverage, noise_residuals, raised_residuals, resample
from fit.uncertainty.intervals import difference
from tests.fit.designs import CONSTANT, bilinear_losses, grid, made_up


def _hat(fit: Fit) -> Float[np.ndarray, "runs runs"]:
    x = fit.law.features(np.zeros(0), fit.problem.data)
    return x @ np.linalg.pinv(x)


def _linear() -> Fit:
    return fit_law(BILINEAR, grid(4, 4), bilinear_losses(grid(4, 4)))


def test_leverage_is_the_diagonal_of_the_hat_matrix() -> None:
    np.testing.assert_allclose(leverage(_linear()), np.diag(_hat(_linear())), rtol=1e-8)


def test_the_leverages_of_a_curved_law_sum_to_its_parameters(fitted: Callable[[str, str], Fit]) -> None:
    for name in ("bounded", "floor-interaction", "tokens"):
        fit = fitted(name, "log")
        assert leverage(fit).sum() == pytest.approx(fit.problem.num_free, rel=1e-9)


def test_residuals_are_raised_by_their_leverage() -> None:
    fit = _linear()
    raised = fit.residuals / np.sqrt(1 - np.diag(_hat(fit)))
    np.testing.assert_allclose(raised_residuals(fit), raised, rtol=1e-8)
    np.testing.assert_allclose(noise_residuals(fit), np.sort(raised - raised.mean()), rtol=1e-7, atol=1e-12)


def test_in_a_balanced_design_the_noise_drawn_has_the_unbiased_variance() -> None:
    """Every corner of (N, E) five times: all leverages are 4/20."""
    data = {name: np.tile(column, 5) for name, column in grid(2, 2).items()}
    fit = fit_law(BILINEAR, data, bilinear_losses(data))
    assert fit.degrees >= FEW_DEGREES
    assert noise_residuals(fit).var() == pytest.approx(np.sum(fit.residuals**2) / (20 - 4), rel=1e-9)


def test_few_residuals_are_replaced_by_a_normal_of_their_spread() -> None:
    data, loss = made_up(DENSE)
    fit = fit_law(DENSE, {N: data[N][::2]}, loss[::2])
    assert 0 < fit.degrees < FEW_DEGREES
    assert noise_residuals(fit).std() == pytest.approx(np.sqrt(np.sum(fit.residuals**2) / fit.degrees), rel=1e-12)
    enough = fit_law(DENSE, {N: data[N][:12]}, loss[:12])
    assert (enough.degrees, len(noise_residuals(enough))) == (FEW_DEGREES, 12)


def test_raised_cluster_residuals_of_units_of_one_run_are_those_of_leaving_it_out() -> None:
    fit = _linear()
    units = np.random.default_rng(0).permutation(fit.num_runs)
    np.testing.assert_allclose(raised_residuals(fit, units), fit.residuals / (1 - np.diag(_hat(fit))), rtol=1e-8)


def test_raised_cluster_residuals_are_what_leaving_the_cluster_out_leaves_of_it() -> None:
    """CR3, by explicit fits to the other sizes."""
    fit = _linear()
    data, sizes = fit.problem.data, fit.problem.data[N]
    raised = raised_residuals(fit, np.unique(sizes, return_inverse=True)[1])
    for size in np.unique(sizes):
        kept = sizes != size
        others = fit_law(BILINEAR, {name: column[kept] for name, column in data.items()}, 10 ** fit.problem.observed[kept])
        left = fit.problem.observed - others.log10_loss(data)
        np.testing.assert_allclose(raised[~kept], left[~kept], rtol=1e-6)


def test_a_cluster_that_the_fit_meets_exactly_in_one_direction_keeps_that_one() -> None:
    """A slope for one size alone: its runs' mean and slope are met exactly, and no factor raises a residual of zero."""
    data = grid(3, 4)
    fit = fit_law(per_size(np.unique(data[N]).tolist()), data, bilinear_losses(data))
    np.testing.assert_allclose(raised_residuals(fit, np.unique(data[N], return_inverse=True)[1]), fit.residuals, rtol=1e-6)


def test_webbs_weights_have_mean_zero_and_variance_one() -> None:
    assert WEBB.mean() == pytest.approx(0, abs=1e-16)
    assert np.mean(WEBB**2) == pytest.approx(1, rel=1e-15)
    assert len(set(WEBB.tolist())) == 6


def test_wild_cluster_draws_vary_as_the_cr3_sandwich_says() -> None:
    fit = _linear()
    sizes = fit.problem.data[N]
    x, raised = BILINEAR.features(np.zeros(0), fit.problem.data), raised_residuals(fit, np.unique(sizes, return_inverse=True)[1])
    bread = np.linalg.inv(x.T @ x)
    scores = np.stack([x[sizes == size].T @ raised[sizes == size] for size in np.unique(sizes)])
    sandwich = bread @ scores.T @ scores @ bread
    draws = resample(fit, "wild-clusters", 4000, 0, sizes)
    found = np.cov(draws.beta.T)
    scale = np.sqrt(np.outer(np.diag(sandwich), np.diag(sandwich)))
    # A variance from 4,000 draws of kurtosis below 3 has a standard error of sqrt(2/4000) = 2.2 %; four of these.
    np.testing.assert_allclose(found / scale, sandwich / scale, atol=0.09)
    assert draws.units == 4
    np.testing.assert_allclose(draws.beta.mean(axis=0), fit.beta, atol=4 * np.sqrt(np.diag(sandwich) / 4000).max())


def test_residual_draws_vary_as_the_noise_times_the_inverse_of_xtx() -> None:
    fit = _linear()
    x = BILINEAR.features(np.zeros(0), fit.problem.data)
    expected = noise_residuals(fit).var() * np.linalg.inv(x.T @ x)
    found = np.cov(resample(fit, "residuals", 4000, 0).beta.T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=0.09)


def test_pairs_draws_of_a_mean_vary_by_n_minus_1_over_n_too_little() -> None:
    y = np.random.default_rng(0).standard_normal(8) * 0.01 + 0.4
    fit = fit_law(CONSTANT, {"x": np.ones(8)}, 10**y)
    found = np.var(resample(fit, "pairs", 8000, 0).beta)
    # A variance from 8,000 draws: 1.6 %.
    assert found == pytest.approx(np.var(y, ddof=1) / 8 * 7 / 8, rel=0.065)


def test_weighted_residuals_are_drawn_at_each_runs_own_spread() -> None:
    data = grid(5, 5)
    weights = np.where(data[E] > 10, 4.0, 1.0)
    noise = 0.004 * np.random.default_rng(0).standard_normal(25) / np.sqrt(weights)
    fit = fit_law(SEPARABLE, data, 10 ** (1 - 0.07 * np.log10(data[N]) - 0.03 * np.log10(data[E]) + noise), weights=weights)
    x, w = SEPARABLE.features(np.zeros(0), data), fit.problem.weights
    s2 = noise_residuals(fit).var()
    expected = s2 * np.linalg.inv(x.T @ (w[:, None] * x))
    found = np.cov(resample(fit, "residuals", 4000, 0).beta.T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=0.09)
    hat = np.sqrt(w)[:, None] * x @ np.linalg.inv(x.T @ (w[:, None] * x)) @ x.T * np.sqrt(w)
    np.testing.assert_allclose(raised_residuals(fit), fit.residuals / np.sqrt(1 - np.diag(hat)), rtol=1e-7)


def test_the_same_seed_gives_the_same_draws_and_another_does_not() -> None:
    first, again, other = (resample(_linear(), "residuals", 30, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.refits.beta, again.refits.beta)
    assert not np.array_equal(first.refits.beta, other.refits.beta)


def _two_routers() -> tuple[Fit, Fit, dict[str, np.ndarray]]:
    """Two routers' runs of which the dense ones, a fifth, are the same."""
    data = grid(5, 5)
    first, second = bilinear_losses(data), bilinear_losses(data, b=-0.04)
    second = np.where(data[E] == 1, first, second * 10 ** (0.0005 * np.random.default_rng(9).standard_normal(25)))
    keys = np.where(data[E] == 1, np.arange(25), np.arange(25) + 25)
    return fit_law(SEPARABLE, data, first), fit_law(SEPARABLE, data, second), {"first": np.arange(25), "second": keys}


def test_fits_that_share_runs_move_together() -> None:
    one, other, keys = _two_routers()
    first = resample(one, "residuals", 2000, 0, keys=keys["first"])
    shared, apart = (resample(other, "residuals", 2000, 0, keys=key) for key in (keys["second"], np.arange(100, 125)))
    dense = loss_quantity(one.law, {N: np.array([1e8]), E: np.array([1.0])})
    together, independent = (difference(first, draws, dense, dense)[0] for draws in (shared, apart))
    assert together.low is not None
    assert together.high is not None
    assert independent.low is not None
    assert independent.high is not None
    assert together.high - together.low < 0.95 * (independent.high - independent.low)
    # The five dense runs of 25 that both have: the covariance is what their noise has of the estimate's.
    x, at = (SEPARABLE.features(np.zeros(0), data) for data in (one.problem.data, {N: np.array([1e8]), E: np.array([1.0])}))
    share = (at @ np.linalg.pinv(x))[0] ** 2
    expected = share[one.problem.data[E] == 1].sum() / share.sum()
    values = [dense(first.theta, first.beta)[:, 0], dense(shared.theta, shared.beta)[:, 0]]
    # A correlation from 2,000 draws is good to 2 %; the two fits' noises are alike but for their order of size.
    assert np.corrcoef(values)[0, 1] == pytest.approx(expected, abs=0.07)
    # And whatever is shared, independent draws' variances add.
    spreads = [np.std(dense(draws.theta, draws.beta), ddof=1) for draws in (first, apart)]
    sd = np.std(dense(first.theta, first.beta) - dense(apart.theta, apart.beta), ddof=1)
    assert sd == pytest.approx(np.hypot(spreads[0], spreads[1]), rel=0.08)


def test_a_fit_does_not_differ_from_itself() -> None:
    for scheme in ("residuals", "wild-clusters", "pairs"):
        one = _linear()
        first, again = (resample(one, scheme, 200, 0, one.problem.data[N]) for _ in range(2))
        found = difference(first, again, one.law.parameter_values, one.law.parameter_values, 0.9)
        assert [(one.value, one.low, one.high) for one in found] == [(0.0, 0.0, 0.0)] * 4


def test_a_clusters_random_sign_is_the_same_in_every_fit_that_has_the_cluster() -> None:
    """Mean losses of all sizes, and without the smallest."""
    data = grid(4, 4)
    loss = bilinear_losses(data)
    masks = np.ones(16, dtype=bool), data[N] > data[N].min()
    fits = [fit_law(CONSTANT, {"x": data[N][here]}, loss[here]) for here in masks]
    both = [resample(one, "wild-clusters", 2000, 0, one.problem.data["x"]) for one in fits]
    # A draw's mean moves by the sum of its clusters' raised residuals with their signs, of variance 1: three clusters are shared.
    whole, fewer = (np.bincount(draws.unit_of, raised_residuals(one, draws.unit_of)) for one, draws in zip(fits, both, strict=True))
    expected = whole[1:] @ fewer / np.sqrt((whole @ whole) * (fewer @ fewer))
    # A correlation from 2,000 draws is good to 2 %.
    assert np.corrcoef([draws.beta[:, 0] for draws in both])[0, 1] == pytest.approx(expected, abs=0.06)


def test_what_is_no_scheme_or_lacks_its_clusters_is_refused() -> None:
    with pytest.raises(InputError, match="cluster of each run"):
        resample(_linear(), "wild-clusters", 10)
    with pytest.raises(Exception, match="clusters"):
        resample(_linear(), "clusters", 10)  # pyright: ignore[reportArgumentType]
