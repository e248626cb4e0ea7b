"""One run of a sweep: where it lies, how far it is, how it ended. All of it is read from files, so
that whoever trains it may be anywhere.

A run's folder is what `cli.py train` writes. Beside the folders, in `logs/`, are what its process
printed, and a note of how that ended.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from common.files import write_atomically
from reference.count import flops_per_step
from training.config import TrainConfig
from training.folder import finished
from training.records import METRICS

LOGS = "logs"

A_VOCABULARY = 256
"""Ids of a tokenizer, for models that are looked at before there is one:
which can be, and which costs more, does not depend on it."""

TAIL_BYTES = 1 << 16
"""What is read of a run's metrics, from the end."""

SPEED_STEPS = 20
"""Steps over which the speed is a mean, at most."""

State = Literal["waiting", "running", "done", "failed", "stopped"]
"""`stopped`:
by a signal, or before its turn. The same command goes on with it, and tries one that failed again.
"""


@dataclass(frozen=True)
class Run:
    """A run of a sweep."""

    name: str
    config: TrainConfig
    out: Path
    """The sweep's folder."""
    variant: str = ""
    """What tells it from the sweep's other runs of the same size, router, experts and seed."""

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.out / self.name

    @property
    def log(self) -> Path:
        """What its process printed, start after start."""
        return self.out / LOGS / f"{self.name}.log"

    @property
    def note(self) -> Path:
        """How its last start ended, by `write_note`."""
        return self.out / LOGS / f"{self.name}.json"

    def held_out(self) -> float | None:
        """Loss on the held-out text after the last step, nats per token;
        None for a run that is not done."""
        found = finished(self.folder, self.config)
        return None if found is None else found[0]

    def cost(self) -> float:
        """FLOPs of the forward passes of all its steps."""
        return (
            float(flops_per_step(self.config.model_config(A_VOCABULARY), self.config.data.batch))
            * self.config.run.steps
        )


@dataclass(frozen=True)
class Note:
    """How a start of a run ended, as its process says. One that was killed says nothing."""

    state: Literal["done", "failed", "stopped"]
    reason: str = ""
    """What failed, in one line."""


def write_note(run: Run, note: Note) -> None:
    """Leave `note` for the sweep."""
    write_atomically(run.note, json.dumps(asdict(note)) + "\n")


def read_note(run: Run) -> Note | None:
    """The note that the run's process left; None if there is none."""
    try:
        return Note(**json.loads(run.note.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    name: str
    state: State
    step: int
    steps: int
    loss: float | None
    """Of the newest step; of a run that is done, on the held-out text. Nats per token."""
    seconds_left: float | None
    """Of one that is running, by its speed of late; without what compiling and evaluating take."""
    reason: str
    """Why it failed."""
    log: str
    """Where its process prints."""


def done_status(run: Run, held_out: float) -> Status:
    """Of a run that is done."""
    return Status(
        run.name,
        "done",
        run.config.run.steps,
        run.config.run.steps,
        held_out,
        None,
        "",
        str(run.log),
    )


def status(run: Run, state: State, log: Path, reason: str = "") -> Status:
    """Of a run that is not done, by the steps that it has recorded."""
    records = _newest(run.folder / METRICS)
    steps, step = run.config.run.steps, records[-1]["step"] if records else 0
    speeds = [record["tokens_per_second"] for record in records if record["tokens_per_second"]]
    left = None
    if state == "running" and speeds:
        # The mean of times, not of speeds.
        seconds = (
            run.config.data.batch
            * run.config.model.context
            * sum(1 / speed for speed in speeds)
            / len(speeds)
        )
        left = (steps - step) * seconds
    return Status(
        run.name,
        state,
        step,
        steps,
        records[-1]["loss"] if records else None,
        left,
        reason,
        str(log),
    )


def _newest(path: Path) -> tuple[dict[str, Any], ...]:
    """The records of the last steps in the file at `path`."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return ()
    return _tail(path, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=1024)
def _tail(path: Path, size: int, changed: int) -> tuple[dict[str, Any], ...]:
    """The same, read once for each `size` and time of change:
    most runs of a large sweep are not at work."""
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).split(b"\n")
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            # The first may begin anywhere, the last be under way.
            continue
        if isinstance(record, dict) and "loss" in record:
            records.append(record)
    return tuple(records[-SPEED_STEPS:])
