"""A training run, from text to curves: set up or take up where it stopped, step, evaluate, save.

A run's folder holds `config.toml` (repeats it exactly), `tokenizer.model` if it is no bytes, `checkpoints/`, `metrics.jsonl`,
`curves.csv`, and at the end `sample.txt`. The same command continues a run that was stopped, and does nothing to one that is done.
"""

import math
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray

from common.errors import InputError, WorkError
from common.files import write_atomically
from reference.config import Hash, ModelConfig
from reference.mesh import GROUPS, make_mesh
from reference.objective import Report
from reference.routers.hash import balanced_table
from reference.training.batches import Sequences, evaluation_batches, training_batches
from reference.training.checkpoint import Checkpoints
from reference.training.config import TrainConfig, differences, read_toml, to_toml
from reference.training.evaluate import evaluate, loss_and_targets, sample
from reference.training.optimizer import make_optimizer
from reference.training.prepare import prepare
from reference.training.records import Curves, Metrics, Setting, curves_row
from reference.training.shards import MODEL, SHARD_TOKENS, Shards, TokenStream
from reference.training.step import TrainState, init_state, state_specs, train_step
from reference.transformer import Transformer

SAMPLE_TOKENS = 256
"""Tokens of the text that a run ends with."""


@dataclass(frozen=True)
class Progress:
    """What there is to see after a step."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    metrics: dict[str, float]
    """The routers' metrics, means over layers."""
    held_out: float | None
    """The newest loss on held-out text, if there is one."""


@runtime_checkable
class Watcher(Protocol):
    """Shown what goes on: `cli.py` draws a bar."""

    def on_step(self, progress: Progress) -> None:
        """A step is done."""
        ...

    def on_event(self, message: str) -> None:
        """Something to say in a line."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    step: int
    held_out: float | None
    """Loss on the held-out text after the last step, nats per token; None if the run was stopped before."""
    stopped: bool
    """Whether a signal stopped it before its last step."""
    sample: str


def train(config: TrainConfig, folder: Path, watcher: Watcher, cache: Path) -> Outcome:
    """Train in `folder`, from its newest checkpoint if there is one.

    Raises `InputError` for what cannot be trained, and for a folder with a run of other options; `WorkError` if the loss is not finite,
    with the last checkpoint kept.
    """
    run = _Run(config, folder, watcher, cache)
    with jax.set_mesh(run.mesh), _signals() as stop:
        return run.go(stop)


class _Run:
    """One run while it lasts."""

    def __init__(self, config: TrainConfig, folder: Path, watcher: Watcher, cache: Path) -> None:
        self.config, self.folder, self.watcher = config, folder, watcher
        shape = config.run.mesh_shape()
        self.mesh = make_mesh(**shape, devices=jax.devices()[: math.prod(shape.values())])
        self.tokenizer, self.shards = prepare(config.data.corpus, config.data.tokenizer, config.data.held_out, cache, watcher.on_event)
        self.model = config.model.model(self.tokenizer.vocabulary)
        self.batches = training_batches(
            Sequences(TokenStream(self.shards, "train"), self.model.context), config.data.batch, config.run.seed
        )
        self.held_out = _held_out(self.shards, config)
        self.optimizer = make_optimizer(config.optimizer)
        self.key = jax.random.key(config.run.seed)

    def go(self, stop: "_Stop") -> Outcome:
        """Train to the last step, or until `stop` is set."""
        _claim(self.folder, self.config)
        if self.tokenizer.model is not None:
            write_atomically(self.folder / MODEL, self.tokenizer.model)
        checkpoints = Checkpoints(self.folder / "checkpoints", self.config.run.keep)
        state, begin = self._start(checkpoints)
        curves = Curves(self.folder / "curves.csv", after=begin)
        metrics = Metrics(self.folder / "metrics.jsonl", after=begin)
        try:
            return self._steps(state, begin, checkpoints, curves, metrics, stop)
        finally:
            metrics.close()
            checkpoints.close()

    def _start(self, checkpoints: Checkpoints) -> tuple[TrainState, int]:
        """The state to begin from, and how many steps it has behind it."""
        tables = _hash_tables(self.model, self.shards)
        make = partial(_initial_state, self.model, optimizer=self.optimizer, hash_tables=tables)
        specs = state_specs(jax.eval_shape(make, self.key), self.mesh)
        layout = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
        state = jax.jit(make, out_shardings=layout)(self.key)
        newest = checkpoints.latest
        if newest is None:
            return state, 0
        state, place = checkpoints.restore(newest, state)
        self.batches.set_state(place)
        self.watcher.on_event(f"continuing after step {newest}")
        return state, newest

    def _steps(self, state: TrainState, begin: int, checkpoints: Checkpoints, curves: Curves, metrics: Metrics, stop: "_Stop") -> Outcome:
        options = self.config.run
        step = jax.jit(partial(train_step, optimizer=self.optimizer), donate_argnums=0)
        held_out: float | None = None
        started, done = time.monotonic(), begin
        while done < options.steps and not stop.asked:
            state, report = step(state, self._put(next(self.batches)), self.key)
            done += 1
            loss = float(report.loss)
            if not math.isfinite(loss):
                raise WorkError(_diverged(done, loss, checkpoints.latest))
            record = _record(done, report)
            metrics.append(record)
            speed = (done - begin) * self.config.data.batch * self.model.context / (time.monotonic() - started)
            if done % options.evaluate_every == 0 or done == options.steps:
                held_out = self._evaluate(state.model)
                curves.append(curves_row(self._setting(), done, held_out))
            if done % options.checkpoint_every == 0 or done == options.steps:
                checkpoints.save(done, state, self.batches.get_state())
            self.watcher.on_step(Progress(done, options.steps, loss, speed, record["metrics"], held_out))
        return self._finish(state, done, held_out, checkpoints)

    def _put(self, batch: Int[np.ndarray, "batch context_and_one"]) -> Int[Array, "batch context_and_one"]:
        """A batch on the devices, each with its share."""
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, P(GROUPS, None)), batch)

    def _evaluate(self, model: Transformer) -> float:
        compiled = jax.jit(loss_and_targets)
        return evaluate(self.held_out, lambda batch: compiled(model, self._put(batch)))

    def _setting(self) -> Setting:
        config = self.config
        corpus = config.data.corpus or "sotu"
        return Setting(self.model, config.model.router, config.model.size, config.data.batch, config.run.seed, corpus, self.tokenizer.name)

    def _finish(self, state: TrainState, done: int, held_out: float | None, checkpoints: Checkpoints) -> Outcome:
        stopped = done < self.config.run.steps
        if stopped:
            checkpoints.save(done, state, self.batches.get_state())
            checkpoints.wait()
            return Outcome(self.folder, done, None, True, "")
        if held_out is None:
            held_out = self._evaluate(state.model)
        prompt = np.array([self.tokenizer.end], np.int32)
        text = self.tokenizer.decode(sample(state.model, prompt, SAMPLE_TOKENS, self.key))
        write_atomically(self.folder / "sample.txt", text)
        checkpoints.wait()
        return Outcome(self.folder, done, held_out, False, text)


class _Stop:
    """Whether a signal has asked the run to stop."""

    asked = False


@contextmanager
def _signals() -> Generator[_Stop]:
    """SIGINT and SIGTERM (preemption) let the step finish and a checkpoint be written; a second one is obeyed at once."""
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, _ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _initial_state(
    model: ModelConfig,
    key: PRNGKeyArray,
    *,
    optimizer: optax.GradientTransformation,
    hash_tables: Int[np.ndarray, "layers rows choices"] | None,
) -> TrainState:
    return init_state(Transformer(model, key=key, hash_tables=hash_tables), optimizer)


def _hash_tables(model: ModelConfig, shards: Shards) -> Int[np.ndarray, "layers vocabulary k"] | None:
    """Tables balanced by the training text's counts, if the model asks for such; None for all others."""
    router = model.router
    if router is None or not isinstance(router.technique, Hash) or router.technique.table != "balanced":
        return None
    stream = TokenStream(shards, "train")
    counts = np.zeros(model.vocabulary, np.int64)
    for start in range(0, len(stream), SHARD_TOKENS):
        counts += np.bincount(stream.read(start, start + SHARD_TOKENS), minlength=model.vocabulary)
    return np.stack([balanced_table(counts, router.num_experts, router.k)] * model.routed_layers)


