"""Gradient accumulation: what a step reports and does is what it reports and does on the whole batch."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from jaxtyping import Array, Int

from reference.config import ModelConfig, RouterConfig, Size
from reference.objective import PADDING, Report
from reference.routers import RouterOptions, SinkhornBase, Switch
from reference.transformer import Transformer
from training.step import TrainState, init_state, train_step

EXPERTS, SEQUENCES, CONTEXT = 16, 8, 12


def model(technique: RouterOptions) -> Transformer:
    """Two routed layers of 16 experts, routed in groups of one sequence whatever the microbatch."""
    router = RouterConfig(technique, EXPERTS, sequences_per_group=1)
    config = ModelConfig(Size(16, 2, 2, 8), router, 1.0, vocabulary=32, context=CONTEXT)
    return Transformer(config, key=jax.random.key(0))


def tokens() -> Int[np.ndarray, "batch context_and_one"]:
    """Sequences, some of them filled up with unequal padding."""
    some = np.random.default_rng(3).integers(0, 32, (SEQUENCES, CONTEXT + 1)).astype(np.int32)
    for row, real in ((1, 3), (2, 8), (7, 2)):
        some[row, real:] = PADDING
    return some


def step(state: TrainState, batch: Int[np.ndarray, "..."]) -> tuple[TrainState, Report]:
    """One step of gradient descent."""
    return jax.jit(lambda state, batch: train_step(state, batch, jax.random.key(1), optax.sgd(1.0)))(state, batch)


@pytest.mark.parametrize("microbatches", [2, 8])
def test_dead_experts_are_those_of_the_whole_batch(microbatches: int) -> None:
    state = init_state(model(Switch()), optax.sgd(1.0))
    _, whole = step(state, tokens())
    _, accumulated = step(state, tokens().reshape(microbatches, -1, CONTEXT + 1))
    assert np.asarray(whole.metrics["dead_experts"]).max() < EXPERTS / 2
    np.testing.assert_array_equal(accumulated.metrics["dead_experts"], whole.metrics["dead_experts"])


@pytest.mark.parametrize("microbatches", [2, 8])
def test_a_step_over_microbatches_of_unequal_padding_is_the_step_on_the_whole_batch(microbatches: int) -> None:
    # S-BASE in groups of one sequence: nothing in its loss or routing depends on the other sequences of the batch.
    state = init_state(model(SinkhornBase()), optax.sgd(1.0))
    expected, whole = step(state, tokens())
    found, accumulated = step(state, tokens().reshape(microbatches, -1, CONTEXT + 1))
    assert float(accumulated.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    changes: Any = [jax.tree.map(lambda after, before: after - before, each.model.groups, state.model.groups) for each in (found, expected)]
    leaves: list[tuple[Array, Array]] = list(zip(*map(jax.tree.leaves, changes), strict=True))
    for one, other in leaves:
        # float32: a difference of weights of order 1, and sums in another order. Equal weights of the microbatches are off by a tenth.
        np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(other).max()) + 2e-7)
