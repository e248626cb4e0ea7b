"""Sweeps of tiny runs, as processes that can be killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.checks import HANG_SECONDS

ROOT = Path(__file__).parents[2]

SHARED = """
[model]
context = 16

[data]
corpus = "{corpus}"
held_out = 0.2
batch = 4

[optimizer]
initial_learning_rate = 1e-4
peak_learning_rate = 1e-2
final_learning_rate = 1e-3
warmup_steps = 3
steps = 30000

[run]
steps = {steps}
evaluate_every = {every}
evaluation_tokens = 500
checkpoint_every = {every}
"""


GOOD = ["27K-dense-seed0", "27K-dense-seed1"]
BAD = "27K-dense-seed0-hot"

FAILING = """
[[grid]]
size = "27K"
router = "dense"
seed = [0, 1]

[[grid]]
size = "27K"
router = "dense"
variant = "hot"
learning_rate."27K" = 1e30
"""
"""Two runs that end well, and one that diverges: its first update is beyond what float32 holds."""

LONG = """
[grid]
size = "27K"
router = "dense"
"""
"""A run to interrupt."""


def write_grid(path: Path, programs: Path, grid: str, *, steps: int = 1200, every: int = 400) -> Path:
    """A grid's file: `grid`, and the options of `tiny_runs`. The schedule is the same for all lengths, and so is what is compiled."""
    path.write_text(grid + SHARED.format(corpus=programs / "corpus", steps=steps, every=every))
    return path


def environment(programs: Path) -> dict[str, str]:
    """Of the sweep and its runs."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(programs / "home"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


class Sweeping:
    """A process that sweeps."""

    def __init__(self, grid: Path, out: Path, programs: Path, *options: str, **variables: str) -> None:
        command = [sys.executable, "cli.py", "sweep", str(grid), "--out", str(out), *options, "--json"]
        self._files = [out.parent / f"{out.name}-{os.urandom(4).hex()}.{kind}" for kind in ("stdout", "stderr")]
        with self._files[0].open("wb") as output, self._files[1].open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment(programs) | variables,
                cwd=ROOT,
            )

    def stdout(self) -> str:
        """What it wrote on standard output."""
        return self._files[0].read_text()

    def stderr(self) -> str:
        """What it wrote on standard error."""
        return self._files[1].read_text()

    def finish(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=HANG_SECONDS)

    def workers(self) -> list[int]:
        """The processes of its runs."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for each in children for pid in each.read_text().split()]


def wait_for(what: Callable[[], bool], sweeping: Sweeping) -> None:
    """Wait until `what` holds; fail if the sweep ends before."""
    for _ in range(10 * HANG_SECONDS):
        if what():
            return
        assert sweeping.process.poll() is None, sweeping.stderr()
        time.sleep(0.1)
    raise AssertionError(sweeping.stderr())


def steps(folder: Path) -> int:
    """How many lines the run in `folder` has recorded."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0
