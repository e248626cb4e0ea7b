"""Functions whose form is chosen for speed alone.

Each equals the plain form in its docstring (`tests/reference/test_fast.py`); everything else in
`reference/` is written as its formula. Timings are on CPU (docs/LOG.md); forms that are faster on
accelerators belong here too.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from reference.mesh import BATCH, HEADS, HIDDEN, Axes, Layout, contract, laid_out, reshaped


def linear(
    x: Float[Array, "batch context features"],
    weight: Float[Array, "features outputs"],
    *,
    out: Layout,
    wide: bool = False,
) -> Float[Array, "batch context outputs"]:
    """Plain form: `contract("bcf,fo->bco", x, weight, out=out, wide=wide)` in the dtype of `x`.

    Tokens are flattened to one axis: with two, XLA on CPU transposes copies of both factors to
    compute the weight's gradient, and a feed-forward trains 1.7 times as slowly.
    """
    batch, context, features = x.shape
    flat = reshaped(x, (batch * context, features), (BATCH, _last_axes(x)))
    weight = weight.astype(x.dtype)
    if on_one_cpu():
        dtype = jnp.promote_types(x.dtype, jnp.float32) if wide else x.dtype
        product = _product(*(on_one_device(each.astype(dtype)) for each in (flat, weight)))
    else:
        product = contract("tf,fo->to", flat, weight, out=(BATCH, out[-1]), wide=wide)
    return reshaped(product, (batch, context, weight.shape[1]), out)


def products_with_keys(
    query: Float[Array, "batch heads queries kqv"], key: Float[Array, "batch heads keys kqv"]
) -> Float[Array, "batch heads queries keys"]:
    """Plain form: `contract("bhik,bhjk->bhij", query, key, out=HEADS, wide=True)`."""
    if on_one_cpu():
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        query, key = (on_one_device(each.astype(dtype)) for each in (query, key))
        return laid_out(_product(query, jnp.swapaxes(key, 2, 3)), HEADS)
    return contract("bhik,bhjk->bhij", query, key, out=HEADS, wide=True)


def sums_of_values(
    weights: Float[Array, "batch heads queries keys"], value: Float[Array, "batch heads keys kqv"]
) -> Float[Array, "batch queries heads kqv"]:
    """Plain form: `contract("bhij,bhjk->bihk", weights, value, out=(*HIDDEN, None))`."""
    if on_one_cpu():
        sums = _product(on_one_device(weights), on_one_device(value))
        return laid_out(jnp.moveaxis(sums, 1, 2), (*HIDDEN, None))
    return contract("bhij,bhjk->bihk", weights, value, out=(*HIDDEN, None))


@jax.custom_vjp
def _product(
    x: Float[Array, "*batch rows inner"], y: Float[Array, "*batch inner columns"]
) -> Float[Array, "*batch rows columns"]:
    """`x @ y`, for one CPU."""
    return x @ y


def _product_forward(
    x: Float[Array, "*batch rows inner"], y: Float[Array, "*batch inner columns"]
) -> tuple[Float[Array, "*batch rows columns"], tuple[Array, Array]]:
    return _product(x, y), (x, y)


def _product_backward(
    kept: tuple[Float[Array, "*batch rows inner"], Float[Array, "*batch inner columns"]],
    gradient: Float[Array, "*batch rows columns"],
) -> tuple[Float[Array, "*batch rows inner"], Float[Array, "*batch inner columns"]]:
    x, y = kept
    return gradient @ jnp.swapaxes(y, -1, -2), transposed_product(x, gradient)


_product.defvjp(_product_forward, _product_backward)


def transposed_product(
    x: Float[Array, "*batch inner rows"], y: Float[Array, "*batch inner columns"]
) -> Float[Array, "*batch rows columns"]:
    """Plain form: `swapaxes(x, -1, -2) @ y`.

    XLA on CPU takes up to twice as long for a product whose left factor is transposed: the smaller
    factor is transposed in memory instead. Barriers keep XLA from undoing it.
    """
    barrier = jax.lax.optimization_barrier
    if x.shape[-1] <= y.shape[-1]:
        return barrier(barrier(jnp.swapaxes(x, -1, -2)) @ y)
    return jnp.swapaxes(barrier(barrier(jnp.swapaxes(y, -1, -2)) @ x), -1, -2)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def gelu_linear(
    x: Float[Array, "batch context hidden"], weight: Float[Array, "hidden d_model"], out: Layout
) -> Float[Array, "batch context d_model"]:
    """Plain form: `linear(gelu(x), weight, out)`.

    The GELU is recomputed in the backward pass, which stores one array of this size instead of
    five.
    """
    return linear(jax.nn.gelu(x), weight, out=out)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def gelu_contract(
    x: Float[Array, "experts slots hidden"],
    weight: Float[Array, "experts hidden d_model"],
    out: Layout,
) -> Float[Array, "experts slots d_model"]:
    """Plain form: `contract("esh,ehd->esd", gelu(x), weight, out=out)`; as `gelu_linear`."""
    return contract("esh,ehd->esd", jax.nn.gelu(x), weight.astype(x.dtype), out=out)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def layer_norm(
    x: Float[Array, "*batch d_model"],
    scale: Float[Array, "d_model"],
    offset: Float[Array, "d_model"],
    epsilon: float,
) -> Float[Array, "*batch d_model"]:
    """Plain form: the same without `jax.checkpoint`; in float32 or wider, returned as `x.dtype`.

    Recomputed in the backward pass, which stores `x` alone: a quarter of the memory traffic.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    wide = x.astype(dtype)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    return (normal * scale.astype(dtype) + offset.astype(dtype)).astype(x.dtype)


