"""The programs that are planned: a routed layer's value and gradient, a training step, and one
batch of an evaluation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from plan.request import Request
from reference.config import ModelConfig
from reference.mesh import BATCH, is_array, parameter_specs
from reference.routed import RoutedFeedForward
from reference.routers import Hash
from reference.transformer import Transformer, partition_weights
from training.evaluate import Sums, sums_of
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import TrainState, init_state, state_specs, train_step


class Program(NamedTuple):
    """A function, and the shapes of its arguments, laid out on devices."""

    function: Callable[..., Any]
    arguments: tuple[PyTree, ...]
    donated: tuple[int, ...] = ()
    """Arguments whose memory the results may take."""


def lowered(request: Request, mesh: Mesh) -> tuple[jax.stages.Lowered, tuple[PyTree, ...]]:
    """The program that `request` asks for, ready to be compiled, and its arguments' shapes."""
    make = {"layer": _layer, "step": _step, "evaluation": _evaluation}[request.program]
    program = make(request, mesh)
    # An evaluation does not read the optimizer's state, which stays in memory all the same.
    jitted = jax.jit(program.function, donate_argnums=program.donated, keep_unused=True)
    with jax.set_mesh(mesh):
        return jitted.lower(*program.arguments), program.arguments


def argument_bytes(arguments: PyTree) -> int:
    """Bytes of the arguments on one device, by their shapes and layouts."""
    leaves = [
        leaf
        for leaf in jax.tree.leaves(arguments)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
    )


def _step(request: Request, mesh: Mesh) -> Program:
    shape, spec = (request.batch // request.microbatches, request.context + 1), (BATCH, None)
    if request.microbatches > 1:
        shape, spec = (request.microbatches, *shape), (None, *spec)
    tokens = _laid_out(jax.ShapeDtypeStruct(shape, jnp.int32), P(*spec), mesh)
    step = partial(train_step, optimizer=_optimizer(request))
    return Program(step, (_state(request, mesh), tokens, _key(mesh)), donated=(0,))


def _evaluation(request: Request, mesh: Mesh) -> Program:
    """One batch of an evaluation in a run, where the optimizer's state is in memory too."""
    tokens = jax.ShapeDtypeStruct((request.batch, request.context + 1), jnp.int32)
    tokens = _laid_out(tokens, P(BATCH, None), mesh)
    return Program(_evaluate, (_state(request, mesh), tokens))


def _evaluate(state: TrainState, tokens: Int[Array, "batch context_and_one"]) -> Sums:
    return sums_of(state.model, tokens)


def _optimizer(request: Request) -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(first_moment=request.first_moment))


def _state(request: Request, mesh: Mesh) -> TrainState:
    config, optimizer = request.config(), _optimizer(request)

    def _initial(key: PRNGKeyArray) -> TrainState:
        return init_state(Transformer(config, key=key), optimizer)

    state = jax.eval_shape(_initial, jax.random.key(0))
    return _laid_out(state, state_specs(state, mesh, fsdp=request.fsdp), mesh)


def _layer(request: Request, mesh: Mesh) -> Program:
    config, batch = request.config(), (request.batch, request.context)
    layer = jax.eval_shape(partial(_make_layer, config), jax.random.key(0))
    x = jax.ShapeDtypeStruct((*batch, config.size.d_model), config.dtype)
    arguments = (
        *(_laid_out(part, parameter_specs(part), mesh) for part in partition_weights(layer)),
        _laid_out(x, P(BATCH, None, None), mesh),
        _laid_out(jax.ShapeDtypeStruct(batch, jnp.int32), P(BATCH, None), mesh),
        _key(mesh),
    )
    return Program(_value_and_gradient, arguments)


def _make_layer(config: ModelConfig, key: PRNGKeyArray) -> RoutedFeedForward:
    router, table = config.router, None
    if router and isinstance(router.technique, Hash):
        table = jnp.zeros((config.vocabulary, router.k), jnp.int32)
    return RoutedFeedForward(config, key=key, hash_table=table)


def _value_and_gradient(
    weights: RoutedFeedForward,
    fixed: RoutedFeedForward,
    x: Float[Array, "batch context d_model"],
    token_id: Int[Array, "batch context"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], tuple[RoutedFeedForward, Float[Array, "batch context d_model"]]]:
    """Of the sum of squares of the layer's output and of its router's losses."""

    def _loss(
        weights: RoutedFeedForward, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, ""]:
        y, routing = eqx.combine(weights, fixed)(x, token_id, key=key, inference=False)
        losses = [jnp.sum(loss) for loss in routing.losses.values()]
        return jnp.sum(y.astype(jnp.float32) ** 2) + sum(losses, start=jnp.zeros(()))

    return jax.value_and_grad(_loss, argnums=(0, 1))(weights, x)


def _laid_out(tree: PyTree, specs: PyTree[P], mesh: Mesh) -> Any:
    def _one(leaf: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(_one, eqx.filter(tree, is_array), specs)


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, P()))
