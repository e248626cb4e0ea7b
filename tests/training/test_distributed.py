"""Several processes as one run, on the loopback: the losses of one process, a common stop, and an end when one is gone."""

import hashlib
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from tests.checks import free_port
from tests.training.tiny_runs import Started, tiny, train_here
from training.config import TrainConfig
from training.distributed import Processes
from training.text.read import read_corpus
from training.text.split import Fractions
from training.text.tokenizer import ByteTokenizer
from training.text.write import write_shards

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def corpus(programs: Path) -> Path:
    """Text for all runs here."""
    return programs / "corpus"


def start_two(
    configs: list[TrainConfig], folder: Path, programs: Path, hidden: tuple[str, ...] = (), inside: tuple[str, str] = (".", ".")
) -> list[Started]:
    """Two processes with a device each, in the folders `inside`; the second does not see files of the names `hidden`."""
    address = f"127.0.0.1:{free_port()}"
    return [
        Started(config, folder, programs, processes={"coordinator": address, "count": 2, "index": i}, hidden=hidden * i, inside=inside[i])
        for i, config in enumerate(configs)
    ]


def losses(events: list[dict[str, Any]]) -> dict[int, list[float]]:
    """Training loss and, where there is one, newest held-out loss, by step."""
    return {event["step"]: [loss for loss in (event["loss"], event["held_out"]) if loss is not None] for event in events if "loss" in event}


@pytest.mark.parametrize(
    ("router", "mesh", "devices"), [("hash", "data=1", 1), pytest.param("s-base", "data=2,expert=2", 4, marks=pytest.mark.slow)]
)
def test_a_run_goes_from_two_processes_to_another_mesh_with_the_losses_of_one_device(
    router: str, mesh: str, devices: int, corpus: Path, programs: Path
) -> None:
    _, heard = train_here(tiny(corpus, router=router, steps=16), programs / f"one-before-{devices}", programs)
    expected = losses([{"step": one.step, "loss": one.loss, "held_out": one.held_out} for one in heard.steps])
    folder, config = programs / f"moved-to-{devices}", tiny(corpus, router=router, steps=16, mesh="data=2")
    first, second = start_two([config, config], folder, programs)
    found = losses([first.until("step", 5)])
    # Only the second is asked; both must stop, after the same step.
    second.process.send_signal(signal.SIGTERM)
    events = first.finish()
    *_, other = second.finish()
    assert (first.process.returncode, second.process.returncode) == (0, 0), first.stderr() + second.stderr()
    assert events[-1]["stopped"]
    assert other["stopped"]
    assert events[-1]["done"] == other["done"] < 16
    found |= losses(events)
    moved = Started(tiny(corpus, router=router, steps=16, mesh=mesh), folder, programs, devices=devices)
    rest = moved.finish()
    assert moved.process.returncode == 0, moved.stderr()
    found |= losses(rest)
    assert rest[-1]["done"] == 16
    assert set(range(5, 17)) <= set(found)
    # Sums over devices are in another order: 1e-7 of a loss in a step, 1e-6 after a hundred. The rest is room for a token that goes to
    # another expert because two scores all but tie. A batch read twice, or in another order, is off by more than 1e-1.
    for step, of_step in found.items():
        # What it held out before it was stopped, a run does not show again.
        np.testing.assert_allclose(of_step, expected[step][: len(of_step)], rtol=1e-4, err_msg=str(step))
    rows = (folder / "curves.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == [str(step) for step in range(4, 17, 4)]


@pytest.mark.slow
def test_a_process_that_does_not_see_the_firsts_files_ends_with_it(corpus: Path, programs: Path) -> None:
    folder, config = programs / "unseen", tiny(corpus, steps=4, test=0.0, also="")
    hidden = ("curves.csv", "sample.txt", "config.toml", "data.json", "metrics.jsonl")
    outcomes: list[dict[str, Any]] = []
    # From the beginning; with all steps made but no sample; and finished. `finish` fails if a process hangs.
    for begin in ("new", "without a sample", "finished"):
        if begin == "without a sample":
            (folder / "sample.txt").unlink()
        both = start_two([config, config], folder, programs, hidden)
        ends = [process.finish()[-1] for process in both]
        assert [process.process.returncode for process in both] == [0, 0], both[0].stderr() + both[1].stderr()
        assert ends[0] == ends[1]
        outcomes.append(ends[0])
    assert outcomes[0]["done"] == 4
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len((folder / "curves.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("gone", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_with_a_message(corpus: Path, programs: Path, gone: int) -> None:
    # Of the program that the test above has compiled.
    config = tiny(corpus, router="hash", steps=2000, mesh="data=2")
    both = start_two([config, config], programs / f"without-{gone}", programs)
    both[0].until("step", 4)
    both[gone].kill()
    left = both[1 - gone]
    # `finish` fails if it hangs.
    *_, last = left.finish()
    assert left.process.returncode not in (0, None)
    # The message is ours, or JAX's own where its service was faster than the step that failed.
    said = last.get("error", "") + left.stderr()
    assert "another process of this run has exited" in said or "another task died" in said


def test_processes_with_other_options_are_refused(corpus: Path, programs: Path) -> None:
    both = start_two([tiny(corpus, mesh="data=2"), tiny(corpus, mesh="data=2", seed=1)], programs / "unlike", programs)
    for process in both:
        *_, last = process.finish()
        assert re.match(r"process 1 \(host .*\) has other options than process 0; start all with the same command", last["error"])
        assert process.process.returncode == 2
    assert not (programs / "unlike").exists()


def test_a_process_whose_shards_are_another_copy_is_named_with_the_file(corpus: Path, programs: Path, tmp_path: Path) -> None:
    for host in ("one", "other"):
        write_shards(read_corpus(str(corpus)), ByteTokenizer(), tmp_path / host / "shards", Fractions(0.2))
    # A copy that is as sound as the first, of as many tokens, from the same files: one token is another.
    index, file = (tmp_path / "other" / "shards" / name for name in ("tokens.json", "train-00000.bin"))
    before = file.read_bytes()
    file.write_bytes(b"X" + before[1:])
    digests = [hashlib.sha256(content).hexdigest() for content in (before, file.read_bytes())]
    index.write_text(index.read_text().replace(digests[0], digests[1]))
    config = tiny(Path("shards"), mesh="data=2", test=0.0, also="")
    both = start_two([config, config], programs / "copies", programs, inside=(str(tmp_path / "one"), str(tmp_path / "other")))
    for process in both:
        *_, last = process.finish()
        first, second, third = last["error"].splitlines()
        assert re.fullmatch(r"process 1 \(host .*\) has another text than process 0 \(host .*\):", first)
        assert second == f"shards, train-00000.bin has SHA-256 {digests[1]:.12} there, {digests[0]:.12} on process 0;"
        assert third == "copy the text from one host to all, and start all with the same command"
        assert process.process.returncode == 2
    assert not (programs / "copies").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"coordinator": "127.0.0.1:1"}, "need all of"),
        ({"coordinator": "127.0.0.1:1", "count": 2, "index": 2}, "numbered from 0 to 1"),
    ],
)
def test_half_an_address_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Processes(**given)
