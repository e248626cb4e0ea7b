"""Moves the tokens of a group into per-expert buffers, and back. It alone knows capacity, order and
dropping.

A choice is one of a token's k experts: T tokens make A = T*k of them, numbered token * k + choice.
They are sorted by expert, in order of number within one (our choice: by position in the group), so
that each expert's choices lie side by side; a buffer slot then reads its token, and a choice reads
its slot. Both directions are gathers, forward and backward: the gradient of one is the other.

Two layouts share this code: a buffer per expert of fixed capacity, where what does not fit is
dropped, and blocks of a fixed length, as many as any routing can need, where nothing is.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


class Plan(eqx.Module):
    """Who sits where: `slots` S rows of buffer for `tokens` T with k choices each."""

    token_of_slot: Int[Array, "slots"]
    """The token that a slot reads; T where the slot is empty."""
    choice_of_slot: Int[Array, "slots"]
    """The number of the slot's choice; T*k where the slot is empty."""
    slot_of_choice: Int[Array, "tokens k"]
    """The slot that a choice reads; S where it was dropped."""

    def dropped_fraction(self) -> Float[Array, ""]:
        """Fraction of choices that found no slot."""
        return jnp.mean(self.slot_of_choice == self.token_of_slot.shape[0], dtype=jnp.float32)


class BlockPlan(eqx.Module):
    """A `Plan` over blocks of equal length, and the expert each block belongs to."""

    plan: Plan
    expert_of_block: Int[Array, "blocks"]


def plan_capacity(experts: Int[Array, "tokens k"], num_experts: int, capacity: int) -> Plan:
    """Buffers of `capacity` slots per expert, expert 0 first; the choices past it are dropped."""
    order, counts, rank = _sort(experts, num_experts)
    slot = jnp.where(rank < capacity, experts.reshape(-1) * capacity + rank, num_experts * capacity)
    starts = jnp.cumsum(counts) - counts
    in_expert = jnp.arange(capacity)
    sorted_position = jnp.minimum(starts[:, None] + in_expert, order.shape[0] - 1)
    filled = in_expert < counts[:, None]
    return _plan(
        _rows(order, sorted_position).reshape(-1), filled.reshape(-1), slot.reshape(experts.shape)
    )


