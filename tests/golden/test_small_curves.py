"""The embedded small runs: those that the committed grid asks for, finished, with exact counts."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fit.runs import load_runs
from golden import small_curves, small_dense, small_standing, small_tokens, small_variants
from reference.count import dense_parameter_count, flops_per_step, total_parameter_count
from sweep.grid import read_grid
from training.curves import ROUTER_TYPES
from training.text.tokenizer import ByteTokenizer

HERE = Path(__file__).parents[2] / "golden"
DOCS = HERE.parent / "docs"


@pytest.mark.parametrize(
    ("grid", "curves"),
    [("grid.toml", small_curves()), ("variants.toml", small_variants()), ("dense.toml", small_dense()), ("tokens.toml", small_tokens())],
)
def test_the_runs_are_the_grids_trained_to_the_end_and_counted_exactly(grid: str, curves: Path) -> None:
    asked = read_grid(HERE / grid, Path("out"))
    with curves.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    last = {int(row["hyper_id"]): row for row in rows}
    assert sorted(last) == list(range(len(asked)))
    for number, run in enumerate(asked):
        config, row = run.config, last[number]
        model = config.model_config(ByteTokenizer().vocabulary)
        assert int(row["step"]) == config.run.steps
        assert row["router_type"] == ROUTER_TYPES[config.model.router]
        assert row.get("variant", "") == run.variant
        assert (row["model_size_label"], int(row["seed"])) == (config.model.size, config.run.seed)
        assert int(row["num_experts"]) == (config.model.experts if config.model.router != "dense" else 1)
        assert float(row["dense_parameter_count"]) == dense_parameter_count(model)
        assert float(row["total_parameter_count"]) == total_parameter_count(model)
        assert float(row["flops_per_step"]) == flops_per_step(model, config.data.batch)


def test_the_grid_is_as_wide_as_a_law_needs() -> None:
    runs = load_runs(small_curves(), target="loss_test")
    sizes = set(runs["dense_parameter_count"].tolist())
    assert len(runs.loss) >= 80
    assert len(sizes) >= 5
    assert max(sizes) / min(sizes) >= 30
    assert set(runs["num_experts"].tolist()) == {1, 2, 4, 8, 16, 64}
    for target in ("loss_validation", "loss_test", "loss_bible", "loss_code"):
        # Below uniform over 257 ids, on code too.
        assert 1 < runs.columns[target].min() < runs.columns[target].max() < math.log(257)


def test_the_page_is_of_these_runs() -> None:
    page = (DOCS / "small_runs.md").read_text(encoding="utf-8")
    assert f"- {len(load_runs(small_curves()).loss)} models of" in page
    for name in re.findall(r"\]\((figures/[^)]*)\)", page):
        assert (DOCS / name).read_text(encoding="utf-8").startswith("<?xml")


def test_runs_of_changed_choices_are_compared_with_the_grids_own() -> None:
    runs = load_runs(small_curves(), target="loss_test")
    labels = {router.lower(): router for router in ("S-Base", "Hash", "RL-R")}
    found = json.loads(small_standing().read_text(encoding="utf-8"))["runs"]
    assert {one["change"] for one in found} == {"standing", "drifting"}
    for one in found:
        same = (runs["router_type"] == labels[one["router"]]) & (runs["model_size_label"] == one["size"])
        same &= (runs["num_experts"] == one["experts"]) & (runs["seed"] == one["seed"])
        # The same model, text and numbers; only batches are added up in another program.
        assert runs.loss[same].tolist() == pytest.approx([one["loss_test"]], rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("release")
def test_the_committed_command_writes_the_committed_page(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.small_runs", "--out", str(tmp_path)], cwd=DOCS.parent, capture_output=True, check=True
    )
    assert (tmp_path / "small_runs.md").read_text(encoding="utf-8") == (DOCS / "small_runs.md").read_text(encoding="utf-8")
