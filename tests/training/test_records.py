"""A run's records go to any sink that takes them."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_tensorboard import SETTING, report
from tests.training.tiny_runs import ROOT
from training.evaluate import Evaluation
from training.records import Records
from training.sinks import Sink
from training.speed import Speed


class Dashboard:
    """What a sink for a hosted dashboard does: logs plain numbers by step, and goes on from a run's records so far."""

    def __init__(self, before: list[dict[str, Any]]) -> None:
        self.begun_with = [record["step"] for record in before]
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def append(self, record: dict[str, Any]) -> None:
        """Log it."""
        assert not self.closed
        numbers = {name: value for name, value in record.get("evaluation", record).items() if isinstance(value, float)}
        self.logged.append((record["step"], numbers))

    def close(self) -> None:
        """No more."""
        self.closed += 1


def write(folder: Path, after: int, steps: range, *, writes: bool = True) -> list[Dashboard]:
    """The sinks of a process that records `steps` and an evaluation."""
    sinks: list[Dashboard] = []

    def _make(folder: Path, before: list[dict[str, Any]]) -> Sink:
        sinks.append(Dashboard(before))
        return sinks[-1]

    with Records(folder, SETTING, after=after, writes=writes, sinks=[_make, _make]) as records:
        for step in steps:
            records.step(step, report(8.0 / step), 1e-3, Speed())
        records.evaluation(steps[-1], Evaluation(2.5, 100, None))
    return sinks


def test_every_sink_is_given_every_record_and_closed_once(tmp_path: Path) -> None:
    sinks = write(tmp_path, 0, range(1, 4))
    assert len(sinks) == 2
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for sink in sinks:
        assert sink.closed == 1
        assert [step for step, _ in sink.logged] == [record["step"] for record in lines] == [1, 2, 3, 3]
        assert sink.logged[1][1] == {"loss": 4.0, "learning_rate": 1e-3, "gradient_norm": 2.0}
        assert sink.logged[-1][1] == {"loss": 2.5}


def test_a_sink_of_a_run_that_is_continued_begins_with_the_records_up_to_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 5))
    (sink, _) = write(tmp_path, 2, range(3, 5))
    assert sink.begun_with == [1, 2]
    assert [step for step, _ in sink.logged] == [3, 4, 4]


def test_a_process_that_does_not_write_makes_no_sink(tmp_path: Path) -> None:
    assert write(tmp_path, 0, range(1, 3), writes=False) == []
    assert list(tmp_path.iterdir()) == []


class Broken(Dashboard):
    """Fails at each record and at the end."""

    def append(self, record: dict[str, Any]) -> None:
        """Fail, after the base class has logged it."""
        super().append(record)
        raise ConnectionError("the dashboard\nis away")

    def close(self) -> None:
        """Fail."""
        raise OSError("no")


def test_a_sink_that_fails_is_named_once_and_the_run_and_other_sinks_go_on(tmp_path: Path) -> None:
    heard: list[str] = []
    good, broken = Dashboard([]), Broken([])

    def _cannot(folder: Path, before: list[dict[str, Any]]) -> Sink:
        raise ValueError("no account")

    makes = [lambda *_: broken, _cannot, lambda *_: good]
    with Records(tmp_path, SETTING, after=0, writes=True, sinks=makes, say=heard.append) as records:
        for step in range(1, 4):
            records.step(step, report(8.0 / step), 1e-3, Speed())
    goes_on = "; the run goes on without it"
    assert heard == [
        f"warning: a metrics sink failed (ValueError: no account){goes_on}",
        f"warning: a metrics sink failed (ConnectionError: the dashboard){goes_on}",
    ]
    assert good.logged == broken.logged
    assert [step for step, _ in good.logged] == [1, 2, 3]
    assert good.closed == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_documented_sink_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    block = page[page.index("    class SlowSteps") : page.index("    train(TrainConfig()")]
    found: dict[str, Any] = {}
    exec(textwrap.dedent(block), found)
    with Records(tmp_path, SETTING, after=0, writes=True, sinks=[found["SlowSteps"]]) as records:
        for step, speed in ((1, None), (2, 2000.0), (3, 20.0)):
            records.step(step, report(1.0), 1e-3, Speed(speed))
    assert capsys.readouterr().out == "step 3: 20 tokens per second\n"
