"""LayerNorm against Equinox's, and in float32 whatever the activations are in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reference.norm import EPSILON, LayerNorm
from tests.reference.small_models import drawn, some_normal

D = 24


def _norm() -> LayerNorm:
    return drawn(eqx.filter_eval_shape(LayerNorm, D))


def _equinox(norm: LayerNorm, x: Float[Array, "batch d_model"]) -> Float[Array, "batch d_model"]:
    peer = eqx.nn.LayerNorm(D, eps=EPSILON)
    peer = eqx.tree_at(lambda n: (n.weight, n.bias), peer, (norm.scale, norm.offset))
    return jax.jit(jax.vmap(peer))(x)


def test_layer_norm_is_equinoxs() -> None:
    norm, x = _norm(), 3 * some_normal(5, D) + 2
    # Both sides round numbers of size one to six in float32, a handful of times.
    np.testing.assert_allclose(eqx.filter_jit(norm)(x), _equinox(norm, x), rtol=0, atol=3e-6)


def test_every_leading_axis_is_a_batch() -> None:
    norm, x = _norm(), some_normal(2, 3, D)
    # The same row in another batch: sums over D may be taken in another order.
    np.testing.assert_allclose(eqx.filter_jit(norm)(x)[1, 2], eqx.filter_jit(norm)(x[1, 2]), rtol=0, atol=1e-6)


def test_bfloat16_is_normalised_in_float32() -> None:
    # Mean 100, spread 4: in bfloat16 the mean alone would be rounded to 0.5, an eighth of the spread.
    norm, x = _norm(), (100 + 4 * some_normal(5, D)).astype(jnp.bfloat16)
    found = eqx.filter_jit(norm)(x)
    assert found.dtype == jnp.bfloat16
    wide = eqx.filter_jit(norm)(x.astype(jnp.float32))
    # The result is rounded once, to 8 bits: half an ulp, 2^-9 of it, and an ulp where float32's last bit tips the rounding.
    np.testing.assert_allclose(found.astype(jnp.float32), wide, rtol=2**-8, atol=0)
    assert jnp.mean(found == wide.astype(jnp.bfloat16)) > 0.99


def test_float64_stays_float64() -> None:
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, D))
        expected = (x - np.mean(x, -1, keepdims=True)) / np.sqrt(np.var(x, -1, keepdims=True) + EPSILON)
        # float64 rounding of numbers of size one to three.
        np.testing.assert_allclose(eqx.filter_jit(LayerNorm(D))(jnp.asarray(x)), expected, rtol=0, atol=1e-14)


def test_a_constant_row_gives_the_offset_and_a_finite_gradient() -> None:
    norm, x = _norm(), jnp.full((1, D), 7.0)
    np.testing.assert_array_equal(eqx.filter_jit(norm)(x)[0], norm.offset)
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(norm(x) ** 2)))(x)))
