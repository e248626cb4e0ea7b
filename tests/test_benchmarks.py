"""The benchmarks run: at their smallest, since what they measure is not for a test to judge."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def _run(name: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.usefixtures("release")
def test_coverage_is_measured_and_continued(tmp_path: Path) -> None:
    options = ("--law", "dense", "--draws", "40", "--processes", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "coverage.json"))
    _run("coverage", *options, "--reps", "2")
    first = (tmp_path / "dense-independent.jsonl").read_text()
    _run("coverage", *options, "--reps", "3")
    assert (tmp_path / "dense-independent.jsonl").read_text().startswith(first)
    found = json.loads((tmp_path / "coverage.json").read_text())
    assert found["reps"] == 3


def test_routed_layers_are_timed_beside_the_dense_one(tmp_path: Path) -> None:
    figures = tmp_path / "layer.json"
    sizes = ("--tokens", "32", "--d-model", "16", "--experts", "4", "--groups", "2", "--capacity-factor", "1.0")
    _run("routed_layer", *sizes, "--rounds", "1", "--sinkhorn-experts", "4", "--json", str(figures))
    found = json.loads(figures.read_text())
    (layer,) = found["layers"]
    routers = ("s-base", "hash", "rl-r", "switch")
    assert set(layer["milliseconds"]) == {"dense", "experts alone", *routers, *(f"{router} alone" for router in routers)}
    assert set(found["sinkhorn"]["4"]) == {"layer", "router", "sinkhorn", "dense"}


def test_training_steps_are_timed_without_a_peer(tmp_path: Path) -> None:
    figures = tmp_path / "step.json"
    sizes = ("--d-model", "16", "--layers", "2", "--heads", "2", "--context", "8", "--batch", "2", "--vocabulary", "32")
    _run("train_step", *sizes, "--rounds", "2", "--steps", "1", "--json", str(figures))
    found = json.loads(figures.read_text())
    assert found["tokens"] == 16
    assert [{side: len(taken) for side, taken in turn.items()} for turn in found["32"]["seconds"]] == [{"scan": 1, "unrolled": 1}] * 2


def test_mutual_information_is_counted_and_shuffling_keeps_what_each_class_has() -> None:
    from benchmarks.small_choices import conditional, entropy, mutual, shuffled_within

    token = np.repeat([0, 1, 2, 3], 100)
    expert = token // 2
    assert entropy(token) == pytest.approx(2)
    # Half of the token's two bits; nothing of a third that goes through its values evenly.
    assert mutual(expert, token) == pytest.approx(1)
    following = np.tile([0, 1], 200)
    assert mutual(expert, following) == pytest.approx(0, abs=1e-12)
    # Where the token is known, a table says nothing more; the next token itself says all.
    assert conditional(expert, following, token) == pytest.approx(0, abs=1e-12)
    assert conditional(following, following, token) == pytest.approx(1)
    shuffled = shuffled_within(following, token)
    assert not np.array_equal(shuffled, following)
    for value in range(4):
        assert sorted(shuffled[token == value]) == sorted(following[token == value])