def plan_blocks(experts: Int[Array, "tokens k"], num_experts: int) -> BlockPlan:
    """Blocks enough for any routing, each of one expert; nothing is dropped.

    A block holds `block_length` slots, an expert as many blocks as it needs. At most `num_blocks`
    are: with blocks of the mean load, twice the work of a perfectly balanced routing. Blocks that
    are left over are empty and belong to the last expert.
    """
    choices = experts.size
    length, blocks = block_length(choices, num_experts), num_blocks(choices, num_experts)
    order, counts, rank = _sort(experts, num_experts)
    blocks_of_expert = -(-counts // length)
    last_block = jnp.cumsum(blocks_of_expert)
    first_slot = (last_block - blocks_of_expert) * length
    slot = _rows(first_slot, experts.reshape(-1)) + rank
    expert_of_block = jnp.minimum(
        jnp.sum(jnp.arange(blocks)[:, None] >= last_block, axis=1), num_experts - 1
    )
    expert_of_slot = jnp.repeat(expert_of_block, length)
    in_expert = jnp.arange(blocks * length) - _rows(first_slot, expert_of_slot)
    starts = jnp.cumsum(counts) - counts
    sorted_position = jnp.clip(_rows(starts, expert_of_slot) + in_expert, 0, choices - 1)
    plan = _plan(
        _rows(order, sorted_position),
        in_expert < _rows(counts, expert_of_slot),
        slot.reshape(experts.shape),
    )
    return BlockPlan(plan, expert_of_block)


def block_length(choices: int, num_experts: int) -> int:
    """Slots of one block: the mean load of an expert, rounded up."""
    return math.ceil(choices / num_experts)


def num_blocks(choices: int, num_experts: int) -> int:
    """The most blocks any routing needs:
    full ones, and one not full for each expert that can have one."""
    length = block_length(choices, num_experts)
    return (choices - min(choices, num_experts)) // length + min(choices, num_experts)


@jax.custom_vjp
def to_slots(x: Float[Array, "tokens d_model"], plan: Plan) -> Float[Array, "slots d_model"]:
    """Fill the buffer: each slot takes its token's row of `x`, an empty one zeros."""
    return _rows(x, plan.token_of_slot)


@jax.custom_vjp
def to_choices(
    buffer: Float[Array, "slots d_model"], plan: Plan
) -> Float[Array, "tokens k d_model"]:
    """Read the buffer: each choice takes its slot's row, a dropped one zeros."""
    return _rows(buffer, plan.slot_of_choice)


def combine(
    buffer: Float[Array, "slots d_model"], gates: Float[Array, "tokens k"], plan: Plan
) -> Float[Array, "tokens d_model"]:
    """Each token's sum over its choices of gate times slot;
    a dropped choice adds nothing, so that the residual is left."""
    rows = to_choices(buffer, plan)
    # A choice at a time: XLA on CPU takes four times as long for the gates' gradient over an axis
    # of choices, however short.
    weighted = [
        rows[:, choice] * gates[:, choice, None].astype(buffer.dtype)
        for choice in range(gates.shape[1])
    ]
    return sum(weighted[1:], start=weighted[0])


def _to_slots_forward(
    x: Float[Array, "tokens d_model"], plan: Plan
) -> tuple[Float[Array, "slots d_model"], Plan]:
    return to_slots(x, plan), plan


def _to_slots_backward(
    plan: Plan, gradient: Float[Array, "slots d_model"]
) -> tuple[Float[Array, "tokens d_model"], None]:
    return jnp.sum(_rows(gradient, plan.slot_of_choice), axis=1), None


def _to_choices_forward(
    buffer: Float[Array, "slots d_model"], plan: Plan
) -> tuple[Float[Array, "tokens k d_model"], Plan]:
    return to_choices(buffer, plan), plan


def _to_choices_backward(
    plan: Plan, gradient: Float[Array, "tokens k d_model"]
) -> tuple[Float[Array, "slots d_model"], None]:
    return _rows(gradient.reshape(-1, gradient.shape[-1]), plan.choice_of_slot), None


to_slots.defvjp(_to_slots_forward, _to_slots_backward)
to_choices.defvjp(_to_choices_forward, _to_choices_backward)


def _sort(
    experts: Int[Array, "tokens k"], num_experts: int
) -> tuple[Int[Array, "choices"], Int[Array, "experts"], Int[Array, "choices"]]:
    """Choices in order of expert, how many each expert has, and each choice's rank among its
    expert's.
    """
    flat = experts.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    counts = jnp.sum(
        flat[:, None] == jnp.arange(num_experts, dtype=flat.dtype), axis=0, dtype=jnp.int32
    )
    starts = jnp.cumsum(counts) - counts
    position = (
        jnp.zeros_like(order)
        .at[order]
        .set(
            jnp.arange(order.shape[0], dtype=order.dtype),
            unique_indices=True,
            wrap_negative_indices=False,
        )
    )
    return order, counts, position - _rows(starts, flat)


def _plan(
    choice: Int[Array, "slots"],
    filled: Bool[Array, "slots"],
    slot_of_choice: Int[Array, "tokens k"],
) -> Plan:
    tokens, k = slot_of_choice.shape
    return Plan(
        token_of_slot=jnp.where(filled, choice // k, tokens),
        choice_of_slot=jnp.where(filled, choice, tokens * k),
        slot_of_choice=slot_of_choice,
    )


def _rows(x: Shaped[Array, "rows ..."], index: Int[Array, "*shape"]) -> Shaped[Array, "..."]:
    """Rows of `x`, zeros for the index one past the last."""
    return x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)
