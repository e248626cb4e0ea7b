"""Lack of fit, AICc and residual trends: against scipy's distributions, plain least squares, and what is known of the release."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import f as f_distribution
from scipy.stats import norm

from fit.assess.lack_of_fit import SeedNoise, aicc, lack_of_fit, residual_trends, seed_noise
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, SEPARABLE
from fit.load.grid import canonical
from fit.load.runs import Runs
from fit.solver.losses import Huber, Squared
from fit.solver.solve import fit_law

Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]
Samples = Callable[[str], Sample]
ROUTERS = ("S-Base", "Hash", "RL-R")


def _replicated(seed: int, bend: float = 0.0) -> Sample:
    """A grid of 16 settings, four of them with three seeds; losses from the separable law, bent by `bend`, with noise of 0.001."""
    n, e = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 4), [1.0, 4.0, 16.0, 64.0]))
    again = np.concatenate([np.arange(16), [0, 0, 5, 5, 10, 10, 15, 15]])
    n, e = n[again], e[again]
    seeds = np.concatenate([np.ones(16), np.tile([2.0, 3.0], 4)])
    x = np.log10(n) - 8
    noise = 0.001 * np.random.default_rng(seed).standard_normal(len(n))
    columns = {"dense_parameter_count": n, "num_experts": e, "seed": seeds}
    return columns, 10 ** (0.5 - 0.07 * x - 0.03 * np.log10(e) + bend * x**2 + noise)


def test_noise_between_the_releases_dense_130m_seeds_is_0_00067_nats(released_runs: Runs) -> None:
    noise = seed_noise(released_runs.columns, released_runs.loss)
    assert noise is not None
    assert (noise.degrees, noise.groups, noise.runs) == (2, 1, 3)
    assert noise.sd_nats == pytest.approx(0.00067, abs=5e-6)


def test_noise_is_pooled_over_the_groups_of_replicates() -> None:
    columns, loss = _replicated(0)
    noise = seed_noise(columns, loss)
    # Four groups of three: the pooled variance is the plain mean of theirs.
    groups = [[0, 16, 17], [5, 18, 19], [10, 20, 21], [15, 22, 23]]
    assert noise is not None
    assert (noise.degrees, noise.groups, noise.runs) == (8, 4, 12)
    assert noise.sd_nats == pytest.approx(np.sqrt(np.mean([np.var(loss[g], ddof=1) for g in groups])), rel=1e-12)
    assert noise.sd_log10 == pytest.approx(np.sqrt(np.mean([np.var(np.log10(loss[g]), ddof=1) for g in groups])), rel=1e-12)


def test_runs_alike_in_the_seed_too_are_no_replicates() -> None:
    columns = {"num_experts": np.array([8.0, 8.0, 8.0]), "seed": np.array([42.0, 42.0, 42.0])}
    assert seed_noise(columns, np.array([2.5, 2.6, 2.7])) is None
    columns["seed"] = np.array([42.0, 42.0, 1.0])
    noise = seed_noise(columns, np.array([2.5, 2.6, 2.7]))
    assert noise is not None
    assert noise.runs == 2
    assert noise.sd_nats == pytest.approx(np.std([2.5, 2.7], ddof=1))


def test_empty_cells_are_the_same_setting_and_other_columns_only_if_named() -> None:
    columns = {
        "k": np.array([np.nan, np.nan]),
        "router_type": np.array(["Dense", "Dense"]),
        "my_rate": np.array([0.1, 0.2]),
        "seed": np.array([1.0, 2.0]),
    }
    loss = np.array([2.5, 2.6])
    assert seed_noise(columns, loss) is not None
    assert seed_noise(columns, loss, also=("my_rate",)) is None


def test_no_seeds_and_copied_runs_give_no_noise() -> None:
    assert seed_noise({"num_experts": np.ones(2)}, np.array([2.5, 2.6])) is None
    assert seed_noise({"num_experts": np.ones(2), "seed": np.array([1.0, 2.0])}, np.array([2.5, 2.5])) is None


def test_the_test_of_lack_of_fit_compares_the_law_with_a_mean_for_every_setting() -> None:
    columns, loss = _replicated(1, bend=0.002)
    noise = seed_noise(columns, loss)
    assert noise is not None
    found = lack_of_fit(fit_law(SEPARABLE, columns, loss), noise)
    # The nested models by plain least squares: three coefficients, or one for each of the 16 settings.
    x, e = np.log10(columns["dense_parameter_count"]), np.log10(columns["num_experts"])
    law = np.stack([x, e, np.ones_like(x)], axis=1)
    settings = np.unique(np.stack([x, e]), axis=1, return_inverse=True)[1].reshape(-1)
    y = np.log10(loss)
    rss = [float(np.sum((y - m @ np.linalg.lstsq(m, y)[0]) ** 2)) for m in (law, np.eye(16)[settings])]
    f = (rss[0] - rss[1]) / (16 - 3) / (rss[1] / (24 - 16))
    assert found.f == pytest.approx(f, rel=1e-9)
    assert (found.degrees_fit, found.degrees_noise) == (13, 8)
    assert found.p_value == pytest.approx(f_distribution.sf(f, 13, 8), rel=1e-9)
    assert found.ratio == pytest.approx(np.sqrt(rss[0] / 24) / np.sqrt(rss[1] / 8), rel=1e-9)


def test_a_true_law_shows_lack_of_fit_as_often_as_the_p_value_says() -> None:
    below: list[bool] = []
    for seed in range(300):
        columns, loss = _replicated(seed)
        noise = seed_noise(columns, loss)
        assert noise is not None
        p = lack_of_fit(fit_law(SEPARABLE, columns, loss), noise).p_value
        assert p is not None
        below.append(p < 0.1)
    # Binomial, 300 x 0.1: a standard deviation of 1.7 %; three of them.
    assert np.mean(below) == pytest.approx(0.1, abs=0.052)


def test_noise_measured_on_other_runs_is_not_taken_out_of_the_residuals() -> None:
    columns, loss = _replicated(2)
    fit = fit_law(SEPARABLE, columns, loss)
    found = lack_of_fit(fit, SeedNoise(0.001, 0.003, 5, 1, 6), among_fitted=False)
    assert found.degrees_fit == 21
    assert found.f == pytest.approx(np.sum(fit.residuals**2) / 21 / 1e-6)


@pytest.mark.parametrize("router", ROUTERS)
def test_eq_1_misses_the_released_runs_by_about_27_times_the_seed_noise(released_runs: Runs, router: str) -> None:
    runs = canonical(released_runs, router)
    noise = seed_noise(runs.columns, runs.loss)
    assert noise is not None
    found = lack_of_fit(fit_law(BOUNDED, {name: runs.numeric(name) for name in BOUNDED.columns}, runs.loss), noise)
    # 29.4, 27.3 and 29.4; in nats at the mean loss 27.9, 26.3 and 28.0.
    assert 26 < found.ratio < 30
    assert found.p_value is not None
    assert found.p_value < 0.002


@pytest.mark.parametrize("router", ROUTERS)
def test_most_of_what_eq_1_leaves_on_the_release_is_curvature_in_log_n(released: Samples, router: str) -> None:
    data, loss = released(router)
    along_n, along_e = residual_trends(fit_law(BOUNDED, data, loss))
    assert (along_n.column, along_e.column) == BOUNDED.columns
    assert along_n.share > 0.75
    assert along_n.curvature > 0
    assert along_n.p_value < 1e-15
    assert along_e.share < 0.01


def test_a_floor_takes_the_curvature_away(released: Samples) -> None:
    data, loss = released("S-Base")
    along_n, _ = residual_trends(fit_law(BOUNDED_FLOOR, data, loss))
    assert along_n.share < 0.1


def test_the_parabola_is_numpys() -> None:
    columns, loss = _replicated(3, bend=0.002)
    fit = fit_law(SEPARABLE, columns, loss)
    found = residual_trends(fit)[0]
    x = np.log10(columns["dense_parameter_count"])
    curvature, slope, _ = np.polyfit(x - x.mean(), fit.residuals, 2)
    assert found.curvature == pytest.approx(curvature, rel=1e-9)
    assert found.slope == pytest.approx(slope, rel=1e-9)
    assert found.curvature == pytest.approx(0.002, abs=0.001)


def test_a_column_of_two_values_has_no_parabola() -> None:
    columns, loss = _replicated(4)
    two = {"doubled": np.where(columns["num_experts"] > 4, 2.0, 1.0), **columns}
    assert [trend.column for trend in residual_trends(fit_law(SEPARABLE, columns, loss), two)] == [
        "dense_parameter_count",
        "num_experts",
        "seed",
    ]


def test_aicc_is_minus_twice_scipys_log_likelihood_with_its_penalty(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(BILINEAR, data, loss)
    n, k = len(loss), 5
    likelihood = norm.logpdf(fit.residuals, scale=np.sqrt(np.mean(fit.residuals**2))).sum()
    assert aicc(fit) == pytest.approx(-2 * likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1), rel=1e-12)


def test_aicc_prefers_the_law_that_made_the_runs(simulated: Samples) -> None:
    data, loss = simulated("Hash")
    values = {law.name: aicc(fit_law(law, data, loss)) for law in (SEPARABLE, BILINEAR, BOUNDED)}
    assert all(value is not None for value in values.values())
    assert min(values, key=lambda name: values[name] or 0.0) == "bounded"


def test_aicc_and_the_test_of_lack_of_fit_are_for_squared_log_loss_alone() -> None:
    columns, loss = _replicated(5)
    for objective in (Squared(), Huber()):
        fit = fit_law(SEPARABLE, columns, loss, objective)
        assert aicc(fit) is None
        found = lack_of_fit(fit, SeedNoise(0.001, 0.003, 8, 4, 12))
        assert (found.f, found.p_value) == (None, None)
        assert found.ratio > 0


def test_aicc_needs_more_runs_than_it_corrects_for() -> None:
    columns, loss = _replicated(6)
    few = [0, 3, 5, 8, 14]
    chosen = {name: column[few] for name, column in columns.items()}
    assert aicc(fit_law(SEPARABLE, chosen, loss[few])) is None
