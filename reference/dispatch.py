"""Moves the tokens of a group into per-expert buffers, and back. It alone knows capacity, order and
dropping.

A choice is one of a token's k experts: T tokens make A = T*k of them, numbered token * k + choice.
They are sorted by expert and, within one, by priority, so that each expert's choices lie side by
side; a buffer slot then reads its token, and a choice reads its slot. Both directions are gathers.

Two layouts share this code: a buffer per expert of fixed capacity, where what does not fit is
dropped, and blocks of a fixed length, as many as any routing can need, where nothing is.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from reference.fast import gather, weighted_sum


class Plan(eqx.Module):
    """Who sits where: `slots` S rows of buffer for `tokens` T with k choices each."""

    token_of_slot: Int[Array, "slots"]
    """The token that a slot reads; T where the slot is empty."""
    choice_of_slot: Int[Array, "slots"]
    """The number of the slot's choice; T*k where the slot is empty."""
    slot_of_choice: Int[Array, "tokens k"]
    """The slot that a choice reads; S where it was dropped."""

    def kept(self) -> Bool[Array, "tokens k"]:
        """Which choices found a slot."""
        return self.slot_of_choice < self.token_of_slot.shape[0]


class BlockPlan(eqx.Module):
    """A `Plan` over blocks of equal length, and the expert each block belongs to."""

    plan: Plan
    expert_of_block: Int[Array, "blocks"]


def plan_capacity(
    experts: Int[Array, "tokens k"],
    num_experts: int,
    capacity: int,
    priority: Float[Array, "tokens k"] | None = None,
    first: int | Int[Array, ""] = 0,
) -> Plan:
    """Buffers of `capacity` slots per expert, expert 0 first; the choices past it are dropped.

    An expert takes its choices from the lowest `priority` up, equal ones and all by default by
    number. `first`: how many of an expert's choices are passed over, those of earlier rounds.
    """
    order, counts, rank = _sort(experts, num_experts, priority)
    place = rank - first
    fits = (place >= 0) & (place < capacity)
    slot = jnp.where(fits, experts.reshape(-1) * capacity + place, num_experts * capacity)
    starts = jnp.cumsum(counts) - counts
    in_expert = first + jnp.arange(capacity)
    sorted_position = jnp.minimum(starts[:, None] + in_expert, order.shape[0] - 1)
    filled = in_expert < counts[:, None]
    choice = _at(order, sorted_position).reshape(-1)
    return _plan(choice, filled.reshape(-1), slot.reshape(experts.shape))


def plan_blocks(experts: Int[Array, "tokens k"], num_experts: int) -> BlockPlan:
    """Blocks enough for any routing, each of one expert; nothing is dropped.

    A block holds `block_length` slots, an expert as many blocks as it needs. At most `num_blocks`
    are: with blocks of the mean load, twice the work of a perfectly balanced routing. Blocks that
    are left over are empty and belong to the last expert.
    """
    choices = experts.size
    length, blocks = block_length(choices, num_experts), num_blocks(choices, num_experts)
    order, counts, rank = _sort(experts, num_experts, None)
    blocks_of_expert = -(-counts // length)
    last_block = jnp.cumsum(blocks_of_expert)
    first_slot = (last_block - blocks_of_expert) * length
    slot = _at(first_slot, experts.reshape(-1)) + rank
    passed = jnp.arange(blocks)[:, None] >= last_block
    expert_of_block = jnp.minimum(jnp.sum(passed, axis=1), num_experts - 1)
    expert_of_slot = jnp.repeat(expert_of_block, length)
    in_expert = jnp.arange(blocks * length) - _at(first_slot, expert_of_slot)
    starts = jnp.cumsum(counts) - counts
    sorted_position = jnp.clip(_at(starts, expert_of_slot) + in_expert, 0, choices - 1)
    filled = in_expert < _at(counts, expert_of_slot)
    plan = _plan(_at(order, sorted_position), filled, slot.reshape(experts.shape))
    return BlockPlan(plan, expert_of_block)


def block_length(choices: int, num_experts: int) -> int:
    """Slots of one block: the mean load of an expert, rounded up."""
    return math.ceil(choices / num_experts)


def num_blocks(choices: int, num_experts: int) -> int:
    """The most blocks any routing needs: full ones, and one not full for each expert that can have
    one."""
    length, started = block_length(choices, num_experts), min(choices, num_experts)
    return (choices - started) // length + started


def to_slots(x: Float[Array, "tokens d_model"], plan: Plan) -> Float[Array, "slots d_model"]:
    """Fill the buffer: each slot takes its token's row of `x`, an empty one zeros."""
    return gather(x, plan.token_of_slot, plan.slot_of_choice)


def to_choices(
    buffer: Float[Array, "slots d_model"], plan: Plan
) -> Float[Array, "tokens k d_model"]:
    """Read the buffer: each choice takes its slot's row, a dropped one zeros."""
    return gather(buffer, plan.slot_of_choice, plan.choice_of_slot[:, None])


def combine(
    buffer: Float[Array, "slots d_model"], gates: Float[Array, "tokens k"], plan: Plan
) -> Float[Array, "tokens d_model"]:
    """Each token's sum over its choices of gate times slot; a dropped choice adds nothing, so that
    the residual is left."""
    return weighted_sum(to_choices(buffer, plan), gates)


def _at(x: Int[Array, "entries"], index: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Plain form: `x[index]`, which JAX 0.12 cannot write for an index that is sharded."""
    return x.at[index].get(wrap_negative_indices=False)


def _sort(
    experts: Int[Array, "tokens k"], num_experts: int, priority: Float[Array, "tokens k"] | None
) -> tuple[Int[Array, "choices"], Int[Array, "experts"], Int[Array, "choices"]]:
    """Choices in order of expert, how many each expert has, and each choice's rank among its
    expert's."""
    flat = experts.reshape(-1)
    if priority is None:
        order = jnp.argsort(flat, stable=True)
    else:
        by_priority = jnp.argsort(priority.reshape(-1), stable=True)
        order = _at(by_priority, jnp.argsort(_at(flat, by_priority), stable=True))
    chosen = flat[:, None] == jnp.arange(num_experts, dtype=flat.dtype)
    counts = jnp.sum(chosen, axis=0, dtype=jnp.int32)
    starts = jnp.cumsum(counts) - counts
    numbers = jnp.arange(order.shape[0], dtype=order.dtype)
    places = jnp.zeros_like(order).at[order]
    position = places.set(numbers, unique_indices=True, wrap_negative_indices=False)
    return order, counts, position - _at(starts, flat)


def _plan(
    choice: Int[Array, "slots"],
    filled: Bool[Array, "slots"],
    slot_of_choice: Shaped[Array, "tokens k"],
) -> Plan:
    tokens, k = slot_of_choice.shape
    return Plan(
        token_of_slot=jnp.where(filled, choice // k, tokens),
        choice_of_slot=jnp.where(filled, choice, tokens * k),
        slot_of_choice=slot_of_choice,
    )
