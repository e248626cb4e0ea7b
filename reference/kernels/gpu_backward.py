"""The gradients of `gpu.forward`, in three kernels.

A program has a block of queries, or of keys, or of distances of all sequences, and sums their
gradients in registers, always in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from reference.kernels.blocks import cost, dot, dot_left, dot_right, indices, rows, wide
from reference.kernels.gpu import COMPILER, Skewer, Specs, seen


def backward(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "heads context kqv"],
    document: Int[Array, "batch context"] | None,
    output: Float[Array, "batch heads context kqv"],
    log_sum: Float[Array, "batch heads context"],
    gradient: Float[Array, "batch heads context kqv"],
    *,
    block: int,
    interpret: bool,
) -> tuple[
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "batch heads context kqv"],
    Float[Array, "heads context kqv"],
]:
    """Gradients of query, key, value and position, the last one in float32 or wider."""
    summed = wide(query.dtype)
    delta = jnp.sum(gradient.astype(summed) * output.astype(summed), -1)
    documents = () if document is None else (document,)
    operands = (query, key, value, position, gradient, log_sum, delta, *documents)
    launch = _Launch(operands, block, interpret)
    by_key, by_value = _by_key_and_value(launch)
    return _by_query(launch), by_key, by_value, _by_position(launch)


@dataclass(frozen=True)
class _Launch:
    """What the three kernels read."""

    operands: tuple[Any, ...]
    block: int
    interpret: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch, heads, context, kqv."""
        return self.operands[0].shape

    @property
    def dtype(self) -> Any:
        """Of the operands."""
        return self.operands[0].dtype

    @property
    def specs(self) -> Specs:
        """Of the kernels with programs per block of rows."""
        return Specs(self.shape[2], self.shape[3], self.block)

    def __call__(
        self,
        kernel: Callable[..., None],
        products: int,
        inputs: list[pl.BlockSpec],
        results: list[tuple[pl.BlockSpec, tuple[int, ...], Any]],
    ) -> tuple[Array, ...]:
        """The kernel's results, each with its block, shape and dtype; the last one is scratch."""
        batch, heads, context, _ = self.shape
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in results]
        every_sequence = kernel is _by_position_kernel
        call = pl.pallas_call(
            partial(kernel, block=self.block, alone=self.interpret),
            grid=(context // self.block, heads, *(() if every_sequence else (batch,))),
            in_specs=inputs,
            out_specs=[spec for spec, *_ in results],
            out_shape=shapes,
            compiler_params=COMPILER,
            cost_estimate=cost(self.shape, self.block, products, [*self.operands, *shapes]),
            interpret=self.interpret,
            name=f"relative_attention{kernel.__name__.removesuffix('_kernel')}",
        )
        return call(*self.operands)


def _by_query(launch: _Launch) -> Float[Array, "batch heads context kqv"]:
    specs, dtype = launch.specs, launch.dtype
    part, whole, per_row = specs.rows(), specs.head, specs.per_row
    inputs = [part, whole, whole, specs.positions, part, per_row, per_row]
    pairs = (*launch.shape[:3], 2 * launch.block)
    results = [
        (part, launch.shape, dtype),
        (specs.rows(2 * launch.block), pairs, dtype),
        (specs.rows(2 * launch.block), pairs, wide(dtype)),
    ]
    inputs += specs.documents(list(launch.operands[7:]))
    return launch(_by_query_kernel, 5, inputs, results)[0]


def _by_query_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    position_ref: Any,
    gradient_ref: Any,
    log_sum_ref: Any,
    delta_ref: Any,
    *rest: Any,
    block: int,
    alone: bool,
) -> None:
    *documents, by_query_ref, changes_ref, products_ref = rest
    document = documents[0] if documents else None
    products, changes = Skewer(products_ref, alone), Skewer(changes_ref, alone)
    last = pl.num_programs(0) - 1
    i = last - pl.program_id(0)
    query, gradient = query_ref[...], gradient_ref[...]
    log_sum, delta = log_sum_ref[...][:, None], delta_ref[...][:, None]

    def _by_distance(j: Any) -> Array:
        """By the distances that end in block pair j, the next one's changes being complete."""
        # Beyond the diagonal there are no distances, and no changes.
        at = jnp.minimum(last - i + j + 1, last)
        return dot(changes.read(j, 1, 1), position_ref[rows(at, block)])

    def _step(step: Any, by_query: Array) -> Array:
        j = i - step
        first = last - i + j
        products.write(first, dot_right(query, position_ref[rows(first, block)]))
        key = key_ref[rows(j, block)]
        scores = dot_right(query, key) + products.read(first, block - 1, -1)
        scores = jnp.where(seen(document, i, j, block), scores, -jnp.inf)
        by_weights = dot_right(gradient, value_ref[rows(j, block)])
        by_scores = (jnp.exp(scores - log_sum) * (by_weights - delta)).astype(query.dtype)
        changes.write(j, by_scores)
        return by_query + dot(by_scores, key) + _by_distance(j)

    nothing = jnp.zeros((block, block), query.dtype)
    changes.write(i + 1, nothing)
    by_query = jax.lax.fori_loop(0, i + 1, _step, jnp.zeros(query.shape, log_sum.dtype))
    changes.write(-1, nothing)
    by_query_ref[...] = (by_query + _by_distance(-1)).astype(by_query_ref.dtype)


