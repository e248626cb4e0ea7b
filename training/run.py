"""A training run, from text to curves: set up or take up where it stopped, step, evaluate, save.

The same command continues a run that was stopped, however it was, and reports one that is done.
What a continued run writes is what it would have written in one go, bit for bit on the same
devices: a step depends on the state, its number and the seed alone, and what was written after the
checkpoint is cut off.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
from training.prepare import prepare
from training.records import CURVES, MakeSink, Records, Setting, last_loss
from training.signals import Stop, stop_on_signals
from training.start import Setup, first_state, set_up, state_shapes
from training.step import TrainState
from training.tokenizer import Tokenizer

__all__ = ["Outcome", "Processes", "Progress", "Watcher", "train"]

SAMPLE_TOKENS = 256
"""Tokens of the text that a run ends with."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    step: int
    held_out: float | None
    """Loss on the held-out text after the last step, nats per token;
    None if the run was stopped before."""
    stopped: bool
    """Whether a signal stopped it before its last step."""
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
    """Train in `folder`, from its newest checkpoint if there is one; report what it holds if it is
    done.

    `cache` keeps tokens and compiled programs for later runs. `sinks`: given every record besides
    `metrics.jsonl`, in process 0. `processes`: join others to one run, each of which calls this.
    Raises `InputError` before the first step for what cannot be trained, and for a folder with a
    run of other options or other text; `WorkError` if a loss is not finite, with the last
    checkpoint kept, if another process is gone, or if another one trains in the same folder.
    """
    if processes is not None:
        join(processes)
    with peers(_KEPT):
        done = decided(lambda: _finished(folder, config))
    if done is not None:
        watcher.on_event(f"{folder} holds this run, finished")
        return Outcome(folder, config.run.steps, done[0], False, done[1])
    keep_compiled(cache)
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    watcher = watcher if jax.process_index() == 0 else _Silent()
    with peers(_KEPT), stop_on_signals(watcher.on_event) as stop:
        tokenizer, shards = prepare(config.data, cache, watcher.on_event)
        setup = set_up(config, tokenizer, shards)
        check_alike(f"{config} {data_of(tokenizer, shards)}")
        writes = jax.process_index() == 0
        with locked(folder, watcher.on_event) if writes else nullcontext():
            decided(lambda: claim(folder, config, tokenizer, shards))
            with jax.set_mesh(setup.mesh):
                return _go(setup, tokenizer, folder, watcher, stop, sinks)


_KEPT = "checkpoints are kept: the same command continues"


def _finished(folder: Path, config: TrainConfig) -> tuple[float, str] | None:
    """Held-out loss and sample of a finished run in `folder`; None if there is none.

    Raises `InputError` if the run there has other options.
    """
    check_options(folder, config)
    return finished(folder, config)


def _go(
    setup: Setup,
    tokenizer: Tokenizer,
    folder: Path,
    watcher: Watcher,
    stop: Stop,
    sinks: Sequence[MakeSink],
) -> Outcome:
    """Train to the last step, or until `stop` is asked for."""
    options, writes = setup.config.run, jax.process_index() == 0
    # Computed on the mesh, so that the keys are global arrays with several processes, too.
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
    """The state to begin from, and the step it was saved at."""
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
    """What the curves say of all rows."""
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
    """Shows nothing: of several processes the first one is watched."""

    def on_step(self, progress: Progress) -> None:
        """Nothing."""

    def on_event(self, message: str) -> None:
        """Nothing."""
