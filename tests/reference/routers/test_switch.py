"""Switch: choices, gates and losses by the formulas, and which way its losses push."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from reference.routers import Switch
from tests.reference.routers.router_cases import ROUTE, a_router, load_of, passing_through, some_ids, some_logits

TOKENS, EXPERTS = 24, 6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("inference", [False, True])
def test_choices_gates_and_losses_are_those_of_the_formulas(k: int, inference: bool) -> None:
    router: Any = a_router("switch", 8, EXPERTS, k, Switch(balance_weight=0.3, z_weight=0.7))
    x = some_logits(TOKENS, 8)
    routing = ROUTE(router, jnp.asarray(x), some_ids(TOKENS), inference=inference)
    logits = x @ np.asarray(router.weight)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    experts = np.argsort(-p, axis=1)[:, :k]
    np.testing.assert_array_equal(routing.experts, experts)
    # float64 all through: sums of at most 100 numbers.
    np.testing.assert_allclose(routing.gates, np.take_along_axis(p, experts, axis=1), rtol=1e-12)
    load = np.bincount(experts.reshape(-1), minlength=EXPERTS) / (TOKENS * k)
    np.testing.assert_allclose(routing.losses["balance"], 0.3 * EXPERTS * np.sum(load * p.mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(routing.losses["z"], 0.7 * np.mean(np.log(np.exp(logits).sum(axis=1)) ** 2), rtol=1e-12)
    np.testing.assert_allclose(routing.metrics["entropy"], -np.mean(np.sum(p * np.log(p), axis=1)), rtol=1e-12)


def test_equal_logits_go_to_the_first_experts() -> None:
    routing = ROUTE(passing_through(a_router("switch", EXPERTS, EXPERTS, 2)), jnp.zeros((4, EXPERTS)), some_ids(4), inference=False)
    np.testing.assert_array_equal(routing.experts, np.tile([0, 1], (4, 1)))


def test_balance_is_one_when_balanced_and_e_when_one_expert_takes_all() -> None:
    router = passing_through(a_router("switch", EXPERTS, EXPERTS, options=Switch(balance_weight=1.0)))
    near = 1e-6 * jnp.eye(EXPERTS)  # every token its own expert, at probabilities that are all but uniform
    collapsed = jnp.zeros((EXPERTS, EXPERTS)).at[:, 0].set(50.0)
    for x, expected in ((near, 1), (collapsed, EXPERTS)):
        loss = ROUTE(router, x, some_ids(EXPERTS), inference=False).losses["balance"]
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def a_step(term: str, rate: float) -> tuple[Any, Any, Float[Array, "tokens d_model"]]:
    """A router, and itself after a step down one of its terms; tokens of which most go to one expert."""
    router: Any = a_router("switch", 8, EXPERTS, options=Switch(balance_weight=1.0, z_weight=1.0))
    x = jnp.asarray(some_logits(TOKENS, 8) + 1.0, jnp.float32)

    def _loss(router: Any) -> Float[Array, ""]:
        return router(x, some_ids(TOKENS), key=None, inference=False).losses[term]

    gradient = jax.jit(jax.grad(_loss))(router)
    return router, jax.tree.map(lambda w, g: w - rate * g, router, gradient), x


def test_a_step_down_the_balancing_loss_makes_the_fullest_expert_less_probable() -> None:
    before, after, x = a_step("balance", 0.1)
    fullest = int(load_of(ROUTE(before, x, some_ids(TOKENS), inference=False).experts, EXPERTS).argmax())
    first, then = (jnp.mean(jax.nn.softmax(x @ router.weight)[:, fullest]) for router in (before, after))
    assert then < first - 1e-3


def test_a_step_down_the_z_loss_makes_logits_smaller() -> None:
    before, after, x = a_step("z", 0.05)
    first, then = (jnp.mean(jnp.abs(jax.nn.logsumexp(x @ router.weight, axis=1))) for router in (before, after))
    assert then < first - 1e-2
