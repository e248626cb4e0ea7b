"""The training loop: steps, evaluations and checkpoints.

The host reads a step's losses while the next step runs, so that devices do not wait for it. It
catches up before an evaluation or a checkpoint: no state is saved after a non-finite loss or
gradient.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray

from common.errors import WorkError
from reference.mesh import DATA, EXPERT, MODEL
from reference.objective import Report
from reference.transformer import Transformer
from training.checkpoint import Checkpoints
from training.evaluate import Evaluation, Sums, evaluate, sums_of
from training.optimizer import make_schedule
from training.profile import Tracer
from training.records import Records
from training.signals import Stop
from training.speed import Meter
from training.start import Setup
from training.step import TrainState, train_step
from training.text.batches import Batch


@dataclass(frozen=True)
class Progress:
    """Progress after a step."""

    step: int
    steps: int
    loss: float
    """Of the step's batch, nats per token."""
    tokens_per_second: float | None
    """Mean over the last steps; None for the first step, which compiles."""
    seconds_left: float | None
    """Of training steps alone, at that speed."""
    metrics: dict[str, float]
    """The routers' metrics, means over layers."""
    experts: int
    """Per routed layer; 1 for a dense model."""
    held_out: float | None
    """Held-out loss after this step, nats per token; None where none was measured."""
    flops_per_second: float | None = None
    """Model FLOPs, mean over the last steps."""
    utilisation: float | None = None
    """Those over the devices' peak; None where that is unknown."""


@runtime_checkable
class Watcher(Protocol):
    """Receives progress, such as `cli.py`'s progress bar."""

    def on_step(self, progress: Progress) -> None:
        """Called after every step."""
        ...

    def on_event(self, message: str) -> None:
        """Called with a one-line message."""
        ...


@dataclass(frozen=True)
class _PendingStep:
    """A dispatched step whose losses have not been read."""

    number: int
    report: Report
    stop: Int[Array, ""]
    """Whether any process had been asked to stop before it."""


