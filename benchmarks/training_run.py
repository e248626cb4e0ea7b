"""What the benchmarks of training share: a run's loop on its own, timed step by step."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from training.cache import cache_folder
from training.checkpoint import Checkpoints
from training.config import DataOptions, ModelOptions, RunOptions, TrainConfig
from training.host import keep_freed_memory
from training.loop import Loop, Progress
from training.profile import Tracer
from training.records import Records, Setting
from training.signals import Stop
from training.start import first_state, set_up
from training.text.batches import Batch
from training.text.prepare import prepare

NEVER = 10**9


@dataclass
class Clock:
    """Watches a run: when each step was done, and what it waited for."""

    done: list[float] = field(default_factory=list[float])
    """Seconds at which each step's losses were known."""
    waited: list[float] = field(default_factory=list[float])
    """Seconds in asking for each batch."""
    placed: list[float] = field(default_factory=list[float])
    """Seconds in putting each batch on the devices."""
    saved: list[float] = field(default_factory=list[float])
    """Seconds in beginning each checkpoint."""

    def on_step(self, progress: Progress) -> None:
        """Note the time."""
        self.done.append(time.perf_counter())

    def on_event(self, message: str) -> None:
        """Nothing."""

    def timed(self, work: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        """`work`, with the seconds of each call noted."""

        def _timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = work(*arguments)
            into.append(time.perf_counter() - start)
            return result

        return _timed


class Batches:
    """A run's batches, timed."""

    def __init__(self, batches: Any, clock: Clock) -> None:
        self._batches, self._next = batches, clock.timed(batches.__next__, clock.waited)
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        return self._next()


def nano(size: str, router: str, experts: int, *, steps: int, checkpoint_every: int = NEVER) -> TrainConfig:
    """The default run at `size`, which is not evaluated but at its end, on few tokens."""
    base = TrainConfig()
    run = RunOptions(steps=steps, evaluate_every=NEVER, evaluation_tokens=1, checkpoint_every=checkpoint_every)
    model: Any = replace(ModelOptions(), size=size, router=router, experts=experts)
    return replace(base, model=model, data=DataOptions(), run=run, optimizer=replace(base.optimizer, steps=max(steps, 1000)))


@contextmanager
def loop(config: TrainConfig, folder: Path, clock: Clock) -> Generator[Callable[[], None]]:
    """What runs `config`'s loop in `folder`, watched by `clock`, with batches, records and checkpoints as `cli.py train` has them."""
    keep_freed_memory()
    tokenizer, text = prepare(config.data, cache_folder())
    setup = set_up(config, tokenizer, text)
    batches: Any = Batches(setup.batches, clock)
    setup = replace(setup, batches=batches)
    object.__setattr__(setup, "place", clock.timed(setup.place, clock.placed))
    setting = Setting(setup.model, config.model.router, config.model.size, config.data.batch, 0, "sotu", tokenizer.name)
    key = jax.jit(lambda: jax.random.key(0), out_shardings=NamedSharding(setup.mesh, P()))()
    with jax.set_mesh(setup.mesh), Checkpoints(folder / "checkpoints", 2) as checkpoints:
        checkpoints.save = clock.timed(checkpoints.save, clock.saved)
        with Records(folder, setting, after=0, writes=True, say=print) as records:
            state = first_state(setup, key, print)[0]
            yield lambda: _run(Loop(setup, key, 0, checkpoints, records, clock, Stop(), Tracer(folder, None, print)), state)


def _run(loop: Loop, state: Any) -> None:
    loop.run(state)
