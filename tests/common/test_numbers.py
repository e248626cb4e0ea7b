"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.document.numbers import count, decimals, interval, listing, many, percent, plain


@pytest.mark.parametrize(
    ("n", "digits", "expected"),
    [
        (5e6, 0, "5M"), (16527360.0, 0, "16.5M"), (1.308e9, 0, "1.31B"), (999999999.0, 0, "1B"), (999.6e6, 0, "1B"), (3.4e13, 0, "34T"),
        (6.8e18, 0, "6.8e18"), (3.857e9, 3, "3.86B"), (3e9, 3, "3.00B"),
        (math.inf, 0, "inf"), (math.nan, 0, "none"), (64.0, 0, "64"),
    ],
)  # fmt: skip
def test_counts_are_short(n: float, digits: int, expected: str) -> None:
    assert count(n, digits) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (-0.08378, -0.08892, -0.08003, "-0.0838 [-0.0889, -0.0800]"), (12.3, 4.0, math.inf, "12.3 [4.0, open above]"),
        (12.3, -math.inf, 20.0, "12.3 [open below, 20.0]"), (2.0, 2.0, 2.0, "2"),
    ],
)  # fmt: skip
def test_digits_follow_the_interval(value: float, low: float, high: float, expected: str) -> None:
    assert interval(value, low, high) == expected


def test_counts_have_three_digits_and_more_where_the_interval_is_narrow() -> None:
    assert interval(3.857e9, 3.4e9, 4.45e9, counted=True) == "3.86B [3.40B, 4.45B]"
    assert interval(3.8571e9, 3.8562e9, 3.8584e9, counted=True) == "3.8571B [3.8562B, 3.8584B]"


def test_an_end_beyond_the_limit_is_words_not_digits() -> None:
    assert interval(6.84e11, 1.58e11, 6.59e12, counted=True, limit=1.31e12) == "684B [158B, >1.31T]"


@given(st.floats(1e-12, 1e12))
def test_half_an_interval_has_two_digits(half: float) -> None:
    places = decimals(half)
    assert places is not None
    assert 0 <= places <= 14
    if places:
        # Two digits: at this place the half is 10 to 99.99 units, up to a rounding of the power.
        assert 9.99 <= half * 10**places <= 100.01


def test_small_things() -> None:
    assert plain(-0.0001, 2) == "0.00"
    assert percent(0.0052) == "0.52%"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert (many(1, "run"), many(1000, "draw")) == ("1 run", "1,000 draws")
