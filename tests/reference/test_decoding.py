"""A text that is read a token at a time, with cached keys and values, has the logits of the full pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reference.decoding import decode, empty_cache, prefill
from reference.errors import ConfigError
from tests.reference.small_models import CONTEXT, VOCABULARY, decoded, draw, small, some_tokens

# Every router, R from 1/4 to 1, several choices, fine and shared experts, documents masked or not.
CASES: dict[str, dict[str, Any]] = {
    "dense": {"mask_documents": True},
    "s-base": {"routing_frequency": 0.5},
    "hash": {"k": 2, "routing_frequency": 0.25, "vocabulary_multiple": 8},
    "rl-r": {"unroll": 4},
    "switch": {"k": 2, "routing_frequency": 1.0, "router": {"shared_experts": 1, "granularity": 2}},
    "loss-free": {"k": 2, "mask_documents": True},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("technique", CASES)
def test_the_logits_of_every_position_are_those_of_the_full_pass(technique: str) -> None:
    model = draw(small(technique, dtype="float64", **CASES[technique]))
    # Documents end before, among and after the tokens that are read at once.
    tokens = some_tokens(4).at[jnp.array([0, 1, 2, 2]), jnp.array([4, 2, 5, 9])].set(VOCABULARY - 1)
    length = np.array([0, 5, 5, CONTEXT - 1])
    found = np.asarray(jax.jit(decoded)(model, tokens, length))
    expected = np.asarray(jax.jit(lambda model: model(tokens, inference=True)[0])(model))
    for row, begin in enumerate(length):
        # float64 rounding of sums of a few dozen terms; logits are of size three.
        np.testing.assert_allclose(found[row, : CONTEXT - begin], expected[row, begin:], rtol=0, atol=1e-12)


def test_a_cache_is_used_again_from_position_zero_as_if_it_were_empty() -> None:
    model, read = draw(small("dense", mask_documents=True)), jax.jit(decode)
    used = jax.jit(prefill)(model, some_tokens(2).at[:, 3].set(VOCABULARY - 1), np.array([7, 2]))
    again, empty, tokens = used, empty_cache(model, 2), some_tokens(2, seed=2)
    for i in range(4):
        position = np.full(2, i)
        one, again = read(model, tokens[:, i], again, position)
        other, empty = read(model, tokens[:, i], empty, position)
        np.testing.assert_array_equal(one, other)


def test_a_model_whose_evaluation_drops_tokens_is_refused() -> None:
    model = draw(small("switch", router={"evaluation_capacity_factor": 1.0}))
    with pytest.raises(ConfigError, match="evaluation_capacity_factor must be None"):
        jax.eval_shape(decode, model, jnp.zeros(1, int), empty_cache(model, 1), jnp.zeros(1, int))
    with pytest.raises(ConfigError, match="evaluation_capacity_factor must be None"):
        jax.eval_shape(prefill, model, some_tokens(1), jnp.zeros(1, int))
