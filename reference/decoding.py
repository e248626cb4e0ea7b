"""Decoding: the next logits of texts that are read a token at a time, with cached keys and values.

The token at position i attends with scores

    score_ij = q_i . (k_j + r_{i-j}) / sqrt(kqv_size)    for first <= j <= i.

The keys and values of the tokens before it, and r by distance, are cached, so that a token costs
the same at any position. Logits are those of `Transformer.__call__` in evaluation without drops.

Sequences are independent: each has a position of its own. Routed layers drop nothing, and a model
with an `evaluation_capacity_factor` is rejected: what that drops depends on the rest of the batch.

Axes: `groups` of `blocks`, as in `transformer.Group`; 2 for keys and values; `context` positions.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from reference.attention import relative_sinusoids
from reference.errors import require
from reference.feedforward import FeedForward
from reference.mesh import BATCH, HEADS, HIDDEN, MODEL, contract, gathered, laid_out, on_each_device
from reference.transformer import Block, Group, Transformer

PAST = (None, *HEADS)
"""2 batch heads context kqv."""
STACKED = (None, None, *PAST)
"""groups blocks 2 batch heads context kqv."""


class Cache(eqx.Module):
    """What is kept of the tokens that each sequence has read, at most a context of them."""

    past: Float[Array, "groups blocks 2 batch heads context kqv"]
    """Keys and values by position."""
    relative: Float[Array, "groups blocks heads context kqv"]
    """r by distance, from 0."""
    first: Int[Array, "batch"]
    """Where attention begins: at 0, or with `mask_documents` where the document does."""


def empty_cache(model: Transformer, batch: int) -> Cache:
    """The cache of `batch` sequences before their first token."""
    size, context = model.config.size, model.config.context
    blocks = gathered(model.groups, model.config.dtype).blocks
    groups = size.num_blocks // len(blocks)
    shape = (groups, len(blocks), 2, batch, size.num_heads, context, size.kqv_size)
    sinusoids = relative_sinusoids(context, size.d_model)[::-1].astype(model.config.dtype)
    position = jnp.stack(
        [laid_out(block.attention.position, (None, None, MODEL, None)) for block in blocks], axis=1
    )
    layout = (None, None, MODEL, None, None)
    return Cache(
        laid_out(jnp.zeros(shape, sinusoids.dtype), STACKED),
        contract("md,gbdhk->gbhmk", sinusoids, position.astype(sinusoids.dtype), out=layout),
        laid_out(jnp.zeros(batch, jnp.int32), (BATCH,)),
    )


def prefill(
    model: Transformer, tokens: Int[Array, "batch prompt"], length: Int[Array, "batch"]
) -> Cache:
    """The cache after the first `length` of `tokens`, at most a context, by one full pass."""
    _check_drops(model)
    tokens, length = laid_out(tokens, (BATCH, None)), laid_out(length, (BATCH,))
    empty = empty_cache(model, tokens.shape[0])

    def _read(
        block: Block, x: Float[Array, "batch prompt d_model"], _: PyTree
    ) -> tuple[Float[Array, "batch prompt d_model"], Float[Array, "2 batch heads prompt kqv"]]:
        new = block.attention.keys_and_values(block.attention_norm(x))
        return block(x, tokens, None, True)[0], new

    _, past = _through_blocks(model, _read, model.embed(tokens), empty)
    rest = model.config.context - tokens.shape[1]
    past = jnp.pad(past, (*[(0, 0)] * 5, (0, rest), (0, 0)))
    end = model.groups.blocks[0].attention.document_end
    if end is None:
        return Cache(past, empty.relative, empty.first)
    at = jnp.arange(tokens.shape[1])
    begins = (tokens == end) & (at < length[:, None])
    return Cache(past, empty.relative, jnp.max(jnp.where(begins, at, 0), axis=1))


def decode(
    model: Transformer, tokens: Int[Array, "batch"], cache: Cache, position: Int[Array, "batch"]
) -> tuple[Float[Array, "batch rows"], Cache]:
    """The logits after one more token of each sequence, and the cache with it.

    `position` is the number of tokens before it, less than a context; at 0 a sequence begins anew.
    """
    _check_drops(model)
    tokens, position = laid_out(tokens, (BATCH,)), laid_out(position, (BATCH,))
    first = jnp.where(position == 0, 0, cache.first)
    end = model.groups.blocks[0].attention.document_end
    if end is not None:
        first = jnp.where(tokens == end, position, first)
    layouts = (HEADS, PAST, PAST, (MODEL, None, None), (BATCH,), (BATCH,))
    attend = on_each_device(_attend, layouts, (*HIDDEN, None))

    def _read(
        block: Block,
        x: Float[Array, "batch 1 d_model"],
        before: tuple[Float[Array, "2 batch heads context kqv"], Float[Array, "heads context kqv"]],
    ) -> tuple[Float[Array, "batch 1 d_model"], Float[Array, "2 batch heads 1 kqv"]]:
        y, new = block.attention.decode(
            block.attention_norm(x), lambda *own: attend(*own, *before, position, first)
        )
        x += y
        normal = block.feedforward_norm(x)
        if isinstance(block.feedforward, FeedForward):
            return x + block.feedforward(normal), new
        return x + block.feedforward(normal, tokens[:, None], inference=True)[0], new

    x, new = _through_blocks(model, _read, model.embed(tokens[:, None]), cache)
    write = on_each_device(_write, (STACKED, STACKED, (BATCH,)), STACKED)
    return model.logits(x)[:, 0], Cache(write(cache.past, new, position), cache.relative, first)


def _attend(
    query: Float[Array, "batch heads 1 kqv"],
    new: Float[Array, "2 batch heads 1 kqv"],
    past: Float[Array, "2 batch heads context kqv"],
    relative: Float[Array, "heads context kqv"],
    position: Int[Array, "batch"],
    first: Int[Array, "batch"],
) -> Float[Array, "batch 1 heads kqv"]:
    """The query at `position` over the positions from `first` to its own, which is `new`."""
    at, own = jnp.arange(past.shape[-2]), position[:, None]
    keys, values = jnp.where((at == own)[:, None, :, None], new, past)
    score = partial(jnp.einsum, preferred_element_type=jnp.promote_types(query.dtype, jnp.float32))
    by_distance = score("bhik,hmk->bhim", query, relative)
    distance = jnp.maximum(own - at, 0)[:, None, None]
    scores = score("bhik,bhjk->bhij", query, keys)
    scores += jnp.take_along_axis(by_distance, distance, axis=-1)
    seen = ((first[:, None] <= at) & (at <= own))[:, None, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhij,bhjk->bihk", weights.astype(query.dtype), values)


def _write(
    past: Float[Array, "groups blocks 2 batch heads context kqv"],
    new: Float[Array, "groups blocks 2 batch heads 1 kqv"],
    position: Int[Array, "batch"],
) -> Float[Array, "groups blocks 2 batch heads context kqv"]:
    """`past` with `new` at each sequence's position."""
    batch = jnp.arange(position.shape[0])
    return past.at[:, :, :, batch, :, position].set(jnp.moveaxis(new[..., 0, :], 3, 0))


