"""Documents on a terminal, as Markdown, as HTML and as LaTeX."""

import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

from fit.show.document import Document, Figure, Paragraph, Section, Table, right_aligned
from fit.show.render import json_text
from fit.show.render.html import embedded, escape, to_html
from fit.show.render.latex import booktabs, name, prose
from fit.show.render.latex import escape as latex_escape
from fit.show.render.markdown import to_markdown
from fit.show.render.palette import DARK, MARKERS, ORDERED, PAPER, ROUTERS, ordered
from fit.show.render.terminal import encodable, fitted, show

TABLE = Table(
    "Coefficients: log L = a log N",
    ("router", "a", "E_max", "left out"),
    (("S-Base", "-0.0838 [-0.0892, -0.0800]", "218 [94, 518]", "none"), ("R|L*R", "-0.08 [-0.09, inf] †", "", "3 of <x> & _y_")),
    "Ê: experts",
)
SVG = """<?xml version="1.0"?>
<!DOCTYPE svg>
<svg xmlns="http://www.w3.org/2000/svg" width="9pt"><metadata>m</metadata>
<g id="a"><path style="fill: #1b1e23"/></g><use xlink:href="#a" clip-path="url(#a)"/></svg>
"""


def document(*blocks: Paragraph | Table | Figure, title: str = "A title") -> Document:
    return Document(title, ("First finding.", "Second."), (Section("Part", blocks),))


def on_terminal(shown: Document, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show(shown, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


# Text as files and users may hold it: any character that UTF-8 can encode.
texts = st.text(st.characters(codec="utf-8"), max_size=40)


def visible(text: str) -> str:
    """Text as a reader sees it: control characters and runs of blanks are one blank."""
    return " ".join("".join(" " if c.isspace() or ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text).split())


# Terminal


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = on_terminal(document(Paragraph("word " * 60), TABLE), width)
    assert max(cell_len(line) for line in shown.splitlines()) <= width


def test_findings_stand_before_tables_and_figures_are_left_out() -> None:
    figure = Figure("f", "A caption", lambda: pytest.fail("a terminal draws nothing"))
    shown = on_terminal(document(TABLE, figure, Table("Long", ("x",), (("1",),), on_terminal=False)), 80)
    assert shown.index("First finding.") < shown.index("S-Base")
    assert "A caption" not in shown
    assert "Long" not in shown


def test_a_section_with_nothing_for_terminals_has_no_heading_there() -> None:
    assert "Part" not in on_terminal(document(Table("Long", ("x",), (("1",),), on_terminal=False)), 80)


def test_output_without_a_terminal_has_no_colour_codes() -> None:
    assert "\x1b" not in on_terminal(document(TABLE), 80)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_character_is_shown_in_any_encoding(encoding: str) -> None:
    shown = on_terminal(document(TABLE, title="Ê ≤ ∞ 漢"), 80, encoding)
    assert "S-Base" in shown
    assert ("Ê" in shown) == (encoding != "ascii")


@given(texts)
def test_what_is_made_encodable_can_be_encoded(text: str) -> None:
    encodable(text, "ascii").encode("ascii")


def test_markup_in_a_document_is_shown_as_it_is() -> None:
    assert "[bold]not markup[/bold]" in on_terminal(document(Paragraph("[bold]not markup[/bold]")), 80)


def test_a_table_that_fits_is_left_as_it_is() -> None:
    rows = [list(TABLE.columns), *map(list, TABLE.rows)]
    assert fitted(rows, 200) == rows


def test_a_table_too_wide_gets_intervals_below_their_values_then_is_turned() -> None:
    rows = [["router", "a", "b"], ["S-Base", "-0.0838 [-0.0892, -0.0800]", "-0.1234 [-0.1719, -0.0977]"]]
    assert fitted(rows, 60)[1][1] == "-0.0838\n[-0.0892, -0.0800]"
    assert fitted(rows, 30) == [["router", "S-Base"], ["a", "-0.0838\n[-0.0892, -0.0800]"], ["b", "-0.1234\n[-0.1719, -0.0977]"]]


def test_numbers_are_set_flush_right_and_words_are_not() -> None:
    assert right_aligned(TABLE.rows, 4) == (False, True, True, False)


# Markdown


def as_tokens(markdown: str) -> list[tuple[str, str]]:
    """Blocks of a Markdown text as an independent parser sees them: the kind, and the text of its inline parts."""
    found: list[tuple[str, str]] = []
    kind = ""
    for token in MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown):
        if token.type.endswith("_open"):
            kind = token.tag
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special", "strong_open", "strong_close", "image"}
            found.append((kind, "".join(child.content for child in children)))
    return found


@given(texts.filter(lambda text: visible(text) != ""))
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    tokens = as_tokens(to_markdown(Document(text, (text,), (Section(text, (Paragraph(text),)),))))
    # Finding and paragraph are both `p`; a heading ends in blanks and hashes only if it is escaped.
    assert [kind for kind, _ in tokens] == ["h1", "p", "h2", "p"]
    assert {visible(content) for _, content in tokens} == {visible(text)}


@given(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=3))
def test_markdown_tables_are_rectangular_whatever_is_in_the_cells(cells: list[list[str]]) -> None:
    table = Table("T", ("head", "other"), tuple(tuple(row) for row in cells))
    tokens = [content for kind, content in as_tokens(to_markdown(document(table))) if kind in ("th", "td")]
    assert [visible(content) for content in tokens] == ["head", "other", *(visible(cell) for row in cells for cell in row)]


