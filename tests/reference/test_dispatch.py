"""Dispatch: who is kept and in which order, the way there and back against one-hot products, and the routed feed-forward around it."""

import itertools
from collections import Counter
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array, Bool, Float, Int

from benchmarks.products import product_flops
from reference.config import ModelConfig, RouterConfig, Size
from reference.dispatch import BlockPlan, block_length, combine, num_blocks, plan_blocks, plan_capacity, to_choices, to_slots
from reference.errors import ConfigError
from reference.routed import RoutedFeedForward
from reference.routers import ROUTERS, Hash, RouterOptions, Routing, SinkhornBase, Switch
from reference.routers.hash import modulo_table

PLAN_CAPACITY = jax.jit(plan_capacity, static_argnums=(1, 2))
PLAN_BLOCKS = jax.jit(plan_blocks, static_argnums=1)
TO_SLOTS, TO_CHOICES, COMBINE = jax.jit(to_slots), jax.jit(to_choices), jax.jit(combine)

Experts = Int[np.ndarray, "tokens k"]

SHAPES = [(8, 4, 1), (7, 3, 2), (2, 6, 1), (5, 1, 1), (6, 4, 4)]
"""Tokens, experts and k: more tokens than experts, fewer, one expert, every expert. Few, since each is compiled."""


@st.composite
def routings(draw: st.DrawFn) -> tuple[Experts, int]:
    """Any distinct experts for each token of one of `SHAPES`, and how many there are."""
    tokens, num_experts, k = draw(st.sampled_from(SHAPES))
    rows = draw(st.lists(st.permutations(range(num_experts)), min_size=tokens, max_size=tokens))
    return np.array([row[:k] for row in rows], np.int32), num_experts


def kept_choices(experts: Experts, capacity: int) -> Bool[np.ndarray, "tokens k"]:
    """Which choices find a place: one after the other, by token and then by choice, while their expert has any."""
    kept, taken = np.zeros(experts.shape, bool), Counter[int]()
    for choice in np.ndindex(*experts.shape):
        expert = int(experts[choice])
        kept[choice] = taken[expert] < capacity
        taken[expert] += 1
    return kept


def rows_of(tokens: int) -> Float[Array, "tokens 1"]:
    """Token i is the number i + 1, so that an empty slot is none."""
    return jnp.arange(1.0, tokens + 1)[:, None]


@settings(max_examples=60, deadline=None)
@given(routing=routings())
def test_where_all_fit_the_way_there_and_back_is_a_permutation(routing: tuple[Experts, int]) -> None:
    experts, num_experts = routing
    tokens, k = experts.shape
    for plan in (PLAN_CAPACITY(experts, num_experts, tokens), PLAN_BLOCKS(experts, num_experts).plan):
        buffer = TO_SLOTS(rows_of(tokens), plan)
        assert Counter(np.asarray(buffer)[:, 0].tolist())[0.0] == buffer.shape[0] - tokens * k
        np.testing.assert_array_equal(TO_CHOICES(buffer, plan)[..., 0], np.tile(rows_of(tokens), k))
        assert np.unique(plan.slot_of_choice).size == tokens * k
        assert jnp.all(plan.kept())


@settings(max_examples=60, deadline=None)
@given(routing=routings(), capacity=st.sampled_from([1, 2, 3]))
def test_an_expert_holds_its_first_tokens_in_order_and_the_rest_are_dropped(routing: tuple[Experts, int], capacity: int) -> None:
    experts, num_experts = routing
    tokens = experts.shape[0]
    plan = PLAN_CAPACITY(experts, num_experts, capacity)
    buffer = np.asarray(TO_SLOTS(rows_of(tokens), plan)).reshape(num_experts, capacity)
    for expert in range(num_experts):
        first = (np.nonzero(np.any(experts == expert, axis=1))[0] + 1)[:capacity]
        np.testing.assert_array_equal(buffer[expert], np.pad(first, (0, capacity - first.size)))
    kept = kept_choices(experts, capacity)
    np.testing.assert_array_equal(TO_CHOICES(jnp.asarray(buffer.reshape(-1, 1)), plan)[..., 0], kept * np.asarray(rows_of(tokens)))
    np.testing.assert_array_equal(plan.kept(), kept)


