"""Whatever runs are left, no figure is shown outside its interval: low <= value <= high, or no interval and a status that says why."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from fit.analysis import Options, analyse
from fit.engine.solve import fit_law
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate, Status
from fit.laws import CATALOGUE, SEPARABLE
from fit.runs import Runs, load_runs
from fit.runs.schema import ROUTER, E, N
from fit.uncertainty.draws import resample
from fit.uncertainty.intervals import estimates
from golden import small_curves
from tests.checks import unchecked
from tests.fit.designs import bilinear_losses, ends, grid

LAWS = tuple(name for name in CATALOGUE if name not in ("tokens", "data-constrained", "frontier"))
SHOWN = (Status.OK, Status.OPEN)


def _weak(runs: Runs, generator: np.random.Generator) -> Runs:
    """Some sizes, some numbers of experts, and of what is left some runs; every router keeps a dense run or loses all of them."""
    sizes, counts = np.unique(runs[N]), np.unique(runs[E])
    some = generator.choice(sizes, generator.integers(2, len(sizes) + 1), replace=False)
    few = generator.choice(counts, generator.integers(2, len(counts) + 1), replace=False)
    kept = np.isin(runs[N], some) & np.isin(runs[E], few) & (generator.random(len(runs)) < generator.choice([0.5, 0.8, 1.0]))
    return runs.keep(kept, "a test's choice")


def _check(figure: Estimate, where: object) -> None:
    if figure.status in SHOWN:
        low, high = ends([figure])[:, 0]
        assert low <= figure.value <= high, where
        assert (figure.status is Status.OPEN) is bool(np.isinf(low) != np.isinf(high)), where
    else:
        assert (figure.low, figure.high) == (None, None), where
    assert not np.isnan(figure.value), where


@unchecked()
def test_no_figure_of_weak_data_lies_outside_its_interval(simulated_runs: Runs) -> None:
    """Every figure of three laws on the weak data of ten seeds."""
    shown = hidden = 0
    for seed in range(10):
        generator = np.random.default_rng(seed)
        runs = simulated_runs
        if seed % 2:
            target = ("loss_validation", "loss_test", "loss_bible", "loss_code")[seed // 2 % 4]
            runs = load_runs(small_curves(), target=target, step=1000 if seed % 3 == 0 else None)
        weak = _weak(runs, generator)
        routers = [name for name in dict.fromkeys(weak[ROUTER].tolist()) if name != "Dense"]
        laws = tuple(generator.choice(LAWS, 3, replace=False).tolist())
        options = Options(laws=laws, routers=tuple(routers[:1]), draws=15, level=0.8, scheme=("auto", "pairs")[seed % 4 // 2])
        try:
            found = analyse(weak, options)
        except (NotIdentifiedError, InputError):
            continue
        for result in found.results:
            figures = {**result.coefficients, **result.derived}
            for name, figure in figures.items():
                _check(figure, (seed, result, name, figure))
            known = sum(figure.known for figure in figures.values())
            shown, hidden = shown + known, hidden + len(figures) - known
            gone = result.draws is not None and result.draws.failed > 0.1 * len(result.draws)
            assert known == 0 or not (gone or result.fit.degrees == 0), (seed, result)
            assert not gone or "not-identified" in {warning.code for warning in result.warnings}, (seed, result)
    # Weak enough that many have none, and not so weak that all have.
    assert min(shown, hidden) > 20


@unchecked()
def test_the_headline_law_of_the_default_data_has_no_figure_outside_its_interval(small_runs: Runs) -> None:
    found = analyse(small_runs, Options(laws=("bounded",), draws=200, level=0.9))
    for result in found.results:
        assert result.draws is not None
        assert result.draws.failed == 0
        for name, figure in {**result.coefficients, **result.derived}.items():
            _check(figure, (result, name))
    # E_start ends at its bound; an end there is an answer.
    start = found.result("S-Base", "bounded").coefficients["E_start"]
    assert start.known
    assert start.low == pytest.approx(1.0)


def test_a_point_fit_that_is_not_identified_shows_no_interval_though_its_draws_all_are() -> None:
    fit = fit_law(SEPARABLE, grid(), bilinear_losses(grid()))
    draws = resample(fit, draws=60)
    lost = replace(fit, certificate=replace(fit.certificate, identified=False))
    assert {one.status for one in estimates(lost, draws, fit.law.parameter_values, 0.8)} == {Status.NOT_IDENTIFIED}
