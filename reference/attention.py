"""Causal multi-head attention with relative positions, as the released counts imply.

Five D x A matrices (A = heads * kqv_size): query, key, value, output, and a projection of the
relative positions, one per layer as in Transformer-XL (Dai et al. 2019, section 3.3) but without
its two bias vectors, for which the counts leave no room:

    score_ij = q_i . (k_j + r_{i-j}) / sqrt(kqv_size)    for j <= i

Axes: `batch` sequences, `context` T tokens per sequence, `heads` H, `kqv` the head dimension.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from reference.config import Size
from reference.fast import causal_softmax, linear
from reference.mesh import HEADS, HIDDEN, MODEL, TOKENS, contract, repeated, reshaped


class Attention(eqx.Module):
    """Weights are normal with standard deviation 1/sqrt(fan-in).

    `output` is scaled by a further 1/sqrt(2L) (our choice, as in GPT-2).
    """

    query: Float[Array, "d_model heads kqv"]
    key: Float[Array, "d_model heads kqv"]
    value: Float[Array, "d_model heads kqv"]
    position: Float[Array, "d_model heads kqv"]
    output: Float[Array, "heads kqv d_model"]

    document_end: int | None = eqx.field(static=True)
    """The token id that begins another document; None: positions attend to all before them."""

    def __init__(self, size: Size, *, key: PRNGKeyArray, document_end: int | None = None) -> None:
        self.document_end = document_end
        d, heads, kqv = size.d_model, size.num_heads, size.kqv_size
        *in_keys, out_key = jax.random.split(key, 5)
        self.query, self.key, self.value, self.position = (
            jax.random.normal(k, (d, heads, kqv)) / d**0.5 for k in in_keys
        )
        fan_in = heads * kqv * 2 * size.num_blocks
        self.output = jax.random.normal(out_key, (heads, kqv, d)) / fan_in**0.5

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"] | None = None,
    ) -> Float[Array, "batch context d_model"]:
        """Self-attention; scores and softmax in float32 or wider, the rest in the dtype of `x`."""
        query, key, value = (self._heads(x, w) for w in (self.query, self.key, self.value))
        query /= self.query.shape[-1] ** 0.5
        position = self._positions(x)
        content = contract("bhik,bhjk->bhij", query, key, out=HEADS, wide=True)
        distance = contract("bhik,bhmk->bhim", query, position, out=HEADS, wide=True)
        scores = content + shift(distance)
        if self.document_end is not None and token_id is not None:
            same = same_document(token_id, self.document_end)
            scores = jnp.where(repeated(same[:, None], scores.shape, HEADS), scores, -jnp.inf)
        weights = causal_softmax(scores).astype(x.dtype)
        heads = contract("bhij,bhjk->bihk", weights, value, out=(*HIDDEN, None))
        return self._joined(heads)

    def _heads(
        self, x: Float[Array, "batch context d_model"], weight: Float[Array, "d_model heads kqv"]
    ) -> Float[Array, "batch heads context kqv"]:
        d_model, heads, kqv = weight.shape
        side_by_side = linear(
            x, reshaped(weight, (d_model, heads * kqv), (None, MODEL)), out=HIDDEN
        )
        return jnp.moveaxis(
            reshaped(side_by_side, (*x.shape[:2], heads, kqv), (*HIDDEN, None)), 2, 1
        )

    def _joined(
        self, heads: Float[Array, "batch context heads kqv"]
    ) -> Float[Array, "batch context d_model"]:
        number, kqv, d_model = self.output.shape
        side_by_side = reshaped(heads, (*heads.shape[:2], number * kqv), HIDDEN)
        output = reshaped(self.output, (number * kqv, d_model), (MODEL, None))
        return linear(side_by_side, output, out=TOKENS)

    def _positions(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch heads context kqv"]:
        """r, from the largest distance to 0.

        Repeated for each sequence, so that its product with the queries is batched like the keys'.
        """
        sinusoids = relative_sinusoids(x.shape[1], x.shape[2]).astype(x.dtype)
        position = contract(
            "md,dhk->hmk", sinusoids, self.position.astype(x.dtype), out=(MODEL, None, None)
        )
        return repeated(position, (x.shape[0], *position.shape), HEADS)

    def keys_and_values(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "2 batch heads context kqv"]:
        """What `decoding` caches of `x`."""
        return jnp.stack([self._heads(x, self.key), self._heads(x, self.value)])

    def decode(
        self,
        x: Float[Array, "batch 1 d_model"],
        attend: Callable[..., Float[Array, "batch 1 heads kqv"]],
    ) -> tuple[Float[Array, "batch 1 d_model"], Float[Array, "2 batch heads 1 kqv"]]:
        """`__call__` of one position, and what is cached of it.

        `attend(query, keys_and_values)` attends to it and to the positions before it.
        """
        query, new = self._heads(x, self.query), self.keys_and_values(x)
        return self._joined(attend(query / self.query.shape[-1] ** 0.5, new)), new


def same_document(
    token_id: Int[Array, "batch context"], end: int
) -> Bool[Array, "batch context context"]:
    """Whether two positions are in one document, which the token `end` begins.

    `end` is the target of a document's last token, and the first input of the next document.
    """
    document = jnp.cumsum(token_id == end, axis=1)
    return document[:, :, None] == document[:, None, :]


def relative_sinusoids(context: int, d_model: int) -> Float[Array, "context d_model"]:
    """Sinusoidal embeddings of the distances context - 1, ..., 1, 0 (Vaswani et al. 2017).

    Sines, then cosines, at wavelengths from 2 pi to 10000 * 2 pi.
    """
    distance = jnp.arange(context - 1, -1, -1, dtype=float)
    frequency = 10_000.0 ** (-jnp.arange(0, d_model, 2, dtype=float) / d_model)
    angle = distance[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def shift(
    scores: Float[Array, "batch heads context context"],
) -> Float[Array, "batch heads context context"]:
    """Converts scores indexed by distance to scores indexed by position.

    Entry m of row i of the input is for distance T-1-m; entry j of row i of the output is for
    distance i-j, so row i moves left by T-1-i. With a column prepended, rows are T+1 long, and
    reading them T at a time moves each row by one more than the row before (Dai et al. 2019,
    appendix B). Entries with j > i are arbitrary.
    """
    batch, heads, context, _ = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return reshaped(padded, (batch, heads, context + 1, context), HEADS)[:, :, 1:]
