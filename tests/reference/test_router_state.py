"""The state of a router, which moves by the load: it is no weight, it moves once a step, and a checkpoint holds it."""

from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Int, PyTree

from reference.config import Size
from reference.objective import objective
from reference.transformer import partition_weights
from tests.reference.small_models import draw, small, some_tokens
from training.checkpoint import Checkpoints
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import TrainState, init_state, train_step

CONTEXT, EXPERTS, SPEED = 12, 4, 1e-3
OPTIMIZER = make_optimizer(OptimizerConfig(warmup_steps=1, steps=10))


@pytest.fixture(scope="module")
def state() -> TrainState:
    """Before the first step, with biases that are not zero."""
    size = Size(8, 2, 1, 4)
    return init_state(draw(small("loss-free", num_experts=EXPERTS, k=2, size=size, context=CONTEXT, routing_frequency=1.0)), OPTIMIZER)


def _bias(model: Any) -> Float[Array, "layers experts"]:
    """Of all layers."""
    return model.groups.blocks[-1].feedforward.router.bias.value


def _names(tree: PyTree) -> set[str]:
    """Paths of all arrays."""
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


_STEP = jax.jit(partial(train_step, optimizer=OPTIMIZER))


def _step(state: TrainState, tokens: Int[Array, "*parts batch context_and_one"]) -> Any:
    return _STEP(state, tokens, jax.random.key(0))


def test_a_state_is_no_weight_and_has_no_moments(state: TrainState) -> None:
    weights, fixed = partition_weights(state.model)
    assert not [name for name in _names(weights) if "bias" in name]
    assert [name for name in _names(fixed) if "bias" in name]
    assert not [name for name in _names(state.optimizer_state) if "bias" in name]
    # Two moments for each of the other arrays.
    arrays = [leaf for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in arrays) == sorted(leaf.shape for leaf in jax.tree.leaves(weights) for _ in range(2))
    # Taken apart and put together it is the model.
    jax.tree.map(np.testing.assert_array_equal, eqx.combine(weights, fixed), state.model)


def test_every_other_number_of_a_model_is_a_weight(state: TrainState) -> None:
    weights, fixed = partition_weights(state.model)
    inexact = _names(eqx.filter(state.model, eqx.is_inexact_array))
    assert _names(weights) == inexact - _names(fixed)
    assert len(_names(fixed)) == 1


def test_the_gradients_norm_is_that_of_the_weights(state: TrainState) -> None:
    tokens = some_tokens(4, CONTEXT + 1)
    _, report = _step(state, tokens)
    weights, fixed = partition_weights(state.model)
    gradient = jax.jit(jax.grad(lambda weights: objective(eqx.combine(weights, fixed), tokens)[0]))(weights)
    # One float32 sum of squares, fused otherwise.
    assert float(report.gradient_norm) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)


def _expected(state: TrainState, load: Float[Array, "layers experts"]) -> Float[np.ndarray, "layers experts"]:
    """Up where the load of an expert is below a quarter, down where it is above."""
    counts = np.rint(np.asarray(load, np.float64) * 1e6) / 1e6
    return np.asarray(_bias(state.model)) + SPEED * np.sign(1 / EXPERTS - counts)


def test_a_step_moves_the_bias_by_the_sign_of_the_batchs_load(state: TrainState) -> None:
    after, report = _step(state, some_tokens(4, CONTEXT + 1))
    assert np.any(report.load != 1 / EXPERTS)
    # One float32 sum of numbers below 1: AdamW, its decay and its rate have no part in it.
    np.testing.assert_allclose(_bias(after.model), _expected(state, report.load), rtol=0, atol=1e-7)


def test_with_microbatches_it_moves_once_by_the_load_of_all(state: TrainState) -> None:
    parts = some_tokens(4, CONTEXT + 1).reshape(4, 1, CONTEXT + 1)
    after, report = _step(state, parts)
    np.testing.assert_allclose(_bias(after.model), _expected(state, report.load), rtol=0, atol=1e-7)
    whole, _ = _step(state, parts.reshape(4, CONTEXT + 1))
    np.testing.assert_array_equal(_bias(after.model), _bias(whole.model))
    # The load of one part alone moves some bias the other way. Four times the same sequence have its load.
    alone, _ = _step(state, jnp.tile(parts[0], (4, 1)))
    assert np.any(_bias(alone.model) != _bias(whole.model))


def test_a_state_survives_a_checkpoint(state: TrainState, tmp_path: Path) -> None:
    after, _ = _step(state, some_tokens(4, CONTEXT + 1))
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, after, {"next_index": 1})
        checkpoints.wait()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if eqx.is_array(x) else x, after)
        restored = checkpoints.restore(like, lambda step: None, print)
    assert restored is not None
    found = restored[0]
    np.testing.assert_array_equal(_bias(found.model), _bias(after.model))
    assert np.any(_bias(found.model) != _bias(state.model))
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(found, eqx.is_array), eqx.filter(after, eqx.is_array))


def test_a_step_moves_nothing_where_a_router_has_no_state() -> None:
    size = Size(8, 1, 1, 4)
    model = draw(small("hash", num_experts=EXPERTS, size=size, context=CONTEXT, routing_frequency=1.0))
    before = init_state(model, OPTIMIZER)
    after, _ = _step(before, some_tokens(4, CONTEXT + 1))
    unmoved = [partition_weights(of.model)[1] for of in (before, after)]
    assert jax.tree.leaves(unmoved[0])
    jax.tree.map(np.testing.assert_array_equal, *unmoved)
