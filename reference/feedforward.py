"""The feed-forward D -> F -> D with a GELU, and `Experts`, a stack of E of them.

F is 4D (released counts), or 4D/G in an expert. No gate and no biases, as the counts imply; the
tanh form of the GELU is our choice, the cheaper one on every device.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.config import Size
from reference.fast import gelu_contract, gelu_linear, linear, on_one_device
from reference.mesh import (
    BATCH,
    BUFFER,
    BY_EXPERT,
    HIDDEN,
    MODEL,
    SLOTS,
    SLOTS_HIDDEN,
    TOKENS,
    contract,
    laid_out,
    reshaped,
    rows,
)
from reference.ragged import ragged_feedforward

EXPERT_INPUTS, EXPERT_OUTPUTS = "inputs of experts", "outputs of experts"
"""Names of arrays that selective rematerialisation keeps (`transformer.KEPT`)."""

COPIES = 2**25
"""Maximum number of weights that `Experts.by_block` copies at a time."""


class FeedForward(eqx.Module):
    """gelu(x W_in) W_out. Weights are initialised as in `attention.Attention`."""

    w_in: Float[Array, "d_model hidden"]
    w_out: Float[Array, "hidden d_model"]

    def __init__(self, size: Size, hidden: int, *, key: PRNGKeyArray) -> None:
        self.w_in, self.w_out = _weights(size, hidden, key)

    def __call__(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch context d_model"]:
        """Each token by itself."""
        return gelu_linear(linear(x, self.w_in, out=HIDDEN), self.w_out, TOKENS)


class Experts(eqx.Module):
    """E feed-forwards, stacked along a leading axis of each weight."""

    w_in: Float[Array, "experts d_model hidden"]
    w_out: Float[Array, "experts hidden d_model"]

    def __init__(self, size: Size, hidden: int, num_experts: int, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, num_experts)
        self.w_in, self.w_out = jax.vmap(lambda key: _weights(size, hidden, key))(keys)

    def __call__(
        self, buffer: Float[Array, "groups experts capacity d_model"]
    ) -> Float[Array, "groups experts capacity d_model"]:
        """Expert e on the slots [:, e] of all groups.

        On a mesh, one all-to-all carries the buffer to the experts' devices and one brings it back.
        """
        groups, num_experts, capacity, d_model = buffer.shape
        by_expert = laid_out(jnp.moveaxis(buffer, 1, 0), BY_EXPERT)
        slots = reshaped(by_expert, (num_experts, groups * capacity, d_model), SLOTS)
        slots = checkpoint_name(slots, EXPERT_INPUTS)
        hidden = contract("esd,edh->esh", slots, self.w_in.astype(slots.dtype), out=SLOTS_HIDDEN)
        done = reshaped(gelu_contract(hidden, self.w_out, SLOTS), by_expert.shape, BY_EXPERT)
        return checkpoint_name(laid_out(jnp.moveaxis(done, 0, 1), BUFFER), EXPERT_OUTPUTS)

    def by_block(
        self,
        blocks: Float[Array, "groups blocks length d_model"],
        expert_of_block: Int[Array, "groups blocks"],
    ) -> Float[Array, "groups blocks length d_model"]:
        """Expert `expert_of_block[g, n]` on block [g, n], on devices that each hold every expert.

        For where no token may be dropped. Each block reads a copy of its expert's weights, as many
        at a time as fit in `COPIES`. With an `expert` axis every device all-gathers the layer's
        experts: evaluation uses rounds instead (`routed`), and only training without a capacity
        comes here; on one CPU it goes by rows (`by_row`).
        """
        w_in = laid_out(self.w_in.astype(blocks.dtype), (None, None, MODEL))
        w_out = laid_out(self.w_out.astype(blocks.dtype), (None, MODEL, None))

        def _one_each(
            block: Float[Array, "groups length d_model"], expert: Int[Array, "groups"]
        ) -> Float[Array, "groups length d_model"]:
            into = rows(w_in, expert, (BATCH, None, MODEL))
            out = rows(w_out, expert, (BATCH, MODEL, None))
            hidden = jax.nn.gelu(contract("gld,gdh->glh", block, into, out=HIDDEN))
            return contract("glh,ghd->gld", hidden, out, out=TOKENS)

        groups, number, *rest = blocks.shape
        per_block = groups * (w_in[0].size + w_out[0].size)
        at_a_time = min(number, max(1, COPIES // per_block))
        turns = math.ceil(number / at_a_time)
        empty = ((0, 0), (0, turns * at_a_time - number))
        by_number = jnp.moveaxis(jnp.pad(blocks, (*empty, *((0, 0) for _ in rest))), 1, 0)
        experts = jnp.moveaxis(jnp.pad(expert_of_block, empty), 1, 0)
        layout = (None, None, BATCH, None, None)
        shape = (turns, at_a_time, groups)
        turn = reshaped(by_number, (*shape, *rest), layout), reshaped(experts, shape, layout[:3])
        out = jax.lax.map(lambda xs: jax.vmap(_one_each)(*xs), turn)
        out = reshaped(out, (turns * at_a_time, groups, *rest), layout[1:])[:number]
        return jnp.moveaxis(out, 0, 1)

    def by_row(
        self, x: Float[Array, "rows d_model"], counts: Int[Array, "experts"]
    ) -> Float[Array, "rows d_model"]:
        """Expert 0 on the first `counts[0]` rows, 1 on the next, and so on; on one device."""
        w_in, w_out = (on_one_device(w.astype(x.dtype)) for w in (self.w_in, self.w_out))
        return ragged_feedforward(x, counts, w_in, w_out)


def _weights(
    size: Size, hidden: int, key: PRNGKeyArray
) -> tuple[Float[Array, "d_model hidden"], Float[Array, "hidden d_model"]]:
    in_key, out_key = jax.random.split(key)
    d, fan_in = size.d_model, hidden * 2 * size.num_blocks
    w_in = jax.random.normal(in_key, (d, hidden)) / d**0.5
    return w_in, jax.random.normal(out_key, (hidden, d)) / fan_in**0.5
