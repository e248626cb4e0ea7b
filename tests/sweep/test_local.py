"""Sweeps on this machine: runs that fail, processes that are killed, and what is left in the end."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fit.runs import load_runs
from sweep.local import cores_of
from tests.sweep.tiny_sweeps import FAILING, GOOD, LONG, Sweeping, steps, wait_for, write_grid

BAD = "60K-dense-seed1"


@pytest.fixture(scope="module")
def swept(programs: Path) -> tuple[Path, dict[str, Any], str]:
    """A sweep of three runs that end well and one that diverges: its folder, its outcome, and what it said."""
    grid = write_grid(programs / "failing.toml", programs, FAILING)
    sweeping = Sweeping(grid, programs / "failing", programs, "--jobs", "2")
    assert sweeping.finish() == 1, sweeping.stderr()
    return programs / "failing", json.loads(sweeping.stdout()), sweeping.stderr()


def test_a_failing_run_stops_no_other_and_is_named_with_its_reason_and_log(swept: tuple[Path, dict[str, Any], str]) -> None:
    _, outcome, said = swept
    assert (outcome["done"], outcome["failed"], outcome["merged"]) == (3, 1, 3)
    states = {run["name"]: run["state"] for run in outcome["runs"]}
    assert states == dict.fromkeys(GOOD, "done") | {BAD: "failed"}
    for run in outcome["runs"]:
        if run["state"] == "failed":
            assert "train with a lower learning rate" in run["reason"]
            assert "\n" not in run["reason"]
            assert run["reason"] in Path(run["log"]).read_text()
            assert f"{run['name']}  failed  step" in said
    assert said.splitlines()[-1].startswith("error: 4 runs: 3 done, 1 failed")


def test_the_merged_curves_are_what_fit_reads_and_their_runs_are_numbered_by_the_grid(swept: tuple[Path, dict[str, Any], str]) -> None:
    out, outcome, _ = swept
    runs = load_runs([str(out / "curves.csv")])
    assert runs["hyper_id"].tolist() == [0, 1, 2]
    assert runs["router_type"].tolist() == ["Dense", "Hash", "Dense"]
    assert runs.loss.tolist() == [run["loss"] for run in outcome["runs"] if run["state"] == "done"]
    with (out / "curves.csv").open() as file:
        assert [(row["hyper_id"], row["step"]) for row in csv.DictReader(file)] == [(h, s) for h in "012" for s in ("400", "800", "1200")]
    # As `fit` reads those of the runs.
    assert load_runs([str(out / name / "curves.csv") for name in GOOD]).loss.tolist() == runs.loss.tolist()


def test_the_same_command_tries_failed_runs_again_and_leaves_others_alone(swept: tuple[Path, dict[str, Any], str], programs: Path) -> None:
    out, *_ = swept
    before = {path: path.stat().st_mtime_ns for name in GOOD for path in (out / name).rglob("*")}
    logs = {name: len((out / "logs" / f"{name}.log").read_text()) for name in [*GOOD, BAD]}
    again = Sweeping(programs / "failing.toml", out, programs, "--jobs", "2")
    assert again.finish() == 1
    assert {path: path.stat().st_mtime_ns for name in GOOD for path in (out / name).rglob("*")} == before
    grown = {name for name, length in logs.items() if len((out / "logs" / f"{name}.log").read_text()) > length}
    assert grown == {BAD}
    assert json.loads(again.stdout())["failed"] == 1


def test_a_grid_with_other_options_for_the_same_folder_is_refused_before_anything_runs(
    swept: tuple[Path, dict[str, Any], str], programs: Path
) -> None:
    out, *_ = swept
    other = Sweeping(write_grid(programs / "other.toml", programs, FAILING, steps=1600), out, programs)
    assert other.finish() == 2
    assert "has a run with other options" in other.stderr()
    assert "run.steps: 1200 -> 1600" in other.stderr()
    assert other.stderr().count("\n") == 1


def _gone(pids: list[int]) -> bool:
    """Whether none of these processes is left; one that has ended and waits for its parent counts as gone."""

    def _alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return not any(map(_alive, pids))


def test_a_sweep_that_is_killed_and_stopped_ends_as_if_it_had_not_been(swept: tuple[Path, dict[str, Any], str], programs: Path) -> None:
    grid = write_grid(programs / "interrupted.toml", programs, LONG.replace('"dense"', '["dense", "hash"]') + "experts = 4\n")
    out, names = programs / "interrupted", GOOD[:2]
    logs = [out / "logs" / f"{name}.log" for name in names]

    # Killed, it can tell its runs nothing: they find out, write their checkpoints and end.
    killed = Sweeping(grid, out, programs, "--jobs", "2")
    wait_for(lambda: all(steps(out / name) > 5 for name in names), killed)
    pids = killed.workers()
    killed.process.kill()
    assert killed.finish() == -signal.SIGKILL

    # Begun again at once, it waits for them. Then one of its runs is killed, and itself asked to stop.
    stopped = Sweeping(grid, out, programs, "--jobs", "2")
    wait_for(lambda: _gone(pids), stopped)
    assert len(pids) == 2
    wait_for(lambda: all("continuing" in log.read_text() for log in logs), stopped)
    assert all("stopped after step" in log.read_text().partition("continuing")[0] for log in logs)
    first, second = stopped.workers()
    os.kill(first, signal.SIGKILL)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.finish() == 1
    assert _gone([first, second])
    outcome = json.loads(stopped.stdout())
    assert (outcome["failed"], outcome["stopped"], outcome["merged"]) == (1, 1, 0)
    (reason,) = [run["reason"] for run in outcome["runs"] if run["state"] == "failed"]
    assert reason == "killed by SIGKILL, perhaps because memory ran out"
    (run,) = [run for run in outcome["runs"] if run["state"] == "stopped"]
    assert (out / run["name"] / "checkpoints" / f"step_{run['step']}").is_dir()

    last = Sweeping(grid, out, programs, "--jobs", "2")
    assert last.finish() == 0, last.stderr()
    assert json.loads(last.stdout())["done"] == 2
    whole = (swept[0] / "curves.csv").read_text().splitlines()
    assert (out / "curves.csv").read_text().splitlines() == whole[: 1 + 2 * 3]


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_the_cores_are_shared_out_once_each(slots: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores_of(slot, slots) for slot in range(slots)]
    if slots > len(cores):
        assert shares == [[]] * slots
        return
    assert sorted(core for share in shares for core in share) == cores
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
