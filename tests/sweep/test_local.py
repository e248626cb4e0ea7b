"""Sweeps on this machine: runs that fail, processes that are killed, and the files at the end."""

import csv
import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli import main
from fit.runs import load_runs
from sweep.grid import read_grid
from sweep.local import train_locally
from sweep.run import Run
from sweep.sweep import sweep
from tests.checks import HANG_SECONDS, unchecked
from tests.sweep.tiny_sweeps import BAD, FAILING, GOOD, Sweeping, steps, wait_for, write_grid
from training.config import TrainConfig
from training.signals import Stop

pytestmark = pytest.mark.whole


@dataclass(frozen=True)
class Swept:
    """A sweep of two runs that end well and one that diverges, killed once and stopped once on the way."""

    out: Path
    grid: Path
    stopped: dict[str, Any]
    """The outcome of the sweep that was stopped."""
    outcome: dict[str, Any]
    """The outcome at the end."""
    printed: str
    """What the last sweep printed on standard error."""


def _gone(pids: list[int]) -> bool:
    """Whether none of these processes is left; a zombie counts as gone."""

    def _alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return not any(map(_alive, pids))


@pytest.fixture(scope="module")
def swept(programs: Path) -> Swept:
    """Sweeps again and again until all runs have ended."""
    grid, out, names = write_grid(programs / "grid.toml", programs, FAILING), programs / "sweep", GOOD
    logs = [out / "logs" / f"{name}.log" for name in names]

    # Killed, the sweep cannot stop its runs: they notice, write their checkpoints and end.
    killed = Sweeping(grid, out, programs, "--jobs", "2")
    wait_for(lambda: all(steps(out / name) > 5 for name in names), killed)
    pids = killed.workers()
    assert len(pids) == 2
    if len(cores := os.sched_getaffinity(0)) >= 2:
        one, other = (os.sched_getaffinity(pid) for pid in pids)
        assert (one & other, one | other) == (set(), cores)
    killed.process.kill()
    assert killed.finish() == -signal.SIGKILL

    # Started again at once, the sweep waits for them. Then one of its runs is killed, and the sweep stopped.
    stopped = Sweeping(grid, out, programs, "--jobs", "2")
    wait_for(lambda: _gone(pids), stopped)
    wait_for(lambda: all("continuing" in log.read_text() for log in logs), stopped)
    assert all("run stopped: after step" in log.read_text().partition("continuing")[0] for log in logs)
    first, second = stopped.workers()
    os.kill(first, signal.SIGKILL)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.finish() == 1
    assert _gone([first, second])

    last = Sweeping(grid, out, programs, "--jobs", "2")
    assert last.finish() == 1, last.stderr()
    return Swept(out, grid, json.loads(stopped.stdout()), json.loads(last.stdout()), last.stderr())


def test_a_stopped_sweep_stops_its_runs_with_checkpoints_and_names_the_one_that_was_killed(swept: Swept) -> None:
    by_state = {run["state"]: run for run in swept.stopped["runs"] if run["name"] in GOOD}
    assert by_state["failed"]["reason"] == "killed, perhaps because memory ran out"
    step = by_state["stopped"]["reason"].removeprefix("after step ")
    # The same step is where the last sweep went on.
    assert f"continuing after step {step}" in Path(by_state["stopped"]["log"]).read_text()
    assert {run["reason"] for run in swept.stopped["runs"] if run["name"] not in GOOD} == {"before its turn"}
    assert swept.stopped["merged"] == 0


def test_a_failing_run_stops_no_other_and_is_named_with_its_reason_and_log(swept: Swept) -> None:
    outcome = swept.outcome
    assert (outcome["done"], outcome["failed"], outcome["merged"]) == (2, 1, 2)
    assert {run["name"]: run["state"] for run in outcome["runs"]} == dict.fromkeys(GOOD, "done") | {BAD: "failed"}
    (failed,) = [run for run in outcome["runs"] if run["state"] == "failed"]
    assert "train with a lower learning rate" in failed["reason"]
    assert "\n" not in failed["reason"]
    assert failed["reason"] in Path(failed["log"]).read_text()
    assert f"{BAD} failed: {failed['reason']} ({failed['log']})" in swept.printed.splitlines()
    assert swept.printed.splitlines()[-1].startswith("error: 3 runs: 2 done, 1 failed")


def test_the_merged_curves_are_what_fit_reads_and_their_runs_are_numbered_by_the_grid(swept: Swept) -> None:
    runs = load_runs([str(swept.out / "curves.csv")])
    assert runs["hyper_id"].tolist() == [0, 1]
    assert runs["router_type"].tolist() == ["Dense", "Dense"]
    assert runs.loss.tolist() == [run["loss"] for run in swept.outcome["runs"] if run["state"] == "done"]
    # No row is missing or there twice, although the runs were interrupted.
    with (swept.out / "curves.csv").open() as file:
        assert [(row["hyper_id"], row["step"]) for row in csv.DictReader(file)] == [(h, s) for h in "01" for s in ("400", "800", "1200")]
    # As `fit` reads those of the runs.
    assert load_runs([str(swept.out / name / "curves.csv") for name in GOOD]).loss.tolist() == runs.loss.tolist()


def test_the_same_command_tries_failed_runs_again_and_leaves_others_alone(
    swept: Swept, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(programs / "home"))
    trained: list[str] = []

    def _train(runs: Sequence[Run], stop: Stop, on_end: Callable[[Run], None]) -> None:
        trained.extend(run.name for run in runs)

    ended = sweep(read_grid(swept.grid, swept.out), swept.out, _train, lambda line: None)
    assert trained == [BAD]
    assert [run._asdict() for run in ended] == swept.outcome["runs"]


def test_a_grid_with_other_options_for_the_same_folder_is_refused_before_anything_runs(
    swept: Swept, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = programs / "other.toml"
    other.write_text(swept.grid.read_text().replace("peak_learning_rate = 1e-2", "peak_learning_rate = 2e-2"))
    assert main(["sweep", str(other), "--out", str(swept.out), "--jobs", "1"]) == 2
    printed = capsys.readouterr().err
    assert "has a run with other options" in printed
    assert "optimizer.peak_learning_rate: 0.01 -> 0.02" in printed
    assert printed.count("\n") == 1


class _Started:
    """In place of the process of a run: keeps the environment it was started with, and has ended once all the others have started."""

    def __init__(
        self, environments: list[dict[str, str]], together: threading.Barrier, _: object, *, env: dict[str, str], **__: object
    ) -> None:
        environments.append(env)
        together.wait(HANG_SECONDS)

    def __enter__(self) -> "_Started":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left."""

    def poll(self) -> int:
        """Its exit code."""
        return 0


@pytest.mark.parametrize(
    ("visible", "jobs", "shares"),
    [("0,1,2,3", 2, ["0,2", "1,3"]), ("GPU-a,GPU-b,-1,2", 2, ["GPU-a", "GPU-b"]), ("0,1", 3, ["0", "0", "1"]), ("", 2, ["", ""])],
)
@unchecked()
def test_runs_that_are_trained_at_once_have_gpus_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, jobs: int, shares: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments: list[dict[str, str]] = []
    monkeypatch.setattr("sweep.local.subprocess.Popen", partial(_Started, environments, threading.Barrier(jobs)))
    runs = [Run(str(number), TrainConfig(), tmp_path) for number in range(jobs)]
    train_locally(runs, Stop(), lambda run: None, jobs=jobs)
    assert sorted(environment["CUDA_VISIBLE_DEVICES"] for environment in environments) == shares
