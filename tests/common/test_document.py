"""Documents on a terminal and as pages: nothing is lost, nothing is wider than the terminal, nothing is taken for markup."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from common.document import Document, Figure, Note, Section, Table
from common.document.pages import embedded, parts, tex, tex_name, to_html, to_latex, to_markdown
from common.document.render import show
from common.document.terminal import FIRST_NOTES, allocated, is_number, terminal, wrapped

LETTERS = st.text(st.characters(codec="utf-8", categories=["Lu", "Ll", "Lo", "Nd"]), min_size=1, max_size=14)
CELLS = st.lists(LETTERS, max_size=5).map(" ".join)


def rows(columns: int) -> st.SearchStrategy[list[tuple[str, ...]]]:
    row = st.lists(CELLS, min_size=columns, max_size=columns).map(tuple)
    return st.lists(row, min_size=2, max_size=5)


def document(*blocks: Table | Figure | str, notes: tuple[Note, ...] = ()) -> Document:
    return Document("Title", "Well determined.", ("A finding.",), notes, (Section("Section", blocks),))


@settings(max_examples=40)
@given(st.integers(1, 7).flatmap(rows), st.integers(40, 140))
def test_every_word_of_every_cell_is_printed_and_no_line_is_wider_than_the_terminal(cells: list[tuple[str, ...]], width: int) -> None:
    table = Table("Title", cells[0], tuple(cells[1:]))
    printed = terminal(document(table), width, full=True)
    assert max(cell_len(line) for line in printed.splitlines()) <= width
    words = set(printed.split())
    # Words are at most 14 characters of at most two columns, so that at 40 columns none has to be broken: records take them as they are.
    # The first column's head is not repeated in records.
    expected = {word for row in (cells[0][1:], *cells[1:]) for cell in row for word in cell.split()}
    assert expected <= words | {word.rstrip(":") for word in words}


@given(st.text(max_size=80), st.integers(4, 40))
def test_wrapping_keeps_every_character_and_the_width(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert max(map(cell_len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert lines == [line.strip() for line in lines]


def test_an_interval_is_kept_on_one_line_where_it_fits() -> None:
    assert wrapped("value 0.5 [0.25, 0.75] known", 16) == ["value 0.5", "[0.25, 0.75]", "known"]
    assert wrapped("aa bb", 4) == ["aa", "bb"]
    assert wrapped("bounded-floor-interaction", 14) == ["bounded-floor-", "interaction"]


def test_columns_share_the_room_and_a_table_that_cannot_fit_is_refused() -> None:
    assert allocated([["a", "bb"], ["one two three", "x"]], 9) == [5, 2]
    assert allocated([["a", "bb"], ["one two three", "x"]], 12) == [8, 2]
    assert allocated([["a", "bb"], ["one two three", "x"]], 40) == [13, 2]
    assert allocated([["a", "b"], ["x" * 30, "y" * 30]], 40) is None


def test_a_table_that_cannot_fit_becomes_a_record_a_row() -> None:
    printed = terminal(document(Table("T", ("name", "head"), (("x" * 30, "y" * 30),))), 40, full=True)
    assert f"{'x' * 30}\n  head: {'y' * 30}"[:45] in printed


def test_only_columns_of_numbers_are_aligned_to_the_right() -> None:
    rows = [("law", "1.31B [1, 2]", "3 runs: few", ""), ("law", "-0.5%", "4", "")]
    assert [is_number(rows, column) for column in range(4)] == [False, True, False, False]


def test_the_first_screen_has_first_tables_and_the_worst_warnings_and_counts_the_others() -> None:
    notes = tuple(Note("warning" if k < FIRST_NOTES else "note", f"fit {k}", "code", "text") for k in range(FIRST_NOTES + 2))
    shown = document(Table("First", ("a",), (("1",),), first=True), Table("Later", ("a",), (("1",),)), notes=notes)
    first, full = terminal(shown, 80), terminal(shown, 80, full=True)
    assert "First" in first
    assert "Later" not in first
    assert "2 notes more: --full" in first
    assert full.index("fit 6: text") < full.index("Later")
    assert "more" not in full


def test_what_an_encoding_lacks_is_written_in_plain_characters() -> None:
    printed = terminal(document(Table("T", ("Ê ≤ 2",), (("ÿ ∞",),))), 80, full=True, encoding="ascii")
    assert printed.isascii()
    assert "E^ <= 2" in printed
    assert "? inf" in printed


@pytest.mark.parametrize(("columns", "width"), [("", 80), ("60", 60)])
def test_without_a_terminal_columns_is_honoured_and_80_the_default(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.__stdout__", None)
    show(Document("word " * 40, "", (), (), ()))
    longest = max(map(len, capsys.readouterr().out.splitlines()))
    assert width - 5 < longest <= width


@pytest.mark.parametrize(("variable", "colours"), [("", True), ("1", False)])
def test_no_color_is_honoured_on_a_terminal(
    variable: str, colours: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(document())
    assert ("\x1b[" in capsys.readouterr().out) == colours


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_escapes_everything_and_needs_no_other_file() -> None:
    nasty = "<script>alert('x')</script> & \"q\" \x00"
    noted = document(Table(nasty, (nasty, "n"), ((nasty, "1 [0, 2]"),), nasty), nasty, notes=(Note("error", nasty, "c", nasty),))
    page = to_html(noted, {})
    read = _Texts()
    read.feed(page)
    assert "script" not in read.tags
    assert "\x00" not in page
    assert read.text.count("<script>alert('x')</script> & \"q\" \ufffd") == 7
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_an_embedded_drawing_has_ids_of_its_own_and_colours_that_a_dark_page_sets() -> None:
    svg = '<?xml version="1.0"?><svg width="72pt" height="10pt" xmlns="x"><g id="a" fill="#1b1e23" stroke="#123456"/><use href="#a"/></svg>'
    drawn = embedded(svg, "name", 'a "caption"', {"#1b1e23": "#ffffff"})
    assert 'id="name-a"' in drawn
    assert 'href="#name-a"' in drawn
    assert "var(--c-1b1e23, #1b1e23)" in drawn
    assert '"#123456"' in drawn
    assert "a &#34;caption&#34;" in drawn


def test_markdown_text_is_never_markup() -> None:
    text = to_markdown(document(Table("a|b *c*", ("h|1", "n"), (("x_y <b>", "-1"),))))
    assert "| x_y \\<b> | -1 |" in text
    assert "h\\|1" in text
    assert "| --- | ---: |" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% & $x_1 #2 {a} \\ ~ ^", r"50\% \& \$x\_1 \#2 \{a\} \textbackslash{} \textasciitilde{} \textasciicircum{}"),
        ("-0.5 [-1, 2]", "$-$0.5 [$-$1, 2]"), ("log Ê, α", r"log $\hat{E}$, $\alpha$"), ("8e-05 x-1", "8e-05 x-1"),
    ],
)  # fmt: skip
def test_latex_escapes(text: str, expected: str) -> None:
    assert tex(text) == expected


def test_names_of_parameters_are_mathematics_in_latex() -> None:
    names = [tex_name(name) for name in ("E_start", "alpha_N", "L_0", "c", "all runs")]
    assert names == [r"$E_{\mathrm{start}}$", r"$\alpha_{N}$", "$L_{0}$", "$c$", "all runs"]


def test_latex_tables_hold_every_row_and_their_note() -> None:
    found = to_latex([Table("Title", ("parameter", "S-Base"), (("c", "0.5 [0.25, 0.75]"),), "100% ours")])
    assert r"\begin{tabular}{lr}" in found
    assert r"$c$ & 0.5 {\scriptsize [0.25, 0.75]} \\" in found
    assert r"100\% ours" in found


def test_a_cell_has_a_value_an_interval_and_a_rest() -> None:
    assert parts("5.1 [4, 6] †") == ("5.1", "[4, 6]", " †")
    assert parts("no sign of an end") == ("no sign of an end", "", "")
