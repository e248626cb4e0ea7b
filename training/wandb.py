"""Weights & Biases: the numbers of each line of `metrics.jsonl`, by the tags of `tensorboard.py`.

A run's folder keeps the id that W&B knows it by, so that a continued run goes on there. W&B takes
no step twice: what a run repeats after its checkpoint, with the same numbers, it leaves out.

Needs the optional dependency wandb (81 MB with its dependencies), imported lazily. Account, entity
and offline mode are W&B's own affair (`wandb login`, `WANDB_ENTITY`, `WANDB_MODE=offline`).
"""

import importlib
import importlib.util
import secrets
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import WorkError
from common.files import write_atomically
from training.config import TrainConfig
from training.curves import Record
from training.sinks import MakeSink
from training.tensorboard import scalars

ID = "wandb_id"
"""The file in a run's folder with the id of its run at W&B."""


def wandb_run(project: str, config: TrainConfig) -> MakeSink:
    """A sink that logs a run's records to a run of the W&B project.

    Raises `WorkError` if the package is missing.
    """
    if importlib.util.find_spec("wandb") is None:
        raise WorkError(
            "--wandb needs the package wandb, which is not installed: uv sync --extra wandb"
        )
    return partial(WandbRun, project, config)


class WandbRun:
    """A sink: a run of W&B."""

    def __init__(
        self, project: str, config: TrainConfig, folder: Path, records: list[Record]
    ) -> None:
        """Begin a run with the records so far, or go on with the one that has them."""
        wandb: Any = importlib.import_module("wandb")
        path = folder / ID
        known = path.read_text(encoding="utf-8").strip() if path.is_file() else None
        self._run: Any = wandb.init(
            project=project,
            id=known or secrets.token_hex(4),
            name=folder.name,
            dir=folder,
            resume="allow",
            config={name: asdict(part) for name, part in config.sections().items()},
            settings=wandb.Settings(console="off"),
        )
        if known is None:
            write_atomically(path, self._run.id + "\n")
            for record in records:
                self.append(record)

    def append(self, record: Record) -> None:
        """Log a record's numbers at its step."""
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """Finish the run, which sends what is left."""
        self._run.finish()
