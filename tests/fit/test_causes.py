"""What the layout of runs cannot tell is known before the fit, with the remedy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

from fit.causes import cause, tokens_by_size, vary
from fit.laws import BILINEAR, BOUNDED, DENSE, DENSE_FLOOR, TOKENS, Law, law_named, per_size

N, E, D = "dense_parameter_count", "num_experts", "tokens_seen"
SIZES = np.array([1e7, 3e7, 1e8, 3e8, 1e9])


@pytest.mark.parametrize("name", ["tokens", "tokens-experts"])
def test_a_ladder_of_tokens_by_size_cannot_tell_the_two_apart(name: str) -> None:
    # The exact symmetry behind it: exchanging (A, a) with (B, b) changes no prediction where D is a power of N.
    found = cause(law_named(name), {N: SIZES, E: np.array([1.0, 2.0, 4.0, 8.0, 16.0]), D: 20 * SIZES})
    assert found is not None
    assert "D is 20 N in every run" in found
    assert "--law dense-floor" in found


def test_tokens_off_the_ray_are_no_cause() -> None:
    d = np.array([1e9, 4e9, 1e9, 4e9, 2e9])
    assert cause(TOKENS, {N: SIZES, D: d}) is None
    assert tokens_by_size(SIZES, d) == ""


@given(st.floats(1, 100), st.floats(0.4, 2.0), st.floats(-0.02, 0.02))
def test_a_power_of_size_is_one_up_to_five_per_cent(ratio: float, power: float, wobble: float) -> None:
    d = ratio * SIZES**power * (1 + wobble * np.array([1, -1, 1, -1, 1]))
    assert tokens_by_size(SIZES, d)


def test_equal_tokens_are_not_a_function_of_size() -> None:
    assert tokens_by_size(SIZES, np.full(5, 1e9)) == ""
    assert tokens_by_size(np.full(5, 1e9), SIZES) == ""


@pytest.mark.parametrize(
    ("law", "data", "wanted"),
    [
        (BOUNDED, {N: SIZES, E: np.full(5, 64.0)}, "E is 64 in every run, and law bounded needs several; add runs at another, or"),
        (BILINEAR, {N: np.full(5, 1e8), E: np.array([1.0, 2, 4, 8, 16])}, "N is 100000000 in every run"),
        (TOKENS, {N: SIZES, D: np.full(5, 1e9)}, "D is 1000000000 in every run, and law tokens needs several; add runs at another, or"),
        (DENSE_FLOOR, {N: np.full(5, 1e8)}, "N is 100000000 in every run"),
        (DENSE, {N: SIZES}, None),
        (per_size([1e8]), {N: np.full(5, 1e8), E: np.array([1.0, 2, 4, 8, 16])}, None),
    ],
    ids=["one E", "one N", "one D", "one N, dense", "nothing", "a slope of one size"],
)  # fmt: skip
def test_a_column_of_one_value_is_named_with_what_such_runs_allow(
    law: Law, data: dict[str, Float[np.ndarray, "runs"]], wanted: str | None
) -> None:
    found = cause(law, data)
    assert found is None if wanted is None else found is not None and wanted in found


def test_tokens_vary_from_half_as_much_again() -> None:
    assert vary(np.array([1e9, 1.4e9])) == 0
    assert vary(np.array([1e9, np.nan, 3e9])) == pytest.approx(3)
    assert vary(np.array([np.nan])) == 0
