"""Sampling: texts continued by a model, several at once, in time linear in the tokens written.

Texts are read and written a token at a time, with cached keys and values (`reference.decoding`).
A text that fills the context goes on from its last half, which is read again (our choice): each
token is then drawn from a full pass over at least half a context before it, at two steps a token.
No text depends on the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from reference.decoding import Cache, decode, empty_cache, prefill
from reference.mesh import BATCH, devices_along, laid_out
from reference.transformer import Transformer
from training.start import model_shapes

SHORT = 32
"""Up to this many tokens, prompts are read a token at a time, without another pass to compile."""


class Texts(eqx.Module):
    """Texts that are being written."""

    tokens: Int[Array, "texts length"]
    known: Int[Array, "texts"]
    """Tokens written so far."""
    target: Int[Array, "texts"]
    """Tokens in the end."""
    start: Int[Array, "texts"]
    """The token at position 0 of the cache."""
    position: Int[Array, "texts"]
    """The position of the next token to read."""


def sample(
    model: Transformer,
    prompts: Sequence[Int[np.ndarray, "_"]],
    length: int,
    keys: Sequence[PRNGKeyArray],
    *,
    temperature: float = 1.0,
) -> list[Int[np.ndarray, "_"]]:
    """Each of `prompts`, none of them empty, followed by `length` sampled tokens.

    `temperature` 0 takes the most probable token. Each text has a key, which is folded with the
    number of a token. No token is dropped, whatever `evaluation_capacity_factor` is: a text does
    not depend on the others.
    """
    # On a mesh the batch is sharded: copies of the last text make it divisible.
    numbers = [*range(len(prompts)), *[-1] * (-len(prompts) % devices_along(*BATCH))]
    begun = _begin([prompts[i] for i in numbers], length, model.config.context)
    written = _written(
        _without_drops(model), begun, [keys[i] for i in numbers], np.float32(temperature)
    )
    return [
        tokens[: len(prompt) + length]
        for prompt, tokens in zip(prompts, np.asarray(written), strict=False)
    ]


class Begun(NamedTuple):
    """Texts before the first step."""

    tokens: Int[np.ndarray, "texts length"]
    known: Int[np.ndarray, "texts"]
    target: Int[np.ndarray, "texts"]
    start: Int[np.ndarray, "texts"]
    position: Int[np.ndarray, "texts"]
    prefix: Int[np.ndarray, "texts prefix"] | None
    """What `prefill` reads, if a prompt is long: all but its last token, at most a context."""


def _begin(prompts: Sequence[Int[np.ndarray, "_"]], length: int, context: int) -> Begun:
    known = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), max(known) + length), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    start = np.maximum(known - context, 0)
    if max(known) <= SHORT:
        return Begun(tokens, known, known + length, start, np.zeros_like(known), None)
    read = known - start - 1
    # A power of two, so that few lengths are compiled.
    prefix = np.zeros((len(prompts), min(context, 1 << int(max(read)).bit_length())), np.int32)
    for row, text, begin, many in zip(prefix, tokens, start, read, strict=True):
        row[:many] = text[begin : begin + many]
    return Begun(tokens, known, known + length, start, read, prefix)


@jax.jit
def _written(
    model: Transformer, begun: PyTree, keys: list[PRNGKeyArray], temperature: Float[Array, ""]
) -> Int[Array, "texts length"]:
    """The tokens of the texts, all written."""
    *arrays, prefix = begun
    texts, each_key = Texts(*arrays), jnp.stack(keys)
    (number, length), context = texts.tokens.shape, model.config.context
    keep = max(context // 2, 1)

    def _step(state: tuple[Texts, Cache]) -> tuple[Texts, Cache]:
        texts, cache = state
        at = jnp.minimum(texts.start + texts.position, texts.known - 1)
        token = jnp.take_along_axis(texts.tokens, at[:, None], axis=1)[:, 0]
        logits, cache = decode(model, token, cache, texts.position)
        logits = laid_out(logits, (None, None))[:, : model.config.vocabulary]
        drawn = jax.vmap(_draw, (0, 0, 0, None))(logits, each_key, texts.known, temperature)
        writes = (at == texts.known - 1) & (texts.known < texts.target)
        here = writes[:, None] & (jnp.arange(length) == texts.known[:, None])
        known = texts.known + writes
        full = texts.position == context - 1
        return Texts(
            jnp.where(here, drawn[:, None], texts.tokens),
            known,
            texts.target,
            jnp.where(full, known - keep, texts.start),
            jnp.where(full, 0, texts.position + 1),
        ), cache

    def _goes_on(state: tuple[Texts, Cache]) -> Bool[Array, ""]:
        return jnp.any(state[0].known < state[0].target)

    cache = empty_cache(model, number) if prefix is None else prefill(model, prefix, texts.position)
    return jax.lax.while_loop(_goes_on, _step, (texts, cache))[0].tokens


def _draw(
    logits: Float[Array, "vocabulary"],
    key: PRNGKeyArray,
    number: Int[Array, ""],
    temperature: Float[Array, ""],
) -> Int[Array, ""]:
    """The token with this number."""
    scaled = logits / jnp.where(temperature == 0, 1, temperature)
    drawn = jax.random.categorical(jax.random.fold_in(key, number), scaled)
    return jnp.where(temperature == 0, jnp.argmax(logits), drawn)


def _without_drops(model: Transformer) -> Transformer:
    """The model without an `evaluation_capacity_factor`, which no weight depends on."""
    router = model.config.router
    if router is None or router.evaluation_capacity_factor is None:
        return model
    config = replace(model.config, router=replace(router, evaluation_capacity_factor=None))
    like = model_shapes(config, None, None)
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
