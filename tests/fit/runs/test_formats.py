"""Formats: the same runs from every kind of file, what is not read is named, and no bytes give a traceback."""

import gzip
import io
import json
import lzma
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from common.errors import InputError
from fit.runs import load_runs
from tests.fit.runs.samples import GOOD, HEADER, as_lists, codes


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


# One table in every form: two runs, and one without a loss.

RECORDS: list[dict[str, Any]] = [
    {"name": "a", "config": {"params": 1e6, "tied": True}, "val_loss": 3.5},
    {"name": "b", "config": {"params": 2e6, "tied": False}, "val_loss": 2.5},
    {"name": "c", "config": {"params": 4e6, "tied": None}, "val_loss": "NaN"},
    {"name": "d", "config": {"params": 8e6, "tied": None}, "val_loss": 2.25},
]
FLAT: list[dict[str, Any]] = [{"name": r["name"], "params": r["config"]["params"], "val_loss": r["val_loss"]} for r in RECORDS]
COLUMNS = {name: [row[name] for row in FLAT] for name in FLAT[0]}


def _separated(separator: str, quote: str = "") -> bytes:
    rows = [list(FLAT[0]), *([str(cell) for cell in row.values()] for row in FLAT)]
    return "\n".join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows).encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    pl.DataFrame(RECORDS, strict=False).with_columns(pl.col("val_loss").cast(pl.String)).write_parquet(file)
    return file.getvalue()


FORMS = {
    "commas": _separated(","),
    "tabs": _separated("\t"),
    "semicolons": _separated(";"),
    "bars": _separated("|"),
    "quotes": _separated(",", '"'),
    "decimal commas": b"name;params;val_loss\na;1e6;3,5\nb;2e6;2,5\nc;4e6;NaN\nd;8e6;2,25",
    "remarks": b"# two sizes, made on 1 May\n#\n\n" + _separated(","),
    "header after #": b"# " + _separated(","),
    "JSON records": json.dumps(FLAT).encode(),
    "JSON, nested": json.dumps(RECORDS, indent=1).encode(),
    "JSON columns": json.dumps(COLUMNS).encode(),
    "JSON, one list inside": json.dumps({"made": "2026", "runs": FLAT}).encode(),
    "JSON, values beside the list": json.dumps({"ignored": 1, "runs": RECORDS, "notes": {"by": "us"}}).encode(),
    "JSON by name": json.dumps({row["name"]: row for row in FLAT}).encode(),
    "JSON, columns of indices": json.dumps({k: {str(i): v for i, v in enumerate(values)} for k, values in COLUMNS.items()}).encode(),
    "JSON, split": json.dumps({"columns": list(COLUMNS), "index": [0, 1, 2, 3], "data": [list(row.values()) for row in FLAT]}).encode(),
    "JSON with NaN": json.dumps([{**row, "val_loss": float(row["val_loss"])} for row in FLAT]).encode(),
    "JSON Lines": "\n".join(map(json.dumps, FLAT)).encode(),
    "JSON Lines, nested": "\n\n".join(map(json.dumps, RECORDS)).encode(),
    "Parquet": _parquet(),
}
PACKINGS = {"plain": bytes, "gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_packing_is_told_by_its_content(write: Callable[..., Path], form: str, packing: str) -> None:
    runs = load_runs(write(PACKINGS[packing](FORMS[form]), "named.any-way"))
    assert (runs["N"].tolist(), runs.loss.tolist()) == ([1e6, 2e6, 8e6], [3.5, 2.5, 2.25])
    assert codes(runs) == ["rows-left-out"]


def test_the_name_of_a_file_says_nothing_of_its_content(write: Callable[..., Path]) -> None:
    for name in ("runs.csv.gz", "runs.parquet", "runs.json", "runs.zst"):
        assert len(load_runs(write(GOOD, name))) == 2


def test_values_beside_a_list_in_json_hold_for_all_its_rows(write: Callable[..., Path]) -> None:
    history = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}]
    for text in ({"n_params": 1e6, "history": history}, {"config": {"n_params": 1e6}, "step": [1, 2], "loss": [4.0, 3.0]}):
        runs = load_runs(write(json.dumps(text)), columns={"run": "@file"})
        assert (runs["N"].tolist(), runs.loss.tolist()) == ([1e6], [3.0])


def test_a_folder_a_pattern_and_a_list_are_all_their_files(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl", "notes.md", ".hidden.csv", "old.csv.bak", "C.CSV"):
        write('{"loss": 3.0}' if name == "a.jsonl" else "loss\n2\n", name)
    write(gzip.compress(b"loss\n1\n"), "d.csv.gz")
    assert load_runs(tmp_path).loss.tolist() == [2, 3, 2, 1]  # C.CSV, a.jsonl, b.csv, d.csv.gz
    assert load_runs(f"{tmp_path}/[ab].*").loss.tolist() == [3, 2]
    assert load_runs([tmp_path / "b.csv", f"{tmp_path}/a.*"]).loss.tolist() == [2, 3]
    assert load_runs(f"{tmp_path.parent}/**/{tmp_path.name}/b.csv").loss.tolist() == [2]
    write("loss\n5\n", "[1].csv")
    assert load_runs(f"{tmp_path}/[1].csv").loss.tolist() == [5]  # a file of that name is no pattern


NOT_READ = {
    "pickle": (pickle.dumps({"loss": [3.0]}), "a pickle, which can run code when read", "pandas.read_pickle("),
    "xlsx": (b"PK\x03\x04 and so on", "such as a spreadsheet", "pandas.read_excel("),
    "xls": (b"\xd0\xcf\x11\xe0 and so on", "old Excel", "pandas.read_excel("),
    "HDF5": (b"\x89HDF\r\n", "HDF5", "pandas.read_hdf("),
    "Feather": (b"ARROW1\0\0", "an Arrow file", "pandas.read_feather("),
    "HTML": (b"\n<!DOCTYPE html><table><tr><td>loss</td></tr></table>", "a web page or XML", "pandas.read_html("),
    "a chart of W&B": (
        b'"Step","big - val/loss","big - val/loss__MIN","big - val/loss__MAX"\n1,3,3,3\n', "a column for each run", "the runs table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_READ)
def test_what_is_not_read_is_named_with_what_converts_it(write: Callable[..., Path], kind: str) -> None:
    content, what, how = NOT_READ[kind]
    for packed in (content, gzip.compress(content)):
        with pytest.raises(InputError) as raised:
            load_runs(write(packed))
        first, second = str(raised.value).splitlines()
        assert what in first
        assert how in second


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
    (zstandard.ZstdCompressor().compress(GOOD.encode())[:-10], "the zstd data is cut off or corrupt"),
    (zstandard.ZstdCompressor().compress(GOOD.encode())[:5], "the zstd data is cut off or corrupt"),
    (lzma.compress(GOOD.encode())[:-10], "the xz data is cut off or corrupt"),
    (b'{"loss": 3}\n{"loss": ', "row 2: neither JSON nor JSON Lines"),
    (b"[1, 2]", "row 1: '1' is no record"),
    (b'{"N": [1, 2], "loss": [3]}', "the columns differ in length, and need one entry per run: 'N' 2, 'loss' 1"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
    (b"[]", "a header and no rows"),
    (b"{}", "a header and no rows"),
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
