"""Every law of the catalogue is its own formula, analytic in what the engine differentiates, and reports what it says."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

from common.errors import InputError
from fit.laws import BOUNDED, CATALOGUE, SEPARABLE, UTILISATION, IdentityLink, Law, Log10Link, law_named, per_size
from fit.laws.interface import FloorLink, Link
from fit.runs.schema import A, D, E, F, G, N, P
from tests.fit.designs import LAWS, TRUTH, design, e_hat, grid


def _data_constrained(
    p: dict[str, float], n: Float[np.ndarray, "runs"], d: Float[np.ndarray, "runs"], u: Float[np.ndarray, "runs"]
) -> Float[np.ndarray, "runs"]:
    u = np.minimum(u, d)
    u_n = np.minimum(n, (p["a"] * p["A"] / (p["b"] * p["B"])) ** (1 / p["a"]) * u ** (p["b"] / p["a"]))
    n = u_n + u_n * p["R_N_star"] * (1 - np.exp(-(n / u_n - 1) / p["R_N_star"]))
    d = u + u * p["R_D_star"] * (1 - np.exp(-(d / u - 1) / p["R_D_star"]))
    return p["L_0"] + p["A"] * n ** -p["a"] + p["B"] * d ** -p["b"]


Values = dict[str, float]
Columns = dict[str, Float[np.ndarray, "runs"]]


def _granularity(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    return p["c"] + (p["g"] / data[G] ** p["gamma"] + p["a"]) / data[P] ** p["alpha"] + p["b"] / data[D] ** p["beta"]


def _sparsity(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    n, d, s = data[P], data[D], 1 - data[A]
    powers = p["a"] / n ** p["alpha"] + p["b"] / d ** p["beta"] + p["c"] / (1 - s) ** p["lambda"]
    return powers + p["d"] / ((1 - s) ** p["delta"] * n ** p["gamma"]) + p["e"]


def _sparsity_dense(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    n, d, s = data[P], data[D], 1 - data[A]
    return p["e"] * (1 - s) ** p["gamma"] + (p["a"] * (1 - s) ** p["alpha"] + p["c"] * s) / n ** p["alpha"] + p["b"] / d ** p["beta"]


def _joint(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    n, d, e = data[N], data[D], e_hat(data[E], p["E_start"], p["E_max"])
    size = p["a"] * e ** p["delta"] * n ** (p["alpha"] + p["gamma"] * np.log(e))
    return size + p["b"] * e ** p["omega"] * d ** (p["beta"] + p["zeta"] * np.log(e)) + p["c"]


def _saturating_tokens(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    n, d, e = data[N], data[D], e_hat(data[E], p["E_start"], p["E_max"])
    return (p["A"] / n ** p["alpha"] + p["B"] / e ** p["beta"] + p["C"] / d ** p["gamma"] + p["F"]) * n ** (p["d"] * np.log(e))


def _leverage(p: Values, data: Columns) -> Float[np.ndarray, "runs"]:
    active = 1 / (1 / (data[A] + 1 / (1 / p["A_start"] - 1 / p["A_max"])) + 1 / p["A_max"])
    g = np.log2(data[G])
    return active ** (p["a"] + p["d"] * np.log10(data["training_flops"]) + p["gamma"] * g**2 + p["beta"] * g)


_OTHERS: dict[str, Callable[[Values, Columns], Float[np.ndarray, "runs"]]] = {
    "granularity": _granularity, "sparsity": _sparsity, "sparsity-dense": _sparsity_dense, "joint": _joint,
    "saturating-tokens": _saturating_tokens, "leverage": _leverage,
}  # fmt: skip


def _formula(name: str, p: dict[str, float], data: dict[str, Float[np.ndarray, "runs"]]) -> Float[np.ndarray, "runs"]:
    """The loss by the law's printed formula, from its reported parameters."""
    if name in _OTHERS:
        return _OTHERS[name](p, data)
    n, e = data.get(N, np.ones(1)), data.get(E, np.ones(1))
    if "E_max" in p:
        e = e_hat(e, p["E_start"], p["E_max"])
    if name == "dense":
        return (p["N_c"] / n) ** p["alpha_N"]
    if name.endswith(("tokens", "tokens-experts", "tokens-interaction")):
        return p["L_0"] + p["A"] * n ** -p["a"] * e ** -p.get("g", 0) * n ** (p.get("c", 0) * np.log(e)) + p["B"] * data[D] ** -p["b"]
    if name == "data-constrained":
        return _data_constrained(p, n, data[D], data["unique_tokens"])
    if name == "frontier":
        return p["L_0"] + p["A"] * data["training_flops"] ** -p["a"]
    if "L_0" in p:
        return p["L_0"] + p["C"] * n ** -p["a"] * e ** -p.get("b", 0) * n ** (p.get("c", 0) * np.log(e))
    if name == "utilisation":
        n, e = data[F], e_hat(2**20 * data[P] / data[F], p["B_start"], p["B_max"])
    x, y = np.log10(n), np.log10(e)
    return 10 ** (p["a"] * x + p["b"] * y + p.get("c", 0) * x * y + p["d"])


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_loss_is_that_of_the_formula_with_the_reported_parameters(law: Law) -> None:
    theta, beta = (np.array(values, dtype=np.float64) for values in TRUTH[law.name])
    data = design(law)
    parameters = dict(zip(law.parameter_names, law.parameter_values(theta, beta).tolist(), strict=True))
    np.testing.assert_allclose(10 ** law.log10_loss(theta, beta, data), _formula(law.name, parameters, data), rtol=1e-11)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_features_are_analytic_in_shapes_and_columns(law: Law) -> None:
    theta, _ = (np.array(values, dtype=np.float64) for values in TRUTH[law.name])
    data, h = design(law), 1e-6
    for k in range(len(theta)):
        step = h * theta[k] * np.eye(len(theta))[k]
        slope = (law.features(theta + step, data) - law.features(theta - step, data)) / (2 * h)
        exact = np.imag(law.features(theta + 1e-100j * theta[k] * np.eye(len(theta))[k], data)) / 1e-100
        # Central differences of step 1e-6: rounding of 1e-16 times features of up to 20, over the step.
        np.testing.assert_allclose(exact, slope, atol=2e-8)
    for name in law.columns:
        slope = (law.features(theta, {**data, name: data[name] * (1 + h)}) - law.features(theta, {**data, name: data[name] * (1 - h)})) / (
            2 * h
        )
        exact = np.imag(law.features(theta, {**data, name: data[name] * (1 + 1e-100j)})) / 1e-100
        np.testing.assert_allclose(exact, slope, atol=2e-8)


