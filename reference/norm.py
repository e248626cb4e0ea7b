"""LayerNorm with scale and offset: 2D weights, two norms per block (released counts)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from reference.fast import layer_norm

EPSILON = 1e-5
"""Added to the variance (our choice, the usual value)."""


class LayerNorm(eqx.Module):
    """(x - mean) / sqrt(variance + 1e-5) * scale + offset over the last axis.

    Computed in float32 or wider.
    """

    scale: Float[Array, "d_model"]
    offset: Float[Array, "d_model"]

    def __init__(self, d_model: int) -> None:
        self.scale = jnp.ones(d_model)
        self.offset = jnp.zeros(d_model)

    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        """Normalise; returns the dtype of `x`."""
        return layer_norm(x, self.scale, self.offset, EPSILON)
