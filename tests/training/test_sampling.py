"""Text is drawn from the model's own distribution after what its window holds, whatever else is in the batch."""

from unittest.mock import patch

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int
from scipy.stats import chisquare

from reference.config import ModelConfig, Size
from reference.transformer import Transformer
from tests.reference.small_models import CONTEXT, VOCABULARY, draw, small
from training import sampling
from training.sampling import SHORT, sample


@jax.jit
def forward(model: Transformer, tokens: Int[Array, "batch context"]) -> Float[Array, "batch context rows"]:
    """The model's logits in evaluation."""
    return model(tokens, inference=True)[0]


def logits_after(model: Transformer, tokens: Int[np.ndarray, "tokens"]) -> Float[np.ndarray, "rows"]:
    """The model's logits for what comes after `tokens`, at most a context of them; what follows them there changes nothing."""
    whole = np.pad(tokens, (0, model.config.context - len(tokens)))
    return np.asarray(forward(model, jnp.asarray(whole[None]))[0, len(tokens) - 1])


def windows(prompt: int, length: int, context: int) -> list[slice]:
    """What each token of a text is drawn after: all before it, until a context is full; then it goes on from its last half."""
    start, found = max(0, prompt - context), list[slice]()
    for number in range(prompt, prompt + length):
        found.append(slice(start, number))
        if number - start == context:
            start = number + 1 - max(context // 2, 1)
    return found


@pytest.mark.parametrize("prompt", [3, CONTEXT + 5])
def test_at_temperature_zero_each_token_is_the_most_probable_after_its_window(prompt: int) -> None:
    greedy = draw(small("dense"))
    begin = np.arange(prompt, dtype=np.int32) * 7 % VOCABULARY
    (tokens,) = sample(greedy, [begin], 30, [jax.random.key(0)], temperature=0.0)
    assert len(tokens) == prompt + 30
    of_each = windows(prompt, 30, CONTEXT)
    assert min(window.stop - window.start for window in of_each[CONTEXT:]) == CONTEXT // 2
    assert tokens[prompt:].tolist() == [int(np.argmax(logits_after(greedy, tokens[window]))) for window in of_each]
    # Were it read one position too early, it would not be the same.
    assert tokens[prompt:].tolist() != [int(np.argmax(logits_after(greedy, tokens[window][:-1]))) for window in of_each if window.stop > 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_of_logits_over_temperature(temperature: float) -> None:
    # A context of one: a token's distribution depends on the one before it alone, so that one long text has many draws from each.
    made = Transformer(ModelConfig(Size(16, 2, 2, 8), None, vocabulary=3, context=1, vocabulary_multiple=4), key=jax.random.key(0))
    # Embeddings ten times as large as usual: their logits are far apart.
    markov = eqx.tree_at(lambda model: model.embedding, made, 10 * made.embedding)
    (tokens,) = sample(markov, [np.array([0], np.int32)], 1500, [jax.random.key(5)], temperature=temperature)
    counts, expected = np.zeros((3, 3)), np.zeros((3, 3))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    for before in range(3):
        scaled = logits_after(markov, np.array([before], np.int32))[:3].astype(np.float64) / temperature
        probabilities = np.exp(scaled - scaled.max())
        expected[before] = counts[before].sum() * probabilities / probabilities.sum()
    often = expected.min(axis=1) >= 5
    assert often.any()
    # One draw of the seed; the chance that a right sampler is below is 1e-4 for each token before.
    for before in np.flatnonzero(often):
        assert chisquare(counts[before], expected[before]).pvalue > 1e-4
    assert not np.allclose(expected[often] / counts[often].sum(axis=1, keepdims=True), 1 / 3, atol=0.02)


def test_texts_sampled_together_are_those_sampled_alone() -> None:
    # With a capacity that would drop most tokens of a batch, which sampling does not apply; and with documents.
    model = draw(small("switch", k=2, context=50, mask_documents=True, router={"evaluation_capacity_factor": 0.25}))
    generator, keys = np.random.default_rng(3), [jax.random.key(i) for i in range(3)]
    # One that is read at once, of more than a context, for which the others are read so, too; alone they are read by tokens.
    prompts = [generator.integers(VOCABULARY, size=size).astype(np.int32) for size in (4, 61, SHORT)]
    prompts[2][20] = VOCABULARY - 1
    together = sample(model, prompts, 40, keys)
    for prompt, key, text in zip(prompts, keys, together, strict=True):
        np.testing.assert_array_equal(text[: len(prompt)], prompt)
        np.testing.assert_array_equal(text, sample(model, [prompt], 40, [key])[0])
    assert len({tuple(text[-40:]) for text in together}) == 3
    free = draw(small("switch", k=2, context=50, mask_documents=True))
    np.testing.assert_array_equal(sample(free, prompts[:1], 40, keys)[0], together[0])


def test_texts_are_written_by_one_program_that_is_compiled_once() -> None:
    model = draw(small("dense"))
    with patch.object(sampling, "decode", wraps=sampling.decode) as traced:
        for seed in range(3):
            # A length of no other test: of what is compiled already, nothing would be traced.
            sample(model, [np.array([1, 2], np.int32)], 33, [jax.random.key(seed)], temperature=float(seed))
    assert traced.call_count == 1
