"""Runs as a job array of SLURM, through submitit.

The queue is asked by `squeue`, which every SLURM has, not by `sacct`, which needs accounting. What
was submitted is noted, so that a sweep that was killed finds its jobs again instead of submitting
them twice.

A job writes a checkpoint when SLURM is about to take its machine away. At its time limit it asks to
be queued again, if it has made a step: a run may take longer than a job may. One that somebody
requeues goes on from its checkpoint, as does one whose node failed.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from common.errors import InputError, WorkError
from common.files import write_atomically
from sweep.cluster import Phase
from sweep.run import LOGS, Run
from sweep.worker import Log, train_run
from training.config import from_toml, to_toml

FOLDER, SUBMITTED = "slurm", "submitted.json"

DEFAULTS: dict[str, Any] = {"job_name": "routelaw", "time": 60, "stderr_to_stdout": True}
"""Our choice:
an hour, in minutes, is what nearly every partition allows, and a run that takes longer is queued
again."""

SUBMITITS = (
    "job_name",
    "time",
    "stderr_to_stdout",
    "array_parallelism",
    "nodes",
    "ntasks_per_node",
    "signal_delay_s",
    "setup",
)
"""Options that submitit looks at itself; all others are passed on to sbatch as they are."""

QUEUED = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
AT_WORK = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")

GONE_POLLS = 2
"""How often a job must be found to have ended:
what it wrote last may be late on a file system that several machines share."""


class JobArray:
    """Runs that are SLURM jobs."""

    def __init__(
        self, runs: Sequence[Run], out: Path, parallel: int | None, parameters: Mapping[str, Any]
    ) -> None:
        """Submit `runs`, but for those that are in the queue already; at most `parallel` at work at
        once.

        `parameters` are options of sbatch, by name, such as `partition`. Raises `InputError` if
        there is no SLURM or no submitit, `WorkError` if it takes no jobs.
        """
        self._folder = (out / LOGS / FOLDER).absolute()
        known: dict[str, str] = {}
        if (self._folder / SUBMITTED).is_file():
            known = json.loads((self._folder / SUBMITTED).read_text(encoding="utf-8"))
        self._states = _queue()
        alive = {
            name: job for name, job in known.items() if self._states.get(job) in QUEUED + AT_WORK
        }
        new = [run for run in runs if run.name not in alive]
        for run in new:
            run.note.unlink(missing_ok=True)
        self._jobs = {run.name: alive[run.name] for run in runs if run.name in alive}
        if new:
            self._jobs |= _submit(new, self._folder, parallel, parameters)
        write_atomically(self._folder / SUBMITTED, json.dumps(known | self._jobs, indent=1) + "\n")
        self._ended = dict.fromkeys(self._jobs, 0)

    def poll(self) -> dict[str, Phase]:
        """Ask for the queue."""
        self._states |= (now := _queue())
        return {name: self._phase(name, job, job in now) for name, job in self._jobs.items()}

    def stop(self) -> None:
        """Take jobs that wait from the queue, and ask those at work to end;
        SLURM gives them half a minute, unless it is told otherwise."""
        _slurm("scancel", *self._jobs.values())

    def close(self) -> None:
        """Nothing: jobs go on without the sweep."""

    def _phase(self, name: str, job: str, listed: bool) -> Phase:
        log, state = self._folder / f"{job}_0_log.out", self._states.get(job, "")
        if listed and state in QUEUED + AT_WORK:
            self._ended[name] = 0
            return Phase("waiting" if state in QUEUED else "running", log)
        self._ended[name] += 1
        if self._ended[name] < GONE_POLLS:
            return Phase("running", log)
        # A job that was cancelled before it began has no note, and did not fail.
        return Phase(
            "ended",
            log,
            "" if state == "CANCELLED" else f"SLURM says {state or 'nothing more of it'}",
        )


def train_job(name: str, out: str, config: str) -> str:
    """What a job does: train the run `name`, of the options `config` (TOML), in the sweep's folder
    `out`. Returns how it ended.

    Raises `WorkError` if it failed, so that SLURM knows as well.
    """
    log, time_is_up = Log(), False
    first = os.environ.get("SLURM_PROCID", "0") == "0"

    def _time_is_up(number: int, frame: FrameType | None) -> None:
        nonlocal time_is_up
        time_is_up = True
        os.kill(os.getpid(), signal.SIGTERM)

    # What submitit asks SLURM to send before the time limit. Its own answer would lose the steps
    # since the last checkpoint.
    signal.signal(signal.SIGUSR2, _time_is_up)
    note = train_run(Run(name, from_toml(config, name), Path(out)), log, writes=first)
    if note.state == "failed":
        raise WorkError(note.reason)
    if note.state == "stopped" and time_is_up and log.stepped and first:
        job = os.environ.get("SLURM_ARRAY_JOB_ID")
        _slurm(
            "scontrol",
            "requeue",
            f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ["SLURM_JOB_ID"],
        )
    return note.state


def _submit(
    runs: Sequence[Run], folder: Path, parallel: int | None, parameters: Mapping[str, Any]
) -> dict[str, str]:
    """The job of each of `runs`, by name."""
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        raise InputError(
            "--cluster slurm needs submitit: uv run --extra slurm cli.py sweep ..., or pip install -e .[slurm]"
        ) from error
    executor = submitit.SlurmExecutor(folder)
    options = (
        DEFAULTS | ({} if parallel is None else {"array_parallelism": parallel}) | dict(parameters)
    )
    others = {
        name.replace("_", "-"): options.pop(name) for name in [*options] if name not in SUBMITITS
    }
    executor.update_parameters(**options, additional_parameters=others)
    try:
        with executor.batch():
            jobs = [
                executor.submit(train_job, run.name, str(run.out.absolute()), to_toml(run.config))
                for run in runs
            ]
    except FailedJobError as error:
        raise WorkError(f"SLURM takes no such jobs: {_last_line(str(error))}") from error
    return {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}


def _queue() -> dict[str, str]:
    """The state of each job of this user that SLURM remembers, by its number."""
    lines = _slurm(
        "squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T"
    ).splitlines()
    return dict(line.split()[:2] for line in lines if len(line.split()) >= 2)


def _slurm(*command: str) -> str:
    """What a command of SLURM prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no SLURM here: no {command[0]}; run the sweep where SLURM is, or with --cluster local"
        ) from error
    if done.returncode:
        raise WorkError(f"{' '.join(command[:2])} failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
