"""Fixed and bounded parameters, held ratios, and fits that are saved, loaded and pickled."""

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from common.errors import InputError
from fit.engine.hold import hold
from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, UTILISATION, per_size
from fit.runs.schema import N
from fit.uncertainty.draws import resample
from tests.checks import unchecked
from tests.fit.designs import CURVED, LAWS, bilinear_losses, grid, made_up


def test_a_fixed_coefficient_is_numpys_regression_of_the_rest() -> None:
    data, loss = made_up(BILINEAR)
    fit = fit_law(BILINEAR, data, loss, fixed={"c": 0.004})
    x = BILINEAR.features(np.zeros(0), data)
    rest, *_ = np.linalg.lstsq(x[:, [0, 1, 3]], np.log10(loss) - 0.004 * x[:, 2], rcond=None)
    np.testing.assert_allclose(fit.beta, [rest[0], rest[1], 0.004, rest[2]], rtol=1e-9)
    assert (fit.problem.num_free, fit.degrees) == (3, len(loss) - 3)


@pytest.mark.parametrize("name", ["E_start", "L_0"])
@unchecked()
def test_a_fixed_shape_stays_and_the_rest_is_at_its_optimum(name: str) -> None:
    data, loss = made_up(BOUNDED_FLOOR)
    whole = fit_law(BOUNDED_FLOOR, data, loss)
    same = fit_law(BOUNDED_FLOOR, data, loss, fixed={name: whole.parameters[name]})
    # The objective is flat to 1e-16 within 1e-8 of the optimum in the parameters' own spread.
    np.testing.assert_allclose(list(same.parameters.values()), list(whole.parameters.values()), rtol=1e-5)
    elsewhere = fit_law(BOUNDED_FLOOR, data, loss, fixed={name: 0.9 * whole.parameters[name] + 0.1})
    assert elsewhere.parameters[name] == 0.9 * whole.parameters[name] + 0.1
    assert elsewhere.certificate.objective > whole.certificate.objective
    draws = resample(elsewhere, draws=20)
    assert set(draws.theta[:, [shape.name for shape in BOUNDED_FLOOR.shapes].index(name)].tolist()) == {elsewhere.parameters[name]}


@unchecked()
def test_the_best_value_to_fix_a_shape_at_is_the_fits() -> None:
    data, loss = made_up(BOUNDED)
    fit = fit_law(BOUNDED, data, loss)

    def held(start: float) -> float:
        return fit_law(BOUNDED, data, loss, fixed={"E_start": float(start)}).certificate.objective

    found: Any = minimize_scalar(held, bounds=(1.2, 4), method="bounded")
    # scipy's bounded search ends within 1e-5.
    assert found.x == pytest.approx(fit.parameters["E_start"], abs=1e-3)
    assert found.fun == pytest.approx(fit.certificate.objective, rel=1e-9)


@unchecked()
def test_a_fixed_ratio_holds_and_is_reported() -> None:
    data, loss = made_up(BOUNDED_FLOOR)
    whole = fit_law(BOUNDED_FLOOR, data, loss)
    held = fit_law(BOUNDED_FLOOR, data, loss, fixed={"E_max": whole.parameters["E_max"]})
    assert held.problem.num_free == whole.problem.num_free - 1
    assert held.certificate.objective == pytest.approx(whole.certificate.objective, rel=1e-12)
    np.testing.assert_allclose(list(held.parameters.values()), list(whole.parameters.values()), rtol=1e-5)
    other = fit_law(BOUNDED_FLOOR, data, loss, fixed={"E_max": 100.0})
    assert other.parameters["E_max"] == pytest.approx(100, rel=1e-12)
    assert other.theta.shape == (2,)


@unchecked()
def test_a_bound_that_binds_holds_exactly_in_fit_and_draws_and_one_that_does_not_changes_nothing() -> None:
    data, loss = made_up(BOUNDED)
    free = fit_law(BOUNDED, data, loss)
    wide = fit_law(BOUNDED, data, loss, bounds={"c": (-1.0, 1.0), "b": (-3.0, 3.0), "E_start": (1.0, 64.0)})
    np.testing.assert_allclose(list(wide.parameters.values()), list(free.parameters.values()), rtol=1e-6)
    tight = fit_law(BOUNDED, data, loss, bounds={"c": (-1.0, 0.004)})
    fixed = fit_law(BOUNDED, data, loss, fixed={"c": 0.004})
    np.testing.assert_allclose(list(tight.parameters.values()), list(fixed.parameters.values()), rtol=1e-6)
    draws = resample(tight, draws=40)
    assert draws.failed == 0
    assert (draws.beta[:, 2] <= 0.004 + 1e-12).all()
    start = fit_law(BOUNDED, data, loss, bounds={"E_start": (3.0, 64.0)})
    assert start.parameters["E_start"] == pytest.approx(3.0, rel=1e-9)
    assert start.certificate.at_bounds == ("E_start",)


