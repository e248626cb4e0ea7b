"""What is shown of a sweep:
a table that is redrawn on a terminal, a line for each change elsewhere."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from rich.table import Table
from rich.text import Text

from sweep.run import State, Status

STATES: tuple[State, ...] = get_args(State)

STYLES: dict[State, str] = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
}

URGENCY: tuple[State, ...] = ("running", "failed", "stopped", "waiting", "done")
"""What is shown first where there is not room for all."""


def table(statuses: Sequence[Status], rows: int) -> Table:
    """The `statuses` of a sweep's runs, in its order;
    where there are more than `rows`, the most urgent ones, and how many are left out."""
    shown = sorted(range(len(statuses)), key=lambda index: URGENCY.index(statuses[index].state))[
        : max(rows, 1)
    ]
    drawn = Table(
        box=None, pad_edge=False, title=counts(statuses), title_justify="left", title_style="bold"
    )
    for name in ("run", "", "step", "loss", "left", ""):
        drawn.add_column(
            name,
            justify="right" if name in ("step", "loss", "left") else "left",
            no_wrap=name != "",
        )
    for index in sorted(shown):
        each = statuses[index]
        drawn.add_row(
            each.name,
            Text(each.state, STYLES[each.state]),
            f"{each.step}/{each.steps}",
            "" if each.loss is None else f"{each.loss:.4f}",
            "" if each.seconds_left is None else duration(each.seconds_left),
            f"{each.reason} ({each.log})" if each.reason else "",
        )
    if len(shown) < len(statuses):
        drawn.add_row(f"... and {len(statuses) - len(shown)} more")
    return drawn


def counts(statuses: Sequence[Status]) -> str:
    """How many runs are in which state."""
    number = Counter(each.state for each in statuses)
    return f"{len(statuses)} runs: " + ", ".join(
        f"{number[state]} {state}" for state in STATES if number[state]
    )


def changes(before: Sequence[Status], now: Sequence[Status]) -> list[str]:
    """A line for each run that has come into another state; `before` is empty at first."""
    known = {each.name: each.state for each in before}
    return [line(each) for each in now if known.get(each.name, "waiting") != each.state]


def line(each: Status) -> str:
    """A run in a line."""
    parts = [each.name, each.state, f"step {each.step} of {each.steps}"]
    if each.loss is not None:
        parts.append(f"{'held-out ' if each.state == 'done' else ''}loss {each.loss:.4f}")
    if each.seconds_left is not None:
        parts.append(f"{duration(each.seconds_left)} left")
    if each.reason:
        parts.append(f"{each.reason} ({each.log})")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Such as 45 s, 12 min, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
