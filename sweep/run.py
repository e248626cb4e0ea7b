"""One run of a sweep: its folder, its log, and how it ended.

    python -m sweep.run NAME OUT CONFIG

trains the run NAME with the options CONFIG (TOML) in the folder OUT/NAME as `cli.py train` does,
and stops with a checkpoint when its standard input is closed: by the sweep to stop the run, or by
the system if the sweep is killed.
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from common.errors import InputError, WorkError
from training.cache import cache_folder
from training.config import TrainConfig
from training.distributed import surrounding
from training.folder import finished
from training.loop import Progress
from training.toml import from_toml

EVENT = re.compile(r"^run (started|stopped|failed): ?(.*)$", re.MULTILINE)
"""Lines of a log that report progress; the last one counts."""


@dataclass(frozen=True)
class Run:
    """A run of a sweep, whose folder is in `out`."""

    name: str
    config: TrainConfig
    out: Path
    variant: str = ""
    """Distinguishes runs of the same size, router, experts and seed."""

    @property
    def folder(self) -> Path:
        """The run's folder, as written by `cli.py train`."""
        return self.out / self.name

    @property
    def log(self) -> Path:
        """Standard output and error of its process, appended at each start."""
        return self.out / "logs" / f"{self.name}.log"

    def held_out(self) -> float | None:
        """Held-out loss after the last step, nats per token; None if unfinished."""
        found = finished(self.folder, self.config)
        return None if found is None else found[0]


class Status(NamedTuple):
    """How a run ended; a run that has not started is `stopped`."""

    name: str
    state: Literal["done", "stopped", "failed"]
    loss: float | None
    """Held-out loss, nats per token; None unless done."""
    reason: str
    log: str


def status(run: Run) -> Status:
    """How `run` ended, from its files: it may have been trained on another machine."""
    loss, text = run.held_out(), ""
    if loss is not None:
        return Status(run.name, "done", loss, "", str(run.log))
    if run.log.exists():
        text = run.log.read_text(encoding="utf-8", errors="replace")
    event, reason = (EVENT.findall(text) or [("stopped", "before its turn")])[-1]
    if event == "started":
        reason = "killed, perhaps because memory ran out"
    state = "stopped" if event == "stopped" else "failed"
    return Status(run.name, state, None, reason, str(run.log))


class Log:
    """Prints events with the time; steps are in the run's metrics."""

    def on_step(self, progress: Progress) -> None:
        """Does nothing."""

    def on_event(self, message: str) -> None:
        """Prints `message`."""
        print(time.strftime("%Y-%m-%d %H:%M:%S"), message, flush=True)


def train_run(run: Run) -> bool:
    """Train `run`, from its newest checkpoint if there is one, and print how it ended.

    Returns whether it did not fail.
    """
    from training.run import train

    print("run started:", flush=True)
    # Until training installs its own handler, there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("run stopped: before its first step"))
    try:
        outcome = train(run.config, run.folder, Log(), cache_folder(), surrounding())
    except Exception as error:
        reason = str(error).replace("\n", " ")
        if not isinstance(error, InputError | WorkError):
            traceback.print_exc()
            reason = f"{type(error).__name__}: {reason}"
        print("run failed:", reason, flush=True)
        return False
    if outcome.stopped:
        print("run stopped: after step", outcome.step, flush=True)
    return True


def _stop_at_end_of_input() -> None:
    # Not through `sys.stdin`, whose lock this thread would hold at exit.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    name, out, config = sys.argv[1:]
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    sys.exit(not train_run(Run(name, from_toml(config, name), Path(out))))
