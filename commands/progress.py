"""Progress of `train`: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.terminal import printable

if TYPE_CHECKING:
    from training.run import Progress, Watcher


@contextmanager
def watching() -> Generator["Watcher"]:
    """Progress on standard error: a bar on a terminal, a line every few seconds otherwise."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console) as bar:
        yield _Bar(bar)


def _described(progress: "Progress") -> str:
    parts = [f"loss {progress.loss:.3f}", f"{progress.tokens_per_second:,.0f} tokens/s"]
    if progress.metrics:
        parts.append(f"load {progress.metrics['load_max_over_mean']:.2f}")
        parts.append(f"dropped {progress.metrics['dropped_fraction']:.1%}")
    if progress.held_out is not None:
        parts.append(f"held-out {progress.held_out:.3f}")
    return "  ".join(parts)


class _Lines:
    """A line every five seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def on_step(self, progress: "Progress") -> None:
        """Print a line if one is due."""
        if time.monotonic() - self._last > 5 or progress.step == progress.steps:
            self._last = time.monotonic()
            print(f"step {progress.step} of {progress.steps}  {_described(progress)}", file=sys.stderr, flush=True)

    def on_event(self, message: str) -> None:
        """Print the message."""
        print(printable(message), file=sys.stderr, flush=True)


class _Bar:
    """A bar, and events above it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("compiling", total=None)

    def on_step(self, progress: "Progress") -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=progress.step, total=progress.steps, description=_described(progress))

    def on_event(self, message: str) -> None:
        """Print the message above the bar."""
        self._bar.console.print(printable(message), markup=False, highlight=False)
