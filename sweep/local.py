"""Runs as local processes, a few at a time, each pinned to its share of the cores.

Pinning is our choice: on two cores, two runs with one core each had 1.7 times the throughput of two
that shared both (docs/LOG.md).
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sweep.run import Run
from training.signals import Stop
from training.toml import to_toml


def train_locally(
    runs: Sequence[Run], stop: Stop, on_end: Callable[[Run], None], *, jobs: int
) -> None:
    """Train `runs`, at most `jobs` at once, and call `on_end` after each.

    When `stop` is requested, active runs write a checkpoint and end, and no other starts.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    slots = itertools.count()

    def _train(run: Run) -> None:
        if not stop.asked:
            # On leaving, its standard input is closed, which stops it, and its end awaited.
            with _start(run) as process:
                while not stop.asked and process.poll() is None:
                    time.sleep(0.2)

    def _pin() -> None:
        # A process inherits the affinity of the thread that starts it.
        if jobs <= len(cores):
            os.sched_setaffinity(0, cores[next(slots) :: jobs])

    with ThreadPoolExecutor(jobs, initializer=_pin) as pool:
        futures = {pool.submit(_train, run): run for run in runs}
        try:
            for future in as_completed(futures):
                future.result()
                on_end(futures[future])
        finally:
            stop.asked = True


def _start(run: Run) -> subprocess.Popen[bytes]:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    # The process must import the same package.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "sweep.run", run.name, str(run.out), to_toml(run.config)]
    with run.log.open("ab") as log:
        # In a session of its own: Ctrl-C reaches the sweep alone, which stops the runs.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def default_jobs() -> int:
    """The number of cores; 1 where JAX has a GPU or a TPU, which takes one process."""
    # In a process of its own, which releases the device.
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    backend = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) if backend == "cpu" else 1
