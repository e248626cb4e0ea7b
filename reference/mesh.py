"""The device mesh, and the sharding of every weight and activation.

Three axes, always present, of size 1 where unused, in JAX's explicit mode (a sharding is part of an
array's type):

    data      batch
    expert    batch outside the experts, experts inside: an all-to-all dispatches tokens, another
              returns them
    model     attention heads, feed-forward width, vocabulary

Optimizer state is further sharded over the axes that its weight is not (ZeRO stage 1,
`training.optimizer.zero_specs`); so are the blocks' matrices if asked for (FSDP, `gathered`), which
the layers then read from all devices. Without a mesh (`jax.set_mesh`) every function here is the
plain operation, and the model runs on one device.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree, Shaped

from reference.errors import ConfigError

T = TypeVar("T")

DATA, EXPERT, MODEL = "data", "expert", "model"
BATCH = (DATA, EXPERT)
"""The two axes that shard the batch, and hence groups of tokens."""

Axes = str | tuple[str, ...] | None
"""The mesh axes that shard one dimension."""
Layout = tuple[Axes, ...]
"""The mesh axes of each dimension of an array."""

TOKENS: Layout = (BATCH, None, None)
"""batch context d_model, and groups tokens d_model."""
HIDDEN: Layout = (BATCH, None, MODEL)
"""batch context features: hidden units, concatenated heads, or the vocabulary."""
HEADS: Layout = (BATCH, MODEL, None, None)
"""batch heads context kqv, and attention scores."""
BUFFER: Layout = (BATCH, None, None, None)
"""groups experts capacity d_model, on the tokens' devices."""
BY_EXPERT: Layout = (EXPERT, DATA, None, None)
"""experts groups capacity d_model, on the experts' devices."""
SLOTS: Layout = (EXPERT, DATA, None)
"""experts slots d_model."""
SLOTS_HIDDEN: Layout = (EXPERT, DATA, MODEL)
"""experts slots hidden."""

_WEIGHTS: dict[str, Layout] = {
    "embedding": (MODEL, None),
    "attention.query": (None, MODEL, None),
    "attention.key": (None, MODEL, None),
    "attention.value": (None, MODEL, None),
    "attention.position": (None, MODEL, None),
    "attention.output": (MODEL, None, None),
    "experts.w_in": (EXPERT, None, MODEL),
    "experts.w_out": (EXPERT, MODEL, None),
    "w_in": (None, MODEL),
    "w_out": (MODEL, None),
}
"""Layout of a weight's last dimensions, by the end of its path."""

_WHOLE = ("router", "attention_norm", "feedforward_norm", "final_norm")
"""Modules whose arrays are replicated."""

_SUMMED: dict[str, Layout] = {
    "embedding": BATCH,
    "attention.query": BATCH,
    "attention.key": BATCH,
    "attention.value": BATCH,
    "attention.position": BATCH,
    "attention.output": BATCH,
    "experts.w_in": (DATA,),
    "experts.w_out": (DATA,),
    "w_in": BATCH,
    "w_out": BATCH,
}
"""Axes over which a weight's gradient is summed, for the matrices that matter by size."""


def make_mesh(
    data: int = 1, expert: int = 1, model: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of `data` x `expert` x `model` devices, by default of all devices.

    `devices`: a sequence of `jax.Device`. Raises `ConfigError` if the product is not their number.
    """
    devices = jax.devices() if devices is None else devices
    product = data * expert * model
    if product != len(devices):
        raise ConfigError(
            f"data x expert x model is {data} x {expert} x {model} = {product}, "
            f"but there are {len(devices)} devices; the product must be the number of devices"
        )
    axis_types = (AxisType.Explicit,) * 3
    return jax.make_mesh((data, expert, model), (DATA, EXPERT, MODEL), axis_types, devices=devices)


def default_axes(devices: int, num_experts: int) -> tuple[int, int, int]:
    """Devices along data, expert and model: experts over as many as divide both, data the rest.

    Our choice: experts are most of a routed model's weights. `num_experts`: 1 for a dense model.
    """
    expert = math.gcd(devices, num_experts)
    return devices // expert, expert, 1


def devices_along(*axes: str) -> int:
    """Number of devices along these axes together; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in axes)


def laid_out(x: Shaped[Array, "..."], layout: Layout) -> Shaped[Array, "..."]:
    """`x` resharded to `layout`."""
    if _alone():
        return x
    return jax.sharding.reshard(x, P(*layout, reduced=_reduced(x)))


