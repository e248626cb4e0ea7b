"""The kernels of each platform, interpreted, equal the plain form in values and in all four gradients."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from reference.kernels.relative_attention import Platform, relative_attention
from tests.checks import HANG_SECONDS, on_devices
from tests.reference.kernels.cases import BOUNDS, NAMES, Case, inputs, plain

PLATFORMS: tuple[Platform, ...] = ("tpu", "gpu")
BLOCK = 8

CASES = {
    "whole blocks": Case(2, 2, 24, 16),
    "documents, and a context that is not a multiple of the block": Case(2, 1, 21, 128, documents=True),
    "one token more than a block": Case(1, 3, 9, 24),
    "shorter than a block": Case(3, 2, 5, 64, documents=True),
    "one token": Case(2, 1, 1, 16),
}
# With this one the arithmetic of narrower types is tested: two blocks, over which the softmax is joined, of several registers, and scores
# so large that in bfloat16 they would be off by a tenth.
NARROW, NARROW_BLOCK = Case(2, 2, 38, 32, documents=True, deviation=20), 32


def _results(attend: Callable[..., Array], given: Any, gradient: Array) -> dict[str, np.ndarray]:
    output, back = jax.vjp(jax.jit(attend), *given)
    assert all(by.dtype == x.dtype for by, x in zip(back(gradient), given, strict=True))
    return {name: np.asarray(x, np.float64) for name, x in zip(NAMES, (output, *back(gradient)), strict=True)}


def _expected(case: Case, dtype: Any = None) -> dict[str, np.ndarray]:
    """In float64, of inputs that are rounded to `dtype`."""
    given, document, gradient = inputs(case, dtype)
    exact = [x.astype(jnp.float64) for x in (*given, gradient)]
    return _results(lambda *given: plain(*given, document=document), exact[:4], exact[4])


_cached = cache(_expected)


def _found(case: Case, platform: Platform, block: int, dtype: Any = None) -> dict[str, np.ndarray]:
    given, document, gradient = inputs(case, dtype)
    return _results(lambda *given: relative_attention(*given, document=document, block=block, interpret=platform), given, gradient)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_plain_forms(case: str, platform: Platform, x64: None) -> None:
    found = _found(CASES[case], platform, BLOCK)
    for name, expected in _cached(CASES[case]).items():
        # float64 rounding of sums of at most some hundred products of size one.
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_narrow_types_are_as_close_as_their_roundings(dtype: str, platform: Platform, x64: None) -> None:
    found = _found(NARROW, platform, NARROW_BLOCK, dtype)
    for name, expected in _cached(NARROW, dtype).items():
        assert np.linalg.norm(found[name] - expected) < BOUNDS[dtype] * np.linalg.norm(expected), name


def test_on_a_mesh_each_device_attends_with_its_heads_and_sequences() -> None:
    command = [sys.executable, str(Path(__file__).with_name("mesh_worker.py"))]
    done = subprocess.run(command, env=on_devices(8), capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    # float64, as above; each of the four devices that share the batch has a gradient of its own copy of the positions.
    assert max(found["distances"].values()) < 1e-12
    assert found["sharded"]["position"] == "P(('data', 'expert'), 'model', None, None)"