def _through_blocks(
    model: Transformer,
    read: Callable[..., tuple[Float[Array, "batch new d_model"], Float[Array, "2 *new"]]],
    x: Float[Array, "batch new d_model"],
    cache: Cache,
) -> tuple[Float[Array, "batch new d_model"], Float[Array, "groups blocks 2 batch heads new kqv"]]:
    """`read(block, x, (its past, its r))` in every block, by a scan over groups.

    Returns the last block's output, and the keys and values of all.
    """
    arrays, static = eqx.partition(model.groups, eqx.is_array)

    def _group(
        x: Float[Array, "batch new d_model"], xs: tuple[Group, PyTree]
    ) -> tuple[Float[Array, "batch new d_model"], Float[Array, "blocks 2 batch heads new kqv"]]:
        all_new: list[Float[Array, "2 batch heads new kqv"]] = []
        for i, block in enumerate(eqx.combine(xs[0], static).blocks):
            x, new = read(
                gathered(block, x.dtype), x, jax.tree.map(lambda array, i=i: array[i], xs[1])
            )
            all_new.append(new)
        return x, jnp.stack(all_new)

    return jax.lax.scan(_group, x, (arrays, (cache.past, cache.relative)))


def _check_drops(model: Transformer) -> None:
    router = model.config.router
    require(
        router is None or router.evaluation_capacity_factor is None,
        "decoding drops no token: evaluation_capacity_factor must be None",
    )
