"""AdamW, its schedules and clipping, by their formulas; and how its state is spread."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from reference.config import SIZES, ModelConfig, RouterConfig
from reference.errors import ConfigError
from reference.mesh import BATCH, DATA, EXPERT, MODEL
from reference.transformer import Transformer
from tests.reference.small_models import draw, small
from training.optimizer import OptimizerConfig, decayed, make_optimizer, make_schedule, zero_specs


def test_the_learning_rate_is_the_papers_at_its_corners() -> None:
    schedule = make_schedule(OptimizerConfig())
    rates = [np.asarray(schedule(jnp.asarray(step))) for step in (0, 750, 1500, (1500 + 250_000) // 2, 250_000)]
    # Linear from 1e-7 to 2e-4, then half a cosine to 2e-5; the schedule computes in float32.
    np.testing.assert_allclose(rates, [1e-7, (1e-7 + 2e-4) / 2, 2e-4, (2e-4 + 2e-5) / 2, 2e-5], rtol=1e-5)


def test_the_stable_schedule_is_constant_and_then_linear() -> None:
    config = OptimizerConfig("stable", 20, 0.2, peak_learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10, steps=100)
    schedule = make_schedule(config)
    rates = [np.asarray(schedule(jnp.asarray(step))) for step in (0, 10, 50, 80, 90, 100)]
    np.testing.assert_allclose(rates, [0.2, 1, 1, 1, 0.55, 0.1], rtol=1e-5)


def test_two_steps_are_adamw_after_clipping_by_the_global_norm() -> None:
    """Against Loshchilov & Hutter 2019, algorithm 2, in NumPy."""
    config = OptimizerConfig(initial_learning_rate=0.1, peak_learning_rate=0.2, warmup_steps=1, steps=3, clip=1.0)
    optimizer = make_optimizer(config)
    generator = np.random.default_rng(0)
    weights: dict[str, Any] = {"matrix": generator.normal(size=(2, 3)), "vector": generator.normal(size=3)}
    gradients: list[dict[str, Any]] = [
        {name: scale * generator.normal(size=w.shape) for name, w in weights.items()} for scale in (3.0, 0.1)
    ]
    expected = dict(weights)
    m, v = ({name: np.zeros(w.shape) for name, w in weights.items()} for _ in range(2))
    for step, (gradient, rate) in enumerate(zip(gradients, (0.1, 0.2), strict=True), start=1):
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, config.clip / norm)
            m[name] = config.beta1 * m[name] + (1 - config.beta1) * g
            v[name] = config.beta2 * v[name] + (1 - config.beta2) * g**2
            direction = m[name] / (1 - config.beta1**step) / (np.sqrt(v[name] / (1 - config.beta2**step)) + config.epsilon)
            decay = config.weight_decay if name == "matrix" else 0
            expected[name] = expected[name] - rate * (direction + decay * expected[name])
    with jax.enable_x64(True):
        found = jax.tree.map(jnp.asarray, weights)
        state = optimizer.init(found)
        for gradient in gradients:
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, found)
            found = optax.apply_updates(found, updates)
        # The learning rate and the bias corrections are computed in float32.
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, expected)


def shapes() -> Transformer:
    """A routed model's weights, as shapes."""
    config = ModelConfig(SIZES["15M"], RouterConfig(num_experts=8), vocabulary=64, context=8)
    return eqx.filter_eval_shape(Transformer, config, key=jax.random.key(0))


def test_matrices_decay_and_nothing_else_does() -> None:
    mask = decayed(eqx.filter(draw(small("s-base")), eqx.is_inexact_array))
    dense, routed = mask.groups.blocks
    assert all(jax.tree.leaves((mask.embedding, dense.attention, routed.attention, dense.feedforward, routed.feedforward)))
    assert not any(jax.tree.leaves((mask.final_norm, dense.attention_norm, dense.feedforward_norm, routed.attention_norm)))


def test_optimizer_state_is_spread_over_every_axis_that_its_weight_is_not() -> None:
    specs = zero_specs(shapes(), AbstractMesh((2, 4, 2), (DATA, EXPERT, MODEL)))
    dense, routed = specs.groups.blocks
    # Stacked weights begin with an axis of 3 groups of blocks, which comes out even over none.
    assert dense.attention.query == P(None, BATCH, MODEL, None)
    assert dense.feedforward.w_out == P(None, MODEL, BATCH)
    assert routed.feedforward.experts.w_in == P(None, EXPERT, (DATA,), MODEL)
    assert specs.embedding == P(MODEL, BATCH)
    assert dense.attention_norm.scale == P(None, BATCH)


class Held(NamedTuple):
    """Weights that every device holds whole."""

    router: dict[str, jax.ShapeDtypeStruct]


def test_a_weight_that_comes_out_even_over_data_alone_is_spread_over_that() -> None:
    weights = {"even": jax.ShapeDtypeStruct((6, 5), jnp.float32), "odd": jax.ShapeDtypeStruct((3, 5), jnp.float32)}
    specs = zero_specs(Held(weights), AbstractMesh((2, 4, 1), (DATA, EXPERT, MODEL)))
    assert specs.router == {"even": P((DATA,), None), "odd": P(None, None)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"warmup_steps": 10, "steps": 10}, "warmup_steps is 10 of 10 steps"),
        ({"schedule": "stable"}, "decay_steps is 0"),
        ({"schedule": "stable", "warmup_steps": 5, "steps": 10, "decay_steps": 6}, "decay is 1 to 5 steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OptimizerConfig(**fields)
