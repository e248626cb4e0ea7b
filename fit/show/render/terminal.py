"""A document on a terminal: findings first, then the short tables, each turned or broken so that it fits the width."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from fit.show.document import Document, Paragraph, Section, Table, right_aligned

_GAP = 2
"""Blank columns between two columns of a table."""

_WIDEST_TEXT = 96
"""Lines of running text longer than this are hard to read, however wide the terminal is."""


def show(document: Document, console: Console | None = None) -> None:
    """Print `document`; figures and the tables meant for the written report are left out.

    Readable at 80 columns and without colour; characters that the terminal's encoding lacks are replaced by plain ones.
    """
    console = console or _Console(highlight=False)
    write = _Writer(console)
    write.text(document.title, style="bold")
    write.line()
    for finding in document.findings:
        write.text(finding, bullet=True)
    for section in document.sections:
        if blocks := _shown(section):
            write.line()
            write.text(section.title, style="bold")
            for block in blocks:
                if isinstance(block, Table):
                    write.table(block)
                else:
                    write.text(block.text)


class _Console(Console):
    """A console that leaves a closed pipe to the command, which knows that a reader who has seen enough is no failure."""

    def on_broken_pipe(self) -> None:
        """Raise instead of ending the process."""
        raise BrokenPipeError


def _shown(section: Section) -> list[Paragraph | Table]:
    """The blocks of a section that a terminal shows."""
    return [block for block in section.blocks if isinstance(block, Paragraph) or (isinstance(block, Table) and block.on_terminal)]


class _Writer:
    """Prints to one console, within its width and encoding."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self) -> None:
        """An empty line."""
        self._console.print()

    def text(self, text: str, style: str = "", bullet: bool = False) -> None:
        """A paragraph, or an item of a list."""
        text = encodable(text, self._console.encoding)
        width = min(self._console.width, _WIDEST_TEXT)
        if not bullet:
            self._console.print(Text(text, style=style), width=width)
            return
        grid = RichTable.grid(padding=(0, 1, 0, 0))
        grid.add_row(Text("*"), Text(text))
        self._console.print(grid, width=width)

    def table(self, table: Table) -> None:
        """A table below its title and above its note."""
        cells = [[encodable(cell, self._console.encoding) for cell in row] for row in (table.columns, *table.rows)]
        rows = fitted(cells, self._console.width)
        self.line()
        self.text(table.title, style="italic")
        if _width(_words(rows)) > self._console.width:
            self._records(rows)
        else:
            self._grid(rows)
        if table.note:
            self.text(table.note, style="dim")

    def _grid(self, rows: list[list[str]]) -> None:
        """Rows below their heads; a cell that is too long goes on in the next line, never in the middle of a word."""
        shown = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=None, show_edge=False)
        for head, is_right in zip(rows[0], right_aligned(rows[1:], len(rows[0])), strict=True):
            shown.add_column(Text(head), justify="right" if is_right else "left", overflow="fold", vertical="top")
        for column, longest in zip(shown.columns, _words(rows)[0], strict=True):
            column.min_width = cell_len(longest)
        for row in rows[1:]:
            shown.add_row(*(Text(cell) for cell in row))
        self._console.print(shown)

    def _records(self, rows: list[list[str]]) -> None:
        """A table too wide for the terminal, row by row: what names the row, then each head with its cell."""
        for row in rows[1:]:
            self.text(" ".join(row[0].split()))
            for head, cell in zip(rows[0][1:], row[1:], strict=True):
                self._console.print(Padding(Text(f"{' '.join(head.split())}: {' '.join(cell.split())}"), (0, 0, 0, 2)))


def fitted(rows: list[list[str]], width: int) -> list[list[str]]:
    """The same table (first row: its heads) in the first of these forms that fits: as it is, with intervals below their values,
    turned on its side, both, with each end of an interval on its own line. If none fits, long cells will wrap."""
    broken = [[cell.replace(" [", "\n[", 1) for cell in row] for row in rows]
    # A head's words go below each other, too; an interval's ends are the only other cells with ", " after a bracket.
    finely = [[cell.replace(" ", "\n") if k == 0 or "\n[" in cell else cell for cell in row] for k, row in enumerate(broken)]
    for form in (rows, broken, _turned(rows), _turned(broken), finely):
        if _width(form) <= width:
            return form
    return broken if any("\n" in cell for row in broken for cell in row) else rows


def _words(rows: list[list[str]]) -> list[list[str]]:
    """The longest word of each column, as a table of one row."""
    return [[max((word for cell in column for word in cell.split()), key=cell_len, default="") for column in zip(*rows, strict=True)]]


def _turned(rows: list[list[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Columns of a terminal that a table needs for no cell to wrap."""
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in zip(*rows, strict=True)]
    return sum(widths) + _GAP * (len(widths) - 1)


_PLAIN = {
    "†": "(!)", "Ê": "E^", "\u0302": "^", "\u0304": "-", "∞": "inf", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "−": "-", "–": "-",
    "—": "-", "×": "x", "·": "*", "’": "'", "²": "^2", "√": "sqrt ", "°": " deg",
}  # fmt: skip
"""What stands for a character that a terminal's encoding lacks."""


def encodable(text: str, encoding: str) -> str:
    """`text` with every character that `encoding` lacks replaced by a plain one, by `?` where there is none."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "".join(_encodable_character(character, encoding) for character in text)
    return text


def _encodable_character(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return _PLAIN.get(character, "?")
    except LookupError:
        return character if character.isascii() else _PLAIN.get(character, "?")
    return character
