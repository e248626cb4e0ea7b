"""One short run through the command line: trained, stopped by a signal on the way, continued, read back, and sampled from."""

import csv
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.device.parts import Found, Item
from common.errors import WorkError
from training.restore import CHECKPOINTS, checkpoint_steps

CLI = (sys.executable, str(ROOT / "cli.py"))


def items(toy: bool) -> list[Item]:
    """One: a run long enough to be stopped."""
    kernel = ["--attention", "kernel", "--dtype", "bfloat16"]
    options = (
        ["--size", "7K", "--context", "32", "--batch", "4"] if toy else ["--size", "1.9M", "--context", "512", "--batch", "32", *kernel]
    )
    steps = 60 if toy else 600
    return [{"name": " ".join(options[:2]), "options": [*options, "--router", "s-base", "--experts", "8"], "steps": steps, "tokens": 32}]


def measure(item: Item) -> Found:
    """Seconds of each command, and what the run's files say. Raises `WorkError` if one of the commands fails."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [*CLI, "train", *item["options"], "--steps", str(item["steps"]), "--out", str(run), "--json"]
        stopped = _stopped(command, run)
        trained, seconds = _timed(command)
        outcome = json.loads(trained)
        with (run / "curves.csv").open(newline="") as file:
            curves = list(csv.DictReader(file))
        sampled, sample_seconds = _timed([*CLI, "sample", str(run), "--tokens", str(item["tokens"]), "--json"])
        return {
            "stopped_at": stopped, "steps": outcome["step"], "held_out": outcome["loss_validation"], "rows": len(curves),
            "losses": [float(row["loss_validation"]) for row in curves], "resumed_seconds": seconds,
            "sample_seconds": sample_seconds, "sample": json.loads(sampled)["texts"][0],
        }  # fmt: skip


def _stopped(command: list[str], run: Path) -> int:
    """Start a run, stop it by SIGTERM once it has taken a step, and return the step it was saved at."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    if process.returncode != 130:
        raise WorkError(f"exit code {process.returncode}, not 130, after SIGTERM: {errors.strip().splitlines()[-1:]}")
    return max(checkpoint_steps(run / CHECKPOINTS))


def _timed(command: list[str]) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkError(f"{' '.join(command[2:4])}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout, time.perf_counter() - start


HEADER = ("", "stopped at", "steps", "rows of curves", "loss first", "loss last", "resumed s", "sample s")


def row(item: Item, found: Found) -> list[str]:
    """The run's course."""
    losses = [f"{found['losses'][at]:.3f}" for at in (0, -1)]
    numbers = [str(found[name]) for name in ("stopped_at", "steps", "rows")]
    return [item["name"], *numbers, *losses, f"{found['resumed_seconds']:.1f}", f"{found['sample_seconds']:.1f}"]


def complete(item: Item, found: Found) -> bool:
    """Whether it was stopped on the way, went on to its last step, and its curves end with its loss."""
    return 0 < found["stopped_at"] < item["steps"] == found["steps"] and found["losses"][-1:] == [found["held_out"]]
