"""Student's t quantile and the tail of F agree with SciPy's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import fdtrc, stdtrit

from fit.uncertainty.distributions import f_tail, t_quantile


@settings(max_examples=20)
@given(level=st.floats(0.001, 0.999), freedom=st.integers(1, 3000))
def test_it_is_scipys(level: float, freedom: int) -> None:
    # At a thousand degrees of freedom the density is a narrow peak between the nodes: about eight digits stay.
    assert t_quantile(level, float(freedom)) == pytest.approx(float(stdtrit(freedom, level)), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("level", "freedom"), [(1.0, 5.0), (0.0, 5.0), (0.5, 0.0)])
def test_what_has_no_quantile_is_refused(level: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="level"):
        t_quantile(level, freedom)


@settings(max_examples=20)
@given(numerator=st.integers(1, 60), denominator=st.integers(1, 3000), f=st.floats(0, 50))
def test_the_tail_of_f_is_scipys(numerator: int, denominator: int, f: float) -> None:
    # The quadrature's error is absolute, 1.8e-6 at most over these ranges, where the tail is nearly 1: a p-value needs a digit or two.
    assert f_tail(f, numerator, denominator) == pytest.approx(float(fdtrc(numerator, denominator, f)), rel=2e-6, abs=1e-9)


def test_f_without_degrees_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        f_tail(1.0, 0, 5)