def test_figures_are_linked_in_the_folder_of_figures() -> None:
    shown = to_markdown(document(Figure("loss", "Loss [nats] * E", lambda: pytest.fail("drawn elsewhere"))))
    assert "](figures/loss.svg)" in shown


# HTML


class Page(HTMLParser):
    """Collects a page's elements, its text and the targets it refers to, and checks that elements nest."""

    VOID = frozenset({"meta", "path", "use", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.targets.append(value or "")
            if key == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(shown: Document) -> str:
    return to_html(shown, {figure.name: SVG for figure in shown.figures()})


def check_self_contained(page: str) -> Page:
    """No script, nothing fetched, and every id once."""
    parsed = Page(page)
    assert "script" not in parsed.elements
    assert "link" not in parsed.elements
    assert all(target.startswith("#") for target in parsed.targets)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {target[1:] for target in parsed.targets} <= set(parsed.ids)
    return parsed


def test_a_page_is_self_contained_and_well_formed() -> None:
    figures = [Figure(name, "A caption", lambda: pytest.fail("drawn before")) for name in ("one", "two")]
    parsed = check_self_contained(page_of(document(TABLE, *figures, Paragraph("p"))))
    assert parsed.elements.count("svg") == 2
    assert parsed.elements.count("td") == 6


@given(texts)
def test_html_shows_any_text_as_it_is(text: str) -> None:
    table = Table(text, (text, text), ((text, text),), text)
    parsed = Page(page_of(Document(text, (text,), (Section(text, (Paragraph(text), table)),))))
    assert {"h1", "h2", "li", "p", "caption", "td"} <= set(parsed.elements)
    assert "".join(parsed.text).count(html_text(text)) >= 9


def html_text(text: str) -> str:
    """What a parser gives back for an escaped text: line ends are not changed by Python's parser."""
    shown = Page(f"<p>{escape(text)}</p>").text
    return "".join(shown)


@given(texts)
def test_only_characters_that_html_forbids_are_replaced(text: str) -> None:
    kept = "".join(c for c in text if ord(c) >= 160 or 32 <= ord(c) < 127)
    assert "".join(c for c in html_text(text).replace("\ufffd", "") if ord(c) >= 160 or 32 <= ord(c) < 127) == "".join(
        c for c in kept if (ord(c) & 0xFFFE) != 0xFFFE and not 0xFDD0 <= ord(c) <= 0xFDEF and c != "\ufffd"
    )


def test_a_figure_in_a_page_takes_its_colours_from_the_page_and_its_ids_from_its_name() -> None:
    drawn = embedded(SVG, "loss", 'A "caption"')
    assert "var(--c-1b1e23, #1b1e23)" in drawn
    assert 'id="loss-a"' in drawn
    assert 'href="#loss-a"' in drawn
    assert "url(#loss-a)" in drawn
    assert "xmlns" not in drawn
    assert "metadata" not in drawn


# LaTeX


def test_specials_and_symbols_become_latex() -> None:
    assert latex_escape("50 % of a_b & {c} #1 ~ ^ \\ $") == (
        r"50 \% of a\_b \& \{c\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert latex_escape("Ê B̂ N̄ α ∞ †") == r"$\hat{E}$ $\hat{B}$ $\bar{N}$ $\alpha$ $\infty$ \textdagger{}"


def test_names_of_parameters_are_mathematics() -> None:
    assert [name(text) for text in ("a", "E_start", "alpha_N", "L_0", "ln_C", "router")] == [
        "$a$", r"$E_{\mathrm{start}}$", r"$\alpha_{N}$", "$L_{0}$", r"$\ln C$", "router",
    ]  # fmt: skip


def test_names_of_parameters_in_a_caption_are_mathematics_too() -> None:
    assert prose("L = (N_c / N)^alpha_N in loss_validation") == (r"L = ($N_{c}$ / N)\textasciicircum{}$\alpha_{N}$ in loss\_validation")


@given(texts)
def test_escaped_text_is_balanced_and_has_no_bare_special(text: str) -> None:
    found = latex_escape(text)
    plain = re.sub(r"\\[{}$&#%_]", "", found)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)[&#%~]", found)


def test_a_latex_table_has_as_many_cells_in_each_row_as_columns() -> None:
    shown = booktabs(TABLE, "tab:x")
    body = shown[shown.index(r"\midrule") : shown.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith((r"\\", r"\\[2pt]"))]
    # Two rows of values, each with its intervals below.
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [3, 3, 3, 3]
    assert r"{\scriptsize [$-0.0892$, $-0.0800$]}" in body
    assert r"$\infty$" in body


# JSON, colours


def test_json_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})


def contrast(colour: str, other: str) -> float:
    """Contrast of two colours by the Web Content Accessibility Guidelines."""

    def luminance(text: str) -> float:
        parts = [int(text[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(colour), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_of_data_stands_out_on_light_and_on_dark_pages() -> None:
    # 3:1 is what the guidelines ask of graphics.
    for colour in (*ROUTERS, *ORDERED):
        assert contrast(colour, PAPER) >= 2.99
        assert contrast(DARK[colour], DARK[PAPER]) >= 3


@pytest.mark.parametrize("number", [1, 2, 6, 9, 12, 30])
def test_an_ordered_scale_has_as_many_colours_as_asked_for(number: int) -> None:
    assert len(ordered(number)) == number
    assert len(set(ordered(number))) == min(number, len(ORDERED))


def test_markers_differ() -> None:
    assert len(set(MARKERS)) == len(MARKERS)


def test_a_table_too_wide_for_its_longest_words_is_shown_row_by_row() -> None:
    table = Table("Wide", ("law", "a-rather-long-head", "another-long-head"), (("bounded-floor-interaction", "one", "two three"),))
    assert "bounded-floor-interaction\n  a-rather-long-head: one\n  another-long-head: two three\n" in re.sub(
        r" +\n", "\n", on_terminal(document(table), 40)
    )


def test_no_word_of_a_table_is_broken() -> None:
    table = Table("Narrow", ("law", "what"), (("bounded-floor-interaction", "words " * 30),))
    assert "bounded-floor-interaction" in on_terminal(document(table), 60)
