"""Progress of `train`: a bar on a terminal, lines elsewhere; evaluations, and what is wrong with the routing, in words."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from training.run import Progress, Watcher

DROPPED = 0.1
"""Fraction of dropped choices, mean since the last evaluation, above which there is a warning. Our choice."""

COLLAPSED = 0.5
"""Fraction of the choices on one of several experts, mean over layers and steps, above which routing has collapsed. Our choice."""

LINE_SECONDS = 5
"""Between lines, where there is no terminal."""


@contextmanager
def watching(console: "Console | None" = None) -> Generator["Watcher"]:
    """Progress on standard error: a bar on a terminal, or on `console`; a line every few seconds otherwise."""
    if console is None and not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = console or Console(stderr=True)
    with Bar(MofNCompleteColumn(), BarColumn(bar_width=10), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("starting", total=None)

        def _move(progress: "Progress") -> None:
            bar.update(task, completed=progress.step, total=progress.steps, description=described(progress))

        yield _Shown(_move, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True))


class Verdicts:
    """What evaluations say in words: losses, loads and drops, and each fault of the routing once."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, float]] = []
        self._warned: set[str] = set()

    def after(self, progress: "Progress") -> list[str]:
        """Lines to print after a step: none, unless the held-out loss was measured."""
        if progress.metrics:
            self._metrics.append(progress.metrics)
        if progress.held_out is None:
            return []
        line = f"step {progress.step}: held-out loss {progress.held_out:.3f}"
        if not self._metrics:
            return [line]
        load, dropped, dead = (
            sum(metrics[name] for metrics in self._metrics) / len(self._metrics)
            for name in ("load_max_over_mean", "dropped_fraction", "dead_experts")
        )
        self._metrics.clear()
        line += f"; fullest expert {load:.1f} times its share, {dropped:.1%} of choices dropped"
        return [line, *self._faults(progress.experts, load / progress.experts, dropped, dead)]

    def _faults(self, experts: int, fullest: float, dropped: float, dead: float) -> list[str]:
        found = {
            "collapsed": (
                experts > 2 and fullest > COLLAPSED,
                f"the routing has collapsed: {fullest:.0%} of the choices are one expert's; raise its balancing weight",
            ),
            "dropped": (
                dropped > DROPPED,
                f"{dropped:.0%} of the choices since the last evaluation were dropped; raise --capacity-factor (0 drops none)",
            ),
            "dead": (
                dead >= 0.5,
                f"{dead:.1f} of {experts} experts get no token in a step (a mean); use fewer experts, or a larger batch",
            ),
        }
        new = [name for name, (holds, _) in found.items() if holds and name not in self._warned]
        self._warned.update(new)
        return [f"warning: {found[name][1]}" for name in new]


def described(progress: "Progress") -> str:
    """The loss of the batch, speed, time left, and the utilisation where it is known, in at most 55 columns."""
    parts = [f"loss {progress.loss:.3f}"]
    if progress.tokens_per_second is not None and progress.seconds_left is not None:
        parts += [f"{progress.tokens_per_second:,.0f} tokens/s", f"{_clock(progress.seconds_left)} left"]
    if progress.utilisation is not None:
        parts.append(f"{progress.utilisation:.0%} MFU")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class _Shown:
    """Every step to `move`; messages, and what evaluations say, to `print_line`."""

    def __init__(self, move: "Callable[[Progress], None]", print_line: Callable[[str], None]) -> None:
        self._move, self._print, self._verdicts = move, print_line, Verdicts()

    def on_step(self, progress: "Progress") -> None:
        """Show the step, and what an evaluation after it says."""
        self._move(progress)
        for line in self._verdicts.after(progress):
            self._print(line)

    def on_event(self, message: str) -> None:
        """Print the message."""
        self._print(printable(message))


class _Lines(_Shown):
    """A line every few seconds."""

    def __init__(self) -> None:
        super().__init__(self._line, lambda line: print(line, file=sys.stderr, flush=True))
        self._last = time.monotonic()

    def _line(self, progress: "Progress") -> None:
        if time.monotonic() - self._last > LINE_SECONDS or progress.step == progress.steps:
            self._last = time.monotonic()
            self.on_event(f"step {progress.step} of {progress.steps}  {described(progress)}")
