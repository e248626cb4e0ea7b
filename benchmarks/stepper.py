"""A model's training step, compiled and warm, for benchmarks that time it."""

import time
from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import PRNGKeyArray

from reference.config import ModelConfig
from reference.transformer import Transformer
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import TrainState, init_state, train_step


class Stepper:
    """Steps on one batch of random tokens."""

    def __init__(self, config: ModelConfig, batch: int, clock: Callable[[], float] = time.perf_counter) -> None:
        optimizer = make_optimizer(OptimizerConfig())

        def _initial(key: PRNGKeyArray) -> TrainState:
            return init_state(Transformer(config, key=key), optimizer)

        self.config, self._clock, self._key = config, clock, jax.random.key(1)
        self._state = jax.jit(_initial)(jax.random.key(0))
        self._tokens = jax.random.randint(jax.random.key(2), (batch, config.context + 1), 0, config.vocabulary)
        start = time.perf_counter()
        step = jax.jit(partial(train_step, optimizer=optimizer), donate_argnums=0)
        self._compiled = step.lower(self._state, self._tokens, self._key).compile()
        self.compile_seconds = time.perf_counter() - start
        self.seconds(2)

    def seconds(self, steps: int) -> list[float]:
        """Seconds of each of so many further steps, each waited for."""
        return [self.together(1) for _ in range(steps)]

    def together(self, steps: int) -> float:
        """Seconds of so many further steps, of which only the last is waited for."""
        start, report = self._clock(), None
        for _ in range(steps):
            self._state, report = self._compiled(self._state, self._tokens, self._key)
        jax.block_until_ready((self._state, report))
        return self._clock() - start

    @property
    def reported_bytes(self) -> int:
        """What the compiler reports for a step: arguments, temporaries and outputs in memory of their own."""
        sizes = self._compiled.memory_analysis()
        assert sizes is not None
        return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
