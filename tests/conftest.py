"""What several tests share: where the released runs are."""

from pathlib import Path

import pytest

RELEASE = Path(__file__).parents[2] / "shared" / "data" / "curves.csv.gz"


@pytest.fixture(scope="session")
def release() -> Path:
    """The released curves, read from beside the checkout; tests that need them are skipped only where they are absent."""
    if not RELEASE.exists():
        pytest.skip("the released curves are not beside this checkout (expected ../shared/data/curves.csv.gz)")
    return RELEASE
