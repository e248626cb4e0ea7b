"""Every file of a run's folder, cut, with a flipped bit, empty or gone: a line and the right bytes, or a line and exit code 2.

python -m tests.training.test_damage        # prints the table: kind of damage x file -> outcome; minutes
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli import main
from tests.checks import unchecked
from tests.training.tiny_runs import result, tiny, write_corpus
from training.toml import to_toml

pytestmark = pytest.mark.whole

STEPS = 8


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


class Fuzzed(NamedTuple):
    """A run to damage, and what its commands print and leave if nothing happens to it."""

    folder: Path
    """Finished; its last checkpoints are of steps 6 and 8."""
    config: Path
    printed: dict[str, str]
    older: str
    """What `eval` prints of the checkpoint of step 6."""
    result: dict[str, Any]


def cut(content: bytes) -> bytes:
    """The first two thirds."""
    return content[: 2 * len(content) // 3]


def flip(content: bytes) -> bytes:
    """One bit, somewhere: the same in the same content."""
    if not content:
        return b"\x01"
    chance = random.Random(len(content))
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


KINDS: dict[str, Callable[[bytes], bytes | None]] = {"cut": cut, "bit": flip, "empty": lambda _: b"", "gone": lambda _: None}
"""What is done to a file's content; None: the file is deleted."""


def command(name: str, folder: Path, config: Path) -> list[str]:
    """The command line of `name` on a run."""
    options = {"train": ["--config", str(config), "--out", str(folder)], "show": [str(folder)], "eval": [str(folder), "--json"]}
    return [name, *options[name]]


def ended(name: str, folder: Path, config: Path) -> Ended:
    """A command in this process, which has compiled its programs."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), unchecked():
        code = main(command(name, folder, config))
    # The run's own name is all that differs between copies.
    return Ended(
        code,
        out.getvalue().replace(str(folder), "RUN").replace(str(folder.parent), "RUNS"),
        error.getvalue().replace(str(folder), "RUN").replace(str(folder.parent), "RUNS"),
    )


def trained(base: Path) -> Fuzzed:
    """A run in `base`, finished, with its tokenizer, its choices and two checkpoints."""
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    changes: dict[str, Any] = {"size": "7K", "tokenizer": "bpe:300", "steps": STEPS, "evaluate_every": 2, "checkpoint_every": 2}
    config = tiny(write_corpus(base / "corpus"), **changes, also="", test=0.0)
    (base / "config.toml").write_text(to_toml(config))
    printed: dict[str, str] = {}
    for name in ("train", "show", "eval"):
        done = ended(name, base / "run", base / "config.toml")
        assert done.code == 0, done.error
        printed[name] = done.out
    shutil.copytree(base / "run", base / "older")
    shutil.rmtree(base / "older" / "checkpoints" / f"step_{STEPS}")
    older = ended("eval", base / "older", base / "config.toml").out
    assert older != printed["eval"]
    return Fuzzed(base / "run", base / "config.toml", printed, older, result(base / "run", STEPS))


def killed(folder: Path) -> None:
    """As if the run had been killed before its end was written."""
    (folder / "sample.txt").unlink()
    known = json.loads((folder / "digests.json").read_text())
    identity = {name: digest for name, digest in known.items() if name in ("config.toml", "data.json", "tokenizer.model")}
    (folder / "digests.json").write_text(json.dumps(identity, indent=1) + "\n")


def damage(path: Path, kind: str) -> None:
    """Do `kind` to a file, or to a folder: it is emptied or deleted."""
    if path.is_dir():
        shutil.rmtree(path)
        if kind == "empty":
            path.mkdir()
        return
    content = KINDS[kind](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the lock, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def files(folder: Path) -> list[str]:
    """What there is to damage: all files but the lock, and the folders of checkpoints and choices.

    The older checkpoint as a whole only: the newest one has the same files.
    """
    found = sorted(name for name in contents(folder) if f"step_{STEPS - 2}/" not in name)
    return [*found, f"checkpoints/step_{STEPS}", f"checkpoints/step_{STEPS - 2}", "checkpoints", "choices"]


def cases(folder: Path) -> list[tuple[str, str, bool]]:
    """File, kind, and whether the run was finished; the files of checkpoints are not read of one that was."""
    return [
        (name, kind, finished)
        for name in files(folder)
        for kind in (KINDS if "." in name.rsplit("/", 1)[-1] or (folder / name).is_file() else ("empty", "gone"))
        for finished in ((True, False) if not name.startswith("checkpoints/") else (False,))
        if finished or name != "sample.txt"
    ]


def check(run: Fuzzed, folder: Path, name: str, kind: str, finished: bool) -> dict[str, str]:
    """Damage a copy in `folder` and run the commands on it; returns the outcome of each. Raises `AssertionError` for a wrong one."""
    shutil.copytree(run.folder, folder)
    if not finished:
        killed(folder)
    damage(folder / name, kind)
    outcomes: dict[str, str] = {}
    for each in ("show", "eval", "train"):
        before = contents(folder)
        done = ended(each, folder, run.config)
        what = f"{each} after {name} {kind}: {done}"
        assert "Traceback" not in done.error, what
        assert done.code in (0, 2), what
        if done.code == 2:
            assert done.error.splitlines()[-1].startswith("error: "), what
            assert len(done.error.splitlines()) <= 3, what
            assert contents(folder) == before, what
        elif each == "eval" and f"checkpoint of step {STEPS} is damaged" in done.error:
            assert done.out == run.older, what
        else:
            # Without the checkpoint of step 8 there is nothing to tell that there was one.
            gone = each == "eval" and kind == "gone" and name == f"checkpoints/step_{STEPS}"
            assert done.out == (run.older if gone else run.printed[each]), what
        outcomes[each] = "refused" if done.code else "right"
    if outcomes["train"] == "right" and (folder / "checkpoints" / f"step_{STEPS}").exists():
        found = result(folder, STEPS)
        assert all(found[part] == value for part, value in run.result.items()), f"{name} {kind}"
    shutil.rmtree(folder)
    return outcomes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    """The run whose copies are damaged."""
    return trained(tmp_path_factory.mktemp("fuzzed"))


def test_some_damage_ends_in_a_line(run: Fuzzed, tmp_path: Path) -> None:
    chance = random.Random(15)
    for number, case in enumerate(chance.sample(cases(run.folder), 6)):
        check(run, tmp_path / str(number), *case)


@pytest.mark.slow
def test_all_damage_ends_in_a_line(run: Fuzzed, tmp_path: Path) -> None:
    for number, case in enumerate(cases(run.folder)):
        check(run, tmp_path / str(number), *case)


def table() -> int:
    """Print every outcome, and how many there are of each; returns how many were wrong."""
    many: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as base:
        run = trained(Path(base))
        for number, (name, kind, finished) in enumerate(cases(run.folder)):
            try:
                outcome = " ".join(f"{each} {how}," for each, how in check(run, Path(base) / str(number), name, kind, finished).items())
            except Exception as error:
                outcome = f"WRONG {type(error).__name__} {error}"
            many[outcome if not outcome.startswith("WRONG") else "WRONG"] += 1
            print(f"{kind:6}{'finished' if finished else 'killed':10}{name:75}{outcome.rstrip(',')}", flush=True)
    print(json.dumps(many, indent=1))
    return many["WRONG"]


if __name__ == "__main__":
    sys.exit(bool(table()))
