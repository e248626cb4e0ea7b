"""The experts' feed-forwards on rows in order of their expert, in the form for one CPU."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from reference.fast import transposed_product

_T = TypeVar("_T")

BLOCKS = (256, 64)
"""Rows that `ragged_feedforward` multiplies at a time, as long as so many are left; our choice."""


@jax.custom_vjp
def ragged_feedforward(
    x: Float[Array, "rows d_model"],
    counts: Int[Array, "experts"],
    w_in: Float[Array, "experts d_model hidden"],
    w_out: Float[Array, "experts hidden d_model"],
) -> Float[Array, "rows d_model"]:
    """Plain form: `ragged_dot(gelu(ragged_dot(x, w_in, counts)), w_out, counts)`.

    Rows are in order of their expert, `counts` of each. XLA on CPU multiplies all rows by all
    experts for a `ragged_dot`; here loops multiply BLOCKS rows of one expert at a time, as many
    blocks as the routing needs. The last can reach into the next expert's rows, which are then
    written again. For one CPU: accelerators are slow at loops of small products. Reverse mode of
    first order only: the loops' lengths are known at run time alone.
    """
    return _ragged_forward(x, counts, w_in, w_out)[0]


class _Expert(NamedTuple):
    w_in: Float[Array, "d_model hidden"]
    w_out: Float[Array, "hidden d_model"]
    first: Int[Array, ""]
    """The number of its first row."""
    rows: Int[Array, ""]

    def loop(self, block: Callable[[Int[Array, ""], int, _T], _T], carry: _T, rows: int) -> _T:
        """`block(row, length, carry)` for the first row of each of its blocks; `rows` of all."""
        row, end = self.first, self.first + self.rows
        *long, short = BLOCKS
        for length in (*(each for each in long if each <= rows), short):
            spare = length - 1 if length == short else 0
            blocks = (end - row + spare) // length

            def _next(
                i: Int[Array, ""], carry: _T, row: Int[Array, ""] = row, length: int = length
            ) -> _T:
                return block(row + i * length, length, carry)

            carry = jax.lax.fori_loop(0, blocks, _next, carry)
            row += blocks * length
        return carry


def _ragged_forward(
    x: Float[Array, "rows d_model"],
    counts: Int[Array, "experts"],
    w_in: Float[Array, "experts d_model hidden"],
    w_out: Float[Array, "experts hidden d_model"],
) -> tuple[Float[Array, "rows d_model"], tuple[Array, ...]]:
    padded = jnp.pad(x, ((0, BLOCKS[-1]), (0, 0)))
    hidden = jnp.zeros((padded.shape[0], w_in.shape[-1]), x.dtype)

    def _expert(carry: tuple[Array, Array], expert: _Expert) -> tuple[tuple[Array, Array], None]:
        def _block(
            row: Int[Array, ""], length: int, carry: tuple[Array, Array]
        ) -> tuple[Array, Array]:
            hidden, y = carry
            block = _rows_from(padded, row, length) @ expert.w_in
            return _put(hidden, row, block), _put(y, row, jax.nn.gelu(block) @ expert.w_out)

        return expert.loop(_block, carry, x.shape[0]), None

    experts = _Expert(w_in, w_out, jnp.cumsum(counts) - counts, counts)
    (hidden, y), _ = jax.lax.scan(_expert, (hidden, jnp.zeros_like(padded)), experts)
    return y[: x.shape[0]], (padded, hidden, counts, w_in, w_out)


def _ragged_backward(
    kept: tuple[Array, ...], gradient: Float[Array, "rows d_model"]
) -> tuple[Array, None, Array, Array]:
    padded, hidden, counts, w_in, w_out = kept
    d_out = jnp.pad(gradient, ((0, BLOCKS[-1]), (0, 0)))

    def _expert(dx: Array, expert: _Expert) -> tuple[Array, tuple[Array, Array]]:
        end = expert.first + expert.rows

        def _block(
            row: Int[Array, ""], length: int, carry: tuple[Array, Array, Array]
        ) -> tuple[Array, Array, Array]:
            dx, d_w_in, d_w_out = carry
            own = row + jnp.arange(length)[:, None] < end
            dy = jnp.where(own, _rows_from(d_out, row, length), 0)
            activation, pull_back = jax.vjp(jax.nn.gelu, _rows_from(hidden, row, length))
            (d_hidden,) = pull_back(dy @ expert.w_out.T)
            d_w_in += transposed_product(_rows_from(padded, row, length), d_hidden)
            d_w_out += transposed_product(activation, dy)
            return _put(dx, row, d_hidden @ expert.w_in.T), d_w_in, d_w_out

        zeros = jnp.zeros_like(expert.w_in), jnp.zeros_like(expert.w_out)
        dx, d_w_in, d_w_out = expert.loop(_block, (dx, *zeros), gradient.shape[0])
        return dx, (d_w_in, d_w_out)

    experts = _Expert(w_in, w_out, jnp.cumsum(counts) - counts, counts)
    dx, d_weights = jax.lax.scan(_expert, jnp.zeros_like(padded), experts)
    return dx[: gradient.shape[0]], None, *d_weights


ragged_feedforward.defvjp(_ragged_forward, _ragged_backward)


def _rows_from(
    x: Shaped[Array, "rows columns"], row: Int[Array, ""], length: int
) -> Shaped[Array, "length columns"]:
    return jax.lax.dynamic_slice_in_dim(x, row, length)


def _put(
    x: Shaped[Array, "rows columns"], row: Int[Array, ""], block: Shaped[Array, "block columns"]
) -> Shaped[Array, "rows columns"]:
    return jax.lax.dynamic_update_slice_in_dim(x, block, row, 0)
