"""Formats: the same runs from every kind of file, what is not read is named, and no bytes give a traceback."""

import gzip
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import load_runs
from tests.fit.runs.samples import GOOD, HEADER, as_lists


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(",", " , "),
        lambda text: "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()),
        lambda text: '"' + text.replace("\n", '"\n', 1).replace(",", '","', HEADER.count(",")),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", "|"),
        lambda text: f"{text},,,,,,\n",
        lambda text: gzip.compress(text.encode()),
        lambda text: lzma.compress(text.encode()),
        lambda text: gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()),
    ],
    ids=[
        "plain",
        "byte-order mark",
        "CRLF",
        "CR",
        "empty lines",
        "no last line end",
        "blanks",
        "quotes",
        "quoted header",
        "semicolons",
        "tabs",
        "bars",
        "row without cells",
        "gzip",
        "xz",
        "gzips",
    ],
)
def test_the_same_runs_are_read_however_they_are_written(write: Callable[..., Path], change: Callable[[str], str | bytes]) -> None:
    runs, plain = load_runs(write(change(GOOD))), load_runs(write(GOOD, "plain.csv"))
    assert {name: values.tolist() for name, values in runs.columns.items()} == {
        name: values.tolist() for name, values in plain.columns.items()
    }


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(GOOD.encode()))))
    runs = load_runs("-")
    assert len(runs) == 2
    assert runs.sources[0].path == "-"
    assert runs.place(0) == "standard input, row 3"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        load_runs("-")
    with pytest.raises(InputError, match="given twice"):
        load_runs(["-", "-"])


BAD_FILES = [
    (b"", "the file is empty"),
    (b"\n\r\n\n", "only empty lines"),
    (b"\xef\xbb\xbf", "the file is empty"),
    (HEADER.encode(), "a header and no rows"),
    (b"a,b\n1,2\n", "no column is known for the loss (columns there: a, b)"),
    (b"step,step,loss_validation\n1,2,3\n", "column 'step' occurs more than once"),
    (GOOD.replace("Dense", "D\xe9nse").encode("latin-1"), "row 2: not UTF-8"),
    (GOOD.encode("utf-16"), "encoded as UTF-16"),
    (GOOD.replace("Hash", "Ha\0sh").encode(), "row 4: a NUL byte"),
    (gzip.compress(GOOD.encode())[:-10], "the gzip data is cut off or corrupt"),
    (gzip.compress(GOOD.encode())[:15], "the gzip data is cut off or corrupt"),
    (b"\x1f\x8b", "the gzip data is c"),
    (gzip.compress(GOOD.encode())[:20] + b"xxxx" + gzip.compress(GOOD.encode())[24:], "the gzip data is cut off or corrupt"),
    (gzip.compress(GOOD.encode()) + b"trailing", "the gzip data is cut off or corrupt"),
    (b"loss_validation\n3,\n", "2 cells where the header has 1"),
    (b"loss_validation,k\n,1\n", "column loss_validation: empty"),
    (b"hyper_id,loss_validation\na,\n", "column loss_validation: empty in every row"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_a_bad_file_is_named_in_three_lines_at_most(write: Callable[..., Path], content: bytes, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_runs(write(content))
    assert message in str(raised.value)
    assert "runs.csv" in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 3


def test_a_path_that_cannot_be_read_is_named(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "absent.csv", "absent.csv: no such file"),
        (tmp_path / "folder", "a folder without tables of runs"),
        (f"{tmp_path}/folder/*.csv", "no file matches this pattern"),
        (f"{tmp_path}/[", "no file matches this pattern"),
        (f"{tmp_path}/**x/*", ""),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (write(GOOD) / "below", "cannot be read"),
        (write("", "two\nlines.csv"), "lines.csv': the file is empty"),
    ):
        with pytest.raises(InputError) as raised:
            load_runs(path)
        assert message in str(raised.value)
        assert len(str(raised.value).splitlines()) <= 3
    with pytest.raises(InputError, match="no file given"):
        load_runs([])
    for target in ("num_experts", "hyper_id", "step", "router_type"):
        with pytest.raises(InputError, match="is not a loss"):
            load_runs(write(GOOD), target=target)


# No input whatever gives a traceback.


def assert_runs_or_three_lines(path: Path, content: bytes) -> None:
    """Loads, and filters what was loaded; anything but Runs or a InputError of at most three lines fails the test."""
    path.write_bytes(content)
    message = "one line"
    try:
        runs = load_runs(path)
        assert 0 < len(runs) == len(runs.loss)
        assert np.isfinite(runs.loss).all()
        assert (runs.loss > 0).all()
        runs.keep(runs.loss > np.median(runs.loss), "above the median")
        for name in runs.columns:
            runs[name]
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 3


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


cells = st.one_of(
    st.sampled_from(["", " ", "0", "1", "-1", "2.5", "nan", "inf", "1e999", "1_0", "Dense", "Hash", '"', '""', '"a\nb"']),
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=8),
)


headers = st.sampled_from([*HEADER.split(","), "loss_c4", "k", "routing_frequency", "flop_increase", "", "note"])


@fuzz
@given(st.binary())
@example(b"\x1f\x8b\x08\x00")
def test_no_bytes_give_a_traceback(tmp_path: Path, content: bytes) -> None:
    assert_runs_or_three_lines(tmp_path / "runs.csv", content)
    assert_runs_or_three_lines(tmp_path / "runs.csv", gzip.compress(content))
    assert_runs_or_three_lines(tmp_path / "runs.csv", b"loss_validation,k,a\n" + content)


@fuzz
@given(st.lists(headers, min_size=1, max_size=6, unique=True), st.data())
def test_no_table_gives_a_traceback(tmp_path: Path, names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(cells, min_size=len(names), max_size=len(names)), max_size=6))
    text = "\n".join(",".join(row) for row in [["loss_validation", *names[1:]], *rows])
    assert_runs_or_three_lines(tmp_path / "runs.csv", text.encode("utf-8", errors="replace"))


