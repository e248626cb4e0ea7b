"""Records logged to W&B, offline, and read back from its own file format."""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import WorkError
from tests.training.test_tensorboard import SETTING, report
from training.config import TrainConfig
from training.evaluate import Evaluation
from training.records import Records
from training.speed import Speed
from training.wandb import ID, wandb_run


def write(folder: Path, after: int, steps: range) -> None:
    """A run's records of `steps`, with an evaluation at the last."""
    heard: list[str] = []
    sinks = [wandb_run("laws", TrainConfig())]
    with Records(folder, SETTING, after=after, writes=True, sinks=sinks, say=heard.append) as records:
        for step in steps:
            records.step(step, report(8.0 / step), 1e-3, Speed())
        records.evaluation(steps[-1], Evaluation(2.5, 100, None, others={"code": 3.0}))
    assert heard == []
    # W&B's own process may still be writing what it was told: it ends here.
    wandb: Any = importlib.import_module("wandb")
    wandb.teardown()


def messages(path: Path) -> Iterator[bytes]:
    """The messages of a .wandb file: LevelDB's log format in blocks of 32 KB, after a header of 7 bytes."""
    data, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        # A whole message, or the last part of one.
        if kind in (1, 4):
            yield message
            message = b""


def logged(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Id of each offline W&B run in `folder`, and what was logged."""
    internal: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: list[tuple[str, list[dict[str, Any]]]] = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        rows: list[dict[str, Any]] = []
        name = ""
        for data in messages(path):
            record: Any = internal.Record()
            record.ParseFromString(data)
            name = record.run.run_id or name
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                rows.append({key: value for key, value in items.items() if key == "_step" or not key.startswith("_")})
        found.append((name, rows))
    return found


@pytest.mark.extras
def test_a_continued_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(tmp_path, 0, range(1, 5))
    write(tmp_path, 3, range(4, 6))
    (one, first), (other, second) = logged(tmp_path)
    assert one == other == (tmp_path / ID).read_text().strip()
    # The loss of a step is in float32.
    assert [(row["_step"], row["train/loss"]) for row in first] == [(step, pytest.approx(8.0 / step, rel=1e-7)) for step in range(1, 5)]
    assert [row["_step"] for row in second] == [4, 5]
    assert (second[-1]["held_out/loss"], second[-1]["others/code"], second[-1]["layers/entropy/1"]) == (2.5, 3.0, 0.5)
    # Without its id the run begins anew, with all that there is.
    (tmp_path / ID).unlink()
    write(tmp_path, 2, range(3, 4))
    assert [row["_step"] for row in logged(tmp_path)[-1][1]] == [1, 2, 3]


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WorkError, match=r"not installed: uv sync --extra wandb$"):
        wandb_run("laws", TrainConfig())
