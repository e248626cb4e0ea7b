"""The gradients of `tpu.forward`, in one kernel.

A program has what one of the forward pass has. The gradients of a head's keys and values are summed
in VMEM over its blocks of queries, that of the positions over the sequences as well, always in the
same order.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from reference.kernels.blocks import cost, dot, dot_right, rows, wide
from reference.kernels.tpu import LANES, REGISTER_BYTES, Head, Specs, compiler_params


def unskew(left: Float[Array, "b b"], right: Float[Array, "b b"]) -> Float[Array, "b b"]:
    """Entry a, w is entry 1 + a + w of row a of both: from columns to distances.

    Row a rolls left by a more than row 0, where `pltpu.roll` has strides to the right alone: the
    rows of a register roll together as far as their first, and then by the bits of their number.
    """
    block, together = left.shape[0], REGISTER_BYTES // (LANES * left.dtype.itemsize)
    both = jnp.concatenate([left, right], axis=1)
    # The columns that are left in the end, and those from which the bits bring some in.
    columns = min(block + LANES, 2 * block)
    groups = [
        pltpu.roll(both[row : row + together], 2 * block - 1 - row, 1)[:, :columns]
        for row in range(0, block, together)
    ]
    rolled = jnp.concatenate(groups, axis=0)
    row = jax.lax.broadcasted_iota(jnp.int32, rolled.shape, 0)
    for bit in (1, 2, 4, 8):
        if bit < together:
            rolled = jnp.where(row & bit != 0, pltpu.roll(rolled, columns - bit, 1), rolled)
    return rolled[:, :block]


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
    batch, heads, context, kqv = query.shape
    documents = [] if document is None else [document[:, None]]
    query, key, value, position, output, gradient = (
        jnp.swapaxes(x, -2, -1) for x in (query, key, value, position, output, gradient)
    )
    operands = [query, key, value, position, output, log_sum[:, :, None], gradient, *documents]
    summed = wide(query.dtype)
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)]
    results.append(jax.ShapeDtypeStruct(position.shape, summed))
    specs = Specs(context, kqv, block)
    head, positions = specs.head, specs.positions
    inputs = [specs.rows, head, head, positions, specs.rows, specs.per_row, specs.rows]
    call = pl.pallas_call(
        partial(_backward_kernel, block=block),
        grid=(heads, batch, context // block),
        in_specs=[*inputs, *specs.documents(documents)],
        out_specs=[specs.rows, head, head, positions],
        out_shape=results,
        scratch_shapes=[pltpu.VMEM((kqv, context), summed)] * 2,
        compiler_params=compiler_params(context, kqv, query.dtype, block),
        cost_estimate=cost((batch, heads, context, kqv), block, 8, operands + results),
        interpret=interpret,
        name="relative_attention_backward",
    )
    by_query, by_key, by_value, by_position = (jnp.swapaxes(x, -2, -1) for x in call(*operands))
    return by_query, by_key, by_value, by_position


@dataclass(frozen=True)
class _Rows:
    """A program's queries and what the gradients of their scores are computed from."""

    head: Head
    i: Any
    query: Float[Array, "kqv b"]
    query_rows: Float[Array, "b kqv"]
    gradient: Float[Array, "kqv b"]
    gradient_rows: Float[Array, "b kqv"]
    log_sum: Float[Array, "b 1"]
    delta: Float[Array, "b 1"]
    """Of a row, the sum of `gradient` times the output."""

    def by_scores(
        self, j: Any, right: Array | None, value_ref: Any, key_sum: Any, value_sum: Any
    ) -> tuple[Float[Array, "b b"], Float[Array, "b b"]]:
        """The gradient of a pair's scores, and what `Head.scores` returns; adds to the sums."""
        at = rows(j, self.head.block)
        scores, left = self.head.scores(self.i, j, self.query_rows, right)
        weights = jnp.exp(scores - self.log_sum)
        value_sum[:, at] += dot(self.gradient, weights.astype(self.gradient.dtype))
        by_weights = dot(self.gradient_rows, value_ref[:, at])
        by_scores = (weights * (by_weights - self.delta)).astype(self.query.dtype)
        key_sum[:, at] += dot(self.query, by_scores)
        return by_scores, left


def _backward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    position_ref: Any,
    output_ref: Any,
    log_sum_ref: Any,
    gradient_ref: Any,
    *rest: Any,
    block: int,
) -> None:
    *documents, by_query_ref, by_key_ref, by_value_ref, by_position_ref, key_sum, value_sum = rest
    head = Head(key_ref, position_ref, documents[0] if documents else None, block)
    i, last = pl.program_id(2), pl.num_programs(2) - 1
    query, gradient, log_sum = query_ref[...], gradient_ref[...], log_sum_ref[...].T
    products = gradient.astype(log_sum.dtype) * output_ref[...].astype(log_sum.dtype)
    delta = jnp.sum(products, 0, keepdims=True).T
    ours = _Rows(head, i, query, query.T, gradient, gradient.T, log_sum, delta)
    _clear((i == 0) & (pl.program_id(1) == 0), by_position_ref)
    _clear(i == 0, key_sum, value_sum)

    def _by_pair(j: Any, right: Array | None, by_right: Array) -> tuple[Array, Array, Array]:
        by_scores, left = ours.by_scores(j, right, value_ref, key_sum, value_sum)
        by_query = dot_right(by_scores, key_ref[:, rows(j, block)])
        if right is not None:
            by_query += _by_distance(j + 1, by_scores, by_right)
        return by_query, left, by_scores

    def _by_distance(j: Any, by_left: Array, by_right: Array) -> Array:
        at, by_products = rows(last - i + j, block), unskew(by_left, by_right)
        by_position_ref[:, at] += dot(query, by_products)
        return dot_right(by_products, position_ref[:, at])

    def _step(step: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        by_query, right, by_right = carry
        more, left, by_scores = _by_pair(i - step, right, by_right)
        return by_query + more, left, by_scores

    nothing = jnp.zeros((block, block), query.dtype)
    start = _by_pair(i, None, nothing)
    by_query, _, by_scores = jax.lax.fori_loop(1, i + 1, _step, start)
    by_query += _by_distance(0, nothing, by_scores)
    by_query_ref[...] = by_query.T.astype(by_query_ref.dtype)

    @pl.when(i == last)
    def _() -> None:
        by_key_ref[...] = key_sum[...].astype(by_key_ref.dtype)
        by_value_ref[...] = value_sum[...].astype(by_value_ref.dtype)


def _clear(condition: Any, *sums: Any) -> None:
    @pl.when(condition)
    def _() -> None:
        for one in sums:
            one[...] = jnp.zeros_like(one)
