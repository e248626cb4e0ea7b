"""The device mesh and every partition spec: who holds what when a model is spread over devices.

Three axes, always present, of size 1 where unused, in JAX's explicit mode (a sharding is part of an array's type):

    data      groups of tokens; optimizer state (ZeRO stage 1)
    expert    groups of tokens outside the experts, experts inside: two all-to-alls carry the tokens over and back
    model     attention heads, feed-forward width, vocabulary

Without a mesh (`jax.set_mesh`) every function here is the identity, and the model runs on one device.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree, Shaped

from reference.errors import ConfigError

DATA, EXPERT, MODEL = "data", "expert", "model"
GROUPS = (DATA, EXPERT)
"""What a batch, and so its groups of tokens, is spread over."""

Axes = str | tuple[str, ...] | None
"""What one dimension is spread over."""


def make_mesh(data: int = 1, expert: int = 1, model: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `data` x `expert` x `model` devices, of all there are unless `devices` (of `jax.Device`) says which.

    Raises `ConfigError` if the product is not their number.
    """
    devices = jax.devices() if devices is None else devices
    if data * expert * model != len(devices):
        product = f"{data} x {expert} x {model} = {data * expert * model}"
        raise ConfigError(f"data x expert x model is {product}, but there are {len(devices)} devices; make the product that number")
    return jax.make_mesh((data, expert, model), (DATA, EXPERT, MODEL), (AxisType.Explicit,) * 3, devices=devices)


def shard(x: Shaped[Array, "..."], *spec: Axes) -> Shaped[Array, "..."]:
    """`x` laid out by `spec`, one entry per dimension; `x` itself without a mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.sharding.reshard(x, P(*spec))


def reshape(x: Shaped[Array, "..."], shape: tuple[int, ...], *, out: tuple[Axes, ...]) -> Shaped[Array, "..."]:
    """`x.reshape(shape)` laid out by `out`, where JAX cannot tell which dimensions are still spread."""
    without_mesh = jax.sharding.get_abstract_mesh().empty
    return jax.lax.reshape(x, shape, out_sharding=None if without_mesh else P(*out))


def einsum(equation: str, *operands: Shaped[Array, "..."], out: tuple[Axes, ...]) -> Shaped[Array, "..."]:
    """`jnp.einsum` whose result is laid out by `out`, which says what a contraction over a sharded axis leaves."""
    without_mesh = jax.sharding.get_abstract_mesh().empty
    return jnp.einsum(equation, *operands, out_sharding=None if without_mesh else P(*out))


def take(x: Shaped[Array, "rows ..."], index: Int[Array, "*shape"], *, out: tuple[Axes, ...]) -> Shaped[Array, "*shape_and_row"]:
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
    """A partition spec for each array of `model`, or of its shapes; `P()` for what every device holds whole."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _spec(_dotted(path), leaf.ndim), eqx.filter(model, is_array))


def is_array(leaf: object) -> bool:
    """Whether `leaf` is an array or stands for one (`jax.ShapeDtypeStruct`)."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey))


def _spec(name: str, ndim: int) -> P:
    """The layout of the weight called `name`; leading axes, which blocks have when they are stacked, are not spread."""
    for end, spec in _SPECS.items():
        if name.endswith(end):
            return P(*(None,) * (ndim - len(spec)), *spec)
    return P()
