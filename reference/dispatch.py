"""Dispatches a group's tokens into per-expert buffers and combines the outputs.

Capacity, priority and dropping are decided here and nowhere else.

A choice is one of a token's k experts: T tokens make A = T*k choices, numbered token * k + choice.
They are sorted by expert, then by priority, so that each expert's choices are contiguous; a buffer
slot then reads its token, and a choice reads its slot. Both directions are gathers.

Three layouts share this code: one buffer per expert of fixed capacity, which drops overflow;
blocks of fixed length, as many as any routing can need, which drop nothing; and the sorted choices
themselves, a slot each.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from reference.fast import gather, weighted_sum


class Plan(eqx.Module):
    """The assignment of choices to slots: `slots` S buffer rows for `tokens` T with k choices."""

    token_of_slot: Int[Array, "slots"]
    """The token each slot reads; T where the slot is empty."""
    choice_of_slot: Int[Array, "slots"]
    """The choice each slot holds; T*k where the slot is empty."""
    slot_of_choice: Int[Array, "tokens k"]
    """The slot each choice reads; S where it was dropped."""

    def kept(self) -> Bool[Array, "tokens k"]:
        """Which choices were not dropped."""
        return self.slot_of_choice < self.token_of_slot.shape[0]


class BlockPlan(eqx.Module):
    """A `Plan` over blocks of equal length, and the expert of each block."""

    plan: Plan
    expert_of_block: Int[Array, "blocks"]


def plan_capacity(
    experts: Int[Array, "tokens k"],
    num_experts: int,
    capacity: int,
    priority: Float[Array, "tokens k"] | None = None,
    first: int | Int[Array, ""] = 0,
) -> Plan:
    """Buffers of `capacity` slots per expert, expert 0 first; overflow is dropped.

    An expert takes its choices in increasing `priority`, ties (and all choices by default) by
    number. `first`: the number of each expert's choices to skip, taken in earlier rounds.
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
    """Enough blocks for any routing, each of one expert; nothing is dropped.

    A block has `block_length` slots, and an expert as many blocks as it needs, at most `num_blocks`
    in total: twice the work of a perfectly balanced routing. Unused blocks are empty and belong to
    the last expert.
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


def plan_sorted(
    experts: Int[Array, "tokens k"], num_experts: int
) -> tuple[Plan, Int[Array, "experts"]]:
    """A slot for each choice, in order of expert, and the number of choices of each expert."""
    order, counts, rank = _sort(experts, num_experts, None)
    slot = _at(jnp.cumsum(counts) - counts, experts.reshape(-1)) + rank
    return _plan(order, jnp.ones(order.shape, bool), slot.reshape(experts.shape)), counts


def block_length(choices: int, num_experts: int) -> int:
    """Slots per block: the mean load of an expert, rounded up."""
    return math.ceil(choices / num_experts)


def num_blocks(choices: int, num_experts: int) -> int:
    """The maximum number of blocks any routing needs.

    All full blocks, and a partial one for each expert that can have one.
    """
    length, started = block_length(choices, num_experts), min(choices, num_experts)
    return (choices - started) // length + started


def to_slots(x: Float[Array, "tokens d_model"], plan: Plan) -> Float[Array, "slots d_model"]:
    """Fills the buffer: each slot takes its token's row of `x`, empty slots are zero."""
    return gather(x, plan.token_of_slot, plan.slot_of_choice)


def to_choices(
    buffer: Float[Array, "slots d_model"], plan: Plan
) -> Float[Array, "tokens k d_model"]:
    """Reads the buffer: each choice takes its slot's row, dropped choices are zero."""
    return gather(buffer, plan.slot_of_choice, plan.choice_of_slot[:, None])


def combine(
    buffer: Float[Array, "slots d_model"], gates: Float[Array, "tokens k"], plan: Plan
) -> Float[Array, "tokens d_model"]:
    """Each token's sum of gate times slot over its choices.

    A dropped choice adds zero, which leaves the residual.
    """
    return weighted_sum(to_choices(buffer, plan), gates)


def _at(x: Int[Array, "entries"], index: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Plain form: `x[index]`, which JAX 0.12 cannot write for an index that is sharded."""
    return x.at[index].get(wrap_negative_indices=False)


def _sort(
    experts: Int[Array, "tokens k"], num_experts: int, priority: Float[Array, "tokens k"] | None
) -> tuple[Int[Array, "choices"], Int[Array, "experts"], Int[Array, "choices"]]:
    """Choices in order of expert, choices per expert, and each choice's rank within its expert."""
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
