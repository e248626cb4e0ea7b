"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fit.analysis import Estimate
from fit.show.display import FAR, count, decimals, estimate, listing, many, percent, plain, with_interval


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (5e6, "5M"), (16_527_360.0, "16.5M"), (1_308_819_456.0, "1.31B"), (9.37e11, "937B"), (1.04e44, "1.0e44"),
        (6.8e18, "6.8e18"), (math.inf, "inf"), (math.nan, "none"), (999_600_000.0, "1B"), (12.0, "12"),
    ],
)  # fmt: skip
def test_counts_are_written_as_people_write_them(n: float, shown: str) -> None:
    assert count(n) == shown


def test_counts_keep_their_noughts_where_digits_are_asked_for() -> None:
    assert count(3.4e9, 3) == "3.40B"
    assert count(1e8, 4) == "100.0M"


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (Estimate(-0.08378, -0.08920, -0.08000), "-0.0838 [-0.0892, -0.0800]"),
        (Estimate(217.65, 94.05, 517.8, unit="experts"), "218 [94, 518]"),
        (Estimate(6.84e11, 1.48e11, 6.76e12, True, "parameters"), f"684B [148B, 6.76T] {FAR}"),
        (Estimate(1.04e44, 7.56e18, math.inf, True, "parameters"), f"1.04e44 [7.56e18, inf] {FAR}"),
        (Estimate(2.0), "2"),
        (Estimate(5e6, unit="parameters"), "5M"),
        (Estimate(2.0, math.nan, math.nan), "2"),
        (Estimate(0.00001, -0.00012, 0.00013), "0.00001 [-0.00012, 0.00013]"),
    ],
)
def test_estimates_have_the_digits_their_interval_warrants(figure: Estimate, shown: str) -> None:
    assert estimate(figure) == shown


def test_no_estimate_is_an_empty_cell() -> None:
    assert estimate(None) == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-7, 1e6))
def test_rounding_moves_no_end_by_more_than_a_tenth_of_half_the_width(middle: float, half: float) -> None:
    low, high = middle - half, middle + half
    shown = with_interval(middle, low, high)
    numbers = [float(part) for part in shown.replace("[", "").replace("]", "").replace(",", "").split()]
    # Two significant digits of the half width: the last one's half is at most a twentieth of it. Numbers beyond the ninth decimal are
    # written at four significant digits instead.
    if (places := decimals(low, high)) is not None and places <= 9:
        tolerance = max(0.0500001 * half, 0.5) if places == 0 else 0.0500001 * half
        assert numbers == pytest.approx([middle, low, high], abs=tolerance, rel=0)


@given(st.floats(1e3, 1e14), st.floats(0.001, 0.9))
def test_a_count_never_looks_like_the_ends_of_its_interval(value: float, share: float) -> None:
    shown = with_interval(value, value * (1 - share), value * (1 + share), "parameters")
    parts = shown.replace("[", "").replace("]", "").replace(",", "").split()
    assert len(set(parts)) == 3


def test_nought_has_no_sign() -> None:
    assert plain(-0.00001, 2) == "0.00"


def test_lists_and_numbers_of_things_read_as_english() -> None:
    assert (listing([]), listing(["a"]), listing(["a", "b", "c"])) == ("", "a", "a, b and c")
    assert (many(1, "run"), many(1000, "draw"), percent(0.95), percent(0.995)) == ("1 run", "1,000 draws", "95%", "99.5%")
