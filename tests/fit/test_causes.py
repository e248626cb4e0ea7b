"""What the layout of runs cannot tell is known before the fit, with the remedy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float

from fit.causes import cause, tokens_by_size, vary
from fit.engine.solve import fit_law
from fit.laws import BILINEAR, BOUNDED, DENSE, DENSE_FLOOR, SPARSITY, TOKENS, Law, law_named, per_size
from fit.literature import published
from fit.runs.schema import A, D, E, G, N, P
from fit.uncertainty.delta import standard_errors

SIZES = np.array([1e7, 3e7, 1e8, 3e8, 1e9])


@pytest.mark.parametrize("name", ["tokens", "tokens-experts"])
def test_a_ladder_of_tokens_by_size_cannot_tell_the_two_apart(name: str) -> None:
    # The exact symmetry behind it: exchanging (A, a) with (B, b) changes no prediction where D is a power of N.
    found = cause(law_named(name), {N: SIZES, E: np.array([1.0, 2.0, 4.0, 8.0, 16.0]), D: 20 * SIZES})
    assert found is not None
    assert "D is 20 N in every run" in found
    assert "--law dense-floor" in found


BUDGETS, ACTIVE = np.array([3e19, 6e19, 1e20, 3e20, 1e21]), 1 - np.array([0.0, 0.5, 0.75, 0.9, 0.98])


def abnars_design(off: Float[np.ndarray, "runs"] | float = 1.0) -> dict[str, Float[np.ndarray, "runs"]]:
    """One run per budget and sparsity at the published law's optimum, or that many times its size, of the same FLOPs."""
    flops, active = (axis.ravel() for axis in np.meshgrid(BUDGETS, ACTIVE))
    law, sizes = published("sparsity"), np.geomspace(1e7, 1e12, 20_001)
    losses = [law.loss({P: sizes, D: c / (6 * a * sizes), A: np.full_like(sizes, a)}) for c, a in zip(flops, active, strict=True)]
    n = sizes[np.argmin(losses, axis=1)] * off
    return {P: n, D: flops / (6 * active * n), A: active}


def test_abnars_compute_optimal_runs_lie_on_a_ray() -> None:
    found = cause(SPARSITY, abnars_design())
    assert found is not None
    assert "at each k/E the runs lie on a ray, D a power of P" in found
    assert "add runs off it: other D at the same P and k/E" in found


def test_as_many_runs_off_the_ray_give_the_exponents() -> None:
    # Each size factor once at every budget and at every sparsity: a Latin square.
    off = 2.0 ** (2 * ((np.arange(25) % 5 + 2 * (np.arange(25) // 5)) % 5 - 2))
    data = abnars_design(off)
    assert cause(SPARSITY, data) is None
    law = published("sparsity")
    noise = 10 ** (1e-4 * np.random.default_rng(0).standard_normal(25))
    fits = [fit_law(SPARSITY, each, law.loss(each) * noise) for each in (abnars_design(), data)]
    spreads = [standard_errors(one, SPARSITY.parameter_values) for one in fits]
    for name, value, spread in zip(SPARSITY.parameter_names, fits[1].parameters.values(), spreads[1], strict=True):
        assert abs(value - law.row.values[name]) < 4 * spread, name
    # On the ray some exponent's error is at least ten times that of the square.
    assert fits[0].certificate.condition > 30 * fits[1].certificate.condition


def test_two_lengths_of_one_size_are_off_the_ray_however_few() -> None:
    data = abnars_design()
    pair = {P: np.array([1e9, 1e9]), D: np.array([1e10, 4e10]), A: np.array([0.3, 0.3])}
    assert cause(SPARSITY, {name: np.concatenate([data[name], pair[name]]) for name in data}) is None


@pytest.mark.parametrize(
    ("law", "data", "wanted"),
    [
        ("sparsity", {P: SIZES, D: SIZES[::-1] ** 0.5, A: np.full(5, 0.125)}, "E and k move together: add runs of another k"),
        ("granularity", {P: SIZES, D: SIZES[::-1] ** 0.5, G: np.full(5, 4.0)}, "granularity is constant: add runs with experts"),
        ("separable", {N: SIZES, E: SIZES / 1e7}, "N and E move together in every run"),
    ],
)  # fmt: skip
def test_columns_that_do_not_move_apart_are_named(law: str, data: dict[str, Float[np.ndarray, "runs"]], wanted: str) -> None:
    found = cause(law_named(law), data)
    assert found is not None
    assert wanted in found


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
