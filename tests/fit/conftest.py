"""What the tests of fitting share: simulated, small and released runs, and fits to them, each made once."""

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from fit.analysis import Analysis, Options, analyse
from fit.engine.losses import loss_named
from fit.engine.solve import Fit, fit_law
from fit.laws import law_named
from fit.runs import Runs, canonical, load_runs
from fit.runs.schema import E, F, N, P
from fit.uncertainty.draws import Draws, Scheme, resample
from golden import simulated_curves, small_curves, small_dense
from tests.checks import unchecked
from tests.fit.designs import Sample, made_up

COLUMNS = (N, E, P, F)


def _of(runs: Runs) -> Callable[[str], Sample]:
    @cache
    def of(router: str) -> Sample:
        chosen = canonical(runs, router)
        return {name: chosen.numeric(name) for name in COLUMNS}, chosen.loss

    return of


@pytest.fixture(scope="session")
def simulated_runs() -> Runs:
    """The embedded simulated runs: the published laws with known noise, on the released grid."""
    return load_runs(simulated_curves())


@pytest.fixture(scope="session")
def small_runs() -> Runs:
    """The embedded small runs, the default data."""
    return load_runs(small_curves())


@pytest.fixture(scope="session")
def released_runs(release: Path) -> Runs:
    """Every run of the release."""
    return load_runs(release)


@pytest.fixture(scope="session")
def default(small_runs: Runs, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Analysis:
    """What a bare `fit` does on the default data, with draws that reach 80 %: made once, by the worker that first asks for it."""

    @unchecked()
    def made() -> Analysis:
        return analyse(small_runs, Options(draws=100, draw_all=False, level=0.8))

    if worker_id == "master":
        return made()
    # The workers of one session, and they alone, share the folder above their own.
    path = tmp_path_factory.getbasetemp().parent / "default.pickle"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_bytes(pickle.dumps(made()))
    return pickle.loads(path.read_bytes())


@pytest.fixture(scope="session")
def simulated(simulated_runs: Runs) -> Callable[[str], Sample]:
    """The simulated canonical runs of a router: columns and losses."""
    return _of(simulated_runs)


@pytest.fixture(scope="session")
def small(small_runs: Runs) -> Callable[[str], Sample]:
    """The small canonical runs of a router: columns and losses."""
    return _of(small_runs)


@pytest.fixture(scope="session")
def released(released_runs: Runs) -> Callable[[str], Sample]:
    """The released canonical runs of a router: columns and losses."""
    return _of(released_runs)


@pytest.fixture(scope="session")
def lengths() -> Sample:
    """The small dense runs of several numbers of tokens."""
    runs = load_runs(small_dense(), target="loss_test")
    return {name: runs.numeric(name) for name in law_named("tokens").columns}, runs.loss


@pytest.fixture(scope="session")
def fitted() -> Callable[[str, str], Fit]:
    """The fit of a law of the catalogue to its made-up runs, by a loss; by the default one with its types checked."""

    @cache
    def of(law: str, loss: str = "log") -> Fit:
        with nullcontext() if loss == "log" else unchecked():
            return fit_law(law_named(law), *made_up(law_named(law)), loss_named(loss))

    return of


@pytest.fixture(scope="session")
def drawn(fitted: Callable[[str, str], Fit]) -> Callable[[str, Scheme], Draws]:
    """200 draws of that fit by squared log loss."""

    @cache
    @unchecked()
    def of(law: str, scheme: Scheme) -> Draws:
        fit = fitted(law, "log")
        sizes = fit.problem.data.get(N, np.arange(float(fit.num_runs)))
        return resample(fit, scheme, 200, seed=3, clusters=sizes)

    return of
