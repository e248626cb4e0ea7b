"""No input whatever gives a traceback: runs, or an error of at most three lines."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import load_runs
from tests.fit.runs.samples import GOOD, HEADER


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


fuzz = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


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


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.sampled_from(["3.5", "nan"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["loss", "N", "E", "step", "run", "runs", "columns", "data", "0", "1", "a.b"]), inner, max_size=4),
    ),
    max_leaves=16,
)


odd = st.one_of(st.text(max_size=6), st.sampled_from(["N", "k == 1", "a b", "x/y", "1e5", "ln", "header_0_", "'q'", '"', "(", "in", "D*2"]))


@fuzz
@given(st.lists(odd, min_size=1, max_size=4), st.lists(st.one_of(odd, st.sampled_from("+-*/()=<>,")), max_size=5), st.text(max_size=5))
def test_no_headers_with_any_columns_and_filters_give_a_traceback(names: list[str], parts: list[str], value: str) -> None:
    table = {**{name: [1.0, 2.0] for name in names}, "loss": [3.0, 2.0], "label": [value, "b"]}
    text = " ".join(parts)
    asked: list[dict[str, Any]] = [{"columns": {"D": text}}, {"where": text}, {"where": f"label == {value!r}"}, {"target": text}]
    asked.append({"columns": {"run": text}})
    for options in asked:
        message = "runs"
        try:
            assert 0 < len(load_runs(table, **options)) <= 2
        except InputError as error:
            message = str(error)
        assert 0 < len(message.splitlines()) <= 3


@fuzz
@given(st.text(max_size=12), st.text(max_size=12))
@example("E{E}", "E1")
@example("{E}", "1")
@example("{a}{b}/", "ab/")
def test_no_pattern_of_names_gives_a_traceback(tmp_path: Path, pattern: str, name: str) -> None:
    path = tmp_path / "1.csv"
    path.write_text("loss\n3\n")
    for source in (path, f"{tmp_path}/{name}*"):
        message = "runs"
        try:
            assert len(load_runs(source, filename=pattern)) >= 1
        except InputError as error:
            message = str(error)
        assert 0 < len(message.splitlines()) <= 3


@fuzz
@given(json_values)
@example({"a": {"x": 1}, "a.x": 2, "loss": 3})
@example([{"loss": 3, "E": 10**400}])
@example([{"loss": [3], "E": {}}])
def test_no_json_gives_a_traceback(tmp_path: Path, value: object) -> None:
    assert_runs_or_three_lines(tmp_path / "runs.csv", json.dumps(value).encode())
    assert_runs_or_three_lines(tmp_path / "runs.csv", json.dumps([value, {"loss": 3}]).encode())
    assert_runs_or_three_lines(tmp_path / "runs.csv", f"{json.dumps(value)}\n{json.dumps(value)}".encode())


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
