"""Files are UTF-8 whatever the locale, and output fails for no encoding and no control character."""

import ast
import io
import sys
from pathlib import Path

import pytest

from cli import main
from common.terminal import printable

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli.py", "commands", "common", "fit", "golden", "plan", "reference", "sweep", "training")


def text_files_of_unnamed_encoding(source: str) -> list[int]:
    """Lines that open, read or write a text file in the encoding of the locale."""
    found: list[int] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) == "os.open":
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        named = any(keyword.arg == "encoding" for keyword in node.keywords)
        given = [part.value for part in (*node.args, *(keyword.value for keyword in node.keywords)) if isinstance(part, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value and set(value) <= set("rwaxb+") for value in given)
        if not named and (
            (name == "read_text" and not node.args)
            or (name == "write_text" and len(node.args) < 2)
            or (name in ("open", "fdopen", "NamedTemporaryFile") and not binary)
        ):
            found.append(node.lineno)
    return found


def test_no_text_file_is_opened_in_the_encoding_of_the_locale() -> None:
    files = [path for name in PACKAGES for path in ([ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")))]
    assert len(files) > 100
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in text_files_of_unnamed_encoding(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "line", ["path.read_text()", "path.write_text(text)", "open(name)", "path.open('w')", "path.open(newline='')", "os.fdopen(1, 'r')"]
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert text_files_of_unnamed_encoding(line) == [1]


@pytest.mark.parametrize(
    "line", ["path.read_text('utf-8')", "path.open('rb')", "open(name, encoding='utf-8')", "path.write_text(x, encoding='utf-8')"]
)
def test_the_search_leaves_the_others_alone(line: str) -> None:
    assert text_files_of_unnamed_encoding(line) == []


def test_control_characters_are_escaped_but_for_line_ends_and_tabs() -> None:
    assert printable("a\x1b[2J\x07\x9b\x7f\r\tb\nÜ\U0001f600") == "a\\x1b[2J\\x07\\x9b\\x7f\\x0d\tb\nÜ\U0001f600"


def test_output_fails_for_no_encoding_and_has_no_control_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "é\x1b.txt").write_text("one document\n" * 10, encoding="utf-8")
    for name, code, words in (("é\x1b.txt", 0, b"?\\x1b.txt is one document"), ("é\x1b", 2, b"does not exist")):
        # As Python makes them in a locale of ASCII.
        out, errors = (io.TextIOWrapper(io.BytesIO(), "ascii", errors) for errors in ("strict", "backslashreplace"))
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", errors)
            assert main(["tokenize", str(tmp_path / name), str(tmp_path / f"out{code}")]) == code
        shown = errors if code else out
        shown.flush()
        data = shown.buffer.getvalue()
        assert words in data
        assert b"\x1b" not in data