def test_what_cannot_be_fixed_is_refused_with_what_can() -> None:
    data, loss = made_up(BOUNDED)
    with pytest.raises(InputError, match="no parameter 'z' to fix or bound; it has: a, b, c, d, E_start, rho"):
        fit_law(BOUNDED, data, loss, fixed={"z": 1.0})
    with pytest.raises(InputError, match="bounds of c must rise"):
        fit_law(BOUNDED, data, loss, bounds={"c": (1.0, 0.0)})
    with pytest.raises(InputError, match="no ratio 'E_start' to hold; it has: E_max"):
        hold(BOUNDED, "E_start", 2.0)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"E_start": (0.0, 2.0)}, "E_start of law 'bounded' must be finite and above 0, not 0 to 2"),
        ({"E_start": (1.0, np.inf)}, "must be finite and above 0, not 1 to inf"),
        ({"rho": (-1.0, -1.0)}, "rho of law 'bounded' must be finite and above 0, not -1"),
        ({"c": (np.inf, np.inf)}, "c of law 'bounded' must be finite, not inf"),
        ({"c": (np.nan, np.nan)}, "bounds of c must rise"),
    ],
)
def test_a_range_that_no_search_has_is_refused(bounds: dict[str, tuple[float, float]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit_law(BOUNDED, *made_up(BOUNDED), bounds=bounds)


@pytest.mark.parametrize("value", [-5.0, 0.0, 1.0, 1e9, np.inf, np.nan])
def test_a_ratio_outside_those_of_its_two_shapes_is_refused(value: float) -> None:
    # E_start from 1 to 64 over a rho from 1e-6 to .95.
    with pytest.raises(InputError, match=r"E_max of law 'bounded' lies from 1\.053 to 6\.4e\+07, and cannot be held at"):
        fit_law(BOUNDED, *made_up(BOUNDED), fixed={"E_max": value})


def _same(one: Fit, other: Fit) -> None:
    assert one.parameters == other.parameters
    assert one.certificate == other.certificate
    np.testing.assert_array_equal(one.residuals, other.residuals)
    np.testing.assert_array_equal(one.theta, other.theta)
    np.testing.assert_array_equal(resample(one, draws=5).beta, resample(other, draws=5).beta)


@pytest.mark.parametrize("loss", ["log", "squared", "huber:0.001"])
def test_a_saved_fit_is_loaded_to_the_last_bit(loss: str, fitted: Callable[[str, str], Fit], tmp_path: Path) -> None:
    for law in LAWS[::3] if loss == "log" else LAWS[:1]:
        fit = fitted(law.name, loss)
        fit.save(tmp_path / "fit.json")
        again = Fit.load(tmp_path / "fit.json")
        again.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (tmp_path / "fit.json").read_bytes()
        assert again.law is law
        _same(fit, again)


def test_fits_of_laws_of_ones_own_with_fixed_and_bounded_parameters_and_weights_are_saved_too(tmp_path: Path) -> None:
    data = grid()
    loss, weights = bilinear_losses(data), np.random.default_rng(0).uniform(0.5, 2, 25)
    sized = per_size(np.unique(data[N]).tolist())
    for k, fit in enumerate(
        (
            fit_law(CURVED, data, loss, fixed={"q": 0.0}, bounds={"c": (0.0, 1.0)}, weights=weights),
            fit_law(sized, data, loss),
        )
    ):
        fit.save(tmp_path / f"{k}.json")
        _same(fit, Fit.load(tmp_path / f"{k}.json"))
    assert json.loads((tmp_path / "0.json").read_text())["law"] == "tests.fit.designs:CURVED"


def test_a_fit_of_a_held_law_is_not_saved_and_says_so(tmp_path: Path) -> None:
    data, loss = made_up(BOUNDED)
    fit = fit_law(BOUNDED, data, loss, fixed={"E_max": 100.0})
    with pytest.raises(InputError, match="cannot be saved"):
        fit.save(tmp_path / "held.json")


def test_a_law_of_the_running_script_alone_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law = replace(CURVED, name="a script's own")
    monkeypatch.setattr(sys.modules["__main__"], "MINE", law, raising=False)
    with pytest.raises(InputError, match="must be a variable of a module that can be imported again"):
        fit_law(law, grid(), bilinear_losses(grid())).save(tmp_path / "script.json")


@unchecked()
def test_every_fit_can_be_pickled(fitted: Callable[[str, str], Fit]) -> None:
    for law in LAWS[1::2]:
        _same(fitted(law.name, "log"), pickle.loads(pickle.dumps(fitted(law.name, "log"))))
    for law, name in ((BOUNDED, "E_max"), (UTILISATION, "B_max"), (BOUNDED_FLOOR, "E_max")):
        fit = fit_law(law, *made_up(law), fixed={name: 60.0})
        again = pickle.loads(pickle.dumps(fit))
        assert again.parameters == fit.parameters
        np.testing.assert_array_equal(again.log10_loss(fit.problem.data), fit.log10_loss(fit.problem.data))


def test_draws_can_be_pickled(fitted: Callable[[str, str], Fit]) -> None:
    draws = resample(fitted("floor-interaction", "log"), "pairs", 20)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(draws)).beta, draws.beta)
