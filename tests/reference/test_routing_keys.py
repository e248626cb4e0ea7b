"""What is drawn at random in training differs from layer to layer, group to group, step to step and microbatch to microbatch.

The policies are uniform, whatever comes in, so that draws are alike only where their keys are: twelve tokens of 16 experts agree by
chance once in 10^14.
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from reference.config import Size
from reference.transformer import Transformer
from tests.reference.small_models import draw, small, some_tokens
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import init_state, train_step

CONTEXT, EXPERTS = 12, 16
SIZE = Size(8, 2, 1, 4)


def _uniform(**router: Any) -> Transformer:
    """A model with RL-R in each of its two blocks, whose policies are uniform."""
    config = small("rl-r", num_experts=EXPERTS, size=SIZE, context=CONTEXT, routing_frequency=1.0, router=router)
    model = draw(config)

    def _weight(model: Transformer) -> Any:
        layer: Any = model.groups.blocks[0].feedforward
        return layer.router.weight

    return eqx.tree_at(_weight, model, replace_fn=jnp.zeros_like)


def _same_tokens(batch: int, context: int = CONTEXT) -> Int[Array, "batch context"]:
    """The same sequence `batch` times."""
    return jnp.tile(some_tokens(1, context), (batch, 1))


def _all_differ(draws: Any) -> bool:
    """Whether no two of the draws, along the first axis, are alike."""
    return all(np.any(one != other) for one, other in itertools.combinations(np.asarray(draws), 2))


@pytest.fixture(scope="module")
def chosen() -> Int[np.ndarray, "keys layers groups tokens 1"]:
    """By two keys, of three equal sequences."""
    model = _uniform()
    run = eqx.filter_jit(lambda key: model(_same_tokens(3), key=key, inference=False)[1])
    routings: list[Any] = [run(jax.random.key(seed)) for seed in (0, 1)]
    return np.stack([routing.experts for routing in routings])


def test_draws_differ_between_layers(chosen: Int[np.ndarray, "keys layers groups tokens 1"]) -> None:
    assert _all_differ(chosen[0, :, 0])


def test_draws_differ_between_groups(chosen: Int[np.ndarray, "keys layers groups tokens 1"]) -> None:
    assert _all_differ(chosen[0, 0])


def test_draws_of_every_key_layer_and_group_differ(chosen: Int[np.ndarray, "keys layers groups tokens 1"]) -> None:
    assert _all_differ(chosen.reshape(2 * 2 * 3, CONTEXT))


@pytest.fixture(scope="module")
def step() -> Any:
    """A state, and a step from it."""
    optimizer = make_optimizer(OptimizerConfig())
    run = jax.jit(lambda state, tokens: train_step(state, tokens, jax.random.key(5), optimizer))
    return init_state(_uniform(), optimizer), run


def test_draws_differ_between_steps(step: Any) -> None:
    state, run = step
    tokens = _same_tokens(1, CONTEXT + 1)
    loads = [run(eqx.tree_at(lambda s: s.step, state, jnp.int32(number)), tokens)[1].load for number in (0, 1, 2, 0)]
    # Nothing but the number of the step is another.
    assert _all_differ(loads[:3])
    np.testing.assert_array_equal(loads[3], loads[0])


def test_draws_differ_between_microbatches(step: Any) -> None:
    state, run = step
    _, report = run(state, jnp.stack([_same_tokens(1, CONTEXT + 1)] * 2))
    counts = np.rint(np.asarray(report.load) * 2 * CONTEXT)
    np.testing.assert_array_equal(counts.sum(axis=1), [2 * CONTEXT] * 2)
    # Two equal draws of 12 tokens would give every expert an even number: by chance once in 2^15 in each of two layers.
    assert np.all(np.any(counts % 2 == 1, axis=1))


def test_random_drops_differ_between_layers_groups_and_keys() -> None:
    # One token throughout: HASH sends all to one expert, which takes three of twelve.
    router = {"capacity_factor": 1.0, "drop_order": "random"}
    model = draw(small("hash", num_experts=4, size=SIZE, context=CONTEXT, routing_frequency=1.0, router=router))
    tokens = jnp.full((3, CONTEXT), 5, jnp.int32)
    run = eqx.filter_jit(lambda key: model(tokens, key=key, inference=False)[1])
    routings: list[Any] = [run(jax.random.key(seed)) for seed in (0, 1)]
    kept = np.stack([routing.kept for routing in routings])[..., 0]
    np.testing.assert_array_equal(kept.sum(axis=-1), np.full((2, 2, 3), 3))
    # Two of 220 ways to choose three of twelve are alike by chance: of the 66 pairs here some may be, not all of a layer's or a key's.
    layer, group, key = kept.reshape(2, -1), np.moveaxis(kept, 2, 0).reshape(3, -1), np.moveaxis(kept, 1, 0).reshape(2, -1)
    for of in (layer, group, key):
        assert _all_differ(of)


def test_experts_are_not_drawn_by_the_keys_that_drop() -> None:
    # With random drops RL-R draws what it draws without them.
    by_order = [
        eqx.filter_jit(lambda model: model(_same_tokens(2), key=jax.random.key(0), inference=False)[1].experts)(_uniform(drop_order=order))
        for order in ("position", "random")
    ]
    np.testing.assert_array_equal(*by_order)
