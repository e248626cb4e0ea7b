"""Fused causal attention with relative positions: no array of context x context is in memory.

    score_ij = q_i . (k_j + r_{i-j})    for j <= i, within a document

The plain form is `reference.attention.Attention`; the kernels go block by block with an online
softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Only 2b - 1 distances occur between b
queries and b keys: the queries' products with the positions of those, [b, 2b], are formed and
skewed to [b, b] on the chip. The forward pass saves its output and the logarithm of the softmax's
denominator, from which the backward pass computes the scores again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Shaped

from reference.attention import HEAD_OUTPUTS
from reference.kernels import gpu, gpu_backward, tpu, tpu_backward
from reference.mesh import BATCH, HEADS

Platform = Literal["tpu", "gpu"]
"""As `jax.default_backend` names them; a GPU is one of NVIDIA's."""


class _Kernels(NamedTuple):
    """Of one platform."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    block_rows: Callable[[int, Any], int]
    refusal: Callable[[int, int, Any], str | None]


_PLATFORMS: dict[str, _Kernels] = {
    "tpu": _Kernels(tpu.forward, tpu_backward.backward, tpu.block_rows, tpu.refusal),
    "gpu": _Kernels(gpu.forward, gpu_backward.backward, gpu.block_rows, gpu.refusal),
}

_Inputs = tuple[
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "heads context kqv"],
    Int[Array, "batch context"] | None,
]


class _Options(NamedTuple):
    block: int | None
    interpret: Platform | None


def relative_attention(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "copies heads context kqv"],
    document: Int[Array, "batch context"] | None = None,
    *,
    block: int | None = None,
    interpret: Platform | None = None,
) -> Float[Array, "batch heads context kqv"]:
    """Attention of each query to the keys up to it, in the same document.

    `query` is divided by sqrt(kqv) already. `position` goes from the largest distance, context - 1,
    to 0, a copy for each device that the batch is spread over. `document`: a number per position,
    equal within a document; None: all are one.

    Scores and softmax are float32 or wider; the result has the dtype of `value`. `block`: rows of a
    block, to which the context is padded; None: what suits the platform. `interpret`: run that
    platform's kernels step by step on any device, to test them. Reverse mode only, first order.

    On a mesh each device attends with its own heads and sequences. `fits` returns whether the
    kernels can be used.
    """

    def _on_device(
        query: Float[Array, "batch heads context kqv"],
        key: Float[Array, "batch heads context kqv"],
        value: Float[Array, "batch heads context kqv"],
        position: Float[Array, "1 heads context kqv"],
        document: Int[Array, "batch context"] | None,
    ) -> Float[Array, "batch heads context kqv"]:
        return _attend(_Options(block, interpret), query, key, value, position[0], document)

    if jax.sharding.get_abstract_mesh().empty:
        return _on_device(query, key, value, position, document)
    documents = None if document is None else P(BATCH, None)
    # The result is sharded over every axis: there is no replication for JAX to check.
    sharded = jax.shard_map(
        _on_device,
        in_specs=(P(*HEADS), P(*HEADS), P(*HEADS), P(*HEADS), documents),
        out_specs=P(*HEADS),
        check_vma=False,
    )
    return sharded(query, key, value, position, document)


def fits(kqv: int, context: int, dtype: Any, platform: str) -> str | None:
    """Why the kernels cannot be used on a platform of `jax.default_backend`; None if they can."""
    if platform not in _PLATFORMS:
        return f"there is no attention kernel for {platform}, only for {' and '.join(_PLATFORMS)}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        return f"the attention kernel computes in bfloat16 or float32, not {jnp.dtype(dtype).name}"
    return _PLATFORMS[platform].refusal(kqv, context, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    options: _Options,
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "heads context kqv"],
    document: Int[Array, "batch context"] | None,
) -> Float[Array, "batch heads context kqv"]:
    return _forward(options, query, key, value, position, document)[0]


def _forward(
    options: _Options, *inputs: Any
) -> tuple[Float[Array, "batch heads context kqv"], tuple[Any, ...]]:
    output, log_sum = _by_platform(_run_forward, options, inputs)
    output, log_sum = (checkpoint_name(saved, HEAD_OUTPUTS) for saved in (output, log_sum))
    return output, (inputs, output, log_sum)


def _backward(
    options: _Options, saved: tuple[Any, ...], gradient: Float[Array, "batch heads context kqv"]
) -> tuple[Array | None, ...]:
    inputs, *rest = saved
    *gradients, by_position = _by_platform(_run_backward, options, inputs, *rest, gradient)
    return *gradients, by_position.astype(inputs[3].dtype), None


_attend.defvjp(_forward, _backward)


def _by_platform(
    run: Callable[..., tuple[Array, ...]], options: _Options, *operands: Any
) -> tuple[Array, ...]:
    """`run` with the kernels of the platform it is compiled for, or that is interpreted."""
    branches = {name: partial(run, kernels, options) for name, kernels in _PLATFORMS.items()}
    if options.interpret is not None:
        return branches[options.interpret](*operands)
    return jax.lax.platform_dependent(*operands, tpu=branches["tpu"], cuda=branches["gpu"])


def _run_forward(
    kernels: _Kernels, options: _Options, inputs: _Inputs
) -> tuple[Float[Array, "batch heads context kqv"], Float[Array, "batch heads context"]]:
    context, dtype = inputs[0].shape[2], inputs[0].dtype
    block = options.block or kernels.block_rows(context, dtype)
    padded = _padded(inputs, -context % block)
    output, log_sum = kernels.forward(*padded, block=block, interpret=bool(options.interpret))
    return output[:, :, :context], log_sum[:, :, :context]


def _run_backward(
    kernels: _Kernels,
    options: _Options,
    inputs: _Inputs,
    output: Float[Array, "batch heads context kqv"],
    log_sum: Float[Array, "batch heads context"],
    gradient: Float[Array, "batch heads context kqv"],
) -> tuple[
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "heads context kqv"],
]:
    context, dtype = output.shape[2], output.dtype
    block = options.block or kernels.block_rows(context, dtype)
    more = -context % block
    saved = (_longer(x, 2, more) for x in (output, log_sum, gradient))
    operands = (*_padded(inputs, more), *saved)
    *gradients, by_position = kernels.backward(
        *operands, block=block, interpret=bool(options.interpret)
    )
    by_query, by_key, by_value = (x[:, :, :context] for x in gradients)
    return by_query, by_key, by_value, by_position[:, more:]


def _padded(inputs: _Inputs, more: int) -> tuple[Any, ...]:
    """Inputs with `more` positions at the end: no query attends to what follows it.

    Their distances, larger than any, come first.
    """
    query, key, value, position, document = inputs
    position = jnp.pad(position, ((0, 0), (more, 0), (0, 0)))
    document = None if document is None else _longer(document, 1, more)
    return *(_longer(x, 2, more) for x in (query, key, value)), position, document


def _longer(x: Shaped[Array, "..."], axis: int, more: int) -> Shaped[Array, "..."]:
    """`x` with zeros at the end of an axis."""
    return jnp.pad(x, [(0, more if at == axis else 0) for at in range(x.ndim)])
