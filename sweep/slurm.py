"""Runs as a SLURM job array, by submitit, which also requeues a job at its time limit.

The queue is read with `squeue`, which every SLURM has, not `sacct`, which needs accounting. Job ids
are saved, so that a restarted sweep finds its jobs instead of submitting them twice.
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
"""Our choice: an hour, in minutes, is within the limits of nearly every partition."""

SUBMITITS = (*DEFAULTS, "array_parallelism", "nodes", "ntasks_per_node", "signal_delay_s", "setup")
"""Options that submitit interprets; all others are passed to sbatch unchanged."""


def train_on_slurm(
    runs: Sequence[Run],
    stop: Stop,
    on_end: Callable[[Run], None],
    *,
    options: Mapping[str, Any],
    poll_seconds: float = 5.0,
) -> None:
    """Submit the `runs` that are not yet in the queue, and call `on_end` after each.

    When `stop` is requested, jobs are cancelled; active ones have half a minute to write a
    checkpoint. `options` are sbatch options by name, such as `partition`. Raises `InputError`
    without SLURM or submitit, `WorkError` if SLURM rejects the jobs.
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
            # Missing twice: a job's last write may appear late on a shared file system.
            if run.name in waiting and waiting[run.name] not in queue | before:
                del waiting[run.name]
                on_end(run)
        before = queue


class Job:
    """The work of a SLURM job."""

    def __call__(self, run: Run) -> None:
        """Train `run`. Raises `WorkError` if it failed, so that SLURM records the failure."""
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if os.environ.get("SLURM_PROCID", "0") == "0":
                log = stack.enter_context(run.log.open("a", buffering=1, encoding="utf-8"))
                stack.enter_context(redirect_stdout(log))
                stack.enter_context(redirect_stderr(log))
            if not train_run(run):
                raise WorkError(f"the run failed: see {run.log}")

    def checkpoint(self, run: Run) -> Any:
        """At the time limit, submitit requeues this: the same run, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run)


def _submit(runs: Sequence[Run], folder: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """The job id of each run, by name."""
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        command = "uv run --extra slurm cli.py sweep ..., or pip install -e .[slurm]"
        raise InputError(f"--cluster slurm needs submitit: {command}") from error
    given = DEFAULTS | dict(options)
    own = {name: given.pop(name) for name in SUBMITITS if name in given}
    others = {name.replace("_", "-"): value for name, value in given.items()}
    # A long run may be requeued any number of times.
    executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
    executor.update_parameters(**own, additional_parameters=others)
    try:
        # Jobs may start in another folder.
        with executor.batch():
            jobs = [executor.submit(Job(), replace(run, out=run.out.absolute())) for run in runs]
    except FailedJobError as error:
        raise WorkError(f"SLURM rejected the jobs: {_last_line(str(error))}") from error
    return {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}


def _queue() -> set[str]:
    """This user's pending and running jobs."""
    return set(_slurm("squeue", "--me", "--array", "--noheader", "--format=%i").split())


def _slurm(*command: str) -> str:
    """Standard output of a SLURM command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(f"there is no SLURM here: no {command[0]}; use --cluster local") from error
    if done.returncode:
        raise WorkError(f"{' '.join(command[:2])} failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
