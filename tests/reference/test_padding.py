"""Padding: targets that are none count for nothing, in the loss and in the terms that need a reward."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reference.config import Size
from reference.objective import PADDING, mean_of, objective
from tests.reference.small_models import draw, small, some_normal, some_tokens

BATCH, CONTEXT = 4, 6
SIZE = Size(d_model=8, num_blocks=2, num_heads=1, kqv_size=4)


def test_the_loss_is_optaxs_mean_over_the_real_targets() -> None:
    model = draw(small("dense", size=SIZE, context=CONTEXT))
    whole = some_tokens(BATCH, CONTEXT + 1)
    real = np.arange(CONTEXT) < np.array([[CONTEXT], [CONTEXT - 1], [3], [0]])
    padded = whole.at[:, 1:].set(jnp.where(real, whole[:, 1:], PADDING))
    _, report = eqx.filter_jit(objective)(model, padded)
    # The model is causal: what the real targets are predicted from has no padding in it.
    logits, _ = eqx.filter_jit(model)(whole[:, :-1], inference=False)
    by_token = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, whole[:, 1:]), np.float64)
    # One float32 log-softmax, and a mean of 14 of them.
    assert float(report.loss) == pytest.approx(by_token[real].mean(), rel=1e-6)
    assert abs(float(report.loss) - by_token.mean()) > 1e-3


def test_reinforces_rewards_are_those_of_real_targets() -> None:
    model = draw(small("rl-r", size=SIZE, context=CONTEXT, routing_frequency=1.0))
    key, half = jax.random.key(0), BATCH // 2
    whole = some_tokens(BATCH, CONTEXT + 1)
    run = eqx.filter_jit(objective)
    # A group is a sequence and draws by its number, so the first two choose alike with and without the others.
    _, report = run(model, whole.at[half:, 1:].set(PADDING), key=key)
    _, alone = run(model, whole[:half], key=key)
    for name in ("policy", "baseline"):
        # Sums of 12 float32 products of both signs, in another order.
        assert float(report.router_losses[name]) == pytest.approx(float(alone.router_losses[name]), rel=1e-5, abs=1e-7), name
    for name in ("advantage", "baseline_error"):
        np.testing.assert_allclose(report.metrics[name], alone.metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)
    _, unpadded = run(model, whole, key=key)
    assert float(unpadded.router_losses["baseline"]) != pytest.approx(float(alone.router_losses["baseline"]), rel=1e-3)


def test_without_padding_mean_and_gradient_are_jaxs_bit_for_bit() -> None:
    # 49 times the rounded 1/49 is not 1, so that a mean taken that way would show.
    x, all_real = some_normal(7, 7), jnp.ones((7, 7), bool)
    of_real = jax.jit(jax.value_and_grad(lambda x, real: mean_of(jnp.sin(x), real)))(x, all_real)
    plain = jax.jit(jax.value_and_grad(lambda x: jnp.mean(jnp.sin(x))))(x)
    jax.tree.map(np.testing.assert_array_equal, of_real, plain)
