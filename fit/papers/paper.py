"""What a paper states beside what its published law gives: statements with verdicts, and figures of ours beside those printed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from common.document import Document, Section, Table
from common.document.numbers import count, interval, many, plain
from fit.report.record import cleaned

Verdict = Literal["yes", "half", "no", "artefact"]
"""What becomes of a statement: it holds, of its parts some hold, it does not hold, or it is of the law's form and of nothing measured."""

Curve = Callable[[Float[np.ndarray, "points"]], Float[np.ndarray, "points"]]
"""A loss, in nats per token, at each of many sizes (or shares of experts, or the like) above 0."""

_POINTS, _ROUNDS = 201, 5
"""Points of a search, and how often it is narrowed to the neighbours of the best one: each time a hundredfold, to one part in 10^8."""

_LARGE = 1e5
"""From here on numbers are written as counts: 102.5M."""

_ALL_DIGITS = 15.9
"""Digits from which on two numbers are the same float64, or nearly."""


@dataclass(frozen=True)
class Statement:
    """A statement of the paper, or one that it does not make and its law does (`stated` false); `why` has the figures that decide it."""

    text: str
    verdict: Verdict
    why: str
    stated: bool = True


@dataclass(frozen=True)
class Figure:
    """A figure of ours, its interval if it has one, and what is printed or was measured in its place; None where nothing is."""

    name: str
    at: str
    value: float
    printed: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def digits(self) -> float | None:
        """How many digits of ours and the printed value match: -log10 of the relative difference, 16 at most."""
        return None if self.printed is None else min(max(-math.log10(max(abs(self.value / self.printed - 1), 1e-16)), 0.0), 16.0)


@dataclass(frozen=True)
class Group:
    """Figures that make a table, a row for each place and a column for each name; `first`: on the first screen."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""
    first: bool = True


@dataclass(frozen=True)
class Paper:
    """A paper: its sources, its statements and figures, and what of it cannot be checked here."""

    name: str
    title: str
    sources: tuple[str, ...]
    statements: tuple[Statement, ...]
    groups: tuple[Group, ...]
    limits: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """How many statements hold, in a sentence."""
        found = [one.verdict for one in self.statements if one.verdict != "artefact"]
        parts = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in ("yes", "half", "no"))
        artefacts = len(self.statements) - len(found)
        further = f"; {many(artefacts, 'artefact')} of the law beside them" if artefacts else ""
        return f"Of {many(len(found), 'statement')}: {parts}{further}."


def judged(*parts: bool) -> Verdict:
    """`yes` where every part of a statement holds, `no` where none does, else `half`."""
    return "yes" if all(parts) else "half" if any(parts) else "no"


def rises(values: Float[np.ndarray, "..."], axis: int = -1) -> bool:
    """Whether values rise along an axis throughout."""
    return bool(np.all(np.diff(values, axis=axis) > 0))


def least(loss: Curve, low: float, high: float) -> tuple[float, float]:
    """The place of least loss between `low` and `high`, both above 0, and the loss there; an end, where the loss is least there."""
    ends, place, losses = np.log([low, high]), 0, np.empty(0)
    grid = np.empty(0)
    for _ in range(_ROUNDS):
        grid = np.linspace(ends[0], ends[1], _POINTS)
        losses = loss(np.exp(grid))
        place = int(np.argmin(losses))
        ends = grid[[max(place - 1, 0), min(place + 1, _POINTS - 1)]]
    return float(np.exp(grid[place])), float(losses[place])


def crossing(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where between `low` and `high`, both above 0, a rising function passes 0. Raises `ValueError` where it does not."""
    if not rising(low) < 0 < rising(high):
        raise ValueError(f"no crossing between {low:g} and {high:g}")
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return math.sqrt(low * high)


def values(numbers: Float[np.ndarray, "numbers"], places: int = 3) -> str:
    """`0.371 0.338 0.318`."""
    return " ".join(f"{one:.{places}f}" for one in numbers.tolist())


def paper_document(paper: Paper) -> Document:
    """Statements and the groups that come first on the first screen; every printed figure with the digits that match after."""
    rows = tuple((one.text if one.stated else f"(not stated) {one.text}", one.verdict, one.why) for one in paper.statements)
    statements = Table("Statements", ("Statement", "Verdict", "What decides it"), rows, first=True)
    printed = [figure for group in paper.groups for figure in group.figures if figure.printed is not None]
    every = Table("Every printed figure", ("Figure", "At", "Printed", "Ours", "Digits that match"), tuple(map(_row, printed)))
    blocks = (statements, *map(_grid, paper.groups), *([every] if printed else []))
    sections = (Section("Statements and figures", blocks), Section("Sources", paper.sources))
    return Document(paper.title, paper.verdict, paper.limits, (), sections)


def _grid(group: Group) -> Table:
    cells = {(figure.at, figure.name): _cell(figure) for figure in group.figures}
    places, names = dict.fromkeys(at for at, _ in cells), dict.fromkeys(name for _, name in cells)
    rows = tuple((at, *(cells.get((at, name), "") for name in names)) for at in places)
    return Table(group.title, ("", *names), rows, group.note, first=group.first)


def _cell(figure: Figure) -> str:
    ours = _ours(figure) if figure.low is None or figure.high is None else interval(figure.value, figure.low, figure.high)
    return ours if figure.printed is None else f"{ours} ({_text(figure.printed)})"


def _row(figure: Figure) -> tuple[str, ...]:
    digits = figure.digits or 0.0
    return figure.name, figure.at, _text(figure.printed or 0.0), _ours(figure), "all" if digits > _ALL_DIGITS else f"{digits:.1f}"


def _text(value: float) -> str:
    """A printed number, as it is printed."""
    return count(value, 4) if value >= _LARGE else f"{value:g}"


def _ours(figure: Figure) -> str:
    """Ours at as many decimals as the printed value, at four where there is none."""
    if figure.value >= _LARGE:
        return count(figure.value, 4)
    return plain(figure.value, 4 if figure.printed is None else len(_text(figure.printed).partition(".")[2]))


def paper_json(paper: Paper) -> dict[str, Any]:
    """The same at full precision; docs/json.md says what the keys mean."""
    figures = [{"table": group.title, **cleaned(figure), "digits": figure.digits} for group in paper.groups for figure in group.figures]
    return {
        "schema": "routelaw.paper/1", "paper": paper.name, "title": paper.title, "verdict": paper.verdict, "sources": list(paper.sources),
        "statements": cleaned(paper.statements), "figures": figures, "limits": list(paper.limits),
    }  # fmt: skip