def _by_key_and_value(
    launch: _Launch,
) -> tuple[Float[Array, "batch heads context kqv"], Float[Array, "batch heads context kqv"]]:
    specs = launch.specs
    part, whole, per_row = specs.rows(), specs.head, specs.per_head
    inputs = [whole, part, part, specs.positions, whole, per_row, per_row]
    pairs = (*launch.shape[:3], 2 * launch.block)
    results = [
        (part, launch.shape, launch.operands[1].dtype),
        (part, launch.shape, launch.operands[2].dtype),
        (specs.rows(2 * launch.block), pairs, wide(launch.dtype)),
    ]
    inputs += specs.documents(list(launch.operands[7:]))
    by_key, by_value, _ = launch(_by_key_and_value_kernel, 6, inputs, results)
    return by_key, by_value


def _by_key_and_value_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    position_ref: Any,
    gradient_ref: Any,
    log_sum_ref: Any,
    delta_ref: Any,
    *rest: Any,
    block: int,
    alone: bool,
) -> None:
    *documents, by_key_ref, by_value_ref, products_ref = rest
    document = documents[0] if documents else None
    products = Skewer(products_ref, alone)
    last = pl.num_programs(0) - 1
    j = last - pl.program_id(0)
    key, value = key_ref[...], value_ref[...]

    def _step(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        by_key, by_value = carry
        at = rows(i, block)
        query, gradient = query_ref[at], gradient_ref[at]
        first = last - i + j
        # On the diagonal there is no second block: it is masked.
        for number in (first, jnp.minimum(first + 1, last)):
            products.write(number, dot_right(query, position_ref[rows(number, block)]))
        scores = dot_right(query, key) + products.read(first, block - 1, -1)
        scores = jnp.where(seen(document, i, j, block), scores, -jnp.inf)
        weights = jnp.exp(scores - log_sum_ref[at][:, None])
        by_scores = weights * (dot_right(gradient, value) - delta_ref[at][:, None])
        by_key += dot_left(by_scores.astype(query.dtype), query)
        return by_key, by_value + dot_left(weights.astype(gradient.dtype), gradient)

    nothing = jnp.zeros(key.shape, log_sum_ref.dtype)
    by_key, by_value = jax.lax.fori_loop(j, last + 1, _step, (nothing, nothing))
    by_key_ref[...] = by_key.astype(by_key_ref.dtype)
    by_value_ref[...] = by_value.astype(by_value_ref.dtype)


def _by_position(launch: _Launch) -> Float[Array, "heads context kqv"]:
    batch, heads, context, kqv = launch.shape
    whole = pl.BlockSpec((batch, None, context, kqv), lambda c, h: (0, h, 0, 0))
    per_row = pl.BlockSpec((batch, None, context), lambda c, h: (0, h, 0))
    documents = [pl.BlockSpec((batch, context), lambda c, h: (0, 0)) for _ in launch.operands[7:]]
    part, pairs = (
        pl.BlockSpec((None, launch.block, columns), lambda c, h: (h, c, 0))
        for columns in (kqv, 2 * launch.block)
    )
    dtype = wide(launch.dtype)
    results = [
        (part, (heads, context, kqv), dtype),
        (pairs, (heads, context, 2 * launch.block), dtype),
    ]
    inputs = [whole, whole, whole, part, whole, per_row, per_row, *documents]
    return launch(_by_position_kernel, 6, inputs, results)[0]


def _by_position_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    position_ref: Any,
    gradient_ref: Any,
    log_sum_ref: Any,
    delta_ref: Any,
    *rest: Any,
    block: int,
    alone: bool,
) -> None:
    *documents, by_position_ref, products_ref = rest
    products = Skewer(products_ref, alone)
    # Queries of this and later blocks have such distances to a key.
    start = pl.num_programs(0) - 1 - pl.program_id(0)
    number = pl.num_programs(0) - start
    position = position_ref[...]
    row, column = indices(block)

    def _by_distance(x: Array, of: Any, sequence: Any, j: Any) -> Array:
        """x y^T at the keys that are at this program's distances: in block j and the one before."""
        for at in (j - 1, j):
            y = of[sequence, rows(jnp.maximum(at, 0), block)]
            products.write(at, dot_right(x, y))
        return products.read(j - 1, 1, 1)

    def _step(step: Any, by_position: Array) -> Array:
        sequence, j = step // number, step % number
        at = rows(start + j, block)
        query, gradient = query_ref[sequence, at], gradient_ref[sequence, at]
        theirs = (j - 1) * block + 1 + row + column
        attended = theirs >= 0
        if documents:
            ours = documents[0][sequence, at][:, None]
            attended &= ours == documents[0][sequence, jnp.maximum(theirs, 0)]
        scores = dot_right(query, position) + _by_distance(query, key_ref, sequence, j)
        scores = jnp.where(attended, scores, -jnp.inf)
        weights = jnp.exp(scores - log_sum_ref[sequence, at][:, None])
        by_weights = _by_distance(gradient, value_ref, sequence, j)
        by_scores = weights * (by_weights - delta_ref[sequence, at][:, None])
        return by_position + dot_left(by_scores.astype(query.dtype), query)

    steps = query_ref.shape[0] * number
    nothing = jnp.zeros(position.shape, by_position_ref.dtype)
    by_position_ref[...] = jax.lax.fori_loop(0, steps, _step, nothing)
