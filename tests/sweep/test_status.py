"""What is read of runs that others train: progress, the table, and the merged curves."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import main
from common.errors import WorkError
from sweep.grid import runs_of
from sweep.merge import merge
from sweep.run import Note, Run, State, Status, read_note, status, write_note
from sweep.table import changes, counts, duration, table
from tests.training.tiny_runs import write_corpus
from training.config import TrainConfig

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
    """Curves of these losses by step, and columns besides."""
    run.folder.mkdir(exist_ok=True)
    with (run.folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hyper_id", "step", "loss_validation", *more])
        writer.writerows([0, step, loss, *more.values()] for step, loss in losses.items())


def test_progress_is_read_from_the_metrics_whatever_is_cut_off(runs: list[Run], tmp_path: Path) -> None:
    run, log = runs[0], tmp_path / "log"
    assert status(run, "running", log) == Status(run.name, "running", 0, 10, None, None, "", str(log))
    # Long lines, so that the part that is read begins in the middle of one.
    long = {"layers": {"load": [0.25] * 8000}}
    records: list[dict[str, Any]] = [
        {"step": n, "loss": 3.0 - n / 10, "tokens_per_second": 32.0 if n > 1 else None, **long} for n in (1, 2, 3)
    ]
    run.folder.mkdir()
    text = "".join(json.dumps(record) + "\n" for record in [*records, {"step": 3, "evaluation": {"loss": 9.0}}])
    (run.folder / "metrics.jsonl").write_text(text + '{"step": 4, "lo')
    found = status(run, "running", log)
    assert (found.step, found.loss) == (3, 2.7)
    # Seven steps of 4 x 16 tokens, at 32 tokens per second.
    assert found.seconds_left == pytest.approx(14.0)
    assert status(run, "stopped", log).seconds_left is None


def test_a_note_is_read_as_it_was_written(runs: list[Run]) -> None:
    assert read_note(runs[0]) is None
    write_note(runs[0], Note("failed", "no"))
    assert read_note(runs[0]) == Note("failed", "no")


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


def some(name: str, state: State, reason: str = "") -> Status:
    """A status."""
    return Status(name, state, 3, 10, 2.5, 61.0 if state == "running" else None, reason, "logs/x.log")


def test_the_table_shows_the_most_urgent_and_says_how_many_more_there_are() -> None:
    statuses = [*(some(f"done-{n}", "done") for n in range(30)), some("now", "running"), some("bad", "failed", "it [is] broken")]
    console = Console(width=120, markup=False, record=True, file=io.StringIO())
    console.print(table(statuses, 3))
    text = console.export_text()
    assert "32 runs: 1 running, 30 done, 1 failed" in text
    assert "3/10  2.5000  1 min" in text
    assert "it [is] broken (logs/x.log)" in text
    assert "... and 29 more" in text
    assert text.count("done-") == 1


def test_only_what_changes_is_a_line() -> None:
    before = [some("a", "running"), some("b", "waiting")]
    assert changes([], before) == ["a  running  step 3 of 10  loss 2.5000  1 min left"]
    now = [some("a", "done"), some("b", "failed", "no")]
    assert changes(before, now) == ["a  done  step 3 of 10  held-out loss 2.5000", "b  failed  step 3 of 10  loss 2.5000  no (logs/x.log)"]
    assert changes(now, now) == []
    assert counts(now) == "2 runs: 1 done, 1 failed"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.0, "59 s"), (600.0, "10 min"), (3599.0, "1 h 00 min"), (11100.0, "3 h 05 min")]
)
def test_durations_read_as_one_says_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_larger_model_and_a_longer_run_cost_more(tmp_path: Path) -> None:
    text = "[grid]\nsize = ['27K', '60K']\nrouter = 'dense'\n[run]\nsteps = {}\n"
    small, large = (run.cost() for run in runs_of(text.format(10), "grid.toml", tmp_path))
    assert small < large
    assert [run.cost() for run in runs_of(text.format(20), "grid.toml", tmp_path)] == [2 * small, 2 * large]
    assert TrainConfig().run.steps != 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jobs", "0"], "--jobs 0: at least 1"),
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
