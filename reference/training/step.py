"""One training step: loss, gradient, AdamW, on one device or on a mesh."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from reference.mesh import is_array, parameter_specs, sum_gradients_later
from reference.objective import Report, objective
from reference.training.optimizer import zero_specs
from reference.transformer import Transformer


class TrainState(eqx.Module):
    """All that training changes, and the model's fixed tables. Nothing in it is static but the model's configuration."""

    model: Transformer
    optimizer_state: optax.OptState
    step: Int[Array, ""]


def init_state(model: Transformer, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), jnp.zeros((), jnp.int32))


def state_specs(state: TrainState, mesh: Mesh) -> TrainState:
    """The partition spec of every array: weights by `mesh.parameter_specs`, the optimizer's copies spread over `data` as well."""
    return eqx.tree_at(
        lambda state: (state.model, state.optimizer_state, state.step),
        eqx.filter(state, is_array),
        (parameter_specs(state.model), zero_specs(state.optimizer_state, mesh), P()),
        is_leaf=lambda leaf: leaf is None,
    )


def train_step(
    state: TrainState, tokens: Int[Array, "batch context_and_one"], key: PRNGKeyArray, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Report]:
    """The state after one step on `tokens`, and its losses. The step's own randomness is `key` folded with its number."""
    weights, fixed = eqx.partition(state.model, eqx.is_inexact_array)
    step_key = jax.random.fold_in(key, state.step)

    def _loss(weights: Transformer) -> tuple[Array, Report]:
        return objective(eqx.combine(weights, fixed), tokens, key=step_key)

    gradient, report = jax.grad(_loss, has_aux=True)(sum_gradients_later(weights))
    weights, optimizer_state = _update(weights, gradient, state.optimizer_state, optimizer)
    return TrainState(eqx.combine(weights, fixed), optimizer_state, state.step + 1), report


def _update(
    weights: PyTree, gradient: PyTree, optimizer_state: optax.OptState, optimizer: optax.GradientTransformation
) -> tuple[PyTree, optax.OptState]:
    """ZeRO stage 1: each device updates its share of the weights, then all get the whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, weights)
        return optax.apply_updates(weights, updates), optimizer_state
    shares, whole = zero_specs(weights, mesh), parameter_specs(weights)
    mine = jax.sharding.reshard(weights, shares)
    updates, optimizer_state = optimizer.update(jax.sharding.reshard(gradient, shares), optimizer_state, mine)
    return jax.sharding.reshard(optax.apply_updates(mine, updates), whole), optimizer_state
