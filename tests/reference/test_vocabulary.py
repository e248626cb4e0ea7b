"""Ids that the vocabulary does not have, and rows of the embedding that are no id's."""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reference.objective import objective
from reference.transformer import Transformer
from tests.reference.small_models import CONTEXT, VOCABULARY, draw, small, some_tokens
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import init_state, train_step

ROWS = 32
"""Of the embedding, for the 23 ids of these tests."""


def _padded(technique: str, **fields: Any) -> Transformer:
    """A model with nine rows more than ids, drawn as all others are: what is never read may be anything."""
    model = draw(small(technique, routing_frequency=1.0, vocabulary_multiple=ROWS, **fields))
    assert model.embedding.shape[0] == ROWS
    return model


def _without_padding(model: Transformer) -> Transformer:
    """The same weights without those rows."""
    plain = draw(replace(model.config, vocabulary_multiple=1))
    return eqx.tree_at(
        lambda m: (m.embedding, m.groups, m.final_norm), plain, (model.embedding[:VOCABULARY], model.groups, model.final_norm)
    )


@pytest.mark.parametrize("technique", ["dense", "hash", "switch"])
@pytest.mark.parametrize("token", [-1, VOCABULARY, ROWS, 10**6])
def test_an_id_that_is_not_in_the_vocabulary_makes_its_sequence_nan_and_no_other(technique: str, token: int) -> None:
    model = _padded(technique)
    run = _evaluated(technique)
    tokens = some_tokens(3)
    logits, before = run(model, tokens.at[1, 4].set(token)), run(model, tokens)
    # All but the columns that are never chosen.
    assert np.all(np.isnan(logits[1, :, :VOCABULARY]))
    np.testing.assert_array_equal(logits[::2], before[::2])
    assert np.all(np.isfinite(before))


_PROGRAMS: dict[str, Any] = {}


def _evaluated(technique: str) -> Any:
    """The model's evaluation, compiled once for each technique."""
    return _PROGRAMS.setdefault(technique, eqx.filter_jit(lambda model, tokens: model(tokens, inference=True)[0]))


def test_the_loss_of_a_batch_with_such_an_id_is_nan() -> None:
    model = draw(small("switch", routing_frequency=1.0))
    tokens = some_tokens(2, CONTEXT + 1)
    loss = eqx.filter_jit(lambda tokens: objective(model, tokens)[0])
    assert np.isfinite(loss(tokens))
    assert np.isnan(loss(tokens.at[0, 3].set(VOCABULARY)))


def test_rows_that_are_no_ids_have_no_probability() -> None:
    logits = np.asarray(_evaluated("switch")(_padded("switch"), some_tokens(2)))
    assert logits.shape[-1] == ROWS
    assert np.all(logits[..., :VOCABULARY].min() > logits[..., VOCABULARY:].max())
    # Exactly none, at any temperature that anybody samples with, and in the narrowest type.
    for temperature in (0.1, 1.0, 100.0):
        probabilities = jax.nn.softmax(jnp.asarray(logits, jnp.bfloat16) / temperature, axis=-1)
        assert jnp.all(probabilities[..., VOCABULARY:] == 0)
    draws = jax.random.categorical(jax.random.key(0), jnp.asarray(logits)[None], shape=(200, *logits.shape[:2]))
    assert int(draws.max()) < VOCABULARY


@pytest.mark.parametrize("technique", ["dense", "s-base"])
def test_rows_that_are_no_ids_change_no_loss_and_have_no_gradient(technique: str) -> None:
    with jax.enable_x64(True):
        model = _padded(technique, dtype="float64")
        tokens = some_tokens(2, CONTEXT + 1)

        def _loss_and_gradient(model: Transformer) -> tuple[Any, Transformer]:
            return eqx.filter_jit(eqx.filter_value_and_grad(lambda model: objective(model, tokens)[0]))(model)

        loss, gradient = _loss_and_gradient(model)
        plain_loss, plain = _loss_and_gradient(_without_padding(model))
    np.testing.assert_array_equal(gradient.embedding[VOCABULARY:], np.zeros((ROWS - VOCABULARY, 16)))
    # Sums over 32 columns instead of 23, nine of them zeros: float64 rounding.
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-14)
    np.testing.assert_allclose(gradient.embedding[:VOCABULARY], plain.embedding, rtol=0, atol=1e-13)
    for found, expected in zip(jax.tree.leaves(gradient.groups), jax.tree.leaves(plain.groups), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_rows_that_are_no_ids_begin_as_zeros_and_stay_so() -> None:
    config = small("switch", routing_frequency=1.0, vocabulary_multiple=ROWS)
    model = eqx.filter_jit(Transformer)(config, key=jax.random.key(0))
    # Those of ids are drawn as without them.
    without = eqx.filter_jit(Transformer)(replace(config, vocabulary_multiple=1), key=jax.random.key(0))
    np.testing.assert_array_equal(model.embedding[:VOCABULARY], without.embedding)
    optimizer = make_optimizer(OptimizerConfig(initial_learning_rate=1e-2, warmup_steps=1, steps=10))
    step = jax.jit(partial(train_step, optimizer=optimizer))
    state = init_state(model, optimizer)
    for _ in range(2):
        state, _ = step(state, some_tokens(2, CONTEXT + 1), jax.random.key(0))
    assert np.any(state.model.embedding[:VOCABULARY] != model.embedding[:VOCABULARY])
    np.testing.assert_array_equal(state.model.embedding[VOCABULARY:], np.zeros((ROWS - VOCABULARY, 16)))
