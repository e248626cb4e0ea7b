"""Causal multi-head attention with relative positions, as the released counts imply.

Five D x A matrices (A = heads * kqv_size): query, key, value, output, and a projection of the
relative positions, one per layer as in Transformer-XL (Dai et al. 2019, section 3.3) but without
its two bias vectors, for which the counts leave no room:

    score_ij = q_i . (k_j + r_{i-j}) / sqrt(kqv_size)    for j <= i

`attend` is this formula. The other forms equal it (`tests/reference/test_attention.py`):

    plain      `attend` on all queries: T^2 scores for each sequence and head
    kernel     fused, for TPU and GPU: no scores in memory (`kernels/relative_attention.py`)
    chunked    `attend` on QUERIES queries at a time, recomputed in the backward pass: memory linear
               in T, and most scores of later keys are not computed

Axes: `batch` sequences, `context` T tokens per sequence, `heads` H, `kqv` the head dimension,
`queries` some of the positions, `keys` the first of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.config import AttentionForm, Size, chunk_runs
from reference.fast import causal_softmax, linear, products_with_keys, sums_of_values
from reference.mesh import (
    BATCH,
    HEADS,
    HIDDEN,
    MODEL,
    TOKENS,
    contract,
    devices_along,
    repeated,
    reshaped,
)


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
    form: AttentionForm = eqx.field(static=True)

    def __init__(
        self,
        size: Size,
        *,
        key: PRNGKeyArray,
        document_end: int | None = None,
        form: AttentionForm = "plain",
    ) -> None:
        self.document_end, self.form = document_end, form
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
        query, key, value = (checkpoint_name(each, HEAD_INPUTS) for each in (query, key, value))
        document = None
        if self.document_end is not None and token_id is not None:
            document = document_of(token_id, self.document_end)
        form = {"plain": attend_at_once, "chunked": attend_in_chunks, "kernel": attend_fused}
        return self._joined(form[self.form](query, key, value, self._positions(x), document))

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
    ) -> Float[Array, "copies heads context kqv"]:
        """r, from the largest distance to 0; a copy for each device that sequences are spread over.

        So its gradient is a sum over sequences like the other matrices', to be completed later.
        """
        sinusoids = relative_sinusoids(x.shape[1], x.shape[2]).astype(x.dtype)
        copies = repeated(sinusoids, (devices_along(*BATCH), *sinusoids.shape), TOKENS)
        weight = self.position.astype(x.dtype)
        return contract("cmd,dhk->chmk", copies, weight, out=HEADS)

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


HEAD_INPUTS, HEAD_OUTPUTS = "queries, keys and values", "outputs of heads"
"""Names of arrays that selective rematerialisation keeps (`transformer.KEPT`)."""


class Documents(NamedTuple):
    """The number of each position's document; positions attend within their own."""

    queries: Int[Array, "batch queries"]
    keys: Int[Array, "batch keys"]


def attend(
    query: Float[Array, "batch heads queries kqv"],
    key: Float[Array, "batch heads keys kqv"],
    value: Float[Array, "batch heads keys kqv"],
    position: Float[Array, "copies heads keys kqv"],
    documents: Documents | None,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, "batch queries heads kqv"]:
    """softmax_j(q_i . (k_j + r_{i-j})) v_j, for queries divided by sqrt(kqv).

    Queries are those of the positions from `first` on. `position` is r from the distance of the
    last query to the first key down; what it is for negative distances does not matter.
    """
    position = for_each_sequence(position, query.shape[0])
    content = products_with_keys(query, key)
    distance = products_with_keys(query, position)
    scores = content + shift(distance)
    if documents is not None:
        same = documents.queries[:, :, None] == documents.keys[:, None, :]
        scores = jnp.where(repeated(same[:, None], scores.shape, HEADS), scores, -jnp.inf)
    weights = causal_softmax(scores, first).astype(value.dtype)
    return sums_of_values(weights, value)


def attend_at_once(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "copies heads context kqv"],
    document: Int[Array, "batch context"] | None,
) -> Float[Array, "batch context heads kqv"]:
    """`attend` on all queries."""
    documents = None if document is None else Documents(document, document)
    return checkpoint_name(attend(query, key, value, position, documents), HEAD_OUTPUTS)