@fuzz
@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 3), st.binary(max_size=3)), max_size=4))
def test_no_change_of_a_good_file_gives_a_traceback(tmp_path: Path, changes: list[tuple[int, int, bytes]]) -> None:
    content = GOOD.encode()
    for at, length, new in changes:
        content = content[:at] + new + content[at + length :]
    assert_runs_or_three_lines(tmp_path / "runs.csv", content)


@fuzz
@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_no_change_of_a_gzip_file_gives_a_traceback(tmp_path: Path, at: int, new: bytes) -> None:
    content = gzip.compress(GOOD.encode(), mtime=0)
    assert_runs_or_three_lines(tmp_path / "runs.csv.gz", content[:at] + new + content[at + len(new) :])


@fuzz
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='",\r\n'), max_size=5), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    )
)
def test_cells_are_read_as_the_csv_module_reads_them(tmp_path: Path, rows: list[list[str]]) -> None:
    # A file without quotes is read by polars; with one quoted cell by the csv module.
    lines = [f"3,{','.join(row)}" for row in rows]
    found: list[list[list[str]]] = []
    for first in ("3,x,y", '3,"x",y'):
        path = tmp_path / "runs.csv"
        path.write_bytes("\n".join(["loss_validation,a,b", first, *lines]).encode())
        runs = load_runs(path)
        found.append([[str(value) for value in runs.columns[name].tolist()] for name in ("a", "b")])
    assert found[0] == found[1] == [["x", *(row[0].strip() for row in rows)], ["y", *(row[1].strip() for row in rows)]]


@pytest.mark.slow
def test_a_million_rows_are_read_as_a_few_are(release: Path, tmp_path: Path) -> None:
    header, *rows = gzip.decompress(release.read_bytes()).decode().splitlines()
    copies = 1 + 1_000_000 // len(rows)
    path = tmp_path / "runs.csv"
    with path.open("w") as file:
        print(header, file=file)
        for copy in range(copies):
            file.writelines(f"{copy}x{row}\n" for row in rows)
    runs = load_runs(path)
    assert len(runs) == 223 * copies
    assert runs.sources[0].rows == len(rows) * copies > 1_000_000


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_data_frame_is_read_as_its_file_is(write: Callable[..., Path], library: str) -> None:
    path = write(GOOD)
    frame = pl.read_csv(path) if library == "polars" else pytest.importorskip("pandas").read_csv(path)
    runs = load_runs(frame)
    assert as_lists(runs) == as_lists(load_runs(path))
    assert runs.place(0) == "table in memory, row 2"
    assert runs.log[1].rule == "table in memory: 5 rows read"


def test_parquet_is_read_as_csv_is(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(GOOD)
    pl.read_csv(path).write_parquet(tmp_path / "runs.parquet")
    assert as_lists(load_runs(tmp_path / "runs.parquet")) == as_lists(load_runs(path))
    with pytest.raises(InputError, match="not valid Parquet"):
        load_runs(write(b"PAR1 and then nothing"))
