"""The spread of residuals along a column: its test against SciPy's regression, its power law against SciPy's optimiser."""

import numpy as np
import polars as pl
import pytest
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import linregress

from fit.analysis import Options, analyse
from fit.diagnose import misfit, warnings_for
from fit.engine.solve import Fit, fit_law
from fit.laws import SEPARABLE
from fit.runs import load_runs
from fit.runs.schema import E, N
from fit.uncertainty.draws import resample, spread_along, weighted_residuals
from fit.uncertainty.intervals import new_run_estimates
from fit.uncertainty.spread import UNEVEN, Spread, clearest, spreads
from tests.fit.designs import grid


def _residuals(times: float, seed: int = 0) -> tuple[dict[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]:
    """60 numbers whose SD is `times` as large at the large end of a column as at the small one, and another column."""
    generator = np.random.default_rng(seed)
    n, e = np.geomspace(1e8, 1e10, 60), generator.permutation(np.geomspace(1, 512, 60))
    return {N: n, E: e}, 0.01 * times ** (np.log(n / 1e8) / np.log(100)) * generator.standard_normal(60)


def _fit(times: float, seed: int = 0) -> Fit:
    data = grid(8, 8)
    sd = 0.003 * times ** (np.log(data[N] / 1e7) / np.log(100))
    noise = sd * np.random.default_rng(seed).standard_normal(len(sd))
    return fit_law(SEPARABLE, data, 10 ** (1.1 - 0.08 * np.log10(data[N]) - 0.04 * np.log10(data[E]) + noise))


def test_the_test_of_equal_spread_is_that_of_a_regression_of_the_squares() -> None:
    data, r = _residuals(1.0)
    for one in spreads(data, r):
        _, _, _, p, _ = linregress(np.log(data[one.column]), r**2)
        assert one.p == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("times", [0.02, 0.2, 1.0, 5.0])
def test_the_spread_is_the_most_likely_power_of_the_column(times: float) -> None:
    data, r = _residuals(times)
    x, scaled = np.log(data[N] / 1e9), r / np.sqrt(np.mean(r**2))

    def _minus_log_likelihood(at: Float[np.ndarray, "2"]) -> float:
        log_sd = at[0] + at[1] * x
        return float(np.sum(log_sd + scaled**2 / np.exp(2 * log_sd) / 2))

    best = minimize(_minus_log_likelihood, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    one = next(one for one in spreads(data, r) if one.column == N)
    # The optimiser's differences of the likelihood are good to seven digits.
    assert one.slope == pytest.approx(best[1], abs=1e-6)
    np.testing.assert_allclose(one.at(data), np.exp(best[0] + best[1] * x), rtol=1e-5)
    assert one.times == pytest.approx(np.exp(best[1] * np.log(100)), rel=1e-5)


def test_beyond_the_runs_the_spread_is_that_of_their_end() -> None:
    data, r = _residuals(5.0)
    one = clearest(spreads(data, r))
    assert one is not None
    assert one.column == N
    np.testing.assert_array_equal(one.at({N: np.array([1e6, 1e8])})[0], one.at(data)[0])
    assert one.at({N: np.array([1e14])})[0] == one.at(data)[-1]


def test_columns_that_do_not_vary_and_residuals_of_zero_have_no_spread() -> None:
    data, r = _residuals(1.0)
    assert [one.column for one in spreads({**data, E: np.ones(60)}, r)] == [N]
    assert spreads(data, np.zeros(60)) == ()


def test_a_spread_is_uneven_where_it_is_sure_and_large() -> None:
    made = [Spread(N, p, float(np.log(times)), 0.0, 0.0, 1.0) for p, times in ((0.01, 1.6), (0.01, 1 / 1.6), (0.01, 1.4), (0.06, 1.6))]
    assert [one.uneven for one in made] == [True, True, False, False]


def test_equal_spread_is_called_uneven_as_seldom_as_the_test_says() -> None:
    found = [spread_along(_fit(1.0, seed)) for seed in range(200)]
    share = np.mean([one.p < UNEVEN for both in found for one in both])
    # Four standard deviations of 400 tests that reject at the test's own level.
    assert share == pytest.approx(UNEVEN, abs=4 * (UNEVEN * (1 - UNEVEN) / 400) ** 0.5)


def test_new_runs_of_uneven_fits_scatter_as_those_near_them_do() -> None:
    fit = _fit(5.0)
    draws = resample(fit, "wild", 400)
    assert draws.spread is not None
    assert resample(fit, "wild-clusters", 10, clusters=fit.problem.data[N]).spread is None
    # At the optimum of the likelihood the standardised residuals are as large as the residuals.
    assert np.mean(draws.noise**2) == pytest.approx(np.mean(weighted_residuals(fit) ** 2), rel=1e-8)
    ends = {N: np.array([1e7, 1e9]), E: np.ones(2)}
    small, large = (np.log10(one.high / one.low) for one in new_run_estimates(fit, draws, ends) if one.low and one.high)
    data = fit.problem.data
    rms = [float(np.sqrt(np.mean(weighted_residuals(fit)[data[N] == end] ** 2))) for end in (1e7, 1e9)]
    # What each end's own eight runs say of it, an RMS known to 1/sqrt(16): twice that for the ratio, three times over.
    assert np.log((large / small) / (rms[1] / rms[0])) == pytest.approx(0, abs=3 * 2 / 16**0.5)
    pooled = [np.log10(one.high / one.low) for one in new_run_estimates(fit, resample(fit, "residuals", 400), ends) if one.low and one.high]
    assert small < pooled[0] / 1.5
    assert large > 1.3 * pooled[1]


@pytest.mark.parametrize(("times", "scheme"), [(1.0, "residuals"), (5.0, "wild"), (0.2, "wild")])
def test_an_uneven_spread_is_named_and_asks_for_wild_draws(times: float, scheme: str) -> None:
    fit = _fit(times)
    found = misfit(fit, fit.problem.data[N])
    assert found.scheme == scheme
    named = [warning for warning in warnings_for(fit, "here", found=found) if warning.code == "uneven-spread"]
    assert bool(named) == (scheme == "wild")
    if named:
        assert f"wider at the {'large' if times > 1 else 'small'} end of N" in named[0].message
    runs = load_runs(pl.DataFrame({"N": fit.problem.data[N], "E": fit.problem.data[E], "loss": 10**fit.problem.observed}))
    (result,) = analyse(runs, Options(laws=("separable",), draws=20)).results
    assert result.draws is not None
    assert result.draws.scheme == scheme


def test_routers_of_one_law_have_one_scheme_that_of_the_one_that_needs_most() -> None:
    fits = {"even": _fit(1.0), "uneven": _fit(5.0)}
    tables = [
        pl.DataFrame({"router": name, "N": fit.problem.data[N], "E": 4 * fit.problem.data[E], "loss": 10**fit.problem.observed})
        for name, fit in fits.items()
    ]
    found = analyse(load_runs(pl.concat(tables)), Options(laws=("separable",), draws=20)).results
    assert {result.router: result.misfit.scheme for result in found} == {"even": "residuals", "uneven": "wild"}
    assert [result.draws.scheme for result in found if result.draws] == ["wild", "wild"]
