"""Ê is what Eq. 1 says it is."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fit.laws.saturation import log_saturate, report_e_max
from tests.fit.designs import e_hat

STARTS, ENDS = st.floats(1, 50), st.floats(60, 1e6)


@settings(max_examples=40)
@given(e_start=STARTS, end=ENDS, e=st.floats(1, 1e5))
def test_it_is_equation_1_written_as_the_paper_writes_it(e_start: float, end: float, e: float) -> None:
    found = np.exp(log_saturate(np.array([e]), np.array([e_start]), np.array([e_start / end])))
    np.testing.assert_allclose(found, e_hat(np.array([e]), e_start, end), rtol=1e-12)


@settings(max_examples=40)
@given(e_start=STARTS, end=ENDS)
def test_it_starts_at_e_start_and_ends_at_e_max(e_start: float, end: float) -> None:
    theta = np.array([e_start, e_start / end])
    ends = np.exp(log_saturate(np.array([1.0, 1e300]), theta[:1], theta[1:]))
    np.testing.assert_allclose(ends, [e_start, end], rtol=1e-12)
    np.testing.assert_allclose(report_e_max(theta, np.array([0.5])), [0.5, e_start, end], rtol=1e-12)


def test_it_is_the_same_however_many_points_and_runs_are_asked_for() -> None:
    """Many points and few distinct numbers of experts are worked out once for each."""
    start, rho = np.geomspace(1, 30, 25)[:, None], np.geomspace(1e-6, 0.9, 25)[:, None]
    for e in (np.tile(2.0 ** np.arange(6), 8), np.arange(1.0, 49)):
        expected = np.log(e_hat(e, start, start / rho))
        np.testing.assert_allclose(log_saturate(e, start, rho), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(log_saturate(e, start[:3], rho[:3]), expected[:3], rtol=1e-12, atol=1e-14)
