"""Loss-free balancing: choices and gates by the formulas, how the bias moves, and that it evens out the load."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from reference.routers import LossFree
from reference.routers.loss_free import ExpertBias
from tests.reference.routers.router_cases import ROUTE, a_router, load_of, passing_through, some_ids, some_logits

TOKENS, EXPERTS = 24, 6


def with_bias(router: Any, bias: Any) -> Any:
    """The router with another bias."""
    return eqx.tree_at(lambda router: router.bias.value, router, jnp.asarray(bias, router.bias.value.dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("inference", [False, True])
def test_choices_are_by_score_and_bias_and_gates_by_score_alone(k: int, inference: bool) -> None:
    bias, x = 0.3 * some_logits(1, EXPERTS, seed=3)[0], some_logits(TOKENS, 8)
    router = with_bias(a_router("loss-free", 8, EXPERTS, k), bias)
    routing = ROUTE(router, jnp.asarray(x), some_ids(TOKENS), inference=inference)
    scores = expit(x @ np.asarray(router.weight))
    experts = np.argsort(-(scores + bias), axis=1)[:, :k]
    np.testing.assert_array_equal(routing.experts, experts)
    assert np.any(experts != np.argsort(-scores, axis=1)[:, :k])
    # float64: sums of eight numbers.
    np.testing.assert_allclose(routing.gates, np.take_along_axis(scores, experts, axis=1), rtol=1e-12)
    assert routing.losses == {}
    assert routing.policy is None


def test_a_bias_moves_by_its_speed_towards_the_mean_load() -> None:
    # Of 8 choices, two layers: more than a quarter goes down, less goes up, a quarter exactly stays.
    load = jnp.array([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]])
    moved = ExpertBias(jnp.array([[0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3]]), 0.05).moved(load)
    np.testing.assert_allclose(moved.value, [[-0.05, 0.1, 0.25, 0.35], [0.0, 0.1, 0.2, 0.3]], rtol=1e-6, atol=1e-9)
    assert moved.speed == 0.05


def test_how_uneven_a_load_is_does_not_change_how_far_a_bias_moves() -> None:
    for off in (1e-3, 0.2):
        moved = ExpertBias(jnp.zeros(2), LossFree().speed).moved(jnp.array([0.5 + off, 0.5 - off]))
        np.testing.assert_allclose(moved.value, [-1e-3, 1e-3], rtol=1e-6)


def test_in_200_moves_the_bias_evens_out_a_skewed_load() -> None:
    # Logits that favour expert after expert by half a standard deviation. Scores are within 1, so that 200 moves of 0.01 could turn any
    # order around. A move by the sign goes on past the balance, by 0.01 an expert: of scores whose density is about 2, some 2 % of them.
    skewed = some_logits(2048, EXPERTS) + 0.5 * np.arange(EXPERTS)
    x, ids = jnp.asarray(skewed, jnp.float32), some_ids(2048)
    router: Any = passing_through(a_router("loss-free", EXPERTS, EXPERTS, options=LossFree(speed=0.01)))
    uneven: list[float] = []
    for _ in range(200):
        load = load_of(ROUTE(router, x, ids, inference=False).experts, EXPERTS)
        uneven.append(EXPERTS * load.max())
        router = eqx.tree_at(lambda router: router.bias, router, router.bias.moved(jnp.asarray(load, jnp.float32)))
    assert uneven[0] > 2
    assert max(uneven[-20:]) < 1.15
    # Without the moves nothing is changed: the same tokens go to the same experts.
    fresh = with_bias(router, jnp.zeros(EXPERTS))
    assert EXPERTS * load_of(ROUTE(fresh, x, ids, inference=False).experts, EXPERTS).max() == uneven[0]
    # The gates are still the scores.
    chosen = ROUTE(router, x, ids, inference=False)
    scores = jax.nn.sigmoid(x)
    np.testing.assert_allclose(chosen.gates, np.take_along_axis(np.asarray(scores), np.asarray(chosen.experts), axis=1), rtol=1e-6)