@settings(max_examples=60, deadline=None)
@given(routing=routings(), capacity=st.sampled_from([1, 2]))
def test_later_tokens_never_push_out_earlier_ones(routing: tuple[Experts, int], capacity: int) -> None:
    # The last token is made to choose as the first does: no other token's slot changes.
    experts, num_experts = routing
    changed = experts.copy()
    changed[-1] = experts[0]
    first, then = (np.asarray(PLAN_CAPACITY(e, num_experts, capacity).slot_of_choice)[:-1] for e in (experts, changed))
    np.testing.assert_array_equal(first, then)


@settings(max_examples=60, deadline=None)
@given(routing=routings())
def test_a_block_holds_tokens_of_its_expert_only_in_order(routing: tuple[Experts, int]) -> None:
    check_blocks(*routing)


@pytest.mark.parametrize(("tokens", "num_experts", "k"), SHAPES)
def test_blocks_drop_nothing_if_all_go_to_the_same_experts(tokens: int, num_experts: int, k: int) -> None:
    for first in range(num_experts - k + 1):
        check_blocks(np.tile(np.arange(first, first + k, dtype=np.int32), (tokens, 1)), num_experts)


def check_blocks(experts: Experts, num_experts: int) -> None:
    """Every choice has a slot in a block of its expert, and an expert's slots are in order of choice."""
    blocks: BlockPlan = PLAN_BLOCKS(experts, num_experts)
    slot = np.asarray(blocks.plan.slot_of_choice).reshape(-1)
    length = block_length(experts.size, num_experts)
    assert slot.max() < num_blocks(experts.size, num_experts) * length == blocks.plan.token_of_slot.size
    np.testing.assert_array_equal(np.asarray(blocks.expert_of_block)[slot // length], experts.reshape(-1))
    for expert in range(num_experts):
        assert np.all(np.diff(slot[experts.reshape(-1) == expert]) > 0)


@pytest.mark.parametrize("num_experts", [1, 2, 3, 5])
@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 9])
def test_there_are_as_many_blocks_as_the_worst_routing_needs_and_no_more(tokens: int, num_experts: int) -> None:
    # Every way to share the tokens out: with k = 1 each of them can happen.
    length = block_length(tokens, num_experts)
    loads = (load for load in itertools.product(range(tokens + 1), repeat=num_experts) if sum(load) == tokens)
    assert num_blocks(tokens, num_experts) == max(sum(-(-load // length) for load in shares) for shares in loads)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("tokens", "num_experts", "k", "capacity"), [(8, 4, 1, 1), (7, 3, 2, 3), (7, 3, 2, 7)])
def test_it_is_the_product_with_one_hot_masks_in_values_and_gradients(tokens: int, num_experts: int, k: int, capacity: int) -> None:
    generator = np.random.default_rng(0)
    experts = np.stack([generator.permutation(num_experts)[:k] for _ in range(tokens)]).astype(np.int32)
    kept = kept_choices(experts, capacity)
    assert kept.all() == (capacity >= tokens)
    x, gates, maps = (jnp.asarray(generator.standard_normal(shape)) for shape in ((tokens, 5), (tokens, k), (num_experts, 5, 5)))

    def _dispatched(x: Array, gates: Array, maps: Array) -> Float[Array, "tokens d_model"]:
        plan = plan_capacity(jnp.asarray(experts), num_experts, capacity)
        buffer = to_slots(x, plan).reshape(num_experts, capacity, 5)
        return combine(jnp.tanh(jnp.einsum("ecd,edf->ecf", buffer, maps)).reshape(-1, 5), gates, plan)

    def _one_hot(x: Array, gates: Array, maps: Array) -> Float[Array, "tokens d_model"]:
        mask = jax.nn.one_hot(experts, num_experts) * kept[..., None]
        return jnp.einsum("tke,tk,tef->tf", mask, gates, jnp.tanh(jnp.einsum("td,edf->tef", x, maps)))

    # float64, sums of at most a hundred numbers of size 1.
    weights = jnp.asarray(generator.standard_normal((tokens, 5)))
    for function in (lambda f: f, lambda f: jax.grad(lambda *args: jnp.sum(f(*args) * weights), argnums=(0, 1, 2))):
        found, expected = (jax.jit(function(f))(x, gates, maps) for f in (_dispatched, _one_hot))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-12), found, expected)


# The routed feed-forward. D = 8, sixteen tokens.

SIZE, CONTEXT, VOCABULARY = Size(8, 1, 1, 8), 16, 32

TECHNIQUES: dict[str, RouterOptions] = {name: options() for name, options in ROUTERS.items()}


def a_layer(config: RouterConfig, size: Size = SIZE) -> RoutedFeedForward:
    """A routed feed-forward, in float64 where that is on."""
    is_hash = isinstance(config.technique, Hash)
    table = jnp.asarray(modulo_table(VOCABULARY, config.num_experts, config.k), jnp.int32) if is_hash else None
    return RoutedFeedForward(ModelConfig(size, config, 1.0), key=jax.random.key(0), hash_table=table)


@cache
def _batch(batch: int, context: int) -> tuple[Float[np.ndarray, "batch context d_model"], Int[np.ndarray, "batch context"]]:
    generator = np.random.default_rng(1)
    return generator.standard_normal((batch, context, SIZE.d_model)), generator.integers(VOCABULARY, size=(batch, context)).astype(np.int32)


def dense(
    layer: RoutedFeedForward, x: Float[Array, "batch context d_model"], ids: Int[Array, "batch context"], kept: Any, inference: bool
) -> Any:
    """Every expert on every token, and of that what the routing chose and kept."""
    routing = jax.vmap(lambda x, ids: layer.router(x, ids, key=None, inference=inference))(x, ids)
    out = jnp.einsum("btef,efd->bted", jax.nn.gelu(jnp.einsum("btd,edf->btef", x, layer.experts.w_in)), layer.experts.w_out)
    mask = jax.nn.one_hot(routing.experts, layer.config.num_experts) * kept[..., None]
    return jnp.einsum("btke,btk,bted->btd", mask, routing.gates, out)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("technique", "k", "inference"),
    [("switch", 1, False), ("switch", 2, False), ("s-base", 2, False), ("switch", 2, True), ("hash", 1, True)],
)
def test_a_routed_feedforward_is_every_expert_on_every_token_masked(technique: str, k: int, inference: bool) -> None:
    # Capacity 0.6 in training, so that even a balanced routing drops; none is dropped in evaluation.
    layer = a_layer(RouterConfig(TECHNIQUES[technique], 4, k, capacity_factor=0.6, sequences_per_group=1))
    x, ids = (jnp.asarray(array) for array in _batch(2, CONTEXT))
    routing: Routing
    y, routing = run(layer, x, ids, inference=inference)
    capacity = layer.config.capacity(CONTEXT, inference=inference) or 2 * CONTEXT
    kept = np.concatenate([kept_choices(np.asarray(experts), capacity) for experts in routing.experts])
    np.testing.assert_allclose(
        routing.metrics["dropped_fraction"], 1 - kept.reshape(*routing.experts.shape).mean(axis=(1, 2)), atol=1e-6
    )  # float32
    assert np.all(kept) == inference
    kept = kept.reshape(2, CONTEXT, k)
    weights = jnp.asarray(np.random.default_rng(2).standard_normal(x.shape))

    def _loss(arrays: tuple[RoutedFeedForward, Any], function: Any) -> Float[Array, ""]:
        return jnp.sum(weights * function(*arrays))

    layer, table = eqx.partition(layer, eqx.is_inexact_array)
    routed = lambda layer, x: eqx.combine(layer, table)(x, ids, inference=inference)[0]  # noqa: E731
    masked = lambda layer, x: dense(eqx.combine(layer, table), x, ids, kept, inference)  # noqa: E731
    # float64; gradients are sums of some hundred numbers of size 1.
    np.testing.assert_allclose(y, masked(layer, x), rtol=0, atol=1e-13)
    found, expected = (jax.jit(jax.grad(partial(_loss, function=function)))((layer, x)) for function in (routed, masked))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-12), found, expected)


