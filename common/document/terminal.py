"""A document on a terminal. Nothing is cropped: cells and sentences wrap at words, and a table that cannot fit becomes a record a row."""

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from common.document import Document, Note, Section, Table
from common.document.numbers import listing, many

FIRST_NOTES, LEAST_NOTES, FIRST_LINES = 5, 1, 30
"""Warnings on the first screen, fewer where it would be longer than so many lines, and the fewest; the others are counted."""

_GAP, _WIDEST_TEXT = 2, 100
_UNITS, _WORDS, _PIECES = re.compile(r"\[[^\[\]]*\]\S*|\S+"), re.compile(r"\S+"), re.compile(r"[^\s/_,-]*[/_,-]+|[^\s/_,-]+")
"""What is kept on one line: intervals in brackets if possible, else words, else their parts up to a mark of punctuation."""
_NUMBER = re.compile(r"[-+>]?\d[\d.,]*(e[-+]?\d+)?[%kMBT]?†?( [\[(].*)?")
_BOLD, _DIM, _COLOURS = "1", "2", {"error": "31", "warning": "33", "note": "2"}
_PLAIN = {
    "Ê": "E^", "\u0302": "^", "\u0304": "-", "∞": "inf", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "−": "-", "–": "-", "—": "-",
    "×": "x", "·": "*", "’": "'", "²": "^2", "√": "sqrt ", "°": " deg", "±": "+/-", "α": "alpha", "†": "+",
}  # fmt: skip
"""What stands for a character that a terminal's encoding lacks."""


def terminal(document: Document, width: int = 80, full: bool = False, *, color: bool = False, encoding: str = "utf-8") -> str:
    """The document as text of lines of at most `width` columns, 20 or more.

    Without `full` the first screen: verdict, findings, the `first` tables and the worst warnings; with it all warnings and sections.
    """
    write = _Writer(max(width, 20), color, encoding)
    write.text(document.title, style=_BOLD)
    write.text(document.verdict)
    write.lines.append("")
    for finding in document.findings:
        write.text(finding, bullet="* ")
    if full:
        write.notes(document.notes, len(document.notes))
        for section in document.sections:
            write.section(section)
    else:
        for table in document.tables():
            if table.first:
                write.table(table)
        room = FIRST_LINES - len(write.lines) - 1
        everything = len(document.notes) <= min(room, FIRST_NOTES)
        write.notes(document.notes, min(FIRST_NOTES, max(LEAST_NOTES, room - (not everything))))
    return "\n".join(write.lines) + "\n"


def is_number(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column's cells are numbers, so that it is aligned to the right."""
    cells = [row[column] for row in rows if row[column]]
    return column > 0 and bool(cells) and all(map(_NUMBER.fullmatch, cells))


class _Writer:
    """Gathers lines for one width and encoding."""

    def __init__(self, width: int, color: bool, encoding: str) -> None:
        self._width, self._color, self._encoding = width, color, encoding
        self.lines: list[str] = []

    def text(self, text: str, style: str = "", bullet: str = "") -> None:
        """A paragraph, or an item of a list: its lines hang below the bullet's end."""
        hang = " " * cell_len(bullet)
        for k, line in enumerate(wrapped(self._encodable(text), min(self._width, _WIDEST_TEXT) - len(hang))):
            line = (hang if k else bullet) + line
            self.lines.append(f"\x1b[{style}m{line}\x1b[0m" if style and self._color else line)

    def notes(self, notes: Sequence[Note], most: int) -> None:
        """Warnings, a line each where they fit, and how many more there are."""
        if notes:
            self.lines.append("")
        for note in notes[:most]:
            about = f"{note.about}: " if note.about else ""
            self.text(f"{about}{note.text}", style=_COLOURS.get(note.severity, ""), bullet=f"{note.severity:<8}")
        if rest := notes[most:]:
            kinds = {severity: sum(note.severity == severity for note in rest) for severity in _COLOURS}
            self.text(f"{listing(many(number, severity) for severity, number in kinds.items() if number)} more: --full", style=_DIM)

    def section(self, section: Section) -> None:
        """Its title, paragraphs and tables; nothing where there are figures alone."""
        blocks = [block for block in section.blocks if isinstance(block, str | Table)]
        if blocks:
            self.lines.append("")
            self.text(section.title, style=_BOLD)
        for block in blocks:
            self.table(block) if isinstance(block, Table) else self.text(block)

    def table(self, table: Table) -> None:
        """A table below its title and above its note."""
        cells = [[" ".join(self._encodable(cell).split()) for cell in row] for row in (table.columns, *table.rows)]
        self.lines.append("")
        self.text(table.title, style=_BOLD)
        widths = allocated(cells, self._width)
        if widths is None:
            for row in cells[1:]:
                self.text(row[0])
                for head, cell in zip(cells[0][1:], row[1:], strict=True):
                    self.text(f"{head}: {cell}", bullet="  ")
        else:
            right = [is_number(table.rows, column) for column in range(len(widths))]
            self.lines += [
                *_grid(cells[:1], widths, right),
                "-" * (sum(widths) + _GAP * (len(widths) - 1)),
                *_grid(cells[1:], widths, right),
            ]
        if table.note:
            self.text(table.note, style=_DIM)

    def _encodable(self, text: str) -> str:
        """`text` with every character that the encoding lacks replaced by plain ones, by `?` where there are none."""
        text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            known = [c if c.encode(self._encoding, "ignore") else _PLAIN.get(c, "?") for c in text]
            return "".join(known)
        return text


def _grid(rows: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    """The lines of these rows."""
    for row in rows:
        cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for k in range(max(map(len, cells))):
            parts = [cell[k] if k < len(cell) else "" for cell in cells]
            pads = [" " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True)]
            line = (" " * _GAP).join(pad + part if is_right else part + pad for part, pad, is_right in zip(parts, pads, right, strict=True))
            yield line.rstrip()


def allocated(cells: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """A width for each column, so that the table fits and no word is broken but at punctuation. None: it cannot fit."""
    room = width - _GAP * (len(cells[0]) - 1)
    natural = [max(cell_len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for pattern in (re.compile(".+"), _UNITS, _WORDS, _PIECES):
        found = [max([1, *(cell_len(word) for cell in column for word in pattern.findall(cell))]) for column in zip(*cells, strict=True)]
        if sum(found) <= room:
            # Space that is left goes, one by one, to the column that is most cramped.
            for _ in range(room - sum(found)):
                most = max(range(len(found)), key=lambda k: natural[k] / found[k])
                found[most] += natural[most] > found[most]
            return found
    return None


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns, broken between words; a longer word after punctuation or where the line ends."""
    lines = [""]
    for unit in _UNITS.findall(text):
        for word in [unit] if cell_len(unit) <= width else unit.split():
            gap = " " if lines[-1] else ""
            if gap and cell_len(lines[-1] + gap + word) > width:
                lines.append("")
                gap = ""
            for piece in [gap + word] if cell_len(gap + word) <= width else _PIECES.findall(word):
                if lines[-1] and cell_len(lines[-1] + piece) > width:
                    lines.append("")
                for part in [piece] if cell_len(piece) <= width else piece:
                    if cell_len(lines[-1] + part) > width:
                        lines.append("")
                    lines[-1] += part
    return lines
