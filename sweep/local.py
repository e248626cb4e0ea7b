"""Runs as local processes, a few at a time, each with its share of the cores and of the GPUs.

A share of the cores is our choice: on two, two runs with one core each had 1.7 times the throughput
of two that shared both (docs/LOG.md). Of GPUs it is a need: a JAX process takes most of the memory
of each GPU that it sees.
"""

import itertools
import os
import subprocess
import sys
import threading
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
    gpus, slots, own = visible_gpus(), itertools.count(), threading.local()

    def _train(run: Run) -> None:
        if not stop.asked:
            # On leaving, its standard input is closed, which stops it, and its end awaited.
            with _start(run, own.gpus) as process:
                while not stop.asked and process.poll() is None:
                    time.sleep(0.2)

    def _take_share() -> None:
        slot = next(slots)
        own.gpus = gpus[slot::jobs] or gpus[slot % len(gpus) :][:1] if gpus else []
        # A process inherits the affinity of the thread that starts it.
        if jobs <= len(cores):
            os.sched_setaffinity(0, cores[slot::jobs])

    with ThreadPoolExecutor(jobs, initializer=_take_share) as pool:
        futures = {pool.submit(_train, run): run for run in runs}
        try:
            for future in as_completed(futures):
                future.result()
                on_end(futures[future])
        finally:
            stop.asked = True


def visible_gpus() -> list[str]:
    """NVIDIA GPUs that a process started here may use, as `CUDA_VISIBLE_DEVICES` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        return sorted((number for number in numbers if number.isdecimal()), key=int)
    names = (name.strip() for name in given.split(","))
    # As CUDA does: none from the first name that is no GPU's on.
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))


def _start(run: Run, gpus: Sequence[str]) -> subprocess.Popen[bytes]:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    # The process must import the same package.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
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
    """The number of cores; where JAX has GPUs theirs, and 1 where it has TPUs: one process each."""
    # In a process of its own, which releases the device.
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    backend = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cores or 1, "gpu": len(visible_gpus())}.get(backend) or 1
