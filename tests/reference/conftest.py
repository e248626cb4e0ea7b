"""What the tests of `reference` share: double precision."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 where a test asks for no other type, as JAX leaves it off; for tests that hypothesis does not repeat."""
    with jax.enable_x64(True):
        yield
