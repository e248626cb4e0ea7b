"""Runs as a job array of SLURM, through submitit, which also requeues a job when its time is up.

The queue is asked by `squeue`, which every SLURM has, not by `sacct`, which needs accounting. The
jobs are noted, so that a sweep that was killed finds them again instead of submitting them twice.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import InputError, WorkError
from common.files import write_atomically
from sweep.run import Run, train_run
from training.signals import Stop

DEFAULTS: dict[str, Any] = {"job_name": "routelaw", "time": 60, "stderr_to_stdout": True}
"""Our choice: an hour, in minutes, is what nearly every partition allows."""

SUBMITITS = (*DEFAULTS, "array_parallelism", "nodes", "ntasks_per_node", "signal_delay_s", "setup")
"""Options that submitit reads itself; all others are passed on to sbatch as they are."""


def train_on_slurm(
    runs: Sequence[Run],
    stop: Stop,
    on_end: Callable[[Run], None],
    *,
    options: Mapping[str, Any],
    poll_seconds: float = 5.0,
) -> None:
    """Submit those of `runs` that are not in the queue yet, and call `on_end` after each. When
    `stop` is asked for, jobs are cancelled; those at work have half a minute for a checkpoint.

    `options` are options of sbatch, by name, such as `partition`. Raises `InputError` without SLURM
    or submitit, `WorkError` if SLURM takes no such jobs.
    """
    folder = (runs[0].log.parent / "slurm").absolute()
    note, before, cancelled = folder / "submitted.json", _queue(), False
    known = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    waiting = {run.name: known[run.name] for run in runs if known.get(run.name) in before}
    waiting |= _submit([run for run in runs if run.name not in waiting], folder, options)
    write_atomically(note, json.dumps(known | waiting, indent=1) + "\n")
    while waiting:
        if stop.asked and not cancelled:
            _slurm("scancel", *waiting.values())
            cancelled = True
        time.sleep(poll_seconds)
        queue = _queue()
        for run in runs:
            # Missing twice: what a job wrote last may be late on a shared file system.
            if run.name in waiting and waiting[run.name] not in queue | before:
                del waiting[run.name]
                on_end(run)
        before = queue


class Job:
    """What a job of SLURM does."""

    def __call__(self, run: Run) -> None:
        """Train `run`. Raises `WorkError` if it failed, so that SLURM knows as well."""
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if os.environ.get("SLURM_PROCID", "0") == "0":
                log = stack.enter_context(run.log.open("a", buffering=1))
                stack.enter_context(redirect_stdout(log))
                stack.enter_context(redirect_stderr(log))
            if not train_run(run):
                raise WorkError(f"{run.log} says why")

    def checkpoint(self, run: Run) -> Any:
        """What submitit queues when the time is up: the same, which goes on from a checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


def _submit(runs: Sequence[Run], folder: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """The job of each of `runs`, by name."""
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        command = "uv run --extra slurm cli.py sweep ..., or pip install -e .[slurm]"
        raise InputError(f"--cluster slurm needs submitit: {command}") from error
    given = DEFAULTS | dict(options)
    own = {name: given.pop(name) for name in SUBMITITS if name in given}
    others = {name.replace("_", "-"): value for name, value in given.items()}
    # A long run may need any number of jobs' time.
    executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
    executor.update_parameters(**own, additional_parameters=others)
    try:
        # A job may start in another folder.
        with executor.batch():
            jobs = [executor.submit(Job(), replace(run, out=run.out.absolute())) for run in runs]
    except FailedJobError as error:
        raise WorkError(f"SLURM takes no such jobs: {_last_line(str(error))}") from error
    return {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}


def _queue() -> set[str]:
    """The jobs of this user that wait or run."""
    return set(_slurm("squeue", "--me", "--array", "--noheader", "--format=%i").split())


def _slurm(*command: str) -> str:
    """What a command of SLURM prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(f"there is no SLURM here: no {command[0]}; use --cluster local") from error
    if done.returncode:
        raise WorkError(f"{' '.join(command[:2])} failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
