"""One training step: loss, gradient and AdamW, on one device or a mesh."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from reference.mesh import is_array, sum_gradients_later, sum_to_shares
from reference.objective import PADDING, Report, objective
from reference.transformer import Transformer, move_states, partition_weights
from training.optimizer import weight_specs, zero_specs

Share = float | Float[Array, ""]
"""Weight of a microbatch in the sum."""


class TrainState(eqx.Module):
    """Everything that training updates, and the model's fixed tables.

    Only the model's configuration is static.
    """

    model: Transformer
    optimizer_state: optax.OptState
    step: Int[Array, ""]


def init_state(model: Transformer, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(model, optimizer.init(partition_weights(model)[0]), jnp.zeros((), jnp.int32))


def state_specs(state: TrainState, mesh: Mesh, *, fsdp: bool = False) -> TrainState:
    """Partition specs: weights by `weight_specs`, optimizer state by `zero_specs`."""
    return eqx.tree_at(
        lambda state: (state.model, state.optimizer_state, state.step),
        eqx.filter(state, is_array),
        (weight_specs(state.model, mesh, fsdp=fsdp), zero_specs(state.optimizer_state, mesh), P()),
        is_leaf=lambda leaf: leaf is None,
    )


def train_step(
    state: TrainState,
    tokens: Int[Array, "batch context_and_one"] | Int[Array, "microbatches batch context_and_one"],
    key: PRNGKeyArray,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Report]:
    """The state after one step on `tokens`, and its report.

    Routers use `key` folded with the step. With an axis `microbatches`, the gradient is accumulated
    over them, each weighted by its number of non-padding targets.
    """
    weights, fixed = partition_weights(state.model)
    step_key = jax.random.fold_in(key, state.step)

    def _gradient(
        tokens: Int[Array, "batch context_and_one"], key: PRNGKeyArray, share: Share = 1.0
    ) -> tuple[Transformer, Report]:
        def _loss(weights: Transformer) -> tuple[Array, Report]:
            total, report = objective(eqx.combine(weights, fixed), tokens, key=key)
            return share * total, report

        gradient, report = jax.grad(_loss, has_aux=True)(sum_gradients_later(weights))
        return _to_shares(gradient), jax.tree.map(lambda x: share * x, report)

    gradient, report = (
        _gradient(tokens, step_key)
        if tokens.ndim == 2
        else _accumulated(_gradient, tokens, step_key)
    )
    weights, optimizer_state = _update(weights, gradient, state.optimizer_state, optimizer)
    report = dataclasses.replace(report, gradient_norm=optax.tree.norm(gradient))
    model = move_states(eqx.combine(weights, fixed), report.load)
    return TrainState(model, optimizer_state, state.step + 1), report


def _accumulated(
    gradient: Callable[..., tuple[Transformer, Report]],
    tokens: Int[Array, "microbatches batch context_and_one"],
    key: PRNGKeyArray,
) -> tuple[Transformer, Report]:
    """Gradient accumulation: sums of the microbatches' gradients and reports.

    Each is weighted by its share of the non-padding targets. Memory holds a microbatch's gradient,
    and the sum in the shares of ZeRO stage 1. `dead_experts` is recomputed from the load of the
    whole batch.
    """
    real = jnp.sum(tokens[..., 1:] != PADDING, axis=(1, 2)).astype(jnp.float32)
    shares, keys = real / jnp.sum(real), jax.random.split(key, tokens.shape[0])

    def _add(total: PyTree, each: tuple[Array, PRNGKeyArray, Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, gradient(*each)), None

    shapes = jax.eval_shape(gradient, tokens[0], keys[0], shares[0])
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, out_sharding=x.sharding), shapes)
    total, report = jax.lax.scan(_add, zero, (tokens, keys, shares))[0]
    if report.load is None:
        return total, report
    dead = jnp.sum(report.load == 0, axis=1).astype(report.load.dtype)
    return total, dataclasses.replace(report, metrics=report.metrics | {"dead_experts": dead})


def _to_shares(gradient: PyTree) -> PyTree:
    """The gradient of `sum_gradients_later`, summed into each device's shard of ZeRO stage 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return gradient if mesh.empty else sum_to_shares(gradient, zero_specs(gradient, mesh))


def _update(
    weights: PyTree,
    gradient: PyTree,
    optimizer_state: optax.OptState,
    optimizer: optax.GradientTransformation,
) -> tuple[PyTree, optax.OptState]:
    """ZeRO stage 1: each device updates its shard of the weights.

    Those that are not spread themselves are then all-gathered.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, weights)
        return optax.apply_updates(weights, updates), optimizer_state
    shares = zero_specs(weights, mesh)
    whole = jax.tree.map(lambda weight: jax.typeof(weight).sharding.spec, weights)
    share = jax.sharding.reshard(weights, shares)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, share)
    return jax.sharding.reshard(optax.apply_updates(share, updates), whole), optimizer_state
