"""The routed feed-forward: router -> dispatch -> experts -> combine, over groups of tokens.

A group is `sequences_per_group` consecutive sequences of the batch, one after the other. Routers
and dispatch see one group at a time, under `vmap`; the experts see the buffers of all.
"""

import dataclasses
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from reference.config import Hash, Reinforce, RouterConfig, SinkhornBase, Size, Switch
from reference.dispatch import block_length, combine, plan_blocks, plan_capacity, to_slots
from reference.errors import ConfigError
from reference.feedforward import Experts
from reference.mesh import GROUPS, reshape, shard
from reference.routers import (
    AbstractRouter,
    HashRouter,
    ReinforceRouter,
    Routing,
    SinkhornBaseRouter,
    SwitchRouter,
)

T = TypeVar("T")


class RoutedFeedForward(eqx.Module):
    """A feed-forward of which each token uses k of E."""

    router: AbstractRouter
    experts: Experts
    config: RouterConfig = eqx.field(static=True)

    def __init__(
        self,
        size: Size,
        config: RouterConfig,
        *,
        key: PRNGKeyArray,
        hash_table: Int[Array, "vocabulary k"] | None = None,
    ) -> None:
        """`hash_table` is needed by HASH, and by it alone (`routers.hash.hash_table`)."""
        router_key, experts_key = jax.random.split(key)
        self.router = make_router(size.d_model, config, key=router_key, hash_table=hash_table)
        self.experts = Experts(size, config.num_experts, key=experts_key)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool = False,
    ) -> tuple[Float[Array, "batch context d_model"], Routing]:
        """Each token's gated sum over its experts, zero where it was dropped;
        and the routing of every group."""
        groups, ids = self._grouped(x, inference), self._grouped(token_id, inference)
        number, tokens, d_model = groups.shape
        keys = (
            None
            if key is None
            else jax.vmap(jax.random.fold_in, (None, 0))(key, shard(jnp.arange(number), GROUPS))
        )
        routing = _spread(
            jax.vmap(lambda x, ids, key: self.router(x, ids, key=key, inference=inference))(
                groups, ids, keys
            )
        )
        capacity = self.config.capacity(tokens, inference=inference)
        if capacity is None:
            y, dropped = self._drop_none(groups, routing)
        else:
            plan = _spread(
                jax.vmap(lambda experts: plan_capacity(experts, self.config.num_experts, capacity))(
                    routing.experts
                )
            )
            buffer = jax.vmap(to_slots)(groups, plan).reshape(
                number, self.config.num_experts, capacity, d_model
            )
            out = self.experts(buffer).reshape(number, -1, d_model)
            y, dropped = (
                jax.vmap(combine)(out, routing.gates, plan),
                jax.vmap(lambda plan: plan.dropped_fraction())(plan),
            )
        gate = jnp.mean(jnp.sum(jax.lax.stop_gradient(routing.gates), axis=-1), axis=-1)
        routing = dataclasses.replace(
            routing, metrics=routing.metrics | {"dropped_fraction": dropped, "gate": gate}
        )
        return reshape(y, x.shape, out=(GROUPS, None, None)), routing

    def _drop_none(
        self, groups: Float[Array, "groups tokens d_model"], routing: Routing
    ) -> tuple[Float[Array, "groups tokens d_model"], Float[Array, "groups"]]:
        num_experts = self.config.num_experts
        blocks = _spread(
            jax.vmap(lambda experts: plan_blocks(experts, num_experts))(routing.experts)
        )
        length = block_length(routing.experts.shape[1] * self.config.k, num_experts)
        buffer = jax.vmap(to_slots)(groups, blocks.plan).reshape(
            groups.shape[0], -1, length, groups.shape[-1]
        )
        out = self.experts.by_block(buffer, blocks.expert_of_block).reshape(
            groups.shape[0], -1, groups.shape[-1]
        )
        return jax.vmap(combine)(out, routing.gates, blocks.plan), jax.vmap(
            lambda plan: plan.dropped_fraction()
        )(blocks.plan)

    def _grouped(
        self, x: Shaped[Array, "batch context *rest"], inference: bool
    ) -> Shaped[Array, "groups tokens *rest"]:
        """Sequences of a group one after the other.

        In evaluation a batch that does not come out even has a group for each.
        """
        per_group = self.config.sequences_per_group
        if per_group == 1 or (inference and x.shape[0] % per_group):
            return x
        if x.shape[0] % per_group:
            fix = "make the batch a multiple of it"
            raise ConfigError(
                f"a batch of {x.shape[0]} sequences does not come out even in groups of {per_group} sequences; {fix}"
            )
        shape = x.shape[0] // per_group, per_group * x.shape[1], *x.shape[2:]
        return reshape(x, shape, out=(GROUPS, *(None,) * (len(shape) - 1)))


def _spread(by_group: T) -> T:
    """Every array laid out by groups, which JAX forgets of a batch of one group."""
    return jax.tree.map(lambda array: shard(array, GROUPS, *(None,) * (array.ndim - 1)), by_group)


def make_router(
    d_model: int,
    config: RouterConfig,
    *,
    key: PRNGKeyArray,
    hash_table: Int[Array, "vocabulary k"] | None = None,
) -> AbstractRouter:
    """The router that `config` asks for. Raises `ConfigError` if HASH is given no table."""
    match config.technique:
        case SinkhornBase() as options:
            return SinkhornBaseRouter(d_model, config.num_experts, config.k, options, key=key)
        case Reinforce() as options:
            return ReinforceRouter(d_model, config.num_experts, options, key=key)
        case Switch() as options:
            return SwitchRouter(d_model, config.num_experts, config.k, options, key=key)
        case Hash():
            if hash_table is None:
                raise ConfigError("HASH was given no table; make one with routers.hash.hash_table")
            return HashRouter(hash_table, config.num_experts)
