"""With `mask_documents`, documents that are packed into one sequence are as if each were read alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

from reference.attention import Attention, document_of
from reference.config import Size
from reference.objective import target_log_prob
from reference.transformer import Transformer
from tests.reference.small_models import CONTEXT, VOCABULARY, draw, drawn, small, some_normal

END = VOCABULARY - 1


def packed() -> Int[np.ndarray, "batch context_and_one"]:
    """Two documents in a row, each of half a context: the end of the one begins the other, and its own end follows."""
    tokens = np.random.default_rng(3).integers(END, size=(2, CONTEXT + 1)).astype(np.int32)
    tokens[:, [0, CONTEXT // 2, CONTEXT]] = END
    return tokens


def alone() -> Int[np.ndarray, "batch context_and_one"]:
    """The same documents, one a sequence."""
    tokens = packed()
    return np.concatenate([tokens[:, : CONTEXT // 2 + 1], tokens[:, CONTEXT // 2 :]])


def loss(model: Transformer, tokens: Int[np.ndarray, "batch context_and_one"]) -> Float[Array, ""]:
    """The sum over all tokens that are predicted."""
    return -jnp.sum(target_log_prob(model(jnp.asarray(tokens[:, :-1]), inference=True)[0], jnp.asarray(tokens[:, 1:])))


def test_packed_documents_have_the_loss_and_the_gradient_of_documents_alone() -> None:
    with jax.enable_x64(True):
        model = draw(small("dense", dtype="float64", mask_documents=True))
        find = eqx.filter_jit(eqx.filter_value_and_grad(loss))
        (one, gradient), (other, expected) = find(model, packed()), find(model, alone())
        # float64 rounding of sums of a few hundred terms of size one.
        assert float(one) == pytest.approx(float(other), rel=1e-13)
        for found, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)


def test_the_mask_is_of_positions_with_as_many_ends_before_them() -> None:
    tokens = np.array([[1, 2, END, 3, END, END, 4], [END, 1, 1, 1, 1, END, 2]], np.int32)
    found = np.asarray(document_of(jnp.asarray(tokens), END))
    for row, document in zip(tokens, found, strict=True):
        for i in range(7):
            for j in range(7):
                # An end begins the document after it: it is apart from what is before, not from what follows.
                assert (document[i] == document[j]) == (END not in row[min(i, j) + 1 : max(i, j) + 1])


def test_masked_attention_is_the_formula_over_the_own_document_in_loops() -> None:
    with jax.enable_x64(True):
        make = eqx.filter_eval_shape(Attention, Size(8, 1, 2, 4), key=jax.random.key(0), document_end=END)
        attention = drawn(make)
        x, tokens = some_normal(1, 7, 8), np.array([[1, END, 2, 3, END, 4, 5]], np.int32)
        query, key, value, position = (np.asarray(w) for w in (attention.query, attention.key, attention.value, attention.position))
        expected = np.zeros((7, 8))
        frequency = 10_000 ** (-np.arange(4) * 2 / 8)
        begin = [0, 1, 1, 1, 4, 4, 4]
        for head in range(2):
            for i in range(7):
                q, past = x[0, i] @ query[:, head], range(begin[i], i + 1)
                sinusoids = [np.concatenate([np.sin((i - j) * frequency), np.cos((i - j) * frequency)]) for j in past]
                scores = [q @ (x[0, j] @ key[:, head] + s @ position[:, head]) / 2 for j, s in zip(past, sinusoids, strict=True)]
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed = sum(w * (x[0, j] @ value[:, head]) for j, w in zip(past, weights, strict=True))
                expected[i] += mixed @ np.asarray(attention.output)[head]
        # float64 rounding of sums of at most a few dozen products of size one.
        np.testing.assert_allclose(attention(x, jnp.asarray(tokens))[0], expected, rtol=0, atol=1e-13)
        assert np.abs(attention(x)[0] - expected).max() > 1e-3
