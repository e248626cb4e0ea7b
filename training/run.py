"""A training run, from text to curves: set up or resume, train, evaluate, save.

The same command resumes an interrupted run and reports a finished one. A resumed run writes the
same bytes as an uninterrupted one, on the same devices: a step depends on the state, the step and
the seed alone, and records after the checkpoint are truncated.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PRNGKeyArray

from common.files import store_url
from common.terminal import Say
from training import devices
from training.checkpoint import Checkpoints
from training.claim import claim, finish, start_over
from training.config import TrainConfig
from training.curves import CURVES, Setting, last_loss
from training.distributed import Processes, check_alike, decided, join, peers
from training.folder import RESULTS, check_options, finished, locked
from training.host import cache_faults, keep_compiled, keep_freed_memory
from training.keys import run_keys
from training.loop import Loop, Progress, Watcher
from training.machine import check_memory, one_line_faults
from training.manifest import differing
from training.profile import Steps, Tracer
from training.records import Records, unusable
from training.restore import CHECKPOINTS, checkpoint_steps
from training.sampling import sample
from training.signals import Stop, stop_on_signals
from training.sinks import MakeSink
from training.start import Setup, check_begin, first_state, set_up, state_shapes
from training.step import TrainState
from training.store import mirror, named, names_of
from training.text.given import settled
from training.text.prepare import prepare, text_digests
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
    ignore_memory: bool = False,
    profile: Steps | None = None,
) -> Outcome:
    """Train in `folder`, from its newest checkpoint if there is one; a finished run is reported.

    `folder` may be in an object store (`store.py`), as Path("gs://BUCKET/RUN"). `cache` keeps token
    shards and compiled programs for later runs. `sinks` receive every record, in process 0.
    `processes`: the processes of a distributed run, each of which calls this.
    `ignore_memory`: try a step that is larger than the memory. `profile`: steps to trace
    (`profile.py`). Raises `InputError` before the first step for invalid options, a platform
    without devices, or a folder with a run of other options or text, or whose files are damaged
    beyond mending; `WorkError` if a loss is not finite (the last checkpoint is kept), if memory or
    the disk does not suffice, if another process is lost, or if another one trains in the same
    folder.
    """
    if processes is not None:
        join(processes, watcher.on_event)
    url = store_url(folder)
    if url is None:
        return _trained(config, _Place(folder), watcher, cache, sinks, ignore_memory, profile)
    copy, store = mirror(url, cache)
    writes = jax.process_index() == 0
    shown = _Renamed(watcher, copy, folder)
    with names_of(copy, folder), locked(copy.parent, shown.on_event) if writes else nullcontext():
        if writes:
            store.download()
        place = _Place(copy, store.take, store.upload)
        outcome = _trained(config, place, shown, cache, sinks, ignore_memory, profile)
        return replace(outcome, folder=folder)


def _nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True)
class _Place:
    """A run's folder, and what keeps it in an object store, in process 0."""

    folder: Path
    take: Callable[[], None] = _nothing
    """Called when the folder is this process's own."""
    upload: Callable[[], None] = _nothing
    """Called before a checkpoint, and when the run ends."""


def _trained(
    config: TrainConfig,
    place: _Place,
    watcher: Watcher,
    cache: Path,
    sinks: Sequence[MakeSink],
    ignore_memory: bool,
    profile: Steps | None,
) -> Outcome:
    """`train`, in a folder that is local but for its checkpoints."""
    folder = place.folder
    config = devices.settled(replace(config, data=settled(config.data)), watcher.on_event)
    with peers(_KEPT):
        done = decided(lambda: _finished(folder, config, watcher.on_event))
    if done is not None:
        watcher.on_event(f"{folder} has this run, finished")
        return Outcome(folder, config.run.steps, done[0], False, done[1])
    if missing := devices.unused_accelerator():
        watcher.on_event(missing)
    keep_compiled(cache)
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    watcher = watcher if jax.process_index() == 0 else _Silent()
    with peers(_KEPT), one_line_faults(folder), stop_on_signals(watcher.on_event) as stop:
        with cache_faults(cache):
            tokenizer, text = prepare(config.data, cache, watcher.on_event)
        setup = set_up(config, tokenizer, text)
        check_memory(config, tokenizer.vocabulary, watcher.on_event, ignore=ignore_memory)
        check_alike(str(config), text_digests(config.data, text))
        run = _Run(setup, tokenizer, place, watcher, stop, profile)
        writes = jax.process_index() == 0
        with locked(folder, watcher.on_event) if writes else nullcontext():
            if writes:
                place.take()
            decided(lambda: claim(folder, config, tokenizer, text, watcher.on_event))
            with jax.set_mesh(setup.mesh):
                outcome = _train(run, sinks)
            if writes:
                place.upload()
            return outcome


