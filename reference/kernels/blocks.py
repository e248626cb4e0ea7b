"""What the kernels share: products of blocks, accumulated in float32 or wider."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int


def wide(dtype: Any) -> Any:
    """float32 or wider."""
    return jnp.promote_types(dtype, jnp.float32)


def rows(number: Any, block: int) -> Any:
    """The slice of a reference's rows that are block `number`."""
    return pl.ds(pl.multiple_of(number * block, block), block)


def dot(
    x: Float[Array, "rows inner"], y: Float[Array, "inner columns"]
) -> Float[Array, "rows columns"]:
    """x y."""
    return _dot(x, y, 1, 0)


def dot_right(
    x: Float[Array, "rows inner"], y: Float[Array, "columns inner"]
) -> Float[Array, "rows columns"]:
    """x y^T."""
    return _dot(x, y, 1, 1)


def dot_left(
    x: Float[Array, "inner rows"], y: Float[Array, "inner columns"]
) -> Float[Array, "rows columns"]:
    """x^T y."""
    return _dot(x, y, 0, 0)


def indices(block: int) -> tuple[Int[Array, "b b"], Int[Array, "b b"]]:
    """The row and the column of each entry of a block pair."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (block, block), at) for at in (0, 1))
    return row, column


def future(block: int) -> Bool[Array, "b b"]:
    """Of a block pair on the diagonal: whether the key comes after the query."""
    row, column = indices(block)
    return column > row


def cost(shape: tuple[int, ...], block: int, products: int, arrays: list[Any]) -> pl.CostEstimate:
    """Of a kernel with so many products of a block pair; `arrays`: its operands and results.

    `shape`: batch, heads, context, kqv.
    """
    batch, heads, context, kqv = shape
    number = context // block
    scores = batch * heads * number * (number + 1) // 2 * block**2
    moved = sum(x.size * jnp.dtype(x.dtype).itemsize for x in arrays)
    return pl.CostEstimate(
        flops=2 * products * kqv * scores, transcendentals=scores, bytes_accessed=moved
    )


def _dot(
    x: Float[Array, "x_rows x_columns"], y: Float[Array, "y_rows y_columns"], of_x: int, of_y: int
) -> Float[Array, "rows columns"]:
    axes = (((of_x,), (of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=wide(x.dtype))
