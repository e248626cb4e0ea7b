"""The device mesh and every partition spec: who holds what when a model is spread over devices.

Three axes, always present, of size 1 where unused, in JAX's explicit mode (a sharding is part of an
array's type):

    data      groups of tokens
    expert    groups of tokens outside the experts, experts inside: two all-to-alls carry the tokens over and back
    model     attention heads, feed-forward width, vocabulary

Optimizer state is spread over the axes that its weight is not (ZeRO stage 1,
`training.optimizer.zero_specs`). Without a mesh (`jax.set_mesh`) every function here is the
identity, and the model runs on one device.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree, Shaped

from reference.config import ModelConfig
from reference.errors import ConfigError
from reference.layout import DATA, EXPERT, GROUPS, MODEL, check_shape

Axes = str | tuple[str, ...] | None
"""What one dimension is spread over."""


def make_mesh(
    data: int = 1, expert: int = 1, model: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of `data` x `expert` x `model` devices, of all there are unless `devices` (of
    `jax.Device`) says which.

    Raises `ConfigError` if the product is not their number.
    """
    devices = jax.devices() if devices is None else devices
    if data * expert * model != len(devices):
        product = f"{data} x {expert} x {model} = {data * expert * model}"
        raise ConfigError(
            f"data x expert x model is {product}, but there are {len(devices)} devices; make the product that number"
        )
    return jax.make_mesh(
        (data, expert, model), (DATA, EXPERT, MODEL), (AxisType.Explicit,) * 3, devices=devices
    )


def check_mesh(config: ModelConfig, mesh: Mesh | AbstractMesh, batch: int) -> None:
    """Raises `ConfigError` unless the model's dimensions, and a batch of so many sequences, come
    out even on `mesh`.
    """
    check_shape(config, mesh.shape, batch)


def place(tree: PyTree, specs: PyTree[P], mesh: Mesh) -> PyTree:
    """`tree` with each array on the mesh's devices by its spec.

    With several processes, each must hold the same `tree`.
    """
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def batch_rows(mesh: Mesh, batch: int) -> Int[np.ndarray, "rows"]:
    """Which sequences of a batch this process's devices hold, in order:
    all of them if there is one process."""
    slices = NamedSharding(mesh, P(GROUPS)).addressable_devices_indices_map((batch,)).values()
    return np.unique(
        np.concatenate([np.arange(batch)[index] for index in slices if index is not None])
    )


def place_batch(
    rows: Int[np.ndarray, "rows context_and_one"], mesh: Mesh, batch: int
) -> Int[Array, "batch context_and_one"]:
    """A batch of `batch` sequences on the mesh, of which this process gives its own:
    those that `batch_rows` names, in order."""
    return jax.make_array_from_process_local_data(
        NamedSharding(mesh, P(GROUPS, None)), rows, (batch, rows.shape[1])
    )


def shard(x: Shaped[Array, "..."], *spec: Axes) -> Shaped[Array, "..."]:
    """`x` laid out by `spec`, one entry per dimension; `x` itself without a mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.sharding.reshard(x, P(*spec))


def reshape(
    x: Shaped[Array, "..."], shape: tuple[int, ...], *, out: tuple[Axes, ...]
) -> Shaped[Array, "..."]:
    """`x.reshape(shape)` laid out by `out`, where JAX cannot tell which dimensions are still
    spread.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return jax.lax.reshape(x, shape)
    # A weight of `sum_gradients_later` stays one.
    return jax.lax.reshape(
        x, shape, out_sharding=P(*out, reduced=jax.typeof(x).sharding.spec.reduced)
    )


def broadcast(
    x: Shaped[Array, "..."], shape: tuple[int, ...], *, out: tuple[Axes, ...]
) -> Shaped[Array, "..."]:
    """`x` repeated along new axes in front, laid out by `out` from the start.

    Were it laid out afterwards, its gradient would be gathered whole on each device before it is
    summed.
    """
    without_mesh = jax.sharding.get_abstract_mesh().empty
    return jnp.broadcast_to(x, shape, out_sharding=None if without_mesh else P(*out))


def einsum(
    equation: str, *operands: Shaped[Array, "..."], out: tuple[Axes, ...]
) -> Shaped[Array, "..."]:
    """`jnp.einsum` whose result is laid out by `out`, which says what a contraction over a sharded
    axis leaves.
    """
    without_mesh = jax.sharding.get_abstract_mesh().empty
    return jnp.einsum(equation, *operands, out_sharding=None if without_mesh else P(*out))


