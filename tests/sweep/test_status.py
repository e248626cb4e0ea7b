"""What is read of runs that other processes train: how they ended, and the merged curves."""

import csv
import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from cli import main
from common.errors import WorkError
from sweep.grid import runs_of
from sweep.run import Run, Status, status
from sweep.sweep import merge
from tests.training.tiny_runs import write_corpus
from training.toml import to_toml

GRID = """
[grid]
size = "27K"
router = "hash"
experts = [2, 4, 8]

[run]
steps = 10

[data]
batch = 4

[model]
context = 16
"""


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Three runs, none begun."""
    return runs_of(GRID, "grid.toml", tmp_path)


def write_curves(run: Run, losses: dict[int, float], **more: str) -> None:
    """The options of a run, and curves of these losses by step, with columns besides."""
    run.folder.mkdir(exist_ok=True)
    (run.folder / "config.toml").write_text(to_toml(run.config))
    with (run.folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hyper_id", "step", "loss_validation", *more])
        writer.writerows([0, step, loss, *more.values()] for step, loss in losses.items())


@pytest.mark.parametrize(
    ("lines", "state", "reason"),
    [
        ("", "stopped", "before its turn"),
        ("run started:\n2026-01-01 tokens of corpus\n", "failed", "killed, perhaps because memory ran out"),
        ("run started:\nrun stopped: after step 7\n", "stopped", "after step 7"),
        ("run started:\nrun failed: the loss of step 2 is nan\nnoise\n", "failed", "the loss of step 2 is nan"),
        ("run started:\nrun failed: no\nrun started:\n", "failed", "killed, perhaps because memory ran out"),
    ],
)
def test_the_last_event_of_a_log_is_how_its_run_ended(
    runs: list[Run], lines: str, state: Literal["stopped", "failed"], reason: str
) -> None:
    run = runs[0]
    if lines:
        run.log.parent.mkdir()
        run.log.write_text(lines)
    assert status(run) == Status(run.name, state, None, reason, str(run.log))
    # A run that is done is done, whatever its log says.
    write_curves(run, {10: 2.5})
    (run.folder / "sample.txt").write_text("text")
    assert status(run) == Status(run.name, "done", 2.5, "", str(run.log))


def test_runs_that_are_done_are_merged_in_the_grids_order_and_extra_columns_are_kept(runs: list[Run], tmp_path: Path) -> None:
    write_curves(runs[2], {5: 2.5, 10: 2.0}, later="x")
    write_curves(runs[1], {5: 2.9})
    write_curves(runs[0], {5: 2.6, 10: 2.1})
    for run in (runs[0], runs[2]):
        (run.folder / "sample.txt").write_text("text")
    path = tmp_path / "curves.csv"
    assert merge(runs, path) == 2
    assert path.read_text().splitlines() == ["hyper_id,step,loss_validation,later", "0,5,2.6,", "0,10,2.1,", "2,5,2.5,x", "2,10,2.0,x"]
    assert merge(runs, path, unfinished=True) == 3
    assert "1,5,2.9," in path.read_text().splitlines()


def test_variants_have_their_name_in_a_column(runs: list[Run], tmp_path: Path) -> None:
    named = dataclasses.replace(runs[1], variant="short")
    write_curves(runs[0], {5: 2.6})
    write_curves(named, {5: 2.5})
    assert merge([runs[0], named], tmp_path / "curves.csv", unfinished=True) == 2
    assert (tmp_path / "curves.csv").read_text().splitlines() == ["hyper_id,step,loss_validation,variant", "0,5,2.6,", "1,5,2.5,short"]


def test_no_run_gives_no_rows_and_a_file_that_is_no_curves_is_refused(runs: list[Run], tmp_path: Path) -> None:
    assert merge(runs, tmp_path / "curves.csv", unfinished=True) == 0
    runs[0].folder.mkdir()
    (runs[0].folder / "curves.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(WorkError, match="no column hyper_id"):
        merge(runs, tmp_path / "curves.csv", unfinished=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--slurm", "partition=gpu"], "--slurm is for --cluster slurm"),
        (["--cluster", "slurm", "--slurm", "gpu"], "--slurm gpu: give an option of sbatch and its value"),
        (["--cluster", "slurm"], "there is no SLURM here: no squeue"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_runs(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    (tmp_path / "grid.toml").write_text(GRID.replace("batch = 4", f'batch = 4\ncorpus = "{tmp_path / "corpus"}"\nheld_out = 0.2'))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["sweep", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), *options]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*-seed0"))