def reshaped(
    x: Shaped[Array, "..."], shape: tuple[int, ...], layout: Layout
) -> Shaped[Array, "..."]:
    """`x.reshape(shape)` with the given layout, where JAX cannot infer it."""
    if _alone():
        return jax.lax.reshape(x, shape)
    spec = P(*layout, reduced=_reduced(x))
    return jax.lax.reshape(x, shape, out_sharding=spec)


def repeated(
    x: Shaped[Array, "..."], shape: tuple[int, ...], layout: Layout
) -> Shaped[Array, "..."]:
    """`x` repeated along new leading axes, or along axes of size 1.

    Resharding afterwards would all-gather the gradient before summing it.
    """
    return jnp.broadcast_to(x, shape, out_sharding=None if _alone() else P(*layout))


def contract(
    equation: str, *operands: Shaped[Array, "..."], out: Layout, wide: bool = False
) -> Shaped[Array, "..."]:
    """`jnp.einsum` whose result is sharded by `out`.

    `wide`: accumulate and return float32 or wider, whatever the operands' dtype.
    """
    dtype = jnp.promote_types(operands[0].dtype, jnp.float32) if wide else None
    sharding = None if _alone() else P(*out)
    return jnp.einsum(equation, *operands, out_sharding=sharding, preferred_element_type=dtype)


def rows(
    x: Shaped[Array, "rows ..."], index: Int[Array, "*shape"], layout: Layout
) -> Shaped[Array, "*shape_and_row"]:
    """Rows `x[index]`; an index out of bounds gives NaN, or the least integer."""
    sharding = None if _alone() else P(*layout)
    at = x.at[index]
    return at.get(mode="fill", wrap_negative_indices=False, out_sharding=sharding)


def on_each_device(
    function: Callable[..., Shaped[Array, "..."]], layouts: tuple[Layout, ...], out: Layout
) -> Callable[..., Shaped[Array, "..."]]:
    """`function` of arrays with these layouts, called by each device with its own shards.

    `out`: the layout of the result. Without a mesh, `function` itself.
    """
    if _alone():
        return function
    specs = tuple(P(*layout) for layout in layouts)
    return jax.shard_map(function, in_specs=specs, out_specs=P(*out))


def parameter_specs(model: PyTree) -> PyTree[P]:
    """A partition spec for each array of `model`, or of its shapes; `P()` where replicated.

    Raises `ConfigError` for a matrix that no layout names.
    """

    def _spec(path: tuple[Any, ...], leaf: Any) -> P:
        name, layout = _dotted(path), _by_end(_WEIGHTS, _dotted(path))
        if layout is None:
            if leaf.ndim > 1 and not any(part in _WHOLE for part in name.split(".")):
                raise ConfigError(
                    f"no layout is known for the array {name}; add it to reference/mesh.py, "
                    "or it would be replicated"
                )
            return P()
        return P(*_stacked(layout, leaf))

    return jax.tree_util.tree_map_with_path(_spec, eqx.filter(model, is_array))


def sum_gradients_later(model: PyTree) -> PyTree:
    """`model` with its matrices marked `reduced`: gradients stay unreduced until `sum_to_shares`.

    Otherwise JAX all-reduces a gradient where a layer's backward pass ends. Deferred to the end of
    the step and to ZeRO's shards it is a reduce-scatter: half the traffic of an all-reduce, once
    for all microbatches, summed in float32. Without a mesh, `model` itself.
    """
    if _alone():
        return model

    def _marked(path: tuple[Any, ...], weight: Shaped[Array, "..."], spec: P) -> Any:
        own = jax.typeof(weight).sharding.spec
        if own.partitions != spec.partitions and summed_later(path):
            # Spread: `gathered` sums the gradient.
            return weight
        return jax.sharding.reshard(weight, P(*spec, reduced=_summed_axes(path)))

    return jax.tree_util.tree_map_with_path(_marked, model, parameter_specs(model))


def summed_later(path: tuple[Any, ...]) -> bool:
    """Whether the gradient of the weight of this path in a model is a sum over devices, and large:
    those of matrices, but not of routers."""
    return _by_end(_SUMMED, _dotted(path)) is not None


def sum_to_shares(gradient: PyTree, shares: PyTree[P]) -> PyTree:
    """Reduce-scatters the gradient of `sum_gradients_later` to each device's shard."""
    return jax.tree.map(_sum_to_share, gradient, shares)


