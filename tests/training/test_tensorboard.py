"""Events for TensorBoard, read back by its own reader."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cli import main
from common.errors import WorkError
from reference.config import ModelConfig, RouterConfig
from reference.objective import Report
from training.evaluate import Evaluation
from training.records import Records, Setting
from training.speed import Speed
from training.tensorboard import FOLDER, convert, event_file, require_tensorboard, scalars

SETTING = Setting(ModelConfig(router=RouterConfig(num_experts=4)), "s-base", "15M", 4, 0, "sotu", "bytes")


def report(loss: float) -> Report:
    """Of a step with two routed layers."""
    layers: dict[str, Array] = dict.fromkeys(("entropy", "load_max_over_mean", "dropped_fraction"), jnp.array([0.25, 0.5]))
    return Report(jnp.float32(loss), {"balance": jnp.float32(0.125)}, layers, None, jnp.float32(2.0))


def write(folder: Path, after: int, steps: range) -> None:
    """A run's records of `steps`, with an evaluation after each second one."""
    with Records(folder, SETTING, after=after, writes=True, sinks=[event_file()]) as records:
        for step in steps:
            records.step(step, report(8.0 / step), 1e-3, Speed(None if step == steps[0] else 1024.0))
            if step % 2 == 0:
                records.evaluation(step, Evaluation(4.0 / step, 100, np.array([[0.25] * 4, [0.5, 0.5, 0.0, 0.0]])))


def read(folder: Path) -> EventAccumulator:
    """What the reader finds."""
    found = EventAccumulator(str(folder / FOLDER), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def series(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    """Steps and values."""
    return [(event.step, event.value) for event in found.Scalars(tag)]


def every_series(found: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    """Of all scalars, by tag."""
    tags: Any = found.Tags()["scalars"]
    return {tag: series(found, tag) for tag in tags}


def test_steps_layers_and_evaluations_are_read_back(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 5))
    found = read(tmp_path)
    assert series(found, "train/loss") == [(1, 8.0), (2, 4.0), (3, pytest.approx(8 / 3)), (4, 2.0)]
    # The first step, which is compiled, has no speed.
    assert series(found, "train/tokens_per_second") == [(2, 1024.0), (3, 1024.0), (4, 1024.0)]
    assert series(found, "layers/entropy/1") == [(step, 0.5) for step in range(1, 5)]
    assert series(found, "router_losses/balance")[0] == (1, 0.125)
    assert series(found, "held_out/loss") == [(2, 2.0), (4, 1.0)]
    images = found.Images("held_out/load")
    assert [(image.step, image.height, image.width) for image in images] == [(2, 16, 32), (4, 16, 32)]
    assert images[0].encoded_image_string.startswith(b"\x89PNG")


def test_a_run_that_is_taken_up_has_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    # A kill in the middle of a line and of an event, both after the checkpoint of step 3.
    for name in ("metrics.jsonl", f"{FOLDER}/events.out.tfevents.000001.routelaw"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-7])
    write(tmp_path, 3, range(4, 7))
    found = read(tmp_path)
    assert [step for step, _ in series(found, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in series(found, "held_out/loss")] == [2, 4, 6]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["events.out.tfevents.000002.routelaw"]


def test_converting_a_run_that_is_done_gives_what_was_written_along_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, range(1, 5))
    along = every_series(read(tmp_path))
    path = tmp_path / FOLDER
    for each in path.iterdir():
        each.unlink()
    assert main(["show", str(tmp_path), "--tensorboard"]) == 0
    assert "TensorBoard: " in capsys.readouterr().out
    assert every_series(read(tmp_path)) == along
    # The same records and time are the same bytes.
    records: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    one, other = (convert(records, tmp_path / name, 1.0).read_bytes() for name in ("one", "other"))
    assert one == other


def test_a_dense_models_step_has_no_layers() -> None:
    record = {"step": 1, "loss": 2.0, "router_losses": {}, "learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": None}
    assert scalars({**record, "metrics": {}, "layers": {}}) == {"train/loss": 2.0, "train/learning_rate": 0.1, "train/gradient_norm": 1.0}


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkError, match=r"not installed: uv sync --extra tensorboard$"):
        require_tensorboard()
