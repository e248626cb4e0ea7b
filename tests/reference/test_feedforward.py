"""The feed-forward against Equinox's MLP, its GELU against the formula, and experts against feed-forwards one at a time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from reference import feedforward
from reference.config import Size
from reference.feedforward import Experts, FeedForward
from tests.reference.small_models import drawn, some_normal

SIZE = Size(d_model=8, num_blocks=3, num_heads=1, kqv_size=4)
D, HIDDEN = 8, 32


def _feedforward() -> FeedForward:
    return drawn(eqx.filter_eval_shape(FeedForward, SIZE, HIDDEN, key=jax.random.key(0)))


def _experts(number: int) -> Experts:
    return drawn(eqx.filter_eval_shape(Experts, SIZE, HIDDEN, number, key=jax.random.key(0)))


def _gelu(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_the_feedforward_is_equinoxs_mlp_without_biases() -> None:
    ours = _feedforward()
    peer = eqx.nn.MLP(D, D, HIDDEN, depth=1, activation=jax.nn.gelu, use_bias=False, use_final_bias=False, key=jax.random.key(1))
    peer = eqx.tree_at(lambda p: [layer.weight for layer in p.layers], peer, [ours.w_in.T, ours.w_out.T])
    x = some_normal(2, 3, D)
    # Sums of up to 32 products of size one, in float32.
    np.testing.assert_allclose(eqx.filter_jit(ours)(x), jax.jit(jax.vmap(jax.vmap(peer)))(x), rtol=0, atol=2e-6)


def test_gelu_is_the_tanh_form() -> None:
    with jax.enable_x64(True):
        ours = _feedforward()
        # Through the two maps a number comes as it is: what is left of the module is its GELU.
        eye = jnp.eye(D, HIDDEN)
        ours = eqx.tree_at(lambda f: (f.w_in, f.w_out), ours, (eye, eye.T))
        x = jnp.linspace(-6, 6, 10 * D).reshape(1, 10, D)
        # float64 rounding; the exact form, with erf, is up to 5e-4 away.
        np.testing.assert_allclose(eqx.filter_jit(ours)(x), _gelu(np.asarray(x)), rtol=0, atol=1e-14)


def test_each_expert_is_a_feedforward_of_its_own() -> None:
    experts = _experts(3)
    buffer = some_normal(2, 3, 4, D)
    found = eqx.filter_jit(experts)(buffer)
    plain = _feedforward()
    for e in range(3):
        alone = eqx.tree_at(lambda f: (f.w_in, f.w_out), plain, (experts.w_in[e], experts.w_out[e]))
        # As above; the products are taken in batches of another shape.
        np.testing.assert_allclose(found[:, e], eqx.filter_jit(alone)(buffer[:, e]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_blocks_are_given_to_the_experts_they_belong_to(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = _experts(3)
    blocks = some_normal(2, 5, 4, D)
    expert_of_block = np.array([[0, 0, 1, 2, 2], [1, 1, 1, 2, 0]])
    # What limits how many blocks' weights are copied at once must not change what comes out.
    monkeypatch.setattr(feedforward, "COPIES", at_a_time * 2 * (2 * D * HIDDEN))
    found = eqx.filter_jit(experts.by_block)(blocks, jnp.asarray(expert_of_block))
    w_in, w_out = np.asarray(experts.w_in), np.asarray(experts.w_out)
    in_turn = np.stack(
        [
            np.stack([_gelu(block @ w_in[e]) @ w_out[e] for block, e in zip(np.asarray(row), of_row, strict=True)])
            for row, of_row in zip(blocks, expert_of_block, strict=True)
        ]
    )
    np.testing.assert_allclose(found, in_turn, rtol=0, atol=2e-6)


def test_weights_are_drawn_at_the_scale_that_the_docstrings_state() -> None:
    size = Size(d_model=64, num_blocks=8, num_heads=1, kqv_size=4)
    experts = eqx.filter_jit(Experts)(size, 256, 2, key=jax.random.key(0))
    # Of n normal numbers the root mean square is within 5/sqrt(2n) of the standard deviation: 2 % for n = 2 * 64 * 256.
    assert float(jnp.std(experts.w_in)) == pytest.approx(64**-0.5, rel=0.02)
    assert float(jnp.std(experts.w_out)) == pytest.approx((256 * 2 * 8) ** -0.5, rel=0.02)
    assert jnp.all(experts.w_in[0] != experts.w_in[1])
