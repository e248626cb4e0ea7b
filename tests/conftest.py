"""What several tests share: where the released runs are, and a folder for the processes that tests start."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# As the commands set it: two workers on two cores, with matrices so small that threads of the linear algebra only wait for each other.
# The workers are started by this process and take it over.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A busy machine must not fail a test: no time limit for an example, nor for drawing it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

RELEASE = Path(__file__).parents[2] / "shared" / "data" / "curves.csv.gz"


@pytest.fixture(scope="session")
def release() -> Path:
    """The released curves, read from beside the checkout; tests that need them are skipped only where they are absent."""
    if not RELEASE.exists():
        pytest.skip("the released curves are not beside this checkout (expected ../shared/data/curves.csv.gz)")
    return RELEASE


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of text, tokens and compiled programs, for all processes that are started."""
    from tests.training.tiny_runs import write_corpus

    folder = tmp_path_factory.mktemp("programs")
    write_corpus(folder / "corpus")
    return folder