def attend_in_chunks(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "copies heads context kqv"],
    document: Int[Array, "batch context"] | None,
) -> Float[Array, "batch context heads kqv"]:
    """`attend` on a chunk of queries at a time, in a loop for each of `chunk_runs`.

    Each chunk's scores are computed again in the backward pass.
    """
    batch, heads, context, kqv = query.shape
    length, runs = chunk_runs(context)
    chunks = runs[-1][1]
    padded = chunks * length
    rest = ((0, 0), (0, 0), (0, padded - context), (0, 0))
    query, key, value = (jnp.pad(each, rest) for each in (query, key, value))
    query = reshaped(query, (batch, heads, chunks, length, kqv), (*HEADS, None))
    position = jnp.pad(position, ((0, 0), (0, 0), (padded - context, padded), (0, 0)))
    own = None
    if document is not None:
        document = jnp.pad(document, ((0, 0), (0, padded - context)))
        own = jnp.moveaxis(reshaped(document, (batch, chunks, length), TOKENS), 1, 0)
    each = length * jnp.arange(chunks), jnp.moveaxis(query, 2, 0), own
    outputs: list[Float[Array, "chunks batch queries heads kqv"]] = []
    for begin, end in runs:
        keys = end * length

        @jax.checkpoint
        def _chunk(
            first: Int[Array, ""],
            query: Float[Array, "batch heads queries kqv"],
            own: Int[Array, "batch queries"] | None,
            keys: int = keys,
        ) -> Float[Array, "batch queries heads kqv"]:
            begin = padded - length - first
            window = jax.lax.dynamic_slice_in_dim(position, begin, keys, axis=2)
            documents = None
            if document is not None and own is not None:
                documents = Documents(own, document[:, :keys])
            return attend(query, key[:, :, :keys], value[:, :, :keys], window, documents, first)

        some = jax.tree.map(lambda x, begin=begin, end=end: x[begin:end], each)
        outputs.append(jax.lax.map(lambda xs, chunk=_chunk: chunk(*xs), some))
    together = jnp.moveaxis(jnp.concatenate(outputs), 0, 1)
    layout = (*HIDDEN, None)
    whole = reshaped(together, (batch, padded, heads, kqv), layout)[:, :context]
    return checkpoint_name(whole, HEAD_OUTPUTS)


def attend_fused(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "copies heads context kqv"],
    document: Int[Array, "batch context"] | None,
) -> Float[Array, "batch context heads kqv"]:
    """`attend` on all queries, by the kernels."""
    # Pallas takes as long to import as all of this package.
    from reference.kernels.relative_attention import relative_attention

    return jnp.moveaxis(relative_attention(query, key, value, position, document), 1, 2)


def for_each_sequence(
    position: Float[Array, "copies heads context kqv"], batch: int
) -> Float[Array, "batch heads context kqv"]:
    """r repeated, so that its product with the queries is batched like the keys'."""
    copies, *rest = position.shape
    layout = (BATCH, None, *HEADS[1:])
    each = repeated(position[:, None], (copies, batch // copies, *rest), layout)
    return reshaped(each, (batch, *rest), HEADS)


def document_of(token_id: Int[Array, "batch context"], end: int) -> Int[Array, "batch context"]:
    """The number of each position's document, which the token `end` begins.

    `end` is the target of a document's last token, and the first input of the next document.
    """
    return jnp.cumsum(token_id == end, axis=1)


def relative_sinusoids(context: int, d_model: int) -> Float[Array, "context d_model"]:
    """Sinusoidal embeddings of the distances context - 1, ..., 1, 0 (Vaswani et al. 2017).

    Sines, then cosines, at wavelengths from 2 pi to 10000 * 2 pi.
    """
    distance = jnp.arange(context - 1, -1, -1, dtype=float)
    frequency = 10_000.0 ** (-jnp.arange(0, d_model, 2, dtype=float) / d_model)
    angle = distance[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def shift(
    scores: Float[Array, "batch heads queries keys"],
) -> Float[Array, "batch heads queries keys"]:
    """Converts scores indexed by distance to scores indexed by position.

    Entry m of each row is for the distance of the last query to the first key, minus m. Seen from
    row i of Q the first key is Q-1-i nearer than that, so the row moves left by as much. With a
    column prepended, rows of K entries are K+1 long; without the first Q entries, reading them K at
    a time moves each row by one more than the row before (Dai et al. 2019, appendix B). Entries for
    negative distances are arbitrary.
    """
    batch, heads, queries, keys = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    cut = reshaped(padded, (batch, heads, keys + 1, queries), HEADS)[:, :, 1:]
    return reshaped(cut, scores.shape, HEADS)
