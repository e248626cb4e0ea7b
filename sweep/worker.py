"""The process that trains one run of a sweep, on this machine or as a job of SLURM.

    python -m sweep.worker

reads its request, a JSON object on a line, from standard input: `name`, `out`, `config` (TOML) and
`cores`. That its input ends means that the sweep is gone, however it went: then it stops as if
asked to, so that no run goes on that nobody watches.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from common.errors import InputError, WorkError
from sweep.run import Note, Run, write_note
from training.config import from_toml
from training.distributed import surrounding
from training.loop import Progress
from training.prepare import cache_folder

ORPHAN_SECONDS = 30
"""How long a run may take for its last checkpoint when the sweep is gone;
then it ends without. Less than a new sweep waits for it: `folder.PATIENCE_SECONDS`."""


class Log:
    """Prints events with the time; steps are in the run's metrics."""

    def __init__(self) -> None:
        self.stepped = False
        """Whether there was a step."""

    def on_step(self, progress: Progress) -> None:
        """Nothing to print."""
        self.stepped = True

    def on_event(self, message: str) -> None:
        """Print it."""
        print(time.strftime("%Y-%m-%d %H:%M:%S"), message, flush=True)


def train_run(run: Run, log: Log, *, writes: bool = True) -> Note:
    """Train `run`, from its newest checkpoint if there is one, and leave a note of how it ended;
    `writes`: in one process of several.

    Whatever goes wrong is in the note, in one line, and printed in full.
    """
    from training.run import train

    if writes:
        run.note.unlink(missing_ok=True)
    try:
        outcome = train(run.config, run.folder, log, cache_folder(), surrounding())
        note = Note("stopped" if outcome.stopped else "done")
        log.on_event(f"{note.state} after step {outcome.step}")
    except (InputError, WorkError) as error:
        note = Note("failed", str(error))
        log.on_event(f"failed: {error}")
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().partition("\n")[0]
        note = Note("failed", f"{type(error).__name__}: {first}" if first else type(error).__name__)
    if writes:
        write_note(run, note)
    return note


def main() -> int:
    """Train what standard input asks for. Returns 0 unless it failed."""
    request = json.loads(sys.stdin.buffer.readline())
    if request["cores"]:
        # Before JAX makes its threads: as many as there are cores for this process.
        os.sched_setaffinity(0, request["cores"])
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    run = Run(request["name"], from_toml(request["config"], request["name"]), Path(request["out"]))
    return int(train_run(run, Log()).state == "failed")


def _end_with_the_sweep() -> None:
    # Not through `sys.stdin`, whose lock this thread would hold when Python ends.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
