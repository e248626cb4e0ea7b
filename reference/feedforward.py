"""The feed-forward, two matrices D x 4D and 4D x D around a GELU, and `Experts`, E of them side by
side (released counts).

Ungated and without biases, as the counts imply; GELU in its tanh form is our choice, the cheaper
one on every device.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.config import Size
from reference.linear import linear
from reference.mesh import DATA, EXPERT, GROUPS, MODEL, einsum, reshape, shard, take

WIDENING = 4
"""Hidden width over d_model (released counts)."""

COPIES = 2**25
"""Weights, in number, that `Experts.by_block` copies at a time."""


class FeedForward(eqx.Module):
    """gelu(x W_in) W_out. Weights as in `attention.Attention`."""

    w_in: Float[Array, "d_model hidden"]
    w_out: Float[Array, "hidden d_model"]

    def __init__(self, size: Size, *, key: PRNGKeyArray) -> None:
        self.w_in, self.w_out = _weights(size, key)

    def __call__(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch context d_model"]:
        """Each token by itself."""
        return _activated(linear(x, self.w_in, out=MODEL), self.w_out)


# The GELU is computed again in the backward pass, which then keeps the product before it alone, one
# array of this size, not five.
@partial(jax.checkpoint, prevent_cse=False)
def _activated(
    product: Float[Array, "batch context hidden"], w_out: Float[Array, "hidden d_model"]
) -> Float[Array, "batch context d_model"]:
    return linear(jax.nn.gelu(product), w_out, within=MODEL)


@partial(jax.checkpoint, prevent_cse=False)
def _activated_each(
    product: Float[Array, "experts slots hidden"], w_out: Float[Array, "experts hidden d_model"]
) -> Float[Array, "experts slots d_model"]:
    return einsum(
        "enf,efd->end", jax.nn.gelu(product), w_out.astype(product.dtype), out=(EXPERT, DATA, None)
    )


class Experts(eqx.Module):
    """E whole feed-forwards, with one more leading axis on each weight."""

    w_in: Float[Array, "experts d_model hidden"]
    w_out: Float[Array, "experts hidden d_model"]

    def __init__(self, size: Size, num_experts: int, *, key: PRNGKeyArray) -> None:
        self.w_in, self.w_out = jax.vmap(lambda k: _weights(size, k))(
            jax.random.split(key, num_experts)
        )

    def __call__(
        self, buffer: Float[Array, "groups experts capacity d_model"]
    ) -> Float[Array, "groups experts capacity d_model"]:
        """Expert e on slots [:, e], those of all groups on one axis, which spares XLA on CPU
        transposed copies (as in `linear`).

        Spread over devices, the buffer goes to the experts' devices and back: an all-to-all each
        way.
        """
        groups, num_experts, capacity, d_model = buffer.shape
        by_expert = jnp.moveaxis(shard(buffer, DATA, EXPERT, None, None), 1, 0)
        slots = reshape(
            by_expert, (num_experts, groups * capacity, d_model), out=(EXPERT, DATA, None)
        )
        product = einsum(
            "end,edf->enf", slots, self.w_in.astype(buffer.dtype), out=(EXPERT, DATA, MODEL)
        )
        out = reshape(
            _activated_each(product, self.w_out), by_expert.shape, out=(EXPERT, DATA, None, None)
        )
        return shard(jnp.moveaxis(out, 0, 1), GROUPS, None, None, None)

    def by_block(
        self,
        blocks: Float[Array, "groups blocks length d_model"],
        expert_of_block: Int[Array, "groups blocks"],
    ) -> Float[Array, "groups blocks length d_model"]:
        """Expert `expert_of_block[g, n]` on block [g, n]: what evaluation uses, where no token is
        dropped.

        Each block reads a copy of its expert's weights, as many at a time as fit in `COPIES`.
        Spread over devices, every one gathers all experts of the layer, for blocks are of any
        expert.
        """
        w_in, w_out = (
            shard(w.astype(blocks.dtype), None, *axes)
            for w, axes in ((self.w_in, (None, MODEL)), (self.w_out, (MODEL, None)))
        )

        def _one_each(
            block: Float[Array, "groups length d_model"], expert: Int[Array, "groups"]
        ) -> Float[Array, "groups length d_model"]:
            hidden = jax.nn.gelu(
                einsum(
                    "gld,gdf->glf",
                    block,
                    take(w_in, expert, out=(GROUPS, None, MODEL)),
                    out=(GROUPS, None, MODEL),
                )
            )
            return einsum(
                "glf,gfd->gld",
                hidden,
                take(w_out, expert, out=(GROUPS, MODEL, None)),
                out=(GROUPS, None, None),
            )

        per_block = blocks.shape[0] * (w_in[0].size + w_out[0].size)
        by_number = jnp.moveaxis(blocks, 1, 0), jnp.moveaxis(expert_of_block, 1, 0)
        out = jax.lax.map(
            lambda xs: _one_each(*xs), by_number, batch_size=max(1, COPIES // per_block)
        )
        return jnp.moveaxis(out, 0, 1)


def _weights(
    size: Size, key: PRNGKeyArray
) -> tuple[Float[Array, "d_model hidden"], Float[Array, "hidden d_model"]]:
    in_key, out_key = jax.random.split(key)
    d, hidden = size.d_model, WIDENING * size.d_model
    w_in = jax.random.normal(in_key, (d, hidden)) / d**0.5
    return w_in, jax.random.normal(out_key, (hidden, d)) / (hidden * 2 * size.num_blocks) ** 0.5
