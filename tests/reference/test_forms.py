"""The forms that save memory against the plain ones: attention in chunks of queries, the loss in chunks of positions, selective
rematerialisation. The plain forms are the specification."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from reference import config, objective
from reference.attention import attend_at_once, attend_in_chunks
from tests.reference.small_models import draw, small, some_tokens

BATCH, HEADS, CONTEXT, KQV = 2, 3, 11, 4


def heads(dtype: str, seed: int = 0) -> list[Array]:
    """Queries, keys, values, positions."""
    draws = np.random.default_rng(seed)
    shapes = [(BATCH, HEADS, CONTEXT, KQV)] * 3 + [(1, HEADS, CONTEXT, KQV)]
    return [jnp.asarray(draws.normal(size=shape), dtype) for shape in shapes]


def documents(number: int) -> Int[Array, "batch context"] | None:
    """Of each position, where there are several; one of them is of a single token."""
    if number == 1:
        return None
    return jnp.cumsum(jnp.asarray(np.isin(np.arange(CONTEXT), [3, 4, 9]))[None] & (np.arange(BATCH) == 0)[:, None], axis=1)


@pytest.mark.parametrize("queries", [1, 4, CONTEXT, 100])
@pytest.mark.parametrize("number", [1, 4])
def test_attention_in_chunks_is_attention_in_float64(monkeypatch: pytest.MonkeyPatch, queries: int, number: int) -> None:
    monkeypatch.setattr(config, "QUERIES", queries)
    with jax.enable_x64(True):
        arrays, document = heads("float64"), documents(number)
        weight = np.random.default_rng(1).normal(size=(BATCH, CONTEXT, HEADS, KQV))
        (plain, expected), (chunked, found) = (
            jax.jit(lambda arrays, form=form: jax.value_and_grad(lambda arrays: jnp.sum(form(*arrays, document) * weight))(arrays))(arrays)
            for form in (attend_at_once, attend_in_chunks)
        )
    assert float(chunked) == pytest.approx(float(plain), rel=1e-12)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_attention_in_chunks_is_attention_in_bfloat16_but_for_one_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "QUERIES", 4)
    arrays = heads("bfloat16")
    plain, chunked = (np.asarray(jax.jit(form)(*arrays, None), np.float64) for form in (attend_at_once, attend_in_chunks))
    # Scores and softmax are the same numbers, and values are summed in float32: only the rounding of the sum can differ, by one step of
    # bfloat16, 2^-7 of a number between 1 and 2.
    np.testing.assert_allclose(chunked, plain, rtol=2**-7, atol=1e-6)


def test_memory_of_attention_in_chunks_grows_with_the_context_and_not_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "QUERIES", 16)

    def _temporaries(form: Any, context: int) -> int:
        shape = (1, 2, context, 8)
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 4
        gradient = jax.jit(jax.grad(lambda *arrays: jnp.sum(form(*arrays, None)), argnums=(0, 1, 2, 3)))
        sizes = gradient.lower(*arrays).compile().memory_analysis()
        assert sizes is not None
        return sizes.temp_size_in_bytes

    # From 128 to 512 positions: scores of all queries grow 16 times, those of a chunk 4 times.
    plain, chunked = ([_temporaries(form, context) for context in (128, 512)] for form in (attend_at_once, attend_in_chunks))
    assert plain[1] > 12 * plain[0]
    assert chunked[1] < 6 * chunked[0]
    assert chunked[1] < plain[1] / 4


@pytest.mark.parametrize("logits", [1, 2 * 32 * 5, 10**9])
def test_the_loss_in_chunks_is_the_loss(monkeypatch: pytest.MonkeyPatch, logits: int) -> None:
    with jax.enable_x64(True):
        model = draw(small("dense", dtype="float64"))
        tokens = some_tokens(2, 12)
        x = model.embed(tokens[:, :-1])

        def _loss(x: Array, embedding: Array) -> Array:
            own = eqx.tree_at(lambda model: model.embedding, model, embedding)
            return jnp.sum(jnp.sin(objective.log_prob_of(own, x, tokens[:, 1:])))

        expected = jax.jit(jax.value_and_grad(_loss, argnums=(0, 1)))(x, model.embedding)
        monkeypatch.setattr(objective, "LOGITS", logits)
        found = jax.jit(jax.value_and_grad(lambda *each: _loss(*each), argnums=(0, 1)))(x, model.embedding)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