def _held_out(shards: Shards, config: TrainConfig) -> list[Int[np.ndarray, "batch context_and_one"]]:
    """The batches of an evaluation: as many as hold `evaluation_tokens`, at least one."""
    batches = evaluation_batches(Sequences(TokenStream(shards, "held_out"), config.model.context), config.data.batch)
    limit = config.run.evaluation_tokens
    wanted = math.ceil(limit / (config.data.batch * config.model.context)) if limit else len(batches)
    return batches[: max(wanted, 1)]


def _claim(folder: Path, config: TrainConfig) -> None:
    """Write `config.toml`, or check that the run that is there has the same options. Raises `InputError` with those that differ."""
    path = folder / "config.toml"
    if path.exists():
        different = differences(config, read_toml(path))
        if different:
            raise InputError(f"{folder} has a run with other options ({'; '.join(different)}); use these, or another folder")
        return
    write_atomically(path, to_toml(config))


def _record(step: int, report: Report) -> dict[str, Any]:
    """A line of `metrics.jsonl`: the losses, and the routers' metrics by layer and in the mean."""
    layers = {name: np.asarray(values).tolist() for name, values in report.metrics.items()}
    return {
        "step": step,
        "loss": float(report.loss),
        "router_losses": {name: float(value) for name, value in report.router_losses.items()},
        "metrics": {name: float(np.mean(values)) for name, values in layers.items()},
        "layers": layers,
    }


def _diverged(step: int, loss: float, checkpoint: int | None) -> str:
    kept = "there is no checkpoint yet" if checkpoint is None else f"the checkpoint of step {checkpoint} is kept"
    return f"the loss of step {step} is {loss}; {kept}: lower the learning rate, or begin from there with another seed"