def take(
    x: Shaped[Array, "rows ..."], index: Int[Array, "*shape"], *, out: tuple[Axes, ...]
) -> Shaped[Array, "*shape_and_row"]:
    """Rows `x[index]`, laid out by `out`."""
    without_mesh = jax.sharding.get_abstract_mesh().empty
    return x.at[index].get(out_sharding=None if without_mesh else P(*out))


_SPECS: dict[str, tuple[str | None, ...]] = {
    "embedding": (MODEL, None),
    "attention.query": (None, MODEL, None),
    "attention.key": (None, MODEL, None),
    "attention.value": (None, MODEL, None),
    "attention.position": (None, MODEL, None),
    "attention.output": (MODEL, None, None),
    "feedforward.w_in": (None, MODEL),
    "feedforward.w_out": (MODEL, None),
    "experts.w_in": (EXPERT, None, MODEL),
    "experts.w_out": (EXPERT, MODEL, None),
}
"""Layout by the end of a weight's path, for its last dimensions; all others are on every device."""


def parameter_specs(model: PyTree) -> PyTree[P]:
    """A partition spec for each array of `model`, or of its shapes;
    `P()` for what every device holds whole."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _spec(_dotted(path), leaf.ndim), eqx.filter(model, is_array)
    )


_SUMMED: dict[str, tuple[str, ...]] = {
    "attention.query": GROUPS,
    "attention.key": GROUPS,
    "attention.value": GROUPS,
    "attention.output": GROUPS,
    "feedforward.w_in": GROUPS,
    "feedforward.w_out": GROUPS,
    "experts.w_in": (DATA,),
    "experts.w_out": (DATA,),
}
"""The axes over which a weight's gradient is a sum, for the matrices that hold nearly all weights
of a block.
"""


def sum_gradients_later(model: PyTree) -> PyTree:
    """`model` with its matrices typed so that each device keeps its own part of their gradient, for
    `sum_to_shares` to sum.

    Otherwise JAX sums the gradient over devices where a layer's backward pass ends, and every
    device gets it whole. Left for the end, and to the shares of ZeRO stage 1, that is a
    reduce-scatter: it moves half as much as an all-reduce, once for all parts of a batch, and adds
    in float32. Without a mesh `model` itself.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return model

    def _spec_of(path: tuple[Any, ...], spec: P) -> P:
        axes = next((axes for end, axes in _SUMMED.items() if _dotted(path).endswith(end)), ())
        return P(*spec, reduced=frozenset(axes))

    specs = jax.tree_util.tree_map_with_path(
        _spec_of, parameter_specs(model), is_leaf=lambda leaf: isinstance(leaf, P)
    )
    return jax.sharding.reshard(model, specs)


def sum_to_shares(gradient: PyTree, shares: PyTree[P]) -> PyTree:
    """The gradient by `sum_gradients_later`, summed over devices, each of which gets its share of
    it.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def _sum(x: Shaped[Array, "..."], share: P) -> Shaped[Array, "..."]:
        spec = jax.typeof(x).sharding.spec
        dimension = next(
            (i for i, axes in enumerate(share) if axes is not None and axes != spec.partitions[i]),
            None,
        )
        devices = math.prod(mesh.shape[axis] for axis in spec.unreduced)
        if (
            dimension is None
            or devices == 1
            or set(_names(share[dimension])) != set(spec.unreduced)
        ):
            return jax.sharding.reshard(x, share)
        # XLA makes an all-reduce of a reshard here.
        scatter = partial(
            jax.lax.psum_scatter,
            axis_name=_names(share[dimension]),
            scatter_dimension=dimension,
            tiled=True,
        )
        return jax.shard_map(scatter, in_specs=spec, out_specs=share)(x)

    return jax.tree.map(_sum, gradient, shares)


def _names(axes: Axes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def is_array(leaf: object) -> bool:
    """Whether `leaf` is an array or stands for one (`jax.ShapeDtypeStruct`)."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey))


def _spec(name: str, ndim: int) -> P:
    """The layout of the weight called `name`;
    leading axes, which blocks have when they are stacked, are not spread."""
    for end, spec in _SPECS.items():
        if name.endswith(end):
            return P(*(None,) * (ndim - len(spec)), *spec)
    return P()