def narrowed(blocks: T, dtype: Any) -> T:
    """Stacked blocks whose matrices are in `dtype`, in which they are read anyway.

    Scanned over, they then have a stacked gradient in `dtype` too: half the memory in bfloat16, of
    numbers that the products of the backward pass are rounded to already, so that none changes. It
    is converted to the weights' own dtype before it is summed, over devices or microbatches.
    Matrices that are spread over several devices stay as they are: `gathered` sums their gradients
    within the scan.
    """
    return _read_in(dtype, blocks, before_scan=True)


def gathered(blocks: T, dtype: Any) -> T:
    """Blocks whose spread matrices are whole, in `dtype`, on each device that computes with them.

    Their gradients are summed into the shards, in the weights' own dtype (Zhao et al. 2023, FSDP).
    Matrices in their layout of `parameter_specs` are returned as they are.
    """
    return _read_in(dtype, blocks, before_scan=False)


def _read_in(dtype: Any, blocks: T, *, before_scan: bool) -> T:
    """`narrowed` before the scan over blocks, or `gathered`."""

    def _whole(path: tuple[Any, ...], weight: Any) -> Any:
        layout = _by_end(_WEIGHTS, _dotted(path))
        if layout is None or not summed_later(path):
            return weight
        whole = P(*_stacked(layout, weight), reduced=_summed_axes(path))
        own = whole if _alone() else jax.typeof(weight).sharding.spec
        if own.partitions == whole.partitions:
            return weight.astype(dtype) if before_scan else weight
        axes = (name for axes in own.partitions for name in _names(axes) if axes not in layout)
        if before_scan and devices_along(*axes) > 1:
            return weight
        return _gather(weight, dtype, whole, own)

    return jax.tree_util.tree_map_with_path(_whole, blocks)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(weight: Shaped[Array, "..."], dtype: Any, whole: P, share: P) -> Shaped[Array, "..."]:
    return jax.sharding.reshard(weight.astype(dtype), whole)


def _gather_forward(
    weight: Shaped[Array, "..."], dtype: Any, whole: P, share: P
) -> tuple[Shaped[Array, "..."], Shaped[Array, "none"]]:
    return _gather(weight, dtype, whole, share), jnp.zeros(0, weight.dtype)


def _gather_backward(
    dtype: Any, whole: P, share: P, like: Shaped[Array, "none"], gradient: Shaped[Array, "..."]
) -> tuple[Shaped[Array, "..."]]:
    return (_sum_to_share(gradient.astype(like.dtype), share),)


_gather.defvjp(_gather_forward, _gather_backward)


def _sum_to_share(x: Shaped[Array, "..."], share: P) -> Shaped[Array, "..."]:
    mesh, spec = jax.sharding.get_abstract_mesh(), jax.typeof(x).sharding.spec
    changed = (
        axes is not None and axes != own for axes, own in zip(share, spec.partitions, strict=True)
    )
    dimension = next((i for i, differs in enumerate(changed) if differs), None)
    devices = math.prod(mesh.shape[axis] for axis in spec.unreduced)
    if dimension is None or devices == 1 or set(_names(share[dimension])) != set(spec.unreduced):
        return jax.sharding.reshard(x, share)
    # A reshard here would become an all-reduce.
    axes = _names(share[dimension])
    scatter = partial(jax.lax.psum_scatter, axis_name=axes, scatter_dimension=dimension, tiled=True)
    return jax.shard_map(scatter, in_specs=spec, out_specs=share)(x)


def _stacked(layout: Layout, weight: Any) -> Layout:
    """`layout` after the leading axes of stacked blocks, which are not sharded."""
    return (*(None,) * (weight.ndim - len(layout)), *layout)


def is_array(leaf: object) -> bool:
    """Returns whether `leaf` is an array or a `jax.ShapeDtypeStruct`."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _summed_axes(path: tuple[Any, ...]) -> frozenset[str]:
    """The axes over which a weight's gradient is summed later."""
    found = _by_end(_SUMMED, _dotted(path)) or ()
    return frozenset(name for axes in found for name in _names(axes))


def _reduced(x: Shaped[Array, "..."]) -> frozenset[str]:
    """The axes for which `sum_gradients_later` marked a weight `reduced`."""
    return jax.typeof(x).sharding.spec.reduced


def _alone() -> bool:
    return jax.sharding.get_abstract_mesh().empty


def _names(axes: Axes) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey))


def _by_end(table: dict[str, Layout], name: str) -> Layout | None:
    """The entry of the longest key that `name` ends in, by whole path components."""
    found = [end for end in table if f".{name}".endswith(f".{end}")]
    return table[max(found, key=len)] if found else None
