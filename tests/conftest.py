"""What several tests share: where the released runs are."""

import os
from pathlib import Path

import pytest

# As the commands set it: two workers on two cores, with matrices so small that threads of the linear algebra only wait for each other.
# The workers are started by this process and take it over.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

RELEASE = Path(__file__).parents[2] / "shared" / "data" / "curves.csv.gz"


@pytest.fixture(scope="session")
def release() -> Path:
    """The released curves, read from beside the checkout; tests that need them are skipped only where they are absent."""
    if not RELEASE.exists():
        pytest.skip("the released curves are not beside this checkout (expected ../shared/data/curves.csv.gz)")
    return RELEASE
