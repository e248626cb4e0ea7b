"""The random keys of a run, split from its seed by purpose, so that no two purposes share one.

Splitting and folding a key are the same function in JAX: `split(key, n)[i] == fold_in(key, i)`. A
key used for two purposes would therefore give correlated draws, for example initial weights and
router samples.
"""

from typing import NamedTuple

import jax
from jaxtyping import PRNGKeyArray


class RunKeys(NamedTuple):
    """One key per purpose."""

    init: PRNGKeyArray
    """Initialisation."""
    steps: PRNGKeyArray
    """Routers that sample; folded with the step (`training.step.train_step`)."""
    sample: PRNGKeyArray
    """The sample at the end of the run; folded with the position (`training.sampling`)."""


def run_keys(seed: int) -> RunKeys:
    """The keys of a run with `seed`."""
    init, steps, sample = jax.random.split(jax.random.key(seed), 3)
    return RunKeys(init, steps, sample)
