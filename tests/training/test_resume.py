"""Runs that are killed, stopped and started again: what they end with is what one that nothing happened to ends with."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_runs import Started, result, tiny, train_here
from training.config import TrainConfig

pytestmark = pytest.mark.whole

STEPS = 24


@pytest.fixture(scope="module")
def config(programs: Path) -> TrainConfig:
    """A run that is saved every other step, so that a checkpoint is nearly always being written."""
    return tiny(programs / "corpus", steps=STEPS, checkpoint_every=2)


@pytest.fixture(scope="module")
def uninterrupted(config: TrainConfig, programs: Path) -> dict[str, Any]:
    """What a run leaves that nothing happens to."""
    outcome, _ = train_here(config, programs / "whole", programs)
    assert outcome.step == STEPS
    return result(programs / "whole", STEPS)


def kill_and_resume(config: TrainConfig, folder: Path, programs: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill a run at random moments, at most `kills` times, then let it finish. Returns how many kills it took and how often it resumed."""
    chance, resumed = random.Random(seed), 0
    for number in range(kills):
        run = Started(config, folder, programs)
        # Every fourth kill falls anywhere in starting up, the others from the first to the twelfth step after it and what is written then.
        if number % 4 == 3:
            run.until("event", "ready")
            time.sleep(chance.uniform(0, 3))
        else:
            first = run.until("step")["step"]
            resumed += first > 1
            if ahead := chance.randrange(12):
                run.until("step", min(first + ahead, STEPS))
            time.sleep(chance.uniform(0, 0.2))
        run.kill()
        if run.process.returncode == 0:
            return number, resumed
    events = Started(config, folder, programs).finish()
    assert events[-1]["done"] == STEPS
    return kills, resumed + (events[1].get("event", "").startswith("continuing"))


def assert_same(folder: Path, expected: dict[str, Any]) -> None:
    """Weights, optimizer state, curves, metrics and sample, bit for bit; and nothing half-written is left."""
    found = result(folder, STEPS)
    for name, value in expected.items():
        assert found[name] == value, name
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [f"step_{STEPS - 2}", f"step_{STEPS}"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(config: TrainConfig, programs: Path, uninterrupted: dict[str, Any]) -> None:
    kills, resumed, attempt = 0, 0, 0
    while kills < 20:
        attempt += 1
        folder = programs / f"killed-{attempt}"
        more, again = kill_and_resume(config, folder, programs, kills=20 - kills, seed=attempt)
        kills, resumed = kills + more, resumed + again
        assert_same(folder, uninterrupted)
    print(f"{kills} kills in {attempt} runs, {resumed} of them after resuming")
    assert resumed >= 5


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_and_then_stopped_by_a_signal_ends_as_if_it_had_not_been(
    config: TrainConfig, programs: Path, uninterrupted: dict[str, Any], number: signal.Signals
) -> None:
    folder = programs / f"stopped-{number.name}"
    killed = Started(config, folder, programs)
    # A checkpoint is there by now, and the next one is being written.
    killed.until("step", 5)
    killed.kill()
    run = Started(config, folder, programs)
    first = run.until("step")["step"]
    assert first > 1
    run.until("step", first + 5)
    run.process.send_signal(number)
    *_, last = run.finish()
    assert (run.process.returncode, last["stopped"]) == (0, True), run.stderr()
    assert first + 5 <= last["done"] < STEPS
    assert (folder / "checkpoints" / f"step_{last['done']}").is_dir()
    again = Started(config, folder, programs)
    assert again.until("event", f"continuing after step {last['done']}")
    assert again.finish()[-1]["done"] == STEPS
    # The stop's own checkpoint is one more than the uninterrupted run had, long since cleared away.
    assert_same(folder, uninterrupted)


def test_a_second_signal_is_obeyed_at_once(config: TrainConfig, programs: Path) -> None:
    run = Started(config, programs / "twice", programs)
    run.until("step", 3)
    run.process.send_signal(signal.SIGTERM)
    assert "a second signal stops at once" in run.until("event")["event"]
    run.process.send_signal(signal.SIGTERM)
    run.finish()
    # Killed by the signal, unless the checkpoint was done before it came.
    assert run.process.returncode in (-signal.SIGTERM, 0)


def test_a_finished_run_is_reported_and_not_touched(config: TrainConfig, programs: Path, uninterrupted: dict[str, Any]) -> None:
    folder = programs / "whole"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    last, heard = train_here(config, folder, programs)
    assert (last.step, heard.steps) == (STEPS, [])
    assert str(last.held_out) in uninterrupted["curves"].decode().splitlines()[-1].split(",")
    assert last.sample.encode() == uninterrupted["sample"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
