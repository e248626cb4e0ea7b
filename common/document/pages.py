"""A document as HTML, Markdown or LaTeX: templates of jinja2, and the escapes and drawings they need."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from common.document import Document, Table
from common.document.terminal import is_number

_TEMPLATES = PackageLoader("common.document")


@cache
def _environment(kind: str) -> Environment:
    """How templates of this kind are filled in: HTML escapes by itself, LaTeX has delimiters that LaTeX does not use."""
    marks = ("<%", "%>", "<<", ">>", "<#", "#>") if kind == "tex" else ("{%", "%}", "{{", "}}", "{#", "#}")
    found = Environment(
        *marks, loader=_TEMPLATES, autoescape=kind == "html", trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    filters: dict[str, Any] = {
        "tex": tex,
        "tex_name": tex_name,
        "md": markdown_text,
        "html": html_text,
        "parts": parts,
        "is_number": is_number,
    }
    found.filters.update(filters)
    return found


def to_html(document: Document, figures: Mapping[str, str]) -> str:
    """The document as one HTML page that needs nothing else; `figures` holds each figure's SVG by name. Light, dark and printable."""
    template = _environment("html").get_template("page.html.j2")
    style, _, _ = _TEMPLATES.get_source(_environment("html"), "style.css")
    dark: Mapping[str, str] = {}
    if figures:
        from common.plots import DARK as dark
    drawn = {one.name: Markup(embedded(figures[one.name], one.name, one.caption, dark)) for one in document.figures()}
    return template.render(document=document, style=Markup(style), dark=dark, drawn=drawn)


def to_markdown(document: Document) -> str:
    """The document as Markdown with pipe tables; figures are links into `figures/`."""
    text = _environment("md").get_template("page.md.j2").render(document=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_latex(tables: Sequence[Table], prefix: str = "tab") -> str:
    """Tables as LaTeX; needs `\\usepackage{booktabs}` and nothing else. Intervals stand in small print behind their values."""
    return _environment("tex").get_template("tables.tex.j2").render(tables=tables, prefix=prefix)


_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_WIDTH, _HEIGHT = re.compile(r'\swidth="([\d.]+)pt"'), re.compile(r'\sheight="[\d.]+pt"')


def embedded(svg: str, name: str, caption: str, dark: Mapping[str, str]) -> str:
    """An SVG file's drawing for use inside a page: its ids its own, colours of `dark` variables that a dark page sets."""
    drawing = re.sub(r'<metadata>.*?</metadata>|\s(?:xmlns(?::xlink)?="[^"]*")', "", svg[svg.index("<svg") :].rstrip(), flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[0]}{name}-", drawing.replace("xlink:href", "href"))
    drawing = _COLOUR.sub(lambda found: f"var(--c-{found[0][1:]}, {found[0]})" if found[0] in dark else found[0], drawing)
    # As wide as it was drawn, with letters the size of the page's own: 1.5 px for each point, and no wider than the page.
    width = _WIDTH.search(drawing)
    size = f'style="max-width: {1.5 * float(width[1]):.0f}px" ' if width else ""
    drawing = _WIDTH.sub(" ", _HEIGHT.sub(" ", drawing, count=1), count=1)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" {size}', 1)


def parts(cell: str) -> tuple[str, str, str]:
    """A cell's value, its interval in brackets, and what follows it."""
    found = re.fullmatch(r"(.*?) ?(\[[^\[\]]*\])(.*)", cell, flags=re.DOTALL)
    return (found[1], found[2], found[3]) if found else (cell, "", "")


def html_text(text: str) -> Markup:
    """Escaped text; controls and other characters that HTML forbids become a replacement sign."""
    return escape("".join(c if c in "\t\n\r" or unicodedata.category(c) not in ("Cc", "Cs", "Cn") else "\ufffd" for c in text))


def markdown_text(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return re.sub(r"([\\`*|<~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "·": r"\textperiodcentered{}", "–": "--", "—": "---", "’": "'", "°": r"\textdegree{}",
    "−": "$-$", "∞": r"$\infty$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "×": r"$\times$", "±": r"$\pm$", "→": r"$\to$",
    "†": r"\dag{}", **{c: f"\\{c}" for c in "{}$&#%_"},
}  # fmt: skip
_ACCENTS = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde"}
_NAME = re.compile(r"(alpha|beta|gamma|delta|[A-Za-z]{1,2})_([A-Za-z0-9]+)|[abcdABCD]")


def tex(text: str) -> str:
    """Plain text for LaTeX: specials escaped, minus signs, Greek letters and letters with a hat or a bar as mathematics."""
    found: list[str] = []
    for c in unicodedata.normalize("NFD", re.sub(r"(?<![\w.-])-(?=[\d.])", "−", " ".join(text.split()))):
        greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(c, ""))
        if c in _ACCENTS and found:
            found.append(f"$\\{_ACCENTS[c]}{{{found.pop().strip('$')}}}$")
        elif greek:
            found.append(f"$\\{greek[1].lower().replace('lamda', 'lambda')}$")
        else:
            found.append(_SPECIAL.get(c) or (c if c.isascii() or unicodedata.category(c)[0] in "LM" else f"[U+{ord(c):04X}]"))
    return "".join(found)


def tex_name(text: str) -> str:
    """A parameter's name as mathematics: `E_start` becomes $E_{\\mathrm{start}}$; any other text as `tex` has it."""
    found = _NAME.fullmatch(text)
    if not found or not found[1]:
        return f"${text}$" if found else tex(text)
    base = f"\\{found[1]}" if len(found[1]) > 2 else found[1]
    index = found[2] if len(found[2]) == 1 else rf"\mathrm{{{found[2]}}}"
    return f"${base}_{{{index}}}$"