def run(layer: RoutedFeedForward, x: Any, ids: Any, *, inference: bool = False) -> tuple[Float[Array, "batch context d_model"], Routing]:
    """The layer, compiled."""
    arrays, static = eqx.partition(layer, eqx.is_array)
    apply = jax.jit(lambda arrays, x, ids: eqx.combine(arrays, static)(x, ids, key=jax.random.key(3), inference=inference))
    return apply(arrays, x, ids)


@pytest.mark.usefixtures("x64")
def test_a_dropped_token_gets_nothing() -> None:
    layer = a_layer(RouterConfig(Switch(), 4, capacity_factor=0.6, sequences_per_group=1))
    x, ids = _batch(2, CONTEXT)
    y, routing = run(layer, x, ids)
    kept = np.stack([kept_choices(np.asarray(experts), 3)[:, 0] for experts in routing.experts])
    np.testing.assert_array_equal(np.any(np.asarray(y), axis=-1), kept)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("technique", ["s-base", "rl-r"])
def test_two_sequences_of_a_group_are_one_of_twice_the_length(technique: str) -> None:
    x, ids = _batch(4, CONTEXT)
    two, one = (a_layer(RouterConfig(TECHNIQUES[technique], 4, sequences_per_group=number)) for number in (2, 1))
    y, routing = run(two, x, ids)
    y_long, routing_long = run(one, x.reshape(2, 2 * CONTEXT, -1), ids.reshape(2, 2 * CONTEXT))
    # The same program but for two reshapes.
    np.testing.assert_array_equal(y.reshape(2, 2 * CONTEXT, -1), y_long)
    np.testing.assert_array_equal(routing.experts, routing_long.experts)
    assert not np.array_equal(routing.experts.reshape(4, CONTEXT, 1), run(one, x, ids)[1].experts)


