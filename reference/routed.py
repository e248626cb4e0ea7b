"""The routed feed-forward: router -> dispatch -> experts -> combine, over groups of tokens.

A group is a number of consecutive sequences of the batch, concatenated (`RouterConfig.group_of`).
Router and dispatch are `vmap`ped over groups; the experts compute on the buffers of all groups.
"""

import dataclasses
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, Shaped

from reference.config import ModelConfig, RouterConfig
from reference.dispatch import (
    Plan,
    block_length,
    combine,
    plan_blocks,
    plan_capacity,
    plan_sorted,
    to_slots,
)
from reference.errors import ConfigError
from reference.fast import on_one_cpu, on_one_device
from reference.feedforward import Experts, FeedForward
from reference.mesh import BATCH, EXPERT, TOKENS, devices_along, laid_out, reshaped
from reference.routers import AbstractRouter, Routing
from reference.routers.interface import RouterShape

T = TypeVar("T")


class RoutedFeedForward(eqx.Module):
    """A feed-forward in which each token uses k of E experts, and every shared expert."""

    router: AbstractRouter
    experts: Experts
    shared: FeedForward | None
    """The shared experts, concatenated into one feed-forward."""
    config: RouterConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        key: PRNGKeyArray,
        hash_table: Int[Array, "vocabulary k"] | None = None,
    ) -> None:
        """`hash_table` is required by HASH and unused otherwise (`routers.hash.hash_table`)."""
        router, size, hidden = config.router, config.size, config.expert_hidden
        if router is None:
            raise ConfigError("a dense model has no routed layer; give it a RouterConfig")
        router_key, experts_key = jax.random.split(key)
        shape = RouterShape(size.d_model, router.num_experts, router.k)
        self.router = router.technique.build(shape, router_key, hash_table)
        self.experts = Experts(size, hidden, router.num_experts, key=experts_key)
        shared = router.shared_experts
        shared_key = jax.random.fold_in(experts_key, router.num_experts)
        self.shared = FeedForward(size, shared * hidden, key=shared_key) if shared else None
        self.config = router

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool = False,
    ) -> tuple[Float[Array, "batch context d_model"], Routing]:
        """Each token's gated sum over its experts, dropped choices adding zero; and the routing."""
        groups, ids = self._grouped(x, inference), self._grouped(token_id, inference)
        route_keys, drop_keys = _keys(key, groups.shape[0])
        routing = _by_group(
            jax.vmap(lambda x, ids, key: self.router(x, ids, key=key, inference=inference))(
                groups, ids, route_keys
            )
        )
        y, kept = self._through_experts(groups, routing, drop_keys, inference)
        gate = jnp.mean(jnp.sum(jax.lax.stop_gradient(routing.gates), axis=-1), axis=-1)
        dropped = jnp.mean(~kept, axis=(1, 2), dtype=jnp.float32)
        metrics = routing.metrics | {"dropped_fraction": dropped, "gate": gate}
        y = reshaped(y, x.shape, TOKENS)
        if self.shared is not None:
            y += self.shared(x)
        return y, dataclasses.replace(routing, metrics=metrics, kept=kept)

    def _through_experts(
        self,
        groups: Float[Array, "groups tokens d_model"],
        routing: Routing,
        keys: Key[Array, "groups"] | None,
        inference: bool,
    ) -> tuple[Float[Array, "groups tokens d_model"], Bool[Array, "groups tokens k"]]:
        num_experts, choices = self.config.num_experts, self.config.k * groups.shape[1]
        capacity = self.config.capacity(groups.shape[1], inference=inference)
        if capacity is None and inference and devices_along(EXPERT) > 1:
            return self._by_rounds(groups, routing)
        if capacity is None and not inference and on_one_cpu():
            return self._by_row(groups, routing)
        if capacity is None:
            blocks = _by_group(jax.vmap(lambda e: plan_blocks(e, num_experts))(routing.experts))
            length = block_length(choices, num_experts)
            buffer = _cut(jax.vmap(to_slots)(groups, blocks.plan), length)
            out = self.experts.by_block(buffer, blocks.expert_of_block)
            plan = blocks.plan
        else:
            priority = self._priority(routing, keys, inference)
            plan = _by_group(
                jax.vmap(lambda e, p: plan_capacity(e, num_experts, capacity, p))(
                    routing.experts, priority
                )
            )
            out = self.experts(_cut(jax.vmap(to_slots)(groups, plan), capacity))
        return _combined(out, routing, plan), jax.vmap(Plan.kept)(plan)

    def _by_row(
        self, groups: Float[Array, "groups tokens d_model"], routing: Routing
    ) -> tuple[Float[Array, "groups tokens d_model"], Bool[Array, "groups tokens k"]]:
        """Training on one CPU without drops: no slot is empty, and all tokens are one group."""
        x, experts, gates = (
            on_one_device(each.reshape(-1, each.shape[-1]))
            for each in (groups, routing.experts, routing.gates)
        )
        plan, counts = plan_sorted(experts, self.config.num_experts)
        y = combine(self.experts.by_row(to_slots(x, plan), counts), gates, plan)
        kept = jnp.ones(routing.experts.shape, bool)
        return reshaped(y, groups.shape, TOKENS), _by_group(kept)

    def _by_rounds(
        self, groups: Float[Array, "groups tokens d_model"], routing: Routing
    ) -> tuple[Float[Array, "groups tokens d_model"], Bool[Array, "groups tokens k"]]:
        """Evaluation on a mesh without drops: the training step's all-to-alls, in rounds.

        Rounds repeat until the fullest expert has processed all its choices. The capacity of a
        round is twice the mean load (our choice), so most batches take one or two.
        """
        num_experts, choices = self.config.num_experts, self.config.k * groups.shape[1]
        capacity = 2 * block_length(choices, num_experts)
        fullest = jnp.max(routing.load) * choices

        def _round(
            state: tuple[Int[Array, ""], Float[Array, "groups tokens d_model"]],
        ) -> tuple[Int[Array, ""], Float[Array, "groups tokens d_model"]]:
            first, y = state
            plan = _by_group(
                jax.vmap(lambda e: plan_capacity(e, num_experts, capacity, None, first))(
                    routing.experts
                )
            )
            out = self.experts(_cut(jax.vmap(to_slots)(groups, plan), capacity))
            return first + capacity, y + _combined(out, routing, plan)

        # Loads are fractions in float32; rounding recovers the count.
        start = jnp.zeros((), jnp.int32), jnp.zeros_like(groups)
        _, y = jax.lax.while_loop(lambda state: state[0] < jnp.round(fullest), _round, start)
        return y, _by_group(jnp.ones(routing.experts.shape, bool))

    def _priority(
        self, routing: Routing, keys: Key[Array, "groups"] | None, inference: bool
    ) -> Float[Array, "groups tokens k"] | None:
        """Priorities for `plan_capacity`, lowest first; None: by position."""
        shape = routing.experts.shape
        match self.config.drop_order:
            case "choice":
                return _by_group(jnp.broadcast_to(jnp.arange(shape[-1], dtype=float), shape))
            case "gate":
                return -jax.lax.stop_gradient(routing.gates)
            case "random" if keys is not None:
                return _by_group(jax.vmap(lambda key: jax.random.uniform(key, shape[1:]))(keys))
            case "random" if not inference:
                raise ConfigError("drop_order is random, which needs a key; pass key=")
            case _:
                return None

    def _grouped(
        self, x: Shaped[Array, "batch context *rest"], inference: bool
    ) -> Shaped[Array, "groups tokens *rest"]:
        """Concatenates the sequences of each group.

        In evaluation without drops, grouping changes nothing, so each device's sequences are one
        group.
        """
        on_device = x.shape[0] // devices_along(*BATCH)
        free = inference and self.config.evaluation_capacity_factor is None
        size = on_device if free else self.config.group_of(on_device, x.shape[1], inference)
        shape = (x.shape[0] // size, size * x.shape[1], *x.shape[2:])
        return reshaped(x, shape, (BATCH, *(None,) * (len(shape) - 1)))


def _keys(
    key: PRNGKeyArray | None, groups: int
) -> tuple[Key[Array, "groups"] | None, Key[Array, "groups"] | None]:
    """Per group, a key for the router and a key for random drops."""
    if key is None:
        return None, None
    numbers = _by_group(jnp.arange(groups))
    route, drop = jax.random.split(key)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return fold(route, numbers), fold(drop, numbers)


def _cut(
    slots: Float[Array, "groups slots d_model"], length: int
) -> Float[Array, "groups blocks length d_model"]:
    groups, number, d_model = slots.shape
    return reshaped(slots, (groups, number // length, length, d_model), (BATCH, None, None, None))


def _combined(
    out: Float[Array, "groups blocks length d_model"], routing: Routing, plan: Plan
) -> Float[Array, "groups tokens d_model"]:
    groups, blocks, length, d_model = out.shape
    slots = reshaped(out, (groups, blocks * length, d_model), TOKENS)
    return jax.vmap(combine)(slots, routing.gates, plan)


def _by_group(tree: T) -> T:
    """Shards every array by its first axis, groups; `vmap` loses the sharding of a size-1 axis."""
    return jax.tree.map(lambda array: laid_out(array, (BATCH, *(None,) * (array.ndim - 1))), tree)
