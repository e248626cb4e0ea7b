"""The programs that are planned:
a routed layer's value and gradient, and a training step; and what they should cost."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from plan.request import Request
from reference.config import RouterConfig
from reference.count import matmul_flops
from reference.mesh import BATCH, is_array, parameter_specs
from reference.routed import RoutedFeedForward
from reference.routers import Hash
from reference.transformer import Transformer
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import TrainState, init_state, state_specs, train_step


class Program(NamedTuple):
    """A function, and shapes of its arguments, laid out on devices."""

    function: Callable[..., Any]
    arguments: tuple[PyTree, ...]
    donated: tuple[int, ...]
    """Arguments whose memory the results may take."""


def make_program(request: Request, mesh: Mesh) -> Program:
    """The program that `request` asks for."""
    return _step(request, mesh) if request.program == "step" else _layer(request, mesh)


def counted_once(request: Request) -> float:
    """FLOPs of the program's matrix products by closed form, on one device, in the way XLA counts:
    a loop's body once.

    The loops are that over groups of blocks, and that over the parts after the first. A gradient is
    two products of a product's size; with `remat` a group's forward pass runs once more. Experts
    work on whole buffers: the capacity factor's slots are in the closed form.
    """
    config, devices = request.config(), mesh_devices(request)
    forward = matmul_flops(config, request.batch // request.parts, inference=False)
    if request.program == "layer":
        return (
            3
            * (forward.experts + forward.router + forward.baseline)
            / config.routed_layers
            / devices
        )
    groups = config.size.num_blocks // config.period
    in_groups = (forward.total - forward.logits) / groups
    return (
        min(request.parts, 2)
        * ((4 if config.remat else 3) * in_groups + 3 * forward.logits)
        / devices
    )


def mesh_devices(request: Request) -> int:
    """How many devices `request` is for."""
    data, expert, model = request.axes
    return data * expert * model


def argument_bytes(arguments: PyTree) -> int:
    """Bytes of arguments on one device, by their shapes and layouts."""
    leaves = [
        leaf
        for leaf in jax.tree.leaves(arguments)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
    )


def _step(request: Request, mesh: Mesh) -> Program:
    config, optimizer = request.config(), make_optimizer(OptimizerConfig())

    def _initial(key: PRNGKeyArray) -> TrainState:
        return init_state(Transformer(config, key=key), optimizer)

    state = jax.eval_shape(_initial, jax.random.key(0))
    shape, spec = (request.batch // request.parts, config.context + 1), (BATCH, None)
    if request.parts > 1:
        shape, spec = (request.parts, *shape), (None, *spec)
    tokens = _laid_out(jax.ShapeDtypeStruct(shape, jnp.int32), P(*spec), mesh)
    arguments = (_laid_out(state, state_specs(state, mesh), mesh), tokens, _key(mesh))
    return Program(partial(train_step, optimizer=optimizer), arguments, donated=(0,))


def _layer(request: Request, mesh: Mesh) -> Program:
    config = request.config()
    router = config.router
    assert router is not None
    layer = jax.eval_shape(partial(_make_layer, request, router), jax.random.key(0))
    weights, fixed = eqx.partition(layer, lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact))
    batch, width = (request.batch, config.context), config.size.d_model
    arguments = (
        *(_laid_out(part, parameter_specs(part), mesh) for part in (weights, fixed)),
        _laid_out(jax.ShapeDtypeStruct((*batch, width), config.dtype), P(BATCH, None, None), mesh),
        _laid_out(jax.ShapeDtypeStruct(batch, jnp.int32), P(BATCH, None), mesh),
        _key(mesh),
    )
    return Program(_value_and_gradient, arguments, donated=())


def _make_layer(request: Request, router: RouterConfig, key: PRNGKeyArray) -> RoutedFeedForward:
    config = request.config()
    table = (
        jnp.zeros((config.vocabulary, router.k), jnp.int32)
        if isinstance(router.technique, Hash)
        else None
    )
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
        y, routing = eqx.combine(weights, fixed)(x, token_id, key=key)
        losses = [jnp.sum(loss) for loss in routing.losses.values()]
        return jnp.sum(y.astype(jnp.float32) ** 2) + sum(losses, start=jnp.zeros(()))

    return jax.value_and_grad(_loss, argnums=(0, 1))(weights, x)


def _laid_out(tree: PyTree, specs: PyTree[P], mesh: Mesh) -> PyTree[jax.ShapeDtypeStruct]:
    def _one(leaf: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(_one, eqx.filter(tree, is_array), specs)


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, P()))
