"""What a command has to say, apart from how it is shown: a verdict, findings, warnings, then sections of tables and figures.

Every command makes one `Document`; `common.document.render` shows it on a terminal or writes it as HTML, Markdown or LaTeX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Table:
    """A table of finished cells: `columns` are its heads, the first one names the rows; `note` says what a reader must know to read it.

    `first` tables are on the first screen, the others with `--full` and in written reports.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    first: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row has {len(row)} cells and there are {len(self.columns)} columns")


@dataclass(frozen=True)
class Figure:
    """A figure: the name of its file, its caption, and how to draw it. Terminals leave it out."""

    name: str
    caption: str
    draw: "Callable[[], MatplotlibFigure]"


@dataclass(frozen=True)
class Section:
    """A headed part of a document: paragraphs (plain text), tables and figures."""

    title: str
    blocks: "tuple[str | Table | Figure, ...]"


@dataclass(frozen=True)
class Note:
    """A warning in one line: its severity (error, warning, note), what it is about, its code and the sentence."""

    severity: str
    about: str
    code: str
    text: str


@dataclass(frozen=True)
class Document:
    """All that is shown: the verdict in a line or two, findings by importance, warnings by severity, and sections that bear them out."""

    title: str
    verdict: str
    findings: tuple[str, ...]
    notes: tuple[Note, ...]
    sections: tuple[Section, ...]

    def tables(self) -> tuple[Table, ...]:
        """Every table, in order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Table))

    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Figure))
