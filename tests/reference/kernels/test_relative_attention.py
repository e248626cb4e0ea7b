"""The kernels of each platform, interpreted, equal the plain form in values and in all four gradients."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import Array

from reference.kernels.relative_attention import Platform, relative_attention
from tests.reference.kernels.cases import inputs, plain

PLATFORMS: tuple[Platform, ...] = ("tpu", "gpu")
NAMES = ("output", "query", "key", "value", "position")
BLOCK = 8

# Batch, heads, context, kqv, documents.
CASES: dict[str, tuple[int, int, int, int, bool]] = {
    "whole blocks": (2, 2, 24, 16, False),
    "documents, and a context that is not a multiple of the block": (2, 1, 21, 128, True),
    "one token more than a block, in one document": (1, 3, 9, 24, False),
    "shorter than a block": (3, 2, 5, 16, True),
    "one token": (2, 1, 1, 16, False),
}


def _results(attend: Any, given: Any, gradient: Array) -> dict[str, np.ndarray]:
    output, back = jax.vjp(jax.jit(attend), *given)
    return dict(zip(NAMES, (np.asarray(x) for x in (output, *back(gradient))), strict=True))


def _interpreted(platform: Platform, document: Any, block: int = BLOCK) -> Any:
    return lambda *given: relative_attention(*given, document, block=block, interpret=platform)


@cache
def _expected(case: str) -> dict[str, np.ndarray]:
    *shape, documents = CASES[case]
    given, document, gradient = inputs(*shape, documents=documents)
    return _results(lambda *given: plain(*given, document), given, gradient)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_plain_forms(case: str, platform: Platform, x64: None) -> None:
    *shape, documents = CASES[case]
    given, document, gradient = inputs(*shape, documents=documents)
    found = _results(_interpreted(platform, document), given, gradient)
    for name, expected in _expected(case).items():
        # float64 rounding of sums of at most some hundred products of size one.
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-12, err_msg=name)
        assert np.any(expected) or case == "one token"
