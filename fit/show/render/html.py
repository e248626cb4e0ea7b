"""A document as one HTML file that needs nothing else: figures inline as SVG, no script, light and dark, on screen and on paper."""

import html
import re
from collections.abc import Mapping
from importlib.resources import files

from fit.show.document import Block, Document, Figure, Paragraph, Section, Table, right_aligned
from fit.show.render.palette import DARK

_CELL = re.compile(r"(.*?) (\[[^\]]*\])(.*)", flags=re.DOTALL)


def to_html(document: Document, figures: Mapping[str, str]) -> str:
    """The whole document; `figures` has the SVG of each of its figures by name."""
    style = files("fit.show.render").joinpath("style.css").read_text(encoding="utf-8") + _dark_figures()
    title = escape(document.title)
    names = [f"s{k}" for k in range(1, len(document.sections) + 1)]
    contents = " ".join(f'<a href="#{i}">{escape(section.title)}</a>' for i, section in zip(names, document.sections, strict=True))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        f"<h1>{title}</h1>",
        *(['<ul class="findings">', *(f"<li>{escape(text)}</li>" for text in document.findings), "</ul>"] if document.findings else []),
        *([f'<nav aria-label="Contents">{contents}</nav>'] if len(names) > 1 else []),
        *(_section(name, section, figures) for name, section in zip(names, document.sections, strict=True)),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _section(name: str, section: Section, figures: Mapping[str, str]) -> str:
    blocks = (_block(block, figures) for block in section.blocks)
    return "\n".join([f'<section id="{name}">', f"<h2>{escape(section.title)}</h2>", *blocks, "</section>"])


def _block(block: Block, figures: Mapping[str, str]) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Figure):
        drawn = embedded(figures[block.name], block.name, block.caption)
        return f"<figure>\n{drawn}\n<figcaption>{escape(block.caption)}</figcaption>\n</figure>"
    return _table(block)


def _table(table: Table) -> str:
    numbers = right_aligned(table.rows, len(table.columns))
    heads = "".join(
        f'<th scope="col"{_class(is_number)}>{escape(head)}</th>' for head, is_number in zip(table.columns, numbers, strict=True)
    )
    rows = ["<tr>" + "".join(_cell(k, cell, numbers[k]) for k, cell in enumerate(row)) + "</tr>" for row in table.rows]
    # Beside each other, many intervals would not fit the page's width.
    stacked = ' class="stacked"' if sum(map(bool, map(_CELL.fullmatch, table.rows[0] if table.rows else ()))) > 4 else ""
    note = [f'<p class="note">{escape(table.note)}</p>'] if table.note else []
    lines = [
        f'<div class="table" role="region" aria-label="{escape(table.title)}" tabindex="0">',
        f"<table{stacked}><caption>{escape(table.title)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody></table>",
        "</div>",
        *note,
    ]
    return "\n".join(lines)


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _cell(column: int, text: str, is_number: bool) -> str:
    if column == 0:
        return f'<th scope="row">{escape(text)}</th>'
    found = _CELL.fullmatch(text) if is_number else None
    shown = f'{escape(found[1])} <span class="interval">{escape(found[2])}</span>{escape(found[3])}' if found else escape(text)
    return f"<td{_class(is_number)}>{shown}</td>"


def escape(text: str) -> str:
    """Plain text for an element or an attribute. Characters that HTML forbids become a replacement sign."""
    return html.escape("".join(c if c in "\t\n\r" or _allowed(ord(c)) else "\ufffd" for c in text))


def _allowed(code: int) -> bool:
    """Whether HTML allows the character: no controls, no halves of surrogate pairs, no noncharacters."""
    control = code < 0x20 or 0x7F <= code <= 0x9F
    surrogate = 0xD800 <= code <= 0xDFFF
    return not (control or surrogate or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE)


def _dark_figures() -> str:
    """The rule that sets the figures' colours in dark mode; on paper they stay as they are drawn."""
    colours = " ".join(f"--c-{light[1:]}: {dark};" for light, dark in DARK.items())
    return f"@media screen and (prefers-color-scheme: dark) {{\n  :root {{ {colours} }}\n}}\n"


_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_WIDTH, _HEIGHT = re.compile(r'\swidth="([\d.]+)pt"'), re.compile(r'\sheight="[\d.]+pt"')
_REFERENCE = re.compile(r'(\bid="|(?:xlink:)?href="#|url\(#)')


def embedded(svg: str, name: str, caption: str) -> str:
    """An SVG file's drawing for use inside a page: its ids made the figure's own, its colours those of the page's scheme.

    A colour that has a dark counterpart becomes a variable that the page sets in dark mode only.
    """
    drawing = svg[svg.index("<svg") :].rstrip()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\s(?:xmlns(?::xlink)?="[^"]*")', "", drawing)
    drawing = drawing.replace("xlink:href", "href")
    drawing = _REFERENCE.sub(lambda found: f"{found[0]}{name}-", drawing)
    drawing = _COLOUR.sub(lambda found: f"var(--c-{found[0][1:]}, {found[0]})" if found[0] in DARK else found[0], drawing)
    # As wide as it was drawn, with letters the size of the page's own: 1.5 px for each point, and no wider than the page.
    width = _WIDTH.search(drawing)
    size = f'style="max-width: {1.5 * float(width[1]):.0f}px" ' if width else ""
    drawing = _WIDTH.sub(" ", _HEIGHT.sub(" ", drawing, count=1), count=1)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" {size}', 1)
