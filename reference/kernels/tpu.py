"""Causal attention with relative positions as a Pallas kernel for TPU (Mosaic): the forward pass.

One program has a block of queries, and the keys, values and positions of its head in VMEM. It goes
from the diagonal to the first block of keys. Two block pairs that follow each other share a block
of distances: each pair computes one product of queries and positions and has the other from the
pair before it. `tpu_backward` has the gradients.

Arrays come as [kqv, context] here: a row in HBM and VMEM takes 128 numbers, which a head of fewer
would leave empty, and the gradients of keys, values and positions need no transposed [b, b].
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from reference.kernels.blocks import cost, dot, dot_right, future, rows, wide

LANES, REGISTER_BYTES = 128, 4096
"""Of a vector register."""

VMEM = 60 * 2**20
"""Bytes that one program may have there: v5p has 64 MiB a core, v5e and v6e 128."""


@dataclass(frozen=True)
class Head:
    """References to what a program has of its head; `document`: of its sequence, or None."""

    key: Any
    position: Any
    document: Any
    block: int

    def scores(
        self, i: Any, j: Any, query: Float[Array, "b kqv"], right: Float[Array, "b b"] | None
    ) -> tuple[Float[Array, "b b"], Float[Array, "b b"]]:
        """Scores of a block pair, -inf where masked; and the products with its nearer distances.

        `right`: the products of the pair before it, which has the next block of keys; None: this
        one is on the diagonal, where they would be with distances below zero.
        """
        last = self.key.shape[1] // self.block - 1
        left = dot(query, self.position[:, rows(last - i + j, self.block)])
        relative = skew(left, jnp.zeros_like(left) if right is None else right)
        scores = dot(query, self.key[:, rows(j, self.block)]) + relative
        if right is None:
            scores = jnp.where(future(self.block), -jnp.inf, scores)
        if self.document is not None:
            ours, theirs = (self.document[:, rows(at, self.block)] for at in (i, j))
            scores = jnp.where(theirs == ours.T, scores, -jnp.inf)
        return scores, left


def skew(left: Float[Array, "b b"], right: Float[Array, "b b"]) -> Float[Array, "b b"]:
    """Entry a, e is entry b - 1 - a + e of row a of both: from distances to columns.

    Row a rolls right by a more than row 0.
    """
    block = left.shape[0]
    both = jnp.concatenate([left, right], axis=1)
    return pltpu.roll(both, block + 1, 1, stride=1, stride_axis=0)[:, :block]


def forward(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "heads context kqv"],
    document: Int[Array, "batch context"] | None,
    *,
    block: int,
    interpret: bool,
) -> tuple[Float[Array, "batch heads context kqv"], Float[Array, "batch heads context"]]:
    """The output, and the logarithm of the softmax's denominator; `context` in whole blocks."""
    batch, heads, context, kqv = query.shape
    documents = [] if document is None else [document[:, None]]
    operands = [*(jnp.swapaxes(x, -2, -1) for x in (query, key, value, position)), *documents]
    results = [
        jax.ShapeDtypeStruct(operands[0].shape, value.dtype),
        jax.ShapeDtypeStruct((batch, heads, 1, context), wide(query.dtype)),
    ]
    specs = Specs(context, kqv, block)
    call = pl.pallas_call(
        partial(_forward_kernel, block=block),
        grid=(heads, batch, context // block),
        in_specs=[specs.rows, specs.head, specs.head, specs.positions, *specs.documents(documents)],
        out_specs=[specs.rows, specs.per_row],
        out_shape=results,
        compiler_params=compiler_params(context, kqv, query.dtype, block),
        cost_estimate=cost(query.shape, block, 3, operands + results),
        interpret=interpret,
        name="relative_attention",
    )
    output, log_sum = call(*operands)
    return jnp.swapaxes(output, -2, -1), log_sum[:, :, 0]


@dataclass(frozen=True)
class Specs:
    """The blocks of operands and results, for a grid of heads, sequences and blocks of queries."""

    context: int
    kqv: int
    block: int

    @property
    def rows(self) -> pl.BlockSpec:
        """A block of a head's rows."""
        return pl.BlockSpec((None, None, self.kqv, self.block), lambda h, b, i: (b, h, 0, i))

    @property
    def head(self) -> pl.BlockSpec:
        """All of them."""
        return pl.BlockSpec((None, None, self.kqv, self.context), lambda h, b, i: (b, h, 0, 0))

    @property
    def positions(self) -> pl.BlockSpec:
        """A head's, for all sequences."""
        return pl.BlockSpec((None, self.kqv, self.context), lambda h, b, i: (h, 0, 0))

    @property
    def per_row(self) -> pl.BlockSpec:
        """A number per row of a block."""
        return pl.BlockSpec((None, None, 1, self.block), lambda h, b, i: (b, h, 0, i))

    def documents(self, documents: list[Any]) -> list[pl.BlockSpec]:
        """Those of a sequence, if there are any."""
        return [pl.BlockSpec((None, 1, self.context), lambda h, b, i: (b, 0, 0)) for _ in documents]


def block_rows(context: int, dtype: Any) -> int:
    """Rows of a block, at most 512.

    By libtpu's schedules for v5e, a head of context 2048 takes 25 thousand cycles forward and 65
    backward at 512; 36 and 83 at 256. All products at the peak: 12 and 33.
    """
    number = -(-context // 512)
    return -(-context // (number * LANES)) * LANES


def refusal(kqv: int, context: int, dtype: Any) -> str | None:
    """Why the kernels cannot be used; None if they can."""
    block = block_rows(context, dtype)
    needed = vmem_bytes(-(-context // block) * block, kqv, block, dtype)
    if needed <= VMEM:
        return None
    return (
        f"the attention kernel has a head of context {context} and kqv_size {kqv} in VMEM: "
        f"{needed / 2**20:.0f} MiB, of {VMEM / 2**20:.0f}"
    )


def vmem_bytes(context: int, kqv: int, block: int, dtype: Any) -> int:
    """What a program of the backward pass has in VMEM; the forward pass has less."""
    narrow, summed = jnp.dtype(dtype).itemsize, jnp.dtype(wide(dtype)).itemsize
    # Of bfloat16, sixteen rows go into a register.
    row = -(-kqv // 16) * 16
    # Keys, values, positions, the gradients of keys and values, each twice, as the pipeline needs;
    # the latter's sums; the gradient of the positions, twice.
    head = context * row * (5 * 2 * narrow + 2 * summed + 2 * summed)
    # Queries, outputs, their gradients; the scores, and what is computed from them.
    return head + block * row * 4 * 2 * narrow + 12 * block**2 * summed


def compiler_params(context: int, kqv: int, dtype: Any, block: int) -> pltpu.CompilerParams:
    """The default limit of VMEM is 16 MiB; only heads are independent in the backward pass."""
    order = ("parallel", "arbitrary", "arbitrary")
    limit = 2 * vmem_bytes(context, kqv, block, dtype)
    return pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=limit)


def _forward_kernel(
    query_ref: Any, key_ref: Any, value_ref: Any, position_ref: Any, *rest: Any, block: int
) -> None:
    *documents, output_ref, log_sum_ref = rest
    head = Head(key_ref, position_ref, documents[0] if documents else None, block)
    i = pl.program_id(2)
    query = query_ref[...].T

    def _attend(j: Any, scores: Array, largest: Array) -> tuple[Array, Array]:
        weights = jnp.exp(scores - largest)
        value = value_ref[:, rows(j, block)]
        return jnp.sum(weights, 1, keepdims=True), dot_right(weights.astype(value.dtype), value)

    def _step(step: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        largest, total, mixed, right = carry
        scores, left = head.scores(i, i - step, query, right)
        larger = jnp.maximum(largest, jnp.max(scores, 1, keepdims=True))
        scale = jnp.exp(largest - larger)
        more, mixture = _attend(i - step, scores, larger)
        return larger, total * scale + more, mixed * scale + mixture, left

    # Each query attends to itself, so that no row's largest score is -inf from here on.
    scores, left = head.scores(i, i, query, None)
    largest = jnp.max(scores, 1, keepdims=True)
    start = (largest, *_attend(i, scores, largest), left)
    largest, total, mixed, _ = jax.lax.fori_loop(1, i + 1, _step, start)
    output_ref[...] = (mixed / total).T.astype(output_ref.dtype)
    log_sum_ref[...] = (largest + jnp.log(total)).T
