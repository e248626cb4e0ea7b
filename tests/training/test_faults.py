"""Faults of the machine and of a start: one line each, nothing finished lost, and the next command goes on."""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cli import main
from common.errors import InputError, WorkError
from tests.checks import free_port
from tests.training.tiny_runs import Quiet, result, tiny, write_corpus
from training import machine, meeting
from training.config import TrainConfig
from training.distributed import Processes
from training.loop import Progress
from training.run import train
from training.toml import to_toml


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of text, tokens and runs."""
    base = tmp_path_factory.mktemp("faults")
    write_corpus(base / "corpus")
    return base


def small(base: Path, **changes: Any) -> TrainConfig:
    """A dense run of 6 steps, evaluated and saved every other one."""
    options: dict[str, Any] = {"size": "7K", "router": "dense", "steps": 6, "evaluate_every": 2, "checkpoint_every": 2}
    return tiny(base / "corpus", **(options | changes), test=0.0, also="")


@pytest.fixture(scope="module")
def whole(base: Path) -> dict[str, Any]:
    """What such a run leaves that nothing happens to."""
    train(small(base), base / "whole", Quiet(), base)
    return result(base / "whole", 6)


class Heard(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_event(self, message: str) -> None:
        """Keep it."""
        self.events.append(message)


class LimitsFiles(Quiet):
    """After step 5, no file may be written beyond 4 KB, which the system reports as it does a full disk."""

    def on_step(self, progress: Progress) -> None:
        """Set the limit."""
        if progress.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(base: Path, whole: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    folder = base / "full"
    try:
        with pytest.raises(
            WorkError, match=r"^the file system of .*full is full; the checkpoint of step [24] is kept: make room"
        ) as raised:
            train(small(base), folder, LimitsFiles(), base)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err
    train(small(base), folder, Quiet(), base)
    assert result(folder, 6) == whole


def test_memory_that_does_not_suffice_is_refused_before_the_first_step(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    need = machine.step_memory(machine.Step(small(base).model_config(257), 4)).peak
    for have, words in ((need - 1, None), (need + 1, "which has"), (2 * need, "")):
        monkeypatch.setattr(machine, "available_memory", lambda devices, have=have: have)
        said.clear()
        if words is None:
            with pytest.raises(WorkError, match=r"^a step needs about .* --ignore-memory tries all the same$"):
                machine.check_memory(small(base), 257, said.append, ignore=False)
        machine.check_memory(small(base), 257, said.append, ignore=True)
        assert bool(said) == (words != "")
    with pytest.raises(WorkError, match=r"^memory ran out \(MemoryError\); there is no checkpoint"), machine.one_line_faults(base / "none"):
        raise MemoryError


def test_the_memory_of_a_cpu_is_what_the_system_and_the_process_leave() -> None:
    free = machine.available_memory(1)
    assert free is not None
    assert 0 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 44, hard))
        resource.setrlimit(resource.RLIMIT_AS, (1, hard))
        assert machine.available_memory(1) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_exits_with_130(base: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    def _stop(self: Any, progress: Progress) -> None:
        if progress.step == 3:
            signal.raise_signal(number)

    monkeypatch.setattr("commands.progress._Lines.on_step", _stop)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    (tmp_path / "config.toml").write_text(to_toml(small(base)))
    command = ["train", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
    assert main(command) == 130
    assert not (tmp_path / "run" / "sample.txt").exists()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
    assert main(command) == 0


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_is_one_line_on_the_other(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as closed:
        closed.setattr(sys, name, None)
        assert main(["count", "--size", "15M"]) == 1
    printed = "".join(capsys.readouterr())
    assert printed == f"error: standard {'output' if name == 'stdout' else 'error'} is closed; redirect it, for example to /dev/null\n"


def test_a_cache_that_cannot_be_used_names_the_variable(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "a-file").touch()
    command = ["train", "--corpus", str(base / "corpus"), "--out", str(base / "uncached")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "a-file"))
    assert main(command) == 1
    assert "set XDG_CACHE_HOME to a folder that can be written" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert main(command) == 1
    assert "there is no home folder" in capsys.readouterr().err.splitlines()[-1]
    assert not (base / "uncached").exists()


@pytest.fixture
def address() -> str:
    """Of a port that was free."""
    return f"127.0.0.1:{free_port()}"


def test_processes_meet_in_any_order(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.05)
    said: dict[int, list[str]] = {index: [] for index in range(3)}
    threads = [threading.Thread(target=meeting.meet, args=(address, 3, index, 60.0, said[index].append)) for index in (1, 2, 0)]
    for number, thread in enumerate(threads):
        thread.start()
        # The last one comes when the first two have said that they wait.
        while number < 2 and not said[number + 1]:
            thread.join(0.05)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert said[1][0] == f"waiting for process 0 of 3 at {address}"


def test_a_process_that_does_not_come_is_named_and_ends_the_wait(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.0)
    for index, missing in ((0, 1), (1, 0)):
        said: list[str] = []
        with pytest.raises(WorkError, match=rf"process {missing} of 2 at {address} did not come within 0\.2 s \(--join-timeout\)"):
            meeting.meet(address, 2, index, 0.2, said.append)
        assert said == [f"waiting for process {missing} of 2 at {address}"]


def test_a_port_that_is_taken_and_an_address_that_is_none_are_one_line(address: str) -> None:
    with socket.create_server(("", int(address.rpartition(":")[2]))), pytest.raises(WorkError, match=r"^port \d+ cannot be used"):
        meeting.meet(address, 2, 0, 1.0, print)
    for wrong in ("127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", ":1234"):
        with pytest.raises(InputError, match="give an address and a port"):
            meeting.meet(wrong, 2, 1, 1.0, print)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--join-timeout"):
            Processes(timeout=seconds)


def test_a_run_that_kept_nothing_does_not_hold_its_folder(base: Path, whole: dict[str, Any]) -> None:
    folder, heard = base / "diverged", Heard()
    with pytest.raises(WorkError, match=r"step 2 is .*; there is no checkpoint: train with a lower learning rate, or from another seed$"):
        train(small(base, initial_learning_rate=1e30, peak_learning_rate=1e30), folder, Quiet(), base)
    train(small(base), folder, heard, base)
    assert f"{folder} had another run without a checkpoint; it is replaced" in heard.events
    assert result(folder, 6) == whole


def test_a_begin_from_that_does_not_fit_claims_no_folder(base: Path, whole: dict[str, Any]) -> None:
    stable = {"schedule": "stable", "decay_steps": 2}
    for changes, words in (
        ({}, "needs the stable schedule"),
        (stable, "this run cannot begin from"),
        (stable | {"seed": 3}, "run.seed: 0 -> 3"),
    ):
        with pytest.raises(InputError, match=words):
            train(small(base, begin_from=str(base / "whole"), **changes), base / "begun", Quiet(), base)
    with pytest.raises(InputError, match="there is no configuration"):
        train(small(base, begin_from=str(base / "nowhere"), **stable), base / "begun", Quiet(), base)
    assert not (base / "begun").exists()


def test_records_without_checkpoints_are_kept_aside_and_that_is_said(base: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    folder, heard = tmp_path / "run", Heard()
    shutil.copytree(base / "whole", folder)
    shutil.rmtree(folder / "checkpoints")
    # A finished run is reported as it is; one whose result is damaged cannot be made again without a word.
    assert train(small(base), folder, Quiet(), base).step == 6
    (folder / "sample.txt").write_text("something else")
    with pytest.raises(InputError, match=r"has a finished run whose sample\.txt is damaged, and no checkpoint"):
        train(small(base), folder, Quiet(), base)
    (folder / "sample.txt").unlink()
    records = (folder / "metrics.jsonl").read_bytes()
    train(small(base), folder, heard, base)
    assert [line for line in heard.events if "records of 6 steps, but no checkpoint" in line and "training starts over" in line]
    assert (folder / "set_aside" / "metrics.jsonl").read_bytes() == records
    assert result(folder, 6) == whole


def test_lost_rows_of_the_curves_come_back_from_the_records(base: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    folder, heard = tmp_path / "run", Heard()
    shutil.copytree(base / "whole", folder)
    rows = (folder / "curves.csv").read_text().splitlines(keepends=True)
    (folder / "curves.csv").write_text("".join([rows[0], *rows[2:]]))
    train(small(base), folder, heard, base)
    assert f"{folder / 'curves.csv'} is missing or damaged" in heard.events
    assert f"{folder / 'curves.csv'} is written anew from metrics.jsonl" in heard.events
    assert result(folder, 6) == whole


def test_a_damaged_record_is_named_with_its_line_and_an_older_checkpoint_taken(base: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    folder, heard = tmp_path / "run", Heard()
    shutil.copytree(base / "whole", folder)
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    place = next(i for i, line in enumerate(lines) if line.startswith(b'{"step": 5,'))
    lines[place] = lines[place].replace(b'"loss": ', b'"loss": 1')
    path.write_bytes(b"\n".join(lines))
    assert main(["show", str(folder)]) == 2
    train(small(base), folder, heard, base)
    assert any(line.startswith(f"{path}: line {place + 1} is damaged") and "an older one is taken" in line for line in heard.events)
    assert "continuing after step 4" in heard.events
    assert result(folder, 6) == whole
    # The checkpoint that could not be used is still there.
    assert json.loads((folder / "set_aside" / "step_6" / "data" / "metadata").read_text())["place"] == {"next_index": 6}
