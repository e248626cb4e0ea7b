"""A training run, from text to curves: set up or resume, train, evaluate, save.

The same command resumes an interrupted run and reports a finished one. A resumed run writes the
same bytes as an uninterrupted one, on the same devices: a step depends on the state, the step and
the seed alone, and records after the checkpoint are truncated.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PRNGKeyArray

from common.files import write_atomically
from training.checkpoint import Checkpoints
from training.config import TrainConfig
from training.distributed import Processes, check_alike, decided, join, peers
from training.evaluate import sample
from training.folder import CHECKPOINTS, SAMPLE, check_options, claim, data_of, finished, locked
from training.host import keep_compiled, keep_freed_memory
from training.keys import run_keys
from training.loop import Loop, Progress, Watcher
from training.records import CURVES, MakeSink, Records, Setting, last_loss
from training.signals import Stop, stop_on_signals
from training.start import Setup, first_state, set_up, state_shapes
from training.step import TrainState
from training.text.given import settled
from training.text.prepare import prepare
from training.text.tokenizer import Tokenizer

__all__ = ["Outcome", "Processes", "Progress", "Watcher", "train"]

SAMPLE_TOKENS = 256
"""Length of the sample at the end of a run, in tokens."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    step: int
    held_out: float | None
    """Held-out loss after the last step, nats per token; None if the run was stopped before it."""
    stopped: bool
    """Whether a signal stopped it before the last step."""
    sample: str


def train(
    config: TrainConfig,
    folder: Path,
    watcher: Watcher,
    cache: Path,
    processes: Processes | None = None,
    *,
    sinks: Sequence[MakeSink] = (),
) -> Outcome:
    """Train in `folder`, from its newest checkpoint if there is one; a finished run is reported.

    `cache` keeps token shards and compiled programs for later runs. `sinks` receive every record,
    in process 0. `processes`: the processes of a distributed run, each of which calls this. Raises
    `InputError` before the first step for invalid options, or a folder with a run of other options
    or text; `WorkError` if a loss is not finite (the last checkpoint is kept), if another process
    is lost, or if another one trains in the same folder.
    """
    if processes is not None:
        join(processes)
    config = replace(config, data=settled(config.data))
    with peers(_KEPT):
        done = decided(lambda: _finished(folder, config))
    if done is not None:
        watcher.on_event(f"{folder} has this run, finished")
        return Outcome(folder, config.run.steps, done[0], False, done[1])
    keep_compiled(cache)
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    watcher = watcher if jax.process_index() == 0 else _Silent()
    with peers(_KEPT), stop_on_signals(watcher.on_event) as stop:
        tokenizer, text = prepare(config.data, cache, watcher.on_event)
        setup = set_up(config, tokenizer, text)
        check_alike(f"{config} {data_of(tokenizer, text)}")
        writes = jax.process_index() == 0
        with locked(folder, watcher.on_event) if writes else nullcontext():
            decided(lambda: claim(folder, config, tokenizer, text))
            with jax.set_mesh(setup.mesh):
                return _train(setup, tokenizer, folder, watcher, stop, sinks)


_KEPT = "checkpoints are kept: the same command continues"


def _finished(folder: Path, config: TrainConfig) -> tuple[float, str] | None:
    """Held-out loss and sample of a finished run in `folder`; None if there is none.

    Raises `InputError` if the run there has other options.
    """
    check_options(folder, config)
    return finished(folder, config)


def _train(
    setup: Setup,
    tokenizer: Tokenizer,
    folder: Path,
    watcher: Watcher,
    stop: Stop,
    sinks: Sequence[MakeSink],
) -> Outcome:
    """Train to the last step, or until `stop` is requested."""
    options, writes = setup.config.run, jax.process_index() == 0
    # On the mesh, so that keys are global arrays with several processes.
    keys = jax.jit(lambda: run_keys(options.seed), out_shardings=NamedSharding(setup.mesh, P()))()
    with Checkpoints(folder / CHECKPOINTS, options.keep, options.keep_every) as checkpoints:
        state, begin = _begin(setup, keys.init, checkpoints, watcher)
        with Records(
            folder, _setting(setup, tokenizer), after=begin, writes=writes, sinks=sinks
        ) as records:
            loop = Loop(setup, keys.steps, begin, checkpoints, records, watcher, stop)
            state, done = loop.run(state)
            if done < options.steps:
                return Outcome(folder, done, None, True, "")
            held_out = loop.last_loss
            if held_out is None:
                held_out = decided(lambda: last_loss(folder / CURVES, done))
            if held_out is None:
                found = loop.evaluate(state.model)
                records.evaluation(done, found)
                held_out = found.loss
    prompt = np.array([tokenizer.end], np.int32)
    text = tokenizer.decode(sample(state.model, prompt, SAMPLE_TOKENS, keys.sample))
    if writes:
        write_atomically(folder / SAMPLE, text)
    return Outcome(folder, done, held_out, False, text)


def _begin(
    setup: Setup, key: PRNGKeyArray, checkpoints: Checkpoints, watcher: Watcher
) -> tuple[TrainState, int]:
    """The initial state, and the step it was saved at."""
    newest = decided(lambda: checkpoints.latest)
    if newest is None:
        state, begin, place = first_state(setup, key)
    else:
        state, place = checkpoints.restore(
            newest, state_shapes(setup.model, setup.optimizer, setup.mesh)
        )
        begin = newest
    if place is not None:
        setup.batches.set_state(place)
        watcher.on_event(f"continuing after step {begin}")
    return state, begin


def _setting(setup: Setup, tokenizer: Tokenizer) -> Setting:
    """What all rows of the curves have in common."""
    config = setup.config
    corpus = config.data.corpus or "sotu"
    model, run = config.model, config.run
    return Setting(
        setup.model,
        model.router,
        model.size,
        config.data.batch,
        run.seed,
        corpus,
        tokenizer.name,
        tuple(setup.others),
    )


class _Silent:
    """Ignores progress: only process 0 reports it."""

    def on_step(self, progress: Progress) -> None:
        """Does nothing."""

    def on_event(self, message: str) -> None:
        """Does nothing."""
