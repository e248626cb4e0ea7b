"""Causal attention with relative positions as a Pallas kernel for GPU (Triton): the forward pass.

Triton can neither slice nor roll what is in registers. So a program writes its products of queries
and positions to an array of its own in global memory, two blocks of them, and reads it skewed, by
addresses; both stay in the cache. `gpu_backward` has the gradients.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

from reference.kernels.blocks import cost, dot, dot_right, future, indices, rows, wide

LEAST = 16
"""Rows and columns of the smallest product."""

COMPILER = triton.CompilerParams(num_warps=8, num_stages=1)
"""One stage: loads that start an iteration early would read what is not yet written."""


@dataclass(frozen=True)
class Skewer:
    """Two neighbouring blocks, kept in global memory to be read at a column that moves by row.

    `alone`: one thread runs the program, as when it is interpreted; several must wait for each
    other between writing and reading.
    """

    kept: Any
    alone: bool

    def write(self, number: Any, x: Float[Array, "b b"]) -> None:
        """Keeps block `number`, in place of those two before and after it."""
        block = x.shape[0]
        self.kept[:, pl.ds((number & 1) * block, block)] = x.astype(self.kept.dtype)

    def read(self, first: Any, start: int, step: int) -> Float[Array, "b b"]:
        """Entry a, e is entry `start + step * a + e` of row a of blocks `first` and `first + 1`."""
        block = self.kept.shape[0]
        row, column = indices(block)
        at = (first & 1) * block + start + step * row + column
        self._wait()
        x = self.kept[row, at & (2 * block - 1)]
        self._wait()
        return x

    def _wait(self) -> None:
        if not self.alone:
            triton.debug_barrier()


@dataclass(frozen=True)
class Specs:
    """The blocks of operands and results, for a grid of blocks of rows, heads and sequences."""

    context: int
    kqv: int
    block: int

    @property
    def last(self) -> int:
        """Number of the last block: the first program's, because its queries attend to most."""
        return self.context // self.block - 1

    @property
    def head(self) -> pl.BlockSpec:
        """All of a head's rows."""
        return pl.BlockSpec((None, None, self.context, self.kqv), lambda i, h, b: (b, h, 0, 0))

    @property
    def positions(self) -> pl.BlockSpec:
        """A head's, for all sequences."""
        return pl.BlockSpec((None, self.context, self.kqv), lambda i, h, b: (h, 0, 0))

    @property
    def per_row(self) -> pl.BlockSpec:
        """A number per row of a block."""
        return pl.BlockSpec((None, None, self.block), lambda i, h, b: (b, h, self.last - i))

    @property
    def per_head(self) -> pl.BlockSpec:
        """A number per row of a head."""
        return pl.BlockSpec((None, None, self.context), lambda i, h, b: (b, h, 0))

    def rows(self, columns: int | None = None) -> pl.BlockSpec:
        """A block of rows."""
        shape = (None, None, self.block, columns or self.kqv)
        return pl.BlockSpec(shape, lambda i, h, b: (b, h, self.last - i, 0))

    def documents(self, documents: list[Any]) -> list[pl.BlockSpec]:
        """Those of a sequence, if there are any."""
        return [pl.BlockSpec((None, self.context), lambda i, h, b: (b, 0)) for _ in documents]


def seen(document: Any, i: Any, j: Any, block: int) -> Bool[Array, "b b"]:
    """Of a block pair: which queries attend to which keys. `document`: a reference, or None."""
    attended = (i > j) | ~future(block)
    if document is None:
        return attended
    ours, theirs = (document[rows(at, block)] for at in (i, j))
    return attended & (ours[:, None] == theirs[None, :])


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
    documents = [] if document is None else [document]
    operands = [query, key, value, position, *documents]
    dtype = wide(query.dtype)
    results = [
        jax.ShapeDtypeStruct(query.shape, value.dtype),
        jax.ShapeDtypeStruct((batch, heads, context), dtype),
        jax.ShapeDtypeStruct((batch, heads, context, 2 * block), dtype),
    ]
    specs = Specs(context, kqv, block)
    inputs = [specs.rows(), specs.head, specs.head, specs.positions]
    call = pl.pallas_call(
        partial(_forward_kernel, block=block, alone=interpret),
        grid=(context // block, heads, batch),
        in_specs=[*inputs, *specs.documents(documents)],
        out_specs=[specs.rows(), specs.per_row, specs.rows(2 * block)],
        out_shape=results,
        compiler_params=COMPILER,
        cost_estimate=cost(query.shape, block, 3, operands + results),
        interpret=interpret,
        name="relative_attention",
    )
    output, log_sum, _ = call(*operands)
    return output, log_sum


def block_rows(context: int, dtype: Any) -> int:
    """Rows of a block: a power of two, as Triton has no others, and less where numbers are wide."""
    most = 64 if jnp.dtype(dtype).itemsize == 2 else 32
    return min(most, max(LEAST, pl.next_power_of_2(context)))


def refusal(kqv: int, context: int, dtype: Any) -> str | None:
    """Why the kernels cannot be used; None if they can."""
    if LEAST <= kqv <= 128 and pl.next_power_of_2(kqv) == kqv:
        return None
    return f"the attention kernel needs a kqv_size of 16, 32, 64 or 128 on a GPU, not {kqv}"


def _forward_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    position_ref: Any,
    *rest: Any,
    block: int,
    alone: bool,
) -> None:
    *documents, output_ref, log_sum_ref, products_ref = rest
    document = documents[0] if documents else None
    products = Skewer(products_ref, alone)
    last = pl.num_programs(0) - 1
    i = last - pl.program_id(0)
    query, dtype = query_ref[...], log_sum_ref.dtype

    def _step(step: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        largest, total, mixed = carry
        j = i - step
        # The other block of products is the step's before; on the diagonal it is masked.
        first = last - i + j
        products.write(first, dot_right(query, position_ref[rows(first, block)]))
        content = dot_right(query, key_ref[rows(j, block)])
        scores = content + products.read(first, block - 1, -1)
        scores = jnp.where(seen(document, i, j, block), scores, -jnp.inf)
        larger = jnp.maximum(largest, jnp.max(scores, 1))
        scale, weights = jnp.exp(largest - larger), jnp.exp(scores - larger[:, None])
        value = value_ref[rows(j, block)]
        mixed = mixed * scale[:, None] + dot(weights.astype(value.dtype), value)
        return larger, total * scale + jnp.sum(weights, 1), mixed

    nothing = jnp.zeros(block, dtype)
    start = (jnp.full(block, -jnp.inf, dtype), nothing, jnp.zeros(query.shape, dtype))
    largest, total, mixed = jax.lax.fori_loop(0, i + 1, _step, start)
    output_ref[...] = (mixed / total[:, None]).astype(output_ref.dtype)
    log_sum_ref[...] = largest + jnp.log(total)
