"""How much of a training step is spent waiting for data, at the smallest rung of the ladder, where a step is shortest.

    uv run python -m benchmarks.input_pipeline

A run as `cli.py train` does it, on the default text. Waiting is the time in asking for the next batch, which a thread reads ahead, and
in putting it on the device. While a batch is waited for a step may still be under way, so this is the most that data can cost.

Target: at most 3 % of the time of a step.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import median, save, show, verdict
from benchmarks.training_run import Clock, loop, nano
from reference.sizes import LADDER

LIMIT = 0.03
"""Most of a step that may be spent waiting for data."""


@dataclass(frozen=True)
class Options:
    """Waiting for data, as a share of a step."""

    size: str = next(iter(LADDER))
    """A size of the ladder."""
    router: tuple[str, ...] = ("dense", "s-base")
    """Models."""
    steps: int = 300
    """Steps of each."""
    warm: int = 20
    """Steps at the beginning that do not count: the first is compiled, and batches are read ahead meanwhile."""
    json: Path | None = None
    """A file for the figures."""


def main(options: Options) -> None:
    """Run each model, and say how long its steps wait."""
    rows: list[list[str]] = []
    figures: dict[str, object] = {}
    worst = 0.0
    for router in options.router:
        clock = Clock()
        config = nano(options.size, router, 8, steps=options.steps)
        with tempfile.TemporaryDirectory() as folder, loop(config, Path(folder), clock) as run:
            run()
        # Without the last step, which waits for the evaluation.
        seconds = clock.done[-2] - clock.done[options.warm]
        steps = options.steps - 2 - options.warm
        waited, placed = (sum(part[options.warm : -2]) for part in (clock.waited, clock.placed))
        share = (waited + placed) / seconds
        worst = max(worst, share)
        longest = max(clock.waited[options.warm : -2])
        cells = (seconds / steps, median(clock.waited), longest, median(clock.placed))
        rows.append([f"{options.size} {router}", *(f"{1e3 * cell:.2f}" for cell in cells), f"{share:.2%}"])
        figures[router] = {"seconds_of_a_step": seconds / steps, "waited": waited, "placed": placed, "share": share}
    show(f"Waiting for data, {options.steps} steps", ["ms", "step", "batch, median", "batch, longest", "placing, median", "share"], rows)
    print(f"\nlargest share {worst:.2%} (at most {LIMIT:.0%}): {verdict(worst <= LIMIT)}")
    save(options.json, {"size": options.size, "models": figures, "worst": worst})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
