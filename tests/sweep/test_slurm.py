"""Sweeps and runs on a real SLURM of one node: arrays, failures, requeues, time limits, and several processes of one run.

CONTRIBUTING says what they need.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit.runs import load_runs
from tests.checks import HANG_SECONDS
from tests.sweep.slurm_node import SlurmNode
from tests.sweep.tiny_sweeps import BAD, FAILING, GOOD, LONG, ROOT, Sweeping, environment, steps, wait_for, write_grid

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[SlurmNode]:
    """SLURM, with nothing in its queue."""
    node = SlurmNode(tmp_path_factory.mktemp("slurm"))
    yield node
    node.close()


def start(grid: Path, out: Path, programs: Path, slurm: SlurmNode, *options: str) -> Sweeping:
    """A sweep whose runs are jobs."""
    return Sweeping(grid, out, programs, "--cluster", "slurm", *options, SLURM_CONF=slurm.environment["SLURM_CONF"])


def jobs(out: Path) -> dict[str, str]:
    """The job of each run."""
    return json.loads((out / "logs" / "slurm" / "submitted.json").read_text())


def log(out: Path, name: str) -> str:
    """What the jobs of a run printed, start after start."""
    path = out / "logs" / f"{name}.log"
    return path.read_text() if path.exists() else ""


def shown(slurm: SlurmNode, job: str, field: str) -> str:
    """What SLURM says of a job."""
    (value, *_) = re.findall(rf"\b{field}=(\S+)", slurm.ask("scontrol", "show", "job", job))
    return value


def test_a_sweep_is_a_job_array_in_which_a_failing_job_stops_no_other(programs: Path, slurm: SlurmNode) -> None:
    out = programs / "array"
    sweeping = start(write_grid(programs / "array.toml", programs, FAILING), out, programs, slurm, "--jobs", "2")
    assert sweeping.finish() == 1, sweeping.stderr()
    outcome = json.loads(sweeping.stdout())
    assert (outcome["done"], outcome["failed"], outcome["merged"]) == (2, 1, 2)
    (failed,) = [run for run in outcome["runs"] if run["state"] == "failed"]
    assert failed["name"] == BAD
    assert "train with a lower learning rate" in failed["reason"]
    assert failed["reason"] in Path(failed["log"]).read_text()
    submitted = jobs(out)
    arrays, indices = zip(*(job.split("_") for job in submitted.values()), strict=True)
    assert len(set(arrays)) == 1
    assert sorted(indices) == ["0", "1", "2"]
    assert "#SBATCH --array=0-2%2" in (out / "logs" / "slurm" / f"{arrays[0]}_submission.sh").read_text()
    states = {name: shown(slurm, job, "JobState") for name, job in submitted.items()}
    assert states == dict.fromkeys(GOOD, "COMPLETED") | {BAD: "FAILED"}
    assert load_runs([str(out / "curves.csv")])["hyper_id"].tolist() == [0, 1]


def test_a_requeued_job_goes_on_and_a_sweep_that_was_killed_finds_its_jobs_again(programs: Path, slurm: SlurmNode) -> None:
    out, name = programs / "requeued", "27K-dense-seed0"
    grid = write_grid(programs / "requeued.toml", programs, LONG, steps=6000)
    sweeping = start(grid, out, programs, slurm)
    wait_for(lambda: steps(out / name) > 150, sweeping)
    (job,) = jobs(out).values()
    sweeping.process.kill()
    assert sweeping.finish() == -signal.SIGKILL
    assert shown(slurm, job, "JobState") == "RUNNING"
    slurm.ask("scontrol", "requeue", job)
    again = start(grid, out, programs, slurm)
    assert again.finish() == 0, again.stderr()
    assert list(jobs(out).values()) == [job]
    assert shown(slurm, job, "Restarts") == "1"
    # SIGTERM before it is requeued, a checkpoint after whatever step it was at, and on from there.
    (stopped,) = re.findall(r"run stopped: after step (\d+)", log(out, name))
    assert f"continuing after step {stopped}" in log(out, name)
    assert json.loads(again.stdout())["done"] == 1


def test_a_job_whose_time_is_up_queues_itself_again_and_one_that_is_stopped_is_continued(programs: Path, slurm: SlurmNode) -> None:
    out, name = programs / "timed", "27K-dense-seed0"
    grid = write_grid(programs / "timed.toml", programs, LONG, steps=6000, every=100)
    sweeping = start(grid, out, programs, slurm)
    wait_for(lambda: steps(out / name) > 150, sweeping)
    (job,) = jobs(out).values()
    # What SLURM sends 90 seconds before the time limit.
    slurm.ask("scancel", "--signal=USR2", job)
    wait_for(lambda: "continuing after step" in log(out, name), sweeping)
    assert shown(slurm, job, "Restarts") == "1"
    before = steps(out / name)
    wait_for(lambda: steps(out / name) > before + 100, sweeping)
    sweeping.process.send_signal(signal.SIGTERM)
    assert sweeping.finish() == 1
    (run,) = json.loads(sweeping.stdout())["runs"]
    assert run["state"] == "stopped", run
    step = run["reason"].removeprefix("after step ")
    assert (out / name / "checkpoints" / f"step_{step}").is_dir()
    again = start(grid, out, programs, slurm)
    assert again.finish() == 0, again.stderr()
    assert json.loads(again.stdout())["done"] == 1
    assert f"continuing after step {step}" in log(out, name)


def losses(folder: Path) -> list[float]:
    """By step, of training and of evaluations."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record.get("evaluation", record)["loss"] for record in records]


def test_two_processes_that_slurm_starts_find_each_other_and_have_the_losses_of_one(programs: Path, slurm: SlurmNode) -> None:
    options = ["--corpus", str(programs / "corpus"), "--size", "27K", "--router", "s-base", "--experts", "4"]
    options += ["--context", "16", "--batch", "4", "--steps", "12", "--json"]
    for tasks in (1, 2):
        command = ["srun", f"--ntasks={tasks}", sys.executable, "cli.py", "train", *options]
        command += ["--mesh", f"data={tasks}", "--out", str(programs / f"tasks-{tasks}")]
        variables = environment(programs) | {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        # Each of them tells how the run ended, both the same.
        assert done.stdout.count('"step": 12') == tasks
    # As in `test_distributed`: sums in another order, and room for a token that goes to another expert because two scores all but tie. A
    # process of its own, on its own half of the batch, would be off by more than 1e-1.
    one, two = losses(programs / "tasks-1"), losses(programs / "tasks-2")
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert len(one) == 13
