"""How much writing checkpoints holds up training, if one is written every minute.

    uv run python -m benchmarks.checkpoint_stall

Two runs take turns, the same but for checkpoints, as `cli.py train` does them. What a checkpoint costs is what the run with checkpoints
takes longer, over their number: the call that begins to write, the wait before it for losses to be looked at, and steps that
are slower while it is written in the background, or wait for the one before to be done. Over the 60 seconds that it comes once in.

Target: at most 5 %.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import median, save, show, verdict
from benchmarks.training_run import NEVER, Clock, loop, nano

LIMIT, INTERVAL = 0.05, 60.0
"""Most of the time that may be lost, with a checkpoint in so many seconds."""


@dataclass(frozen=True)
class Options:
    """What a checkpoint costs."""

    size: str = "107K"
    """A size of the ladder."""
    router: str = "s-base"
    """The router, or dense."""
    experts: tuple[int, ...] = (8, 64)
    """Experts, a model each: most of what is written."""
    steps: int = 61
    """Steps of a run."""
    every: int = 20
    """Steps between checkpoints. A minute would hold more of them: writing must be done by then, and is, if it is done in these."""
    rounds: int = 2
    """Turns of each run."""
    json: Path | None = None
    """A file for the figures."""


def timed(options: Options, experts: int, every: int) -> tuple[float, list[float], int]:
    """Seconds from the second step to the last but one, seconds of the calls that save, and bytes of a checkpoint."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = nano(options.size, options.router, experts, steps=options.steps, checkpoint_every=every)
        with loop(config, Path(folder), clock) as run:
            run()
        newest = max((Path(folder) / "checkpoints").iterdir())
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return clock.done[-2] - clock.done[1], clock.saved[:-1], size


def main(options: Options) -> None:
    """Run both in turn, and say what a checkpoint costs."""
    rows: list[list[str]] = []
    figures: dict[str, object] = {}
    worst = 0.0
    number = (options.steps - 2) // options.every
    for experts in options.experts:
        # The first run of a process compiles and warms up.
        timed(options, experts, NEVER)
        turns = [(timed(options, experts, NEVER), timed(options, experts, options.every)) for _ in range(options.rounds)]
        stalls = [(saving[0] - without[0]) / number for without, saving in turns]
        stall, calls = median(stalls), [call for _, saving in turns for call in saving[1]]
        share, size = stall / INTERVAL, turns[0][1][2]
        worst = max(worst, share)
        step = median([without[0] for without, _ in turns]) / (options.steps - 3)
        cells = [f"{size / 2**20:.1f}", f"{1e3 * step:.1f}", f"{1e3 * median(calls):.0f}", f"{1e3 * max(calls):.0f}"]
        rows.append([f"{options.size} {options.router} E={experts}", *cells, f"{1e3 * stall:.0f}", f"{share:.2%}"])
        figures[str(experts)] = {"stalls": stalls, "calls": calls, "bytes": size, "seconds_of_a_step": step}
    header = ["", "MiB", "step, ms", "save(), median ms", "longest", "a checkpoint costs, ms", f"of {INTERVAL:.0f} s"]
    show(f"Checkpoints, {number} in {options.steps} steps", header, rows)
    print(f"\nlargest share {worst:.2%} (at most {LIMIT:.0%}): {verdict(worst <= LIMIT)}")
    save(options.json, {"models": figures, "worst": worst})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