class Loop:
    """Steps from `begin` on."""

    def __init__(
        self,
        setup: Setup,
        key: PRNGKeyArray,
        begin: int,
        checkpoints: Checkpoints,
        records: Records,
        watcher: Watcher,
        stop: Stop,
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        self._setup, self._key, self._checkpoints, self._records, self._watcher = (
            setup,
            key,
            checkpoints,
            records,
            watcher,
        )
        self._done, self._stop, self._all_stop = begin, stop, False
        # All at once: read one at a time from a device, each would wait for a step.
        steps = np.arange(begin, setup.config.run.steps)
        self._begin, self._learning_rates = (
            begin,
            np.asarray(jax.jit(jax.vmap(make_schedule(setup.config.optimizer)))(steps)),
        )
        self._sums = jax.jit(sums_of)
        self._asked = NamedSharding(setup.mesh, P((DATA, EXPERT, MODEL)))
        self._meter = Meter(setup.model, setup.config.data.batch, setup.mesh.size)
        self._since: float | None = None
        self._held_out: float | None = None

    def run(self, state: TrainState) -> tuple[TrainState, int]:
        """Train to the last step or until a stop is requested, then save.

        Returns the state and its step. Raises `WorkError` at a non-finite loss or gradient.
        """
        options, waiting = self._setup.config.run, None
        while (
            self._done < options.steps
            and not self._all_stop
            and not (jax.process_count() == 1 and self._stop.asked)
        ):
            self._tracer.before(self._done + 1)
            tokens = self._setup.place(next(self._setup.batches))
            state, report, stop = _step(
                state, tokens, self._key, self._flags(), optimizer=self._setup.optimizer
            )
            self._done += 1
            self._tracer.after(self._done, report)
            self._read_losses(waiting)
            waiting = _PendingStep(self._done, report, stop)
            last = self._done == options.steps
            evaluates, saves = (
                last or self._done % every == 0
                for every in (options.evaluate_every, options.checkpoint_every)
            )
            if evaluates or saves:
                self._read_losses(waiting, state.model if evaluates else None)
                waiting = None
                if saves:
                    self._save(state)
                self._since = time.monotonic()
        self._tracer.close()
        self._read_losses(waiting)
        self._save(state)
        self._checkpoints.wait()
        return state, self._done

    @property
    def last_loss(self) -> float | None:
        """Held-out loss after the last step, nats per token; None if no step was made."""
        return self._held_out if self._done == self._setup.config.run.steps else None

    def evaluate(self, model: Transformer) -> Evaluation:
        """Evaluates `model` on the held-out text and all others."""

        def _on_batch(rows: Batch) -> Sums:
            return self._sums(model, self._setup.place_held_out(rows))

        others = {
            name: evaluate(batches, _on_batch).loss for name, batches in self._setup.others.items()
        }
        return replace(evaluate(self._setup.held_out, _on_batch, keep_choices=True), others=others)

    def _flags(self) -> Int[Array, "devices"]:
        """1 on every device of a process that was asked to stop.

        All processes must stop after the same step.
        """
        size = self._setup.mesh.size
        local = np.full(len(self._setup.mesh.local_devices), int(self._stop.asked), np.int32)
        return jax.make_array_from_process_local_data(self._asked, local, (size,))

    def _read_losses(self, step: _PendingStep | None, model: Transformer | None = None) -> None:
        """Read a step's losses, check and record them; evaluate `model`, if given."""
        if step is None:
            return
        report: Report = jax.device_get(step.report)
        loss, norm = float(report.loss), float(np.asarray(report.gradient_norm))
        self._all_stop = self._all_stop or bool(step.stop)
        self._check(f"the loss of step {step.number}", loss, _not_finite(report))
        self._check(f"the gradient's norm of step {step.number}", norm)
        router, steps = self._setup.model.router, self._setup.config.run.steps
        speed = self._meter.step(self._step_seconds(), steps - step.number)
        learning_rate = float(self._learning_rates[step.number - 1 - self._begin])
        metrics = self._records.step(step.number, report, learning_rate, speed)
        if model is not None:
            found = self.evaluate(model)
            self._check(f"the held-out loss after step {step.number}", found.loss)
            self._records.evaluation(step.number, found)
            self._held_out = found.loss
        mean = self._meter.mean
        self._watcher.on_step(
            Progress(
                step.number,
                steps,
                loss,
                mean.tokens_per_second,
                speed.seconds_left,
                metrics,
                1 if router is None else router.num_experts,
                self._held_out if model is not None else None,
                mean.flops_per_second,
                mean.utilisation,
            )
        )

    def _save(self, state: TrainState) -> None:
        self._checkpoints.save(self._done, state, self._setup.batches.get_state())

    def _step_seconds(self) -> float | None:
        """Seconds since the previous step; None for the first step, which compiles."""
        now, before = time.monotonic(), self._since
        self._since = now
        return None if before is None else now - before

    def _check(self, what: str, value: float, layer: str = "") -> None:
        if not math.isfinite(value):
            self._checkpoints.wait()
            where = "" if self._checkpoints.latest is None else ", in another folder"
            raise WorkError(
                f"{what} is {value}{layer}; {self._checkpoints.kept}: train with a lower learning "
                f"rate, or from another seed{where}"
            )


def _not_finite(report: Report) -> str:
    """Names the first routed layer with non-finite router logits, by the entropy of its choices.

    "" if there is none.
    """
    layers = np.flatnonzero(~np.isfinite(np.asarray(report.metrics.get("entropy", ()))))
    return (
        f", and so are the logits of the router in routed layer {layers[0]}" if len(layers) else ""
    )


@partial(jax.jit, donate_argnums=0, static_argnames="optimizer")
def _step(
    state: TrainState,
    tokens: Int[Array, "..."],
    key: PRNGKeyArray,
    asked: Int[Array, "devices"],
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Report, Int[Array, ""]]:
    """A training step, and whether any process was asked to stop."""
    state, report = train_step(state, tokens, key, optimizer)
    return state, report, jnp.max(asked)