@pytest.mark.parametrize("link", [Log10Link(), IdentityLink(), FloorLink()], ids=lambda link: type(link).__name__)
def test_a_links_two_directions_undo_each_other(link: Link) -> None:
    loss, theta = np.array([2.0, 3.0, 4.5]), np.array([1.5, 0.3])
    np.testing.assert_allclose(10 ** link.log10_loss(link.of_loss(loss, theta), theta), loss, rtol=1e-13)


def test_a_loss_below_the_floor_has_a_finite_place() -> None:
    assert np.isfinite(FloorLink().of_loss(np.array([1.0]), np.array([1.5]))).all()


def test_a_batch_of_shapes_gives_what_each_alone_does() -> None:
    theta = np.stack([[1.0, 0.001], [4.0, 0.2]])
    both = BOUNDED.features(theta, grid())
    for row, found in zip(theta, both, strict=True):
        np.testing.assert_array_equal(found, BOUNDED.features(row, grid()))


def test_bounds_follow_the_runs_where_the_law_says_so() -> None:
    data, loss = design(UTILISATION), np.array([3.0, 2.5] * 15)
    smallest = (2**20 * data[P] / data[F]).min()
    low, high = UTILISATION.limits(data, loss)[0]
    assert (low, high) == (max(1 - smallest, 0) + 0.02, 64)
    loss = loss[:25]
    assert CATALOGUE["bounded-floor"].limits(grid(), loss)[0].tolist() == [0, 0.99 * 2.5]
    assert BOUNDED.limits(grid(), loss).tolist() == [[1, 64], [1e-6, 0.95]]


def test_laws_are_found_by_name_and_others_refused_with_the_names_there_are() -> None:
    assert [law_named(law.name) for law in LAWS] == list(LAWS)
    with pytest.raises(InputError, match=r"no law is called 'bonded'; there are: dense, .*bounded-floor-interaction"):
        law_named("bonded")


def test_parameters_and_report_come_together() -> None:
    with pytest.raises(ValueError, match="together"):
        Law("x", "", "", "", ("x",), ("a",), SEPARABLE.features, parameters=("a",))


def test_a_law_per_size_has_a_slope_and_an_intercept_for_each() -> None:
    law = per_size([1e9, 1e7, 1e7])
    assert law.coefficients == ("b(1e+07)", "b(1e+09)", "d(1e+07)", "d(1e+09)")
    found = law.log10_loss(np.zeros(0), np.array([-0.1, -0.2, 0.5, 0.4]), {N: np.array([1e7, 1e9]), E: np.array([10.0, 100.0])})
    np.testing.assert_allclose(found, [0.4, 0.0], atol=1e-12)


def test_published_rows_are_found_by_router() -> None:
    row = BOUNDED.published_for("Hash")
    assert row is not None
    assert row.values["E_max"] == 477.741
    assert BOUNDED.published_for("Switch") is None


def test_a_law_says_in_a_line_what_it_is() -> None:
    assert all(len(repr(law)) < 120 for law in LAWS)