_KEPT = "checkpoints are kept: the same command continues"


def _finished(folder: Path, config: TrainConfig, say: Say) -> tuple[float, str] | None:
    """Held-out loss and sample of a finished run in `folder`; None if there is none.

    Raises `InputError` if the run there has other options, or a new one cannot begin as asked.
    """
    check_options(folder, config)
    if not checkpoint_steps(folder / CHECKPOINTS):
        check_begin(config)
    found = finished(folder, config)
    if found is None:
        for name in differing(folder, RESULTS):
            say(f"{folder / name} is missing or damaged")
    return found


@dataclass(frozen=True)
class _Run:
    """What training takes besides the arrays."""

    setup: Setup
    tokenizer: Tokenizer
    place: _Place
    watcher: Watcher
    stop: Stop
    profile: Steps | None


def _train(run: _Run, sinks: Sequence[MakeSink]) -> Outcome:
    """Train to the last step, or until a stop is requested."""
    setup, folder, tokenizer, watcher = run.setup, run.place.folder, run.tokenizer, run.watcher
    options, writes = setup.config.run, jax.process_index() == 0
    # On the mesh, so that keys are global arrays with several processes.
    keys = jax.jit(lambda: run_keys(options.seed), out_shardings=NamedSharding(setup.mesh, P()))()
    saved, upload = folder / CHECKPOINTS, run.place.upload
    with Checkpoints(saved, options.keep, options.keep_every, before=upload) as checkpoints:
        state, begin = _begin(run, keys.init, checkpoints)
        with Records(
            folder,
            _setting(setup, tokenizer),
            after=begin,
            writes=writes,
            sinks=sinks,
            say=watcher.on_event,
        ) as records:
            tracer = Tracer(folder, run.profile, watcher.on_event)
            loop = Loop(setup, keys.steps, begin, checkpoints, records, watcher, run.stop, tracer)
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
    (tokens,) = sample(state.model, [prompt], SAMPLE_TOKENS, [keys.sample])
    text = tokenizer.decode(tokens)
    if writes:
        finish(folder, setup.config, tokenizer, setup.text, text)
    return Outcome(folder, done, held_out, False, text)


def _begin(run: _Run, key: PRNGKeyArray, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The initial state, and the step it was saved at."""
    setup, folder, say = run.setup, run.place.folder, run.watcher.on_event
    found = None
    if decided(lambda: checkpoint_steps(folder / CHECKPOINTS)):
        fsdp = setup.config.run.fsdp
        like = state_shapes(setup.model, setup.optimizer, setup.mesh, fsdp=fsdp)
        found = checkpoints.restore(like, lambda step: unusable(folder, step), say)
    else:
        decided(lambda: start_over(folder, setup.config, say))
    state, place, begin = found or first_state(setup, key, say)
    if place is not None:
        setup.batches.set_state(place)
        say(f"continuing after step {begin}")
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


class _Renamed:
    """A watcher that is told of the run's place in a store in place of its working copy."""

    def __init__(self, watcher: Watcher, copy: Path, folder: Path) -> None:
        self.on_step = watcher.on_step
        self._watcher, self._copy, self._folder = watcher, copy, folder

    def on_event(self, message: str) -> None:
        """Pass the message on."""
        self._watcher.on_event(named(message, self._copy, self._folder))


class _Silent:
    """Ignores progress: only process 0 reports it."""

    def on_step(self, progress: Progress) -> None:
        """Does nothing."""

    def on_event(self, message: str) -> None:
        """Does nothing."""
