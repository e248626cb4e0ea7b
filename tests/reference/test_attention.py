"""Attention against double loops in NumPy and against JAX's own, and the properties that relative positions have."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from reference.attention import Attention, causal_softmax, relative_sinusoids, shift
from reference.config import Size
from tests.reference.small_models import drawn, some_normal

D, HEADS, KQV = 10, 3, 4
CONTEXT = 6


def _attention(d_model: int = D, heads: int = HEADS) -> Attention:
    return drawn(eqx.filter_eval_shape(Attention, Size(d_model, 1, heads, KQV), key=jax.random.key(0)))


def _sinusoid(distance: int, d_model: int) -> Float[np.ndarray, "d_model"]:
    angle = distance / 10_000 ** (2 * np.arange(d_model // 2) / d_model)
    return np.concatenate([np.sin(angle), np.cos(angle)])


def _by_loops(attention: Attention, x: Float[np.ndarray, "context d_model"]) -> Float[np.ndarray, "context d_model"]:
    """score_ij = q_i . (k_j + r_{i-j}) / sqrt(kqv), for one j after the other."""
    query, key, value, position = (np.asarray(w) for w in (attention.query, attention.key, attention.value, attention.position))
    y = np.zeros_like(x)
    for head in range(query.shape[1]):
        for i in range(x.shape[0]):
            q = x[i] @ query[:, head]
            keys = [x[j] @ key[:, head] + _sinusoid(i - j, x.shape[1]) @ position[:, head] for j in range(i + 1)]
            weights = np.exp([q @ k / np.sqrt(q.size) for k in keys])
            mixed = sum(w * (x[j] @ value[:, head]) for j, w in enumerate(weights / weights.sum()))
            y[i] += mixed @ np.asarray(attention.output)[head]
    return y


@pytest.mark.parametrize("context", [1, 2, CONTEXT])
def test_attention_is_the_formula_summed_in_loops(context: int) -> None:
    with jax.enable_x64(True):
        attention, x = _attention(), some_normal(2, context, D)
        expected = np.stack([_by_loops(attention, np.asarray(sequence)) for sequence in x])
        # float64 rounding of sums of at most a few dozen products of size one.
        np.testing.assert_allclose(eqx.filter_jit(attention)(x), expected, rtol=0, atol=1e-13)


def test_attention_is_jaxs_own_with_the_positions_as_a_bias() -> None:
    with jax.enable_x64(True):
        attention, x = _attention(), some_normal(2, CONTEXT, D)
        query, key, value = (np.einsum("btd,dhk->bthk", x, np.asarray(w)) for w in (attention.query, attention.key, attention.value))
        bias = np.zeros((2, HEADS, CONTEXT, CONTEXT))
        for i in range(CONTEXT):
            for j in range(i + 1):
                position = np.einsum("d,dhk->hk", _sinusoid(i - j, D), np.asarray(attention.position))
                bias[:, :, i, j] = np.einsum("bhk,hk->bh", query[:, i], position) / KQV**0.5
        peer = jax.jit(lambda *qkv: jax.nn.dot_product_attention(*qkv, bias=jnp.asarray(bias), is_causal=True))
        heads = peer(*(jnp.asarray(a) for a in (query, key, value)))
        expected = np.einsum("bthk,hkd->btd", np.asarray(heads), np.asarray(attention.output))
        # JAX's own takes its softmax in float32, whatever it is given: float32 rounding of numbers of size one.
        np.testing.assert_allclose(eqx.filter_jit(attention)(x), expected, rtol=0, atol=2e-6)


@settings(max_examples=15)
@given(context=st.integers(1, 20))
def test_shift_moves_scores_from_their_distance_to_their_position(context: int) -> None:
    by_distance = np.arange(2.0 * 3 * context * context).reshape(2, 3, context, context)
    by_position = np.asarray(shift(jnp.asarray(by_distance, jnp.float32)))
    for i in range(context):
        for j in range(i + 1):
            np.testing.assert_array_equal(by_position[:, :, i, j], by_distance[:, :, i, context - 1 - (i - j)])


def test_sinusoids_are_those_of_the_distances_largest_first() -> None:
    with jax.enable_x64(True):
        expected = np.stack([_sinusoid(distance, D) for distance in reversed(range(CONTEXT))])
        np.testing.assert_allclose(relative_sinusoids(CONTEXT, D), expected, rtol=0, atol=1e-15)


def test_rows_of_the_causal_softmax_sum_to_one_over_the_past() -> None:
    scores = 50 * some_normal(2, HEADS, CONTEXT, CONTEXT)
    weights = jax.jit(causal_softmax)(scores)
    # Six float32 numbers that sum to one.
    np.testing.assert_allclose(jnp.sum(weights, axis=-1), 1, rtol=0, atol=1e-6)
    assert jnp.all(jnp.triu(weights, 1) == 0)
    assert jnp.all(weights[..., 0, 0] == 1)


def test_the_causal_softmax_is_in_float32_and_stands_large_scores() -> None:
    scores = jnp.full((1, 1, 3, 3), 1e30, jnp.bfloat16)
    weights = causal_softmax(scores)
    assert weights.dtype == jnp.float32
    # A third is no bfloat16 number: had it been rounded to one, it would be off by 1e-3.
    np.testing.assert_allclose(weights[0, 0, 2], 1 / 3, rtol=1e-6)


def test_scores_of_bfloat16_activations_are_accumulated_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # Queries, keys and positions that bfloat16 holds exactly: sums of 64 products of a sign and a quarter, positions as they come.
    # So the attention rows of float64 are known, and what is left is how scores are kept. In float32 a score is off by at most
    # 128 * 2^-24 of the sum of its terms' sizes, which is below 64, so 5e-4, and by a hundredth of that in the mean; a row moves by
    # half the mean error of its scores. Rounded to bfloat16, a score from 4 to 8 is off by up to 2^-6, and rows by 2^-8, 4e-3, in the mean.
    size, context = 64, 48
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (2, size, 1, size)) / 4
    chosen = np.eye(size)[:, None]
    given = eqx.filter_eval_shape(Attention, Size(size, 1, 1, size), key=jax.random.key(0))
    weights = (signs[0], signs[1], chosen, chosen, np.ones((1, size, size)))
    attention = eqx.tree_at(
        lambda a: (a.query, a.key, a.value, a.position, a.output), given, tuple(jnp.asarray(w, jnp.float32) for w in weights)
    )
    x = rng.choice([-1.0, 1.0], (1, context, size))
    rows: list[Any] = []
    monkeypatch.setattr("reference.attention.causal_softmax", lambda scores, first: rows.append(causal_softmax(scores, first)) or rows[-1])
    attention(jnp.asarray(x, jnp.bfloat16))
    query, key = (x[0] @ signs[which][:, 0] for which in (0, 1))
    places = np.asarray(relative_sinusoids(context, size).astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    scores = np.full((context, context), -np.inf)
    for i in range(context):
        for j in range(i + 1):
            scores[i, j] = query[i] @ (key[j] + places[context - 1 - (i - j)]) / size**0.5
    expected = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert 3 < scores[np.isfinite(scores)].std() < 6
    distance = 0.5 * np.abs(np.asarray(rows[0], np.float64)[0, 0] - expected).sum(axis=1)
    assert rows[0].dtype == jnp.float32
    assert distance.mean() < 1e-5
    rounded = np.asarray(causal_softmax(jnp.asarray(np.where(np.isfinite(scores), scores, 0), jnp.bfloat16)[None, None]), np.float64)[0, 0]
    assert 0.5 * np.abs(rounded - expected).sum(axis=1).mean() > 1e-3


def _weights_of_equal_tokens(context: int) -> Float[np.ndarray, "heads context context"]:
    """Attention's weights where all tokens are equal in what is asked for, and each has a value of its own: a one-hot position.

    The first half of the axes is what queries, keys and positions read, the second what values do.
    """
    width = 2 * context
    attention = drawn(eqx.filter_eval_shape(Attention, Size(width, 1, HEADS, context), key=jax.random.key(0)))
    read, pass_on = jnp.zeros((width, 1, 1)).at[:context].set(1), jnp.zeros((width, HEADS, context))
    pass_on = pass_on.at[context:].set(jnp.eye(context)[:, None, :])
    x = jnp.concatenate([jnp.ones((context, context)), jnp.eye(context)], axis=1)[None]
    found: list[Float[np.ndarray, "context context"]] = []
    for head in range(HEADS):
        output = jnp.zeros((HEADS, context, width)).at[head, :, :context].set(jnp.eye(context))
        seen = eqx.tree_at(
            lambda a: (a.query, a.key, a.value, a.output), attention, (attention.query * read, attention.key * read, pass_on, output)
        )
        found.append(np.asarray(eqx.filter_jit(seen)(x)[0, :, :context]))
    return np.stack(found)


def test_the_score_of_equal_tokens_depends_on_their_distance_alone() -> None:
    with jax.enable_x64(True):
        context = 7
        weights = _weights_of_equal_tokens(context)
    for head in weights:
        by_distance = {m: [np.log(head[i, i - m] / head[i, i]) for i in range(m, context)] for m in range(context)}
        for scores in by_distance.values():
            # Logarithms of weights of at least 1e-4, each a float64 sum of a dozen terms.
            np.testing.assert_allclose(scores, scores[0], rtol=0, atol=1e-10)
        # They do depend on it.
        assert np.ptp([scores[0] for scores in by_distance.values()]) > 0.1


def test_heads_add_up() -> None:
    with jax.enable_x64(True):
        attention, x = _attention(), some_normal(2, CONTEXT, D)
        run = eqx.filter_jit(lambda attention, x: attention(x))
        alone = [
            eqx.tree_at(
                lambda a: (a.query, a.key, a.value, a.position, a.output),
                attention,
                (
                    *(w[:, h : h + 1] for w in (attention.query, attention.key, attention.value, attention.position)),
                    attention.output[h : h + 1],
                ),
            )
            for h in range(HEADS)
        ]
        # The sum over heads in another order.
        np.testing.assert_allclose(run(attention, x), sum(run(head, x) for head in alone), rtol=0, atol=1e-13)


def test_weights_are_drawn_at_the_scale_that_the_docstring_states() -> None:
    attention = eqx.filter_jit(Attention)(Size(64, 8, 4, 32), key=jax.random.key(0))
    # 64 * 128 normal numbers: five standard errors of their root mean square are 4 %.
    for weight in (attention.query, attention.key, attention.value, attention.position):
        assert float(jnp.std(weight)) == pytest.approx(64**-0.5, rel=0.04)
    assert float(jnp.std(attention.output)) == pytest.approx((4 * 32 * 2 * 8) ** -0.5, rel=0.04)
