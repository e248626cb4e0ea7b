"""The benchmarks run: at their smallest, since what they measure is not for a test to judge."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Int

from benchmarks import accelerator
from benchmarks.coverage_truth import Design, make_truth
from benchmarks.device.parts import Item, Part, Result, run_part
from benchmarks.torch_peer import exception_in
from fit.laws import TOKENS
from fit.runs import load_runs
from reference.routers import ROUTERS, HashRouter, Routing
from tests.checks import HANG_SECONDS

ROOT = Path(__file__).parents[1]


def _run(name: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.usefixtures("release")
def test_coverage_is_measured_and_continued(tmp_path: Path) -> None:
    options = ("--law", "dense", "--draws", "40", "--processes", "1", "--folder", str(tmp_path), "--json", str(tmp_path / "coverage.json"))
    _run("coverage", *options, "--reps", "2")
    first = (tmp_path / "dense-release-independent.jsonl").read_text()
    _run("coverage", *options, "--reps", "3")
    assert (tmp_path / "dense-release-independent.jsonl").read_text().startswith(first)
    found = json.loads((tmp_path / "coverage.json").read_text())
    assert found["reps"] == 3


def test_a_page_of_coverage_keeps_the_sections_that_were_not_run_again(tmp_path: Path) -> None:
    page = tmp_path / "coverage.md"
    row = "| | default | pairs |\n|---|---|---|\n| a | 95.0 ±1.0 | **91.0 ±1.3** |\n| b | **98.0 ±0.6** |  |"
    page.write_text(f"# Old words\n\n## zipf, clustered noise\n\n7 repetitions.\n\n{row}\n\n## tokens, weak design, uneven noise\n\nold\n")
    options = ("--law", "tokens", "--design", "weak", "--noise", "uneven", "--schemes", "residuals", "--folder", str(tmp_path / "runs"))
    _run("coverage", *options, "--reps", "2", "--draws", "40", "--processes", "1", "--markdown", str(page))
    head, *sections = page.read_text().split("\n## ")
    assert [section.partition("\n")[0] for section in sections] == ["tokens, weak design, uneven noise", "zipf, clustered noise"]
    assert sections[1] == f"zipf, clustered noise\n\n7 repetitions.\n\n{row}\n"
    assert "2 repetitions of 40 draws" in sections[0]
    assert "clustered noise: default 1 of 2, pairs 0 of 1" in head
    assert "Old words" not in head


@pytest.mark.parametrize("design", ["dense", "weak"])
def test_uneven_noise_is_five_times_as_large_at_the_smallest_size(design: Design) -> None:
    truth = make_truth(TOKENS, design, "", Path())
    generator = np.random.default_rng(0)
    runs, points = (np.stack(rows) for rows in zip(*(truth.noise(generator, "uneven") for _ in range(4000)), strict=True))
    sd, n = runs.std(axis=0), truth.data["dense_parameter_count"]
    # Four standard deviations of an SD from 4,000 draws of four or five runs.
    sampling = 4 / (2 * 4000 * 4) ** 0.5
    rms = [float(np.sqrt(np.mean(sd[n == end] ** 2))) for end in (n.min(), n.max())]
    assert rms[0] / rms[1] == pytest.approx(5, rel=2 * sampling)
    assert np.sqrt(np.mean(sd**2)) == pytest.approx(truth.noise_sd, rel=sampling)
    # Beyond the runs' sizes it is that of their end.
    inside, edge, beyond, below = points.std(axis=0)
    assert beyond == pytest.approx(edge, rel=4 * sampling)
    assert below == pytest.approx(rms[0], rel=4 * sampling)
    assert edge < inside < below


def test_routed_layers_are_timed_beside_the_dense_one(tmp_path: Path) -> None:
    figures = tmp_path / "layer.json"
    sizes = ("--tokens", "32", "--d-model", "16", "--experts", "4", "--groups", "2", "--capacity-factor", "1.0")
    _run("routed_layer", *sizes, "--rounds", "1", "--sinkhorn-experts", "4", "--json", str(figures))
    found = json.loads(figures.read_text())
    (layer,) = found["layers"]
    routers = tuple(ROUTERS)
    assert set(layer["milliseconds"]) == {"dense", "experts alone", *routers, *(f"{router} alone" for router in routers)}
    assert set(found["sinkhorn"]["4"]) == {"layer", "router", "sinkhorn", "dense"}


def test_sampling_is_timed_beside_full_passes(tmp_path: Path) -> None:
    figures = tmp_path / "sampling.json"
    sizes = ("--size", "7K", "--context", "8", "--tokens", "3", "--texts", "2", "--times", "1", "--router", "dense")
    _run("sampling", *sizes, "--json", str(figures))
    found = json.loads(figures.read_text())
    assert {way: len(taken) for way, taken in found["seconds"]["dense"].items()} == {"full passes": 1, "cached": 1, "together": 1}


def test_training_steps_are_timed_without_a_peer(tmp_path: Path) -> None:
    figures = tmp_path / "step.json"
    _run(
        "train_step",
        "--sizes",
        "7K",
        "--experts",
        "8",
        "--context",
        "8",
        "--batch",
        "2",
        "--vocabulary",
        "32",
        "--quick",
        "--json",
        str(figures),
    )
    found = json.loads(figures.read_text())
    assert found["tokens"] == 16
    assert [{side: len(taken) for side, taken in turn.items()} for turn in found["7K, E = 8"]["seconds"]] == [{"JAX": 2}] * 5


def _in_this_process(part: Part, *_: object) -> Result:
    """`run_part` without processes, which would each start JAX."""
    return Result(part, 0.0, [import_module(part.module).measure(item) for item in part.items])


def test_the_check_of_an_accelerator_runs_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = tmp_path / "accelerator.json"
    monkeypatch.setattr(accelerator, "run_part", _in_this_process)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    accelerator.main(accelerator.Options(toy=True, parts=("attention", "steps", "peer"), json=figures))
    parts = json.loads(figures.read_text())["parts"]
    assert list(parts) == ["machine", "attention", "steps", "peer"]
    ((attention,), (step,)) = (parts[name]["items"] for name in ("attention", "steps"))
    # The kernel's errors are within the bound of its own tests, and those of the plain form are not its.
    errors = {form: max(of.values()) for form, of in attention["errors_over_bound"].items()}
    assert 0 < errors["kernel"] < 1
    assert attention["errors_over_bound"]["kernel"] != attention["errors_over_bound"]["plain"]
    assert step["tokens_per_second"] * step["step_seconds"] == pytest.approx(2 * 32)
    assert step["reported_bytes"] > 0


def test_without_an_accelerator_the_check_refuses_in_three_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accelerator, "run_part", _in_this_process)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as refused:
        accelerator.main(accelerator.Options())
    assert str(refused.value).splitlines() == [
        "error: JAX sees no accelerator here",
        "install its driver, and JAX for it: uv sync --extra cuda",
        "or try everything at toy size: python -m benchmarks.accelerator --toy",
    ]
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_the_check_of_an_accelerator_stops_a_run_and_continues_it(tmp_path: Path) -> None:
    figures = tmp_path / "accelerator.json"
    _run("accelerator", "--toy", "--parts", "run", "--json", str(figures))
    (run,) = json.loads(figures.read_text())["parts"]["run"]["items"]
    assert 0 < run["stopped_at"] < run["steps"] == 60
    assert run["losses"] == [run["held_out"]]


def test_what_fails_or_hangs_is_named_and_what_is_left_when_time_is_up_is_not_tried() -> None:
    items = [{"name": name} for name in ("raises", "hangs", "is measured")]
    part = Part("tests.faulty_part", "", items, ("", "value"), lambda item, found: [item["name"], str(found["value"])])
    shown: list[str] = []

    def _limit(item: Item, left: float) -> float:
        return 0.1 if item["name"] == "hangs" else left

    result = run_part(part, time.monotonic() + HANG_SECONDS, lambda item, _: shown.append(item["name"]), _limit)
    assert shown == ["raises", "hangs", "is measured"]
    assert result.rows() == [
        ["raises (failed: ValueError: no such kernel (exit code 1))", ""],
        ["hangs (failed: not done within 0.1 s)", ""],
        ["is measured", "1"],
    ]
    late = run_part(part, time.monotonic(), lambda item, found: None)
    assert late.found == [{"skipped": "no time left"}] * 3


def test_an_exception_is_found_among_the_hints_that_pytorch_prints_after_it() -> None:
    errors = "Traceback:\n  File a, line 1\ntorch.dynamo.exc.RunError: no fake tensor\n  Explanation: not BF16\n\nSet TORCH_LOGS\n"
    assert exception_in(errors) == "torch.dynamo.exc.RunError: no fake tensor Explanation: not BF16"
    assert exception_in("Killed\n") == "Killed"
    assert exception_in("") == "no message"


def test_mutual_information_is_counted_and_shuffling_keeps_what_each_class_has() -> None:
    from benchmarks.small_runs.choices import conditional, entropy, mutual, shuffled_within

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


def test_redrawing_a_table_in_parts_changes_the_fraction_that_is_asked_for() -> None:
    from benchmarks.small_runs.standing import changes_seen, redrawn

    generator, experts, parts = np.random.default_rng(0), 4, 10
    table = first = generator.integers(experts, size=100_000)
    for _ in range(parts):
        drawn = generator.random(len(table)) < redrawn(0.4, experts, parts)
        table = np.where(drawn, generator.integers(experts, size=len(table)), table)
    # Four standard deviations of 100,000 draws; few experts, so that many of the redrawn come back to what they were.
    assert np.mean(table != first) == pytest.approx(0.4, abs=4 * (0.4 * 0.6 / 100_000) ** 0.5)
    # What it is to follow: S-BASE's choices settle.
    steps, changed = zip(*changes_seen(), strict=True)
    assert list(steps) == sorted(steps)
    assert changed[0] > 5 * changed[-1] > 0


def test_a_taught_router_sends_every_token_where_its_teacher_does() -> None:
    from benchmarks.small_runs.standing import TaughtRouter

    table = jnp.array([[2], [0], [1], [2]])
    teacher = HashRouter(table, 3)
    tokens = jnp.array([[0, 1, 2, 3], [3, 3, 1, 0]])

    def _teach(tokens: Int[Array, "batch context"]) -> Routing:
        # As a model returns it: with axes for layers and groups.
        routed = [teacher(jnp.ones((4, 5)), row, key=None, inference=True) for row in tokens]
        return jax.tree.map(lambda *arrays: jnp.stack(arrays)[None], *routed)

    flat = tokens.reshape(-1)
    routing = TaughtRouter(_teach, context=4, num_experts=3)(jnp.ones((8, 5)), flat, key=None, inference=False)
    assert routing.experts.tolist() == table[flat].tolist()
    assert routing.gates.tolist() == [[1.0]] * 8
    assert routing.load.tolist() == pytest.approx([2 / 8, 1 / 8, 5 / 8])


@pytest.mark.slow
def test_runs_are_trained_again_with_choices_that_stand_and_that_drift(tmp_path: Path) -> None:
    grid, runs, out = tmp_path / "grid.toml", tmp_path / "runs", tmp_path / "standing.json"
    lists = 'size = ["7K"]\nrouter = ["s-base", "hash"]\nexperts = [4]\nseed = [0]\n'
    options = "[model]\ncontext = 32\ncapacity_factor = 0.0\nsequences_per_group = 4\n[data]\nbatch = 4\ntest = 0.05\n"
    grid.write_text(f"[[grid]]\n{lists}{options}[run]\nsteps = 60\nevaluate_every = 60\nevaluation_tokens = 2048\n")
    subprocess.run([sys.executable, "cli.py", "sweep", str(grid), "--out", str(runs)], cwd=ROOT, capture_output=True, check=True)
    models = ("--learned", "7K-s-base-e4", "--fixed", "7K-hash-e4", "--seeds", "0")
    _run("small_runs.standing", str(runs), *models, "--out", str(out))
    stands, drifts = json.loads(out.read_text())["runs"]
    assert [(one["router"], one["change"]) for one in (stands, drifts)] == [("s-base", "standing"), ("hash", "drifting")]
    for one in (stands, drifts):
        (own,) = load_runs(runs / f"7K-{one['router']}-e4-seed0" / "curves.csv", target="loss_test").loss
        # The same model on the same text, summed by another program: float32 rounding.
        assert one["loss_test"] == pytest.approx(own, rel=1e-5)
        # Trained from the same start on the same text, so near, and not the same.
        assert one["loss_test"] != one["changed"] == pytest.approx(own, rel=0.1)