@jax.custom_jvp
def causal_softmax(
    scores: Float[Array, "batch heads queries keys"], first: int | Int[Array, ""] = 0
) -> Float[Array, "batch heads queries keys"]:
    """Plain form: `softmax(where(j <= first + i, scores_ij, -inf))` over j, in float32 or wider.

    `first` is the first query's position. The gradient needs the output alone.
    """
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    queries, keys = scores.shape[-2:]
    causal = jnp.arange(keys) <= first + jnp.arange(queries)[:, None]
    return jax.nn.softmax(jnp.where(causal, wide, -jnp.inf), axis=-1)


@causal_softmax.defjvp
def _causal_softmax_jvp(
    primals: tuple[Float[Array, "batch heads queries keys"], int | Int[Array, ""]],
    tangents: tuple[Float[Array, "batch heads queries keys"], object],
) -> tuple[Float[Array, "batch heads queries keys"], Float[Array, "batch heads queries keys"]]:
    p = causal_softmax(*primals)
    tangent = tangents[0].astype(p.dtype)
    return p, p * (tangent - jnp.sum(p * tangent, axis=-1, keepdims=True))


@jax.custom_vjp
def gather(
    x: Shaped[Array, "rows d_model"], index: Int[Array, "*places"], back: Int[Array, "rows readers"]
) -> Shaped[Array, "*places d_model"]:
    """Plain form: `x[index]`, zeros where `index` is one past the last row.

    `back` lists, for each row of `x`, the entries that read it (one past the last: none), so that
    the gradient is a gather too, where JAX's is a scatter. Reverse mode only, of any order:
    `jax.jvp`, and hence `jax.hessian`, does not support `custom_vjp`.
    """
    return _read(x, index)


def _gather_forward(
    x: Shaped[Array, "rows d_model"], index: Int[Array, "*places"], back: Int[Array, "rows readers"]
) -> tuple[
    Shaped[Array, "*places d_model"], tuple[Int[Array, "*places"], Int[Array, "rows readers"]]
]:
    return gather(x, index, back), (index, back)


def _gather_backward(
    places: tuple[Int[Array, "*places"], Int[Array, "rows readers"]],
    gradient: Shaped[Array, "*places d_model"],
) -> tuple[Shaped[Array, "rows d_model"], None, None]:
    index, back = places
    flat = gradient.reshape(index.size, gradient.shape[-1])
    return jnp.sum(_read(flat, back), axis=1), None, None


gather.defvjp(_gather_forward, _gather_backward)


def _read(
    x: Shaped[Array, "rows d_model"], index: Int[Array, "*places"]
) -> Shaped[Array, "*places d_model"]:
    return x.at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def on_one_cpu() -> bool:
    """Whether the program is for a single CPU device: the mesh's, or without a mesh the default."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    device = mesh.abstract_device
    return mesh.size == 1 and device is not None and device.device_kind == "cpu"


def on_one_device(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x` without a layout, for operations of which JAX knows none; copies nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.sharding.reshard(x, P(*(None,) * x.ndim))


def weighted_sum(
    x: Float[Array, "tokens k d_model"], weights: Float[Array, "tokens k"]
) -> Float[Array, "tokens d_model"]:
    """Plain form: `sum(x * weights[..., None], axis=1)`.

    One choice at a time: XLA on CPU takes four times as long for the weights' gradient with an axis
    of choices, however short.
    """
    terms = [x[:, c] * weights[:, c, None].astype(x.dtype) for c in range(weights.shape[1])]
    return sum(terms[1:], start=terms[0])


def draw(log_policy: Float[Array, "tokens experts"], key: PRNGKeyArray) -> Int[Array, "tokens 1"]:
    """Plain form: `jax.random.categorical(key, log_policy)`, with different random numbers.

    Inverse-CDF sampling with one uniform number per token. `categorical` draws E per token: 12 ms
    instead of 3.4 ms for 8,192 tokens and 64 experts on two cores.
    """
    cumulated = jnp.cumsum(jnp.exp(log_policy), axis=-1)
    uniform = jax.random.uniform(key, log_policy.shape[:1], log_policy.dtype)
    drawn = uniform * cumulated[:, -1]
    # Rounding can put the draw at or above the last expert's end.
    below = cumulated[:, :-1] <= drawn[:, None]
    return jnp.sum(below, axis=-1, dtype=jnp.int32)[:, None]


def _last_axes(x: Shaped[Array, "..."]) -> Axes:
    """The layout of the last dimension of `x`."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return jax.typeof(x).sharding.spec.partitions[-1]
