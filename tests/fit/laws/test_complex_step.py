"""The elementary functions of complex steps, against numpy's own for any complex number."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float, Inexact

from fit.laws.complex_step import STEP, exp, log, log10

POINTS: Float[np.ndarray, "points"] = np.geomspace(1e-3, 1e3, 41)

Function = Callable[[Inexact[np.ndarray, "points"]], Inexact[np.ndarray, "points"]]


@pytest.mark.parametrize(("ours", "theirs"), [(log, np.log), (log10, np.log10), (exp, np.exp)])
def test_values_and_derivatives_are_numpys_complex_ones(ours: Function, theirs: Function) -> None:
    x = np.minimum(POINTS, 500.0) + 3j * STEP
    # Each is a handful of roundings; at 1 numpy's logarithm has h squared left, ours nothing.
    np.testing.assert_allclose(np.real(ours(x)), np.real(theirs(x)), rtol=1e-14, atol=1e-190)
    np.testing.assert_allclose(np.imag(ours(x)) / STEP, np.imag(theirs(x)) / STEP, rtol=1e-14)


@pytest.mark.parametrize(("ours", "theirs"), [(log, np.log), (log10, np.log10), (exp, np.exp)])
def test_of_real_numbers_they_are_numpys(ours: Function, theirs: Function) -> None:
    np.testing.assert_array_equal(ours(np.minimum(POINTS, 500.0)), theirs(np.minimum(POINTS, 500.0)))
