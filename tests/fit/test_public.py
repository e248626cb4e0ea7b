"""The public names are there, `import fit` costs nothing, and the README's way through them works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fit
from golden import simulated_curves
from tests.fit.designs import CURVED, bilinear_losses, grid


def test_every_public_name_can_be_had_and_is_said_once() -> None:
    assert len(set(fit.__all__)) == len(fit.__all__)
    for name in fit.__all__:
        assert getattr(fit, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fit_everything"):
        _ = fit.fit_everything


def test_importing_the_package_imports_no_numerics() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fit; print('numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_point_fit_loads_neither_scipy_nor_polars() -> None:
    """Each takes longer to import than the fit."""
    code = (
        "import sys, numpy as np, fit; n = np.geomspace(1e7, 1e9, 9); "
        "f = fit.fit_law(fit.law_named('dense-floor'), {'dense_parameter_count': n}, 1.5 + 40 * n**-0.2 + 0.001 * np.sin(np.arange(9))); "
        "fit.resample(f, draws=20); print([m for m in ('scipy', 'polars', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_packages_own_example_runs() -> None:
    runs = fit.load_runs(simulated_curves())
    analysis = fit.analyse(runs, fit.Options(laws=("separable", "bilinear"), routers=("S-Base",), draws=80, level=0.9))
    table = analysis.result("S-Base", analysis.quoted).predict(N=13e9, E=64.0)
    assert table["low"][0] < table["value"][0] < table["high"][0]
    assert fit.canonical(runs, "S-Base").has("num_experts")
    assert fit.routers(runs) == ("S-Base", "Hash", "RL-R")
    assert len(fit.dense(runs)) == 6


def test_a_law_of_ones_own_goes_all_the_way(tmp_path: Path) -> None:
    data = grid()
    found = fit.fit_law(CURVED, data, bilinear_losses(data), fixed={"q": 0.0}, bounds={"c": (0.0, 0.1)}, weights=np.ones(25))
    figures = fit.estimates(found, fit.resample(found, draws=60), found.law.parameter_values, 0.8)
    assert [one.value for one in figures] == list(found.parameters.values())
    found.save(tmp_path / "fit.json")
    assert fit.Fit.load(tmp_path / "fit.json").parameters == found.parameters
    assert fit.effective_parameter_count(CURVED, found.theta, found.beta, np.array([1e8]), np.array([1.0]))[0] == pytest.approx(1e8)
