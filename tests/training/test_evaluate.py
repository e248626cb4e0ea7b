"""Evaluation counts real targets alone, and text is drawn from the model's own distribution."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int
from scipy.stats import chisquare

from reference.config import ModelConfig, RouterConfig, Size
from reference.objective import PADDING
from reference.routers import Routing, Switch
from reference.transformer import Transformer
from tests.reference.small_models import CONTEXT, draw, small
from training.evaluate import evaluate, sample, sums_of


def model(context: int, vocabulary: int, *, routed: bool = False) -> Transformer:
    """Two blocks, with embeddings ten times as large as usual: their logits are far apart."""
    router = RouterConfig(Switch(), 4) if routed else None
    config = ModelConfig(Size(16, 2, 2, 8), router, 1.0, vocabulary=vocabulary, context=context)
    made = Transformer(config, key=jax.random.key(0))
    return eqx.tree_at(lambda model: model.embedding, made, 10 * made.embedding)


@jax.jit
def forward(model: Transformer, tokens: Int[Array, "batch context"]) -> tuple[Float[Array, "batch context vocabulary"], Routing | None]:
    """The model's logits in evaluation, and its routing."""
    return model(tokens, inference=True)


def logits_after(model: Transformer, tokens: Int[np.ndarray, "tokens"]) -> Float[np.ndarray, "vocabulary"]:
    """The model's logits for what comes after `tokens`, at most a context of them; what follows them there changes nothing."""
    whole = np.pad(tokens, (0, model.config.context - len(tokens)))
    return np.asarray(forward(model, jnp.asarray(whole[None]))[0][0, len(tokens) - 1])


def test_at_temperature_zero_each_token_is_the_most_probable_after_all_before_it() -> None:
    greedy = draw(small("dense"))
    # Longer than a context, so that the first tokens are forgotten.
    tokens = sample(greedy, np.array([3, 1, 4], np.int32), 16, jax.random.key(0), temperature=0.0)
    assert len(tokens) == 19
    contexts = [tokens[max(0, i - CONTEXT) : i] for i in range(3, 19)]
    assert tokens[3:].tolist() == [int(np.argmax(logits_after(greedy, context))) for context in contexts]
    # Were it read one position too early, it would not be the same.
    assert tokens[3:].tolist() != [int(np.argmax(logits_after(greedy, context[:-1]))) for context in contexts]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_of_logits_over_temperature(temperature: float) -> None:
    # A context of one: a token's distribution depends on the one before it alone, so that one long text has many draws from each.
    markov = model(1, 3)
    tokens = sample(markov, np.array([0], np.int32), 1500, jax.random.key(5), temperature=temperature)
    counts, expected = np.zeros((3, 3)), np.zeros((3, 3))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    for before in range(3):
        scaled = logits_after(markov, np.array([before], np.int32)).astype(np.float64) / temperature
        probabilities = np.exp(scaled - scaled.max())
        expected[before] = counts[before].sum() * probabilities / probabilities.sum()
    often = expected.min(axis=1) >= 5
    assert often.any()
    # One draw of the seed; the chance that a right sampler is below is 1e-4 for each token before.
    for before in np.flatnonzero(often):
        assert chisquare(counts[before], expected[before]).pvalue > 1e-4
    assert not np.allclose(expected[often] / counts[often].sum(axis=1, keepdims=True), 1 / 3, atol=0.02)


def test_padding_counts_neither_for_the_loss_nor_for_the_load_nor_as_a_choice() -> None:
    routed = model(6, 32, routed=True)
    tokens = np.random.default_rng(2).integers(0, 32, (3, 7)).astype(np.int32)
    tokens[1, 4:] = PADDING
    tokens[2, 2:] = PADDING
    real = tokens[:, 1:] != PADDING
    compiled = jax.jit(sums_of)
    sums = compiled(routed, tokens)
    _, routing = forward(routed, jnp.maximum(tokens[:, :-1], 0))
    assert routing is not None
    experts = np.asarray(routing.experts).reshape(2, 18, 1)
    assert int(sums.targets) == real.sum() == 10
    np.testing.assert_array_equal(sums.counts, [np.bincount(layer[real.ravel(), 0], minlength=4) for layer in experts])
    np.testing.assert_array_equal(sums.choices, np.where(real.ravel()[None, :, None], experts, -1))
    found = evaluate([tokens, tokens], lambda batch: compiled(routed, batch))
    assert found.load is not None
    np.testing.assert_allclose(found.load.sum(axis=1), 1)
    assert found.targets == 20
    assert math.isnan(evaluate([], lambda batch: sums).loss)
