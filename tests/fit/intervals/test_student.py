"""Student's t quantile agrees with SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from fit.intervals.student import t_quantile


@given(level=st.floats(0.001, 0.999), freedom=st.integers(1, 3000))
def test_it_is_scipys(level: float, freedom: int) -> None:
    # At a thousand degrees of freedom the density is a narrow peak between the nodes: about eight digits stay.
    assert t_quantile(level, float(freedom)) == pytest.approx(float(stdtrit(freedom, level)), rel=1e-7, abs=1e-9)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        t_quantile(1.0, 5.0)
