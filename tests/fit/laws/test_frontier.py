"""The compute frontier: its optimum is SciPy's, L_0 can be held, and public optima give what an independent fit gives."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import least_squares

from fit.analysis import Options, fit_runs
from fit.engine.losses import squared
from fit.engine.solve import fit_law
from fit.laws import FRONTIER
from fit.runs import Runs
from fit.runs.schema import C
from fit.uncertainty.draws import resample
from fit.uncertainty.intervals import estimates

MARIN = np.array([[1e18, 3e18, 1e19, 3e19, 1e20, 3e20], [3.5273, 3.3398, 3.1494, 3.0066, 2.8509, 2.7222]])
"""Budgets (FLOPs) and least losses (Paloma macro, nats per token) of IsoFLOP profiles (github.com/marin-community/marin, Apache-2.0)."""


def simulated(seed: int) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "runs"]]:
    """Budgets and losses of eleven runs with noise."""
    flops = np.geomspace(1e17, 1e22, 11)
    return flops, (1.7 + 60 * flops**-0.08) * np.exp(0.003 * np.random.default_rng(seed).standard_normal(11))


def _scipy(flops: Float[np.ndarray, "runs"], loss: Float[np.ndarray, "runs"], floor: float | None) -> Float[np.ndarray, "3"]:
    """L_0, A and a by SciPy, squared error of log10 loss; in ln A and a centred on the budgets, which SciPy finds without help."""
    centre = np.log(flops).mean()

    def residuals(x: Float[np.ndarray, "unknowns"]) -> Float[np.ndarray, "runs"]:
        """log10 predicted over observed."""
        base = x[2] if floor is None else floor
        return np.log10(base + np.exp(x[0] - x[1] * (np.log(flops) - centre))) - np.log10(loss)

    start = [0.0, 0.1, 1.0] if floor is None else [0.0, 0.1]
    found: Any = least_squares(residuals, start, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    return np.array([found.x[2] if floor is None else floor, np.exp(found.x[0] + found.x[1] * centre), found.x[1]])


@pytest.mark.parametrize("floor", [None, 0.0, 1.5])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_optimum_is_scipys_whether_the_floor_is_free_or_held(floor: float | None, seed: int | None) -> None:
    flops, loss = MARIN if seed is None else simulated(seed)
    fit = fit_law(FRONTIER, {C: flops}, loss, fixed={} if floor is None else {"L_0": floor})
    assert fit.certificate.certified
    assert fit.problem.num_free == (3 if floor is None else 2)
    # SciPy's own end: differences of a flat sum of squares leave it about 1e-7 of each parameter.
    np.testing.assert_allclose(list(fit.parameters.values()), _scipy(flops, loss, floor), rtol=1e-5)


def test_a_held_floor_has_no_spread_and_the_rest_has() -> None:
    flops, loss = simulated(0)
    fit = fit_law(FRONTIER, {C: flops}, loss, fixed={"L_0": 0.0})
    found = estimates(fit, resample(fit, "residuals", 300), FRONTIER.parameter_values)
    assert (found[0].value, found[0].low, found[0].high, found[0].se) == (0, 0, 0, 0)
    assert found[2].low is not None
    assert found[2].low < found[2].value


def test_six_public_optima_predict_a_run_333_times_larger_only_with_a_floor() -> None:
    """Measured later: 2.599 at 1e21 and 2.234 at 1e23 FLOPs."""
    flops, loss = MARIN
    later = {C: np.array([1e21, 1e23])}
    with_floor = 10 ** fit_law(FRONTIER, {C: flops}, loss, squared()).log10_loss(later)
    # The optima are given to 1e-4 nats; extrapolated 333 times that is about ten times as much.
    np.testing.assert_allclose(with_floor, [2.599, 2.234], atol=0.015)
    without = 10 ** fit_law(FRONTIER, {C: flops}, loss, squared(), fixed={"L_0": 0.0}).log10_loss(later)
    assert without[1] < 2.234 - 0.13


def test_results_predict_from_compute_by_its_short_name() -> None:
    flops, loss = MARIN
    result = fit_runs(FRONTIER, Runs.from_columns({C: flops, "loss_validation": loss}), "Dense", Options(draws=0))
    table = result.predict(C=[1e20, 1e23])
    np.testing.assert_allclose(table["value"], 10 ** result.fit.log10_loss({C: np.array([1e20, 1e23])}), rtol=1e-12)
    np.testing.assert_allclose(table["distance"], [1, 1e23 / 3e20], rtol=1e-12)
