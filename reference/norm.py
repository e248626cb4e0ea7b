"""LayerNorm with scale and offset: 2D weights, two norms to a block (released counts)."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Added to the variance. Our choice, the usual one."""


class LayerNorm(eqx.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + offset over the last axis, computed in float32
    at least.
    """

    scale: Float[Array, "d_model"]
    offset: Float[Array, "d_model"]

    def __init__(self, d_model: int) -> None:
        self.scale = jnp.ones(d_model)
        self.offset = jnp.zeros(d_model)

    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        """Normalise, in the type of `x`."""
        return _normalise(x, self.scale, self.offset)


# Computed again in the backward pass, which then keeps `x` alone: four times less to write and
# read.
@partial(jax.checkpoint, prevent_cse=False)
def _normalise(
    x: Float[Array, "*batch d_model"],
    scale: Float[Array, "d_model"],
    offset: Float[Array, "d_model"],
) -> Float[Array, "*batch d_model"]:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    wide = x.astype(dtype)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + EPSILON)
    return (normal * scale.astype(dtype) + offset.astype(dtype)).astype(x.dtype)
