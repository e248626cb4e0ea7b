"""A document as Markdown (CommonMark with pipe tables), figures linked as files beside it."""

import re
import unicodedata

from fit.show.document import Block, Document, Figure, Table, right_aligned

_ANYWHERE = re.compile(r"[\\`*<|~$]|&(?=[#\w]+;)|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|#(?=#*$)")
"""What means something to Markdown wherever it stands: an underscore only at the edge of a word, a bracket only
before a link's target, hashes only where they would close a heading."""

_AT_START = re.compile(r"^([-+=>#:]|\d{1,9}(?=[.)]))")
"""What would begin a list, a rule, a quotation or a heading at the start of a line."""


def to_markdown(document: Document, figures: str = "figures") -> str:
    """The whole document; `figures` is the folder in which its figures stand, as `NAME.svg`."""
    parts = [f"# {inline(document.title)}", "\n".join(f"- {paragraph(finding)}" for finding in document.findings)]
    for section in document.sections:
        parts.append(f"## {inline(section.title)}")
        parts += [_block(block, figures) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, figures: str) -> str:
    if isinstance(block, Table):
        return table(block)
    if isinstance(block, Figure):
        return f"![{inline(block.name)}]({figures}/{block.name}.svg)\n\n{paragraph(block.caption)}"
    return paragraph(block.text)


def table(block: Table) -> str:
    """A pipe table with its title above and its note below."""
    rule = ["---:" if is_right else "---" for is_right in right_aligned(block.rows, len(block.columns))]
    rows = [[inline(cell) or " " for cell in row] for row in (block.columns, *block.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    note = f"\n\n{paragraph(block.note)}" if block.note else ""
    return f"**{inline(block.title)}**\n\n" + "\n".join(lines) + note


def inline(text: str) -> str:
    """Plain text that Markdown shows as it is, on one line, where it does not begin the line."""
    printable = ("" if unicodedata.category(character) == "Cs" else character for character in text)
    one_line = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in printable).split())
    return _ANYWHERE.sub(lambda found: f"\\{found[0]}", one_line)


def paragraph(text: str) -> str:
    """The same where it begins a line."""
    line = inline(text)
    found = _AT_START.match(line)
    if not found:
        return line
    # A sign is escaped itself, of a number the stop or bracket after it.
    at = found.end() if found[0].isdigit() else 0
    return f"{line[:at]}\\{line[at:]}"
