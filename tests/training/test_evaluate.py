"""Evaluation counts real targets alone."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reference.config import ModelConfig, RouterConfig, Size
from reference.objective import PADDING
from reference.routers import Routing, Switch
from reference.transformer import Transformer
from training.evaluate import evaluate, sums_of


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
