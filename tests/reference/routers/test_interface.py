"""What holds for every router."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

from reference.config import ModelConfig, RouterConfig, Size
from reference.errors import ConfigError
from reference.feedforward import FeedForward
from reference.routed import RoutedFeedForward
from reference.routers import Hash, Routing
from reference.routers.hash import modulo_table
from reference.routers.interface import RouterShape
from tests.reference.routers.router_cases import ROUTE, TECHNIQUES, VOCABULARY, a_router, load_of, some_ids, some_logits

TOKENS, D_MODEL, EXPERTS = 16, 8, 4
KEY = jax.random.key(1)

every_router = pytest.mark.parametrize("name", list(TECHNIQUES))
both_ways = pytest.mark.parametrize("inference", [False, True], ids=["training", "evaluation"])


def some_x(dtype: Any = jnp.float32, seed: int = 0) -> Float[Array, "tokens d_model"]:
    return jnp.asarray(some_logits(TOKENS, D_MODEL, seed=seed), dtype)


def route(name: str, x: Float[Array, "tokens d_model"], *, inference: bool, ids: Int[Array, "tokens"] | None = None, k: int = 1) -> Routing:
    """`x` through the router called `name`."""
    return ROUTE(a_router(name, D_MODEL, EXPERTS, k), x, some_ids(TOKENS) if ids is None else ids, inference=inference, key=KEY)


@both_ways
@every_router
def test_load_and_its_metrics_are_counted_from_the_choices(name: str, inference: bool) -> None:
    routing = route(name, some_x(), inference=inference)
    load = load_of(routing.experts, EXPERTS)
    np.testing.assert_allclose(routing.load, load, rtol=1e-6)  # float32
    np.testing.assert_allclose(routing.metrics["load_max_over_mean"], load.max() * EXPERTS, rtol=1e-6)
    assert 0 <= routing.metrics["entropy"] <= np.log(EXPERTS) + 1e-6


@both_ways
@every_router
def test_every_metric_and_loss_is_in_the_routers_page(name: str, inference: bool) -> None:
    page = (Path(__file__).parents[3] / "docs" / "routers.md").read_text()
    routing = route(name, some_x(), inference=inference)
    plan = {"marginal_error"} if name == "s-base" and not inference else set[str]()
    assert routing.metrics.keys() == {"load_max_over_mean", "entropy"} | plan
    assert [key for key in (*routing.metrics, *routing.losses) if f"`{key}`" not in page] == []


@both_ways
@every_router
def test_routing_is_float32_where_activations_are_bfloat16(name: str, inference: bool) -> None:
    routing = route(name, some_x(jnp.bfloat16), inference=inference)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(eqx.filter(routing, eqx.is_inexact_array))} == {"float32"}
    rounded = route(name, some_x(jnp.bfloat16).astype(jnp.float32), inference=inference)
    np.testing.assert_array_equal(routing.experts, rounded.experts)  # nothing but the input was rounded


@pytest.mark.usefixtures("x64")
@both_ways
@every_router
def test_groups_mapped_over_are_as_one_by_one(name: str, inference: bool) -> None:
    router = a_router(name, D_MODEL, EXPERTS)
    x, ids, keys = jnp.stack([some_x(jnp.float64, 0), some_x(jnp.float64, 1)]), some_ids(2, TOKENS), jax.random.split(KEY)
    map_over = jax.vmap(lambda x, ids, key: router(x, ids, key=key, inference=inference))
    mapped = jax.jit(map_over)(x, ids, keys)
    for g in range(2):
        one = ROUTE(router, x[g], ids[g], inference=inference, key=keys[g])
        for found, expected in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(found[g], expected, rtol=1e-12, atol=1e-15)  # rounding; experts are whole numbers


@every_router
def test_in_evaluation_a_tokens_experts_do_not_depend_on_other_tokens(name: str) -> None:
    router, x, ids = a_router(name, D_MODEL, EXPERTS), some_x(), some_ids(TOKENS)
    together = ROUTE(router, x, ids, inference=True)
    alone = jax.jit(jax.vmap(lambda x, ids: router(x[None], ids[None], key=None, inference=True)))(x, ids)
    np.testing.assert_array_equal(together.experts, alone.experts[:, 0])
    np.testing.assert_allclose(together.gates, alone.gates[:, 0], rtol=1e-6)  # float32, sums of 8 in another order


@every_router
def test_in_training_s_base_alone_lets_later_tokens_move_earlier_ones(name: str) -> None:
    # The second half of the tokens is replaced; all of it wants the same expert, which the plan then takes from the first half.
    x, ids = some_x(), some_ids(TOKENS)
    half = TOKENS // 2
    first = route(name, x, ids=ids, inference=False)
    then = route(name, x.at[half:].set(x[0] * 3), ids=ids.at[half:].set(ids[0]), inference=False)
    moved = np.any(np.asarray(first.experts[:half] != then.experts[:half]))
    assert moved == (name == "s-base")


@both_ways
@pytest.mark.parametrize("inputs", ["one token", "all tokens"])
@every_router
def test_inputs_that_are_not_numbers_leave_experts_in_range(name: str, inputs: str, inference: bool) -> None:
    x = some_x().at[3].set(jnp.nan) if inputs == "one token" else some_x() * jnp.nan
    experts = np.asarray(route(name, x, inference=inference).experts)
    assert experts.shape == (TOKENS, 1)
    assert np.all((experts >= 0) & (experts < EXPERTS))


@pytest.mark.parametrize("name", [name for name, options in TECHNIQUES.items() if options.max_k is None])
@both_ways
def test_the_k_experts_of_a_token_are_distinct(name: str, inference: bool) -> None:
    for x in (some_x(), some_x() * 0, some_x() * 1e4):
        experts = np.sort(np.asarray(route(name, x, k=3, inference=inference).experts), axis=1)
        assert np.all(np.diff(experts, axis=1) > 0)


@pytest.mark.usefixtures("x64")
@both_ways
@pytest.mark.parametrize("name", [name for name in TECHNIQUES if name != "loss-free"])
def test_with_one_expert_it_is_the_dense_feedforward(name: str, inference: bool) -> None:
    size, dense = Size(D_MODEL, 1, 1, 8), FeedForward(Size(D_MODEL, 1, 1, 8), 4 * D_MODEL, key=jax.random.key(2))
    table = jnp.asarray(modulo_table(VOCABULARY, 1, 1), jnp.int32) if name == "hash" else None
    routed = RoutedFeedForward(ModelConfig(size, RouterConfig(TECHNIQUES[name], 1), 1.0), key=jax.random.key(0), hash_table=table)
    routed = eqx.tree_at(lambda layer: (layer.experts.w_in, layer.experts.w_out), routed, (dense.w_in[None], dense.w_out[None]))
    x, ids = jnp.stack([some_x(jnp.float64, 0), some_x(jnp.float64, 1)]), some_ids(2, TOKENS)

    def _routed(routed: RoutedFeedForward, x: Float[Array, "batch context d_model"]) -> tuple[Float[Array, "batch context d_model"], Any]:
        return routed(x, ids, key=KEY, inference=inference)

    y, routing = jax.jit(_routed)(routed, x)
    # The gate is exactly 1 and nothing is dropped; products of the same numbers may be summed in another order.
    np.testing.assert_array_equal(routing.gates, np.ones_like(routing.gates))
    np.testing.assert_array_equal(routing.metrics["dropped_fraction"], np.zeros(1))
    np.testing.assert_allclose(y, dense(x), rtol=0, atol=1e-14)


def test_hash_without_a_table_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match="given no table") as error:
        Hash().build(RouterShape(8, 2, 1), KEY, None)
    assert "\n" not in str(error.value)