def test_a_batch_that_does_not_make_whole_groups_is_refused_in_a_line() -> None:
    layer = a_layer(RouterConfig(Switch(), 2, sequences_per_group=2))
    with pytest.raises(ConfigError, match="3 sequences on a device are not divisible by sequences_per_group = 2") as error:
        layer(jnp.zeros((3, 4, 8)), jnp.zeros((3, 4), jnp.int32))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("x64")
def test_in_evaluation_a_sequence_is_the_same_alone_as_in_a_group() -> None:
    layer = a_layer(RouterConfig(SinkhornBase(), 4, sequences_per_group=2))
    x, ids = _batch(2, CONTEXT)
    together, routing = run(layer, x, ids, inference=True)
    alone, of_one = run(layer, x[:1], ids[:1], inference=True)
    # Products over other buffers: rounding of float64.
    np.testing.assert_allclose(alone[0], together[0], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(of_one.experts.ravel(), routing.experts.ravel()[:CONTEXT])


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_routed_feedforward_costs_its_buffers_and_at_most_five_percent_more(technique: str) -> None:
    # 16 D^2 for each of the E*C rows, against all matrix products and against XLA's count of the compiled forward pass. The rest is router,
    # GELU and index arithmetic: a GELU is some ten operations for each of 4D hidden units, 1 % at D = 256; RL-R's products 2 %. XLA counts
    # one of S-BASE's iterations; all are some 20*T*E operations each, 0.1 % in all. One-hot dispatch would add 2*T*E*C*D each way, 12 %.
    d_model, context, experts = 256, 128, 4
    config = RouterConfig(TECHNIQUES[technique], experts, sequences_per_group=1)
    layer = a_layer(config, Size(d_model, 1, 1, 8))
    arguments = jax.ShapeDtypeStruct((2, context, d_model), jnp.float32), jax.ShapeDtypeStruct((2, context), jnp.int32)
    arrays, static = eqx.partition(layer, eqx.is_array)

    def _forward(arrays: Any, x: Any, ids: Any) -> Float[Array, "batch context d_model"]:
        return eqx.combine(arrays, static)(x, ids, key=jax.random.key(0), inference=False)[0]

    rows = 2 * experts * (config.capacity(context, inference=False) or 0)
    buffers = rows * 16 * d_model**2
    assert buffers <= product_flops(_forward, arrays, *arguments) <= 1.05 * buffers
    analysis = jax.jit(_forward).lower(arrays, *arguments).compile().cost_analysis() or {}
    assert buffers <= analysis["flops"] <= 1.05 * buffers
