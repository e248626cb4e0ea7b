"""The released canonical runs of each router, loaded once, and a small simulated design."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float

from fit.load.grid import canonical
from fit.load.runs import Runs, load_runs
from golden import simulated_curves

Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]

COLUMNS = ("dense_parameter_count", "num_experts", "total_parameter_count", "flops_per_step")


@pytest.fixture(scope="session")
def released(release: Path) -> Callable[[str], Sample]:
    """The canonical runs of a router of the release: columns and losses."""
    runs = load_runs(release)

    @cache
    def of(router: str) -> Sample:
        chosen = canonical(runs, router)
        return {name: chosen.numeric(name) for name in COLUMNS}, chosen.loss

    return of


@pytest.fixture(scope="session")
def released_runs(release: Path) -> Runs:
    """Every run of the release."""
    return load_runs(release)


@pytest.fixture(scope="session")
def simulated() -> Callable[[str], Sample]:
    """The embedded simulated runs of a router: columns and losses."""
    runs = load_runs(simulated_curves())

    @cache
    def of(router: str) -> Sample:
        chosen = canonical(runs, router)
        return {name: chosen.numeric(name) for name in COLUMNS}, chosen.loss

    return of
