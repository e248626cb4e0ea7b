"""S-BASE: the plan against ott-jax, the assignment against SciPy's, and balance where logits are hard."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import Array, Float
from scipy.optimize import linear_sum_assignment

from reference.routers import SinkhornBase, sinkhorn_base
from reference.routers.sinkhorn_base import SinkhornBaseRouter, balanced_top_k, marginal_error, rounding, sinkhorn
from tests.reference.routers.router_cases import ROUTE, a_router, load_of, passing_through, some_ids, some_logits

Logits = Float[np.ndarray, "tokens experts"]

SINKHORN = jax.jit(sinkhorn, static_argnums=1)
TOP = jax.jit(balanced_top_k, static_argnums=1)


def log_plan_of(logits: Logits, iterations: int) -> Logits:
    """In float64."""
    with jax.enable_x64(True):
        return np.asarray(SINKHORN(jnp.asarray(logits), iterations))


@pytest.mark.filterwarnings("ignore:JAXopt:DeprecationWarning")  # ott imports it
@pytest.mark.parametrize(("tokens", "experts", "scale"), [(13, 4, 1.0), (3, 8, 3.0)])
def test_the_plan_is_that_of_ott(tokens: int, experts: int, scale: float) -> None:
    # Both stop changing long before 1,000 iterations; what is left is rounding of entries below 1.
    logits = some_logits(tokens, experts, scale)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.exp(log_plan_of(logits, 1000)), ott_plan(logits), rtol=0, atol=1e-10)


def ott_plan(logits: Logits) -> Logits:
    """ott-jax's plan for the cost -logits, with uniform marginals and the entropy's weight 1."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solver: Any = Sinkhorn(threshold=1e-14, max_iterations=2000)
    return np.asarray(solver(LinearProblem(Geometry(cost_matrix=-jnp.asarray(logits), epsilon=1.0))).matrix)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_the_plan_is_worth_what_the_best_assignment_is_but_for_entropy(scale: float) -> None:
    # The plan maximises value + entropy: its value is short of the best one by at most the entropy it has more, log E of a token's.
    # It is converged: 20,000 iterations, whose error in the row sums times the largest logit is far below 1e-6.
    logits, tokens, experts = some_logits(12, 3, scale), 12, 3
    token, slot = linear_sum_assignment(-np.repeat(logits, tokens // experts, axis=1))
    best = logits[token, slot // (tokens // experts)].mean()
    value = float(np.sum(np.exp(log_plan_of(logits, 20_000)) * logits))
    assert best - np.log(experts) <= value <= best + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_of_large_logits_the_plan_is_the_best_balanced_assignment(seed: int) -> None:
    # At scale 1,000 the second best of 12 x 3 is worth a few units less a token: more than log 3, all that entropy can outweigh.
    logits = some_logits(12, 3, 1000.0, seed)
    _, slot = linear_sum_assignment(-np.repeat(logits, 4, axis=1))
    np.testing.assert_array_equal(log_plan_of(logits, 20_000).argmax(axis=1), slot // 4)


@pytest.mark.parametrize("iterations", [2, 10, 11])
def test_columns_are_balanced_after_any_number_of_iterations(iterations: int) -> None:
    # The last half-step of the last iteration, at temperature 1, makes them so: sums of 16 numbers are left to round.
    plan = np.exp(log_plan_of(some_logits(16, 4, 20.0), iterations))
    np.testing.assert_allclose(plan.sum(axis=0), np.full(4, 1 / 4), rtol=1e-13)


@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1e-6), (4.0, 1e-2), (1000.0, 0.5)])
def test_ten_iterations_bring_rows_near_their_marginals(scale: float, bound: float) -> None:
    # Of the mass 1. Measured 1.2e-7, 3.5e-3 and 0.10 (docs/routers.md has more); with all mass in wrong rows it would be 2.
    error = float(marginal_error(jnp.asarray(log_plan_of(some_logits(256, 16, scale), SinkhornBase().iterations))))
    assert error < bound


@pytest.mark.usefixtures("x64")
def test_the_marginal_error_is_the_mass_that_rows_have_too_much_or_too_little() -> None:
    log_plan = some_logits(6, 3)
    expected = sum(abs(np.exp(row).sum() - 1 / 6) for row in log_plan)
    np.testing.assert_allclose(float(marginal_error(jnp.asarray(log_plan))), expected, rtol=1e-14)


@pytest.mark.parametrize(("tokens", "experts"), [(5, 12), (16, 16)])
def test_an_expert_that_no_token_comes_near_leaves_the_plan_finite(tokens: int, experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # After two iterations at large logits all exponentials of a column can be 0 in float32; its logarithm must not be infinite.
    logits = np.stack([some_logits(tokens, experts, scale, seed) for scale in (100.0, 1000.0) for seed in range(20)])
    plans = jax.vmap(lambda one: sinkhorn(one, 2))
    assert np.all(np.isfinite(plans(jnp.asarray(logits, jnp.float32))))
    # These cases need the floor under a column: without it some are not.
    without = vars(jnp) | {"finfo": lambda dtype: SimpleNamespace(tiny=0.0)}
    monkeypatch.setattr(sinkhorn_base, "jnp", SimpleNamespace(**without))
    assert not np.all(np.isfinite(plans(jnp.asarray(logits, jnp.float32))))


SHIFT = st.floats(-50, 50)
SMALL = arrays(np.float64, (6, 4), elements=st.floats(-2, 2))
# Logits within 4 of each other: an iteration shrinks the distance to the fixed point (in Hilbert's metric) by tanh(2)^2 = 0.93 at
# least, 400 of them at temperature 1 by 1e-13. A shift of 50 costs 50 * 2^-53 in rounding, some thousand times less than 1e-10.


@settings(max_examples=40)
@given(logits=SMALL, shifts=arrays(np.float64, 6, elements=SHIFT))
def test_a_constant_added_to_a_tokens_logits_leaves_the_plan_as_it_is(logits: Logits, shifts: Float[np.ndarray, "tokens"]) -> None:
    one, other = log_plan_of(logits, 800), log_plan_of(logits + shifts[:, None], 800)
    np.testing.assert_allclose(np.exp(other), np.exp(one), rtol=0, atol=1e-10)


@settings(max_examples=40)
@given(logits=SMALL, shifts=arrays(np.float64, 4, elements=SHIFT))
def test_a_constant_added_to_an_experts_logits_leaves_the_plan_as_it_is(logits: Logits, shifts: Float[np.ndarray, "experts"]) -> None:
    one, other = log_plan_of(logits, 800), log_plan_of(logits + shifts, 800)
    np.testing.assert_allclose(np.exp(other), np.exp(one), rtol=0, atol=1e-10)


HARD: dict[str, Callable[[int, int], Logits]] = {
    "scale 1": lambda tokens, experts: some_logits(tokens, experts),
    "scale 50": lambda tokens, experts: some_logits(tokens, experts, 50.0),
    "scale 1000": lambda tokens, experts: some_logits(tokens, experts, 1000.0),
    "all equal": lambda tokens, experts: np.full((tokens, experts), 0.1),
    "equal rows": lambda tokens, experts: np.tile(some_logits(1, experts, 3.0), (tokens, 1)),
    "equal large rows": lambda tokens, experts: np.tile(some_logits(1, experts, 1000.0), (tokens, 1)),
    "one dominant expert": lambda tokens, experts: some_logits(tokens, experts) + 1000.0 * (np.arange(experts) == 0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("tokens", "experts"), [(64, 8), (64, 64), (61, 8), (3, 8), (7, 1)])
def test_hard_logits_are_finite_and_balanced(tokens: int, experts: int, dtype: str) -> None:
    # Not a theorem: the plan is exactly balanced, its largest entries are nearly. At most twice an expert's share, rounded up, and two
    # more for random few; the fullest expert would have 64 of 64 with rounding gone wrong, and has where one expert dominates greedily.
    with jax.enable_x64(dtype == "float64"):
        router = passing_through(a_router("s-base", experts, experts))
        for name, make in HARD.items():
            routing = ROUTE(router, jnp.asarray(make(tokens, experts), dtype), some_ids(tokens), inference=False)
            assert np.all(np.isfinite(routing.gates)), name
            assert np.isfinite(routing.metrics["marginal_error"]), name
            fullest = load_of(routing.experts, experts).max() * tokens
            bound = -(-tokens // experts) if "equal" in name else 2 * -(-tokens // experts) + 2
            assert fullest <= bound, (name, fullest)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [2, 4])
def test_k_experts_are_distinct_largest_first_and_balanced(k: int) -> None:
    tokens, experts = 64, 8
    logits = jnp.asarray(some_logits(tokens, experts) + 2.0 * (np.arange(experts) < k))
    routing = ROUTE(passing_through(a_router("s-base", experts, experts, k)), logits, some_ids(tokens), inference=False)
    expected = np.argsort(-log_plan_of(np.asarray(logits), SinkhornBase().iterations), axis=1)[:, :k]
    np.testing.assert_array_equal(routing.experts, expected)
    greedy = jax.lax.top_k(logits, k)[1]
    assert (
        load_of(routing.experts, experts).max() * experts < 1.4 < load_of(greedy, experts).max() * experts
    )  # measured 1.25 and 1.16; 3.4 and 1.9
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(routing.gates, np.take_along_axis(p, expected, axis=1), rtol=1e-14)


def test_ties_are_broken_in_turn() -> None:
    chosen = TOP(jnp.zeros((6, 4)), 2, jnp.asarray(0.0))
    np.testing.assert_array_equal(chosen, [[0, 1], [1, 2], [2, 3], [3, 0], [0, 1], [1, 2]])


def test_only_entries_within_the_tolerance_are_ties() -> None:
    # Token 0 starts at expert 0, token 1 at 1, token 2 at 2: each takes the first that is within 0.1 of the largest.
    log_plan = jnp.asarray([[0.0, 0.95, 1.0], [0.0, 0.95, 1.0], [0.95, 0.0, 0.8]])
    np.testing.assert_array_equal(TOP(log_plan, 1, jnp.asarray(0.1))[:, 0], [1, 1, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_less_than_what_counts_as_a_tie_and_that_is_little(dtype: str) -> None:
    # Equal rows have equal entries in the plan; what they come out with differs by rounding only.
    with jax.enable_x64(dtype == "float64"):
        for scale in (1.0, 50.0, 1000.0):
            logits = jnp.asarray(np.tile(some_logits(1, 64, scale), (512, 1)), dtype)
            log_plan = np.asarray(SINKHORN(logits, 10))
            tolerance = float(rounding(logits))
            assert np.ptp(log_plan) < tolerance < 100 * float(jnp.finfo(dtype).eps) * max(1.0, float(jnp.ptp(logits)))


@pytest.mark.usefixtures("x64")
def test_the_gradient_is_that_of_the_gates_with_the_experts_held() -> None:
    router: Any = a_router("s-base", 5, 4, k=2)
    x, direction = jnp.asarray(some_logits(12, 5)), jnp.asarray(some_logits(12, 2, seed=1))
    experts = ROUTE(router, x, some_ids(12), inference=False).experts

    def _routed(weight: Float[Array, "d_model experts"], x: Float[Array, "tokens d_model"]) -> Float[Array, ""]:
        routing = eqx.tree_at(lambda router: router.weight, router, weight)(x, some_ids(12), key=None, inference=False)
        return jnp.sum(routing.gates * direction) + sum(routing.metrics.values()) + jnp.sum(routing.load)

    def _held(weight: Float[Array, "d_model experts"], x: Float[Array, "tokens d_model"]) -> Float[Array, ""]:
        return jnp.sum(jnp.take_along_axis(jax.nn.softmax(x @ weight), experts, axis=1) * direction)

    weight = router.weight
    found, expected = (jax.jit(jax.grad(function, (0, 1)))(weight, x) for function in (_routed, _held))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)  # numbers of size 1, sums of 12
        assert np.abs(other).max() > 0.01


def test_logits_start_with_the_standard_deviation_asked_for() -> None:
    key = jax.random.key(0)
    plain, wide = (SinkhornBaseRouter(64, 8, 1, SinkhornBase(init_scale=scale), key=key).weight for scale in (1.0, 4.0))
    np.testing.assert_allclose(wide, 4 * plain, rtol=1e-6)  # float32
    # Of inputs of variance 1, as the norm makes them, over 64 dimensions; 512 weights: 4 standard errors.
    assert np.std(plain) * 8 == pytest.approx(1, abs=4 / np.sqrt(2 * 512))


def test_training_lets_a_token_see_later_ones_and_evaluation_does_not() -> None:
    # The last token wants what the first wants, and more: the plan sends the first elsewhere.
    router = passing_through(a_router("s-base", 2, 2))
    alone, crowded = jnp.asarray([[1.0, 0.0], [0.0, 1.0]]), jnp.asarray([[1.0, 0.0], [9.0, 0.0]])
    first = {
        inference: [int(ROUTE(router, x, some_ids(2), inference=inference).experts[0, 0]) for x in (alone, crowded)]
        for inference in (False, True)
    }
    assert first == {False: [0, 1], True: [0, 0]}
