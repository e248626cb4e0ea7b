"""What a command has to say, apart from how it is shown: findings first, then sections of text, tables and figures.

`fit`, `compare` and `reproduce` each make one `Document`; `fit.show.render` shows it on a terminal, as Markdown, HTML or LaTeX.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Paragraph:
    """Plain text, one paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of finished cells: `columns` are its heads, the first one names the rows; `note` says what a reader must know to read it.

    `on_terminal` is False for one too long for a terminal, which the written reports show.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    on_terminal: bool = True

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row has {len(row)} cells and there are {len(self.columns)} columns")

    def with_note(self, note: str) -> "Table":
        """The same table with another note."""
        return replace(self, note=note)


@dataclass(frozen=True)
class Figure:
    """A figure: the name of its file, its caption, and how to draw it. Terminals leave it out."""

    name: str
    caption: str
    draw: "Callable[[], MatplotlibFigure]"


Block = Paragraph | Table | Figure


@dataclass(frozen=True)
class Section:
    """A headed part of a document."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """All that is shown: what was found, in sentences, most important first; then the sections that bear it out."""

    title: str
    findings: tuple[str, ...]
    sections: tuple[Section, ...]

    def tables(self) -> tuple[Table, ...]:
        """Every table, in order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Table))

    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Figure))


_FIGURE = re.compile(r"[-+]?(?:\d[\d.,/]*(?:e[-+]?\d+)?\s?[kMBT%]?|inf|none)(?:\s\[[^\]]*\])?(?:\s†)?")
"""A cell that is a number: with its unit letter, its interval and the mark of an extrapolation, if any."""


def right_aligned(rows: Sequence[Sequence[str]], columns: int) -> tuple[bool, ...]:
    """Which of so many columns hold numbers only (empty cells aside), and so are set flush right; never the first, which names rows."""
    filled = [[cell for row in rows if (cell := row[k].replace("\n", " "))] for k in range(columns)]
    return tuple(k > 0 and bool(cells) and all(map(_FIGURE.fullmatch, cells)) for k, cells in enumerate(filled))
