"""Loading runs: what the released file holds, how other people's files are read, and that bad input is one line."""

import csv
import gzip
import hashlib
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
from fit.runs import Runs, load_runs
from fit.runs import codes as equal_rows
from fit.runs.headers import parse_columns

HEADER = "hyper_id,step,loss_validation,num_experts,dense_parameter_count,router_type,seed"
ROWS = [
    "0,0,10.5,1,1000000,Dense,42",
    "0,100,3.5,1,1000000,Dense,42",
    "1,0,10.5,8,1000000,Hash,42",
    "1,100,3.25,8,1000000,Hash,42",
    "1,200,,8,1000000,Hash,42",
]
GOOD = "\n".join([HEADER, *ROWS, ""])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes text or bytes to a file and returns its path."""

    def to_file(content: str | bytes, name: str = "runs.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def codes(runs: Runs) -> list[str]:
    """The codes of the warnings, in order."""
    return [warning.code for warning in runs.warnings]


def only(runs: Runs, code: str) -> str:
    """The message of the one warning with this code."""
    (message,) = [warning.message for warning in runs.warnings if warning.code == code]
    return message


# The released file. What is asserted was counted with csv and collections.Counter, without this package.


def test_the_release_has_223_runs_with_their_last_finite_loss(release: Path) -> None:
    runs = load_runs(release)
    with gzip.open(release, "rt") as file:
        last = {row["hyper_id"]: row for row in csv.DictReader(file) if row["loss_validation"]}
    assert len(runs) == 223
    assert runs["hyper_id"].tolist() == [float(run) for run in last]
    assert runs.loss.tolist() == [float(row["loss_validation"]) for row in last.values()]
    assert runs["router_type"].tolist() == [row["router_type"] for row in last.values()]
    assert set(runs.columns) == set(next(iter(last.values())))
    steps, counts = np.unique(runs["step"], return_counts=True)
    assert dict(zip(steps.tolist(), counts.tolist(), strict=True)) == {248000: 1, 249000: 221, 250000: 1}


def test_the_log_of_the_release_accounts_for_every_row(release: Path) -> None:
    runs = load_runs(release)
    read, taken = runs.log
    assert "5799 rows" in read.rule
    assert (read.kept, read.dropped, taken.kept, taken.dropped) == (223, 0, 223, 0)
    assert taken.reasons[0].startswith("8 of 5799 evaluations have an empty loss_validation")
    assert runs.sources[0].rows == 5799
    assert runs.sources[0].sha256 == hashlib.sha256(release.read_bytes()).hexdigest()


def test_the_warnings_of_the_release_name_its_gaps_and_doubles(release: Path) -> None:
    runs = load_runs(release)
    assert codes(runs) == ["duplicate-settings", "empty-cells", "empty-cells"]
    assert only(runs, "duplicate-settings").startswith("4 settings occur more than once")
    assert only(runs, "duplicate-settings").count("S-Base 25M") == 4
    cells = [warning.message for warning in runs.warnings[1:]]
    assert cells == [
        "S-Base: 1 of 54 cells of the (size x experts) grid empty: 130M/E=256",
        "Hash: 3 of 54 cells of the (size x experts) grid empty: 25M/E=32, 130M/E=8, 130M/E=256",
    ]


def test_the_seed_filter_of_the_notebook_is_caught_dropping_the_dense_130m_runs(release: Path) -> None:
    runs = load_runs(release).where("seed == 42")
    assert len(runs) == 220
    assert runs.log[-1].reasons == ("3 runs: seed != 42",)
    message = "dense_parameter_count 132163584 (130M): all 3 Dense runs are removed by --where seed == 42"
    assert only(runs, "size-removed") == message
    # What a filter did is still known after the next one.
    assert only(runs.where("k == 1"), "size-removed") == message


@pytest.mark.parametrize("target", ["loss_c4", "loss_curation_corpus", "loss_lambada", "loss_pile", "loss_wikitext103"])
def test_every_other_loss_of_the_release_can_be_the_target(release: Path, target: str) -> None:
    runs = load_runs(release, target=target)
    assert len(runs) == 223
    assert np.isfinite(runs.loss).all()


def test_a_step_asked_for_is_the_one_taken(release: Path) -> None:
    runs = load_runs(release, step=100_000)
    assert set(runs["step"].tolist()) == {100_000}
    late = load_runs(release, step=249_000)
    assert len(late) == 221
    assert late.log[-1].dropped == 2
    assert late.log[-1].reasons[0] == "2 runs: no evaluation at step 249000"
    with pytest.raises(InputError, match=r"no run has a finite loss_validation at step 5 \(steps there: 0, 10000, "):
        load_runs(release, step=5)


# Other people's files.


def test_the_last_evaluation_with_a_loss_is_taken_whatever_the_order_of_rows(write: Callable[..., Path]) -> None:
    for rows in (ROWS, ROWS[::-1], [ROWS[3], ROWS[0], ROWS[4], ROWS[2], ROWS[1]]):
        runs = load_runs(write("\n".join([HEADER, *rows])))
        assert dict(zip(runs["hyper_id"].tolist(), runs.loss.tolist(), strict=True)) == {0: 3.5, 1: 3.25}


def test_dropped_runs_are_counted_with_their_reason(write: Callable[..., Path]) -> None:
    runs = load_runs(write(GOOD + "2,0,,4,1000000,Hash,42\n"))
    assert runs.log[-1].reasons[0] == "1 run: loss_validation is empty in every evaluation"
    assert (runs.log[-1].kept, runs.log[-1].dropped) == (2, 1)
    at_200 = load_runs(write(GOOD + "2,200,3,4,1000000,Hash,42\n"), step=200)
    assert at_200.log[-1].reasons[:2] == (
        "1 run: no evaluation at step 200",
        "1 run: loss_validation is empty at step 200",
    )


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


def test_only_the_target_is_required_and_without_a_run_column_every_row_is_a_run(write: Callable[..., Path]) -> None:
    runs = load_runs(write("loss_validation\n3\n2.5\n"))
    assert runs.loss.tolist() == [3, 2.5]
    assert not runs.has("num_experts")
    with pytest.raises(InputError, match=r"no column 'num_experts'.*columns there: loss_validation"):
        runs["num_experts"]


def test_without_steps_a_run_may_have_one_row(write: Callable[..., Path]) -> None:
    assert len(load_runs(write("hyper_id,loss_validation\na,3\nb,2.5\n"))) == 2
    with pytest.raises(InputError, match=r"row 3: hyper_id 'a' has a second row, and there is no 'step' column.* row 2"):
        load_runs(write("hyper_id,loss_validation\na,3\na,2.5\n"))
    with pytest.raises(InputError, match="no column 'step', so the evaluation at step 10 cannot be chosen"):
        load_runs(write("hyper_id,loss_validation\na,3\n"), step=10)


def test_unknown_columns_are_kept_as_numbers_or_text(write: Callable[..., Path]) -> None:
    text = "loss_validation,width,note,mixed,half,none,model_size_label,id\n3,64,a,1,,,370,1_0\n2,65.5,b,x,2,,15,20\n"
    runs = load_runs(write(text))
    assert runs["width"].tolist() == [64, 65.5]
    assert runs["note"].tolist() == ["a", "b"]
    assert runs["mixed"].tolist() == ["1", "x"]
    assert runs["none"].tolist() == ["", ""]
    assert runs["model_size_label"].tolist() == ["370", "15"]
    assert runs["id"].tolist() == ["1_0", "20"]
    with pytest.raises(InputError, match=r"runs\.csv, row 2, column half: empty"):
        runs["half"]
    with pytest.raises(InputError, match=r"runs\.csv, row 2, column note: 'a' is text"):
        runs.numeric("note")


def test_an_empty_cell_is_an_error_only_where_it_is_needed(write: Callable[..., Path]) -> None:
    runs = load_runs(write("loss_validation,num_experts\n3,1\n2,\n2,\n"))
    with pytest.raises(InputError, match=r"runs\.csv, row 3, column num_experts: empty \(and in 1 more"):
        runs["num_experts"]
    first = runs.keep(np.array([True, False, False]), "the first")
    assert first["num_experts"].tolist() == [1]


def test_headers_of_other_people_are_mapped(write: Callable[..., Path]) -> None:
    path = write("val_loss,params,experts,loss_validation\n3,1e6,8,9\n")
    runs = load_runs(path, columns=parse_columns("loss=val_loss,N=params, num_experts = experts"))
    assert runs.loss.tolist() == [3]
    assert runs["dense_parameter_count"].tolist() == runs["N"].tolist() == [1e6]
    assert runs["num_experts"].tolist() == [8]
    # The file's own column of that name is not lost silently.
    assert runs["loss_validation (set aside)"].tolist() == [9]
    assert "loss_validation" in only(runs, "column-set-aside")
    assert load_runs(path, target="val_loss").loss.tolist() == [3]
    assert load_runs(path, target="loss_c4", columns={"loss": "val_loss"}).loss.tolist() == [3]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"loss": "vall_loss"}, "no column 'vall_loss'; did you mean val_loss"),
        ({"loss": "val_loss", "loss_validation": "params"}, "paired only once"),
        ({"loss": "val_loss", "N": "val_loss"}, "paired only once"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(write: Callable[..., Path], columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_runs(write("val_loss,params\n3,1e6\n"), columns=columns)


@pytest.mark.parametrize("text", ["", "loss", "loss=", "=x", "loss=a,loss=b", "loss=a,", '"loss=a', "loss=a\nb"])
def test_a_mapping_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--columns"):
        parse_columns(text)
    assert parse_columns('"loss=val, loss",N=a=b') == {"loss": "val, loss", "N": "a=b"}


def test_the_same_hyper_id_in_two_files_is_two_runs(write: Callable[..., Path]) -> None:
    first, second = write(GOOD), write("hyper_id,loss_validation,note\n0,3,x\n", "more.csv")
    runs = load_runs([first, second])
    assert len(runs) == 3
    assert runs["note"].tolist() == ["", "", "x"]
    assert [runs.place(i).rsplit("/")[-1] for i in range(3)] == ["runs.csv, row 3", "runs.csv, row 5", "more.csv, row 2"]
    assert runs.log[-1].rule == "2 files together"
    assert runs.log[-1].kept == 3
    with pytest.raises(InputError, match=r"more\.csv, row 2, column num_experts: empty"):
        runs["num_experts"]


def test_runs_that_stop_early_are_warned_of(write: Callable[..., Path]) -> None:
    runs = load_runs(write(GOOD + "2,89,3,4,1000000,Hash,42\n3,90,3,2,1000000,Hash,42\n"))
    assert only(runs, "short-runs") == "1 run ends before 90 % of the longest run's 100 steps: N=1000000 at step 89"


# Bad input.

BAD_ROWS = [
    ("0,200,abc,1,1000000,Dense,42", "column loss_validation: 'abc': not a number"),
    ("0,200,1_0,1,1000000,Dense,42", "column loss_validation: '1_0': not a number"),
    ('0,200,"3,5",1,1000000,Dense,42', "column loss_validation: '3,5': not a number"),
    ("0,200,nan,1,1000000,Dense,42", "column loss_validation: 'nan': must be a finite number above 0"),
    ("0,200,inf,1,1000000,Dense,42", "column loss_validation: 'inf': must be a finite number above 0"),
    ("0,200,1e999,1,1000000,Dense,42", "column loss_validation: 'inf': must be a finite number above 0"),
    ("0,200,0,1,1000000,Dense,42", "column loss_validation: '0': must be a finite number above 0"),
    ("0,200,-3,1,1000000,Dense,42", "column loss_validation: '-3': must be a finite number above 0"),
    ("0,200,3,0,1000000,Dense,42", "column num_experts: '0': must be a whole number of experts, at least 1"),
    ("0,200,3,2.5,1000000,Dense,42", "column num_experts: '2.5': must be a whole number"),
    ("0,200,3,nan,1000000,Dense,42", "column num_experts: 'nan': must be a whole number"),
    ("0,200,3,many,1000000,Dense,42", "column num_experts: 'many': not a number"),
    ("0,200,3,1,0,Dense,42", "column dense_parameter_count: '0': must be a finite number above 0"),
    ("0,200,3,1,370M,Dense,42", "column dense_parameter_count: '370M': not a number"),
    ("0,200,3,1,1000000,Dense,x", "column seed: 'x': not a number"),
    ("0,x,3,1,1000000,Dense,42", "column step: 'x': not a number"),
    ("0,,3,1,1000000,Dense,42", "column step: empty"),
    (",200,3,1,1000000,Dense,42", "column hyper_id: empty"),
    ("0,100,3,1,1000000,Dense,42", "hyper_id '0' has step 100 already in row 3"),
    ("0,100.0,3,1,1000000,Dense,42", "hyper_id '0' has step 100 already in row 3"),
    ("0,200,3,1,1000000,Dense", "6 cells where the header has 7"),
    ("0,200,3,1,1000000,Dense,42,", "8 cells where the header has 7"),
    ('0,200,3,1,1000000,"Dense,42', "not valid CSV"),
    (f'0,200,3,1,1000000,"{"D" * 200_000}",42', "not valid CSV: field larger than field limit"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_a_bad_row_is_named_with_its_line_and_column(write: Callable[..., Path], row: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_runs(write("\n".join([HEADER, *ROWS, "", row])))
    assert message in str(raised.value)
    assert "runs.csv, row 8" in str(raised.value)  # below the header, five rows and an empty line
    assert len(str(raised.value).splitlines()) == 1


def test_the_first_bad_row_is_the_one_named(write: Callable[..., Path]) -> None:
    rows = [*ROWS, "2,0,3,1,-1,Dense,1", "3,0,bad,1,1,Dense,1"]
    with pytest.raises(InputError, match="row 7, column dense_parameter_count: '-1'"):
        load_runs(write("\n".join([HEADER, *rows])))


def test_values_of_the_other_columns_are_checked_too(write: Callable[..., Path]) -> None:
    header = "loss_validation,loss_c4,total_parameter_count,flops_per_step,k"
    assert len(load_runs(write(f"{header}\n3,,1,1,1\n3,2.5e0,1,1,1"))) == 2
    for row, column in (
        ("3,x,1,1,1", "loss_c4"),
        ("3,-1,1,1,1", "loss_c4"),
        ("3,0,1,1,1", "loss_c4"),
        ("3,1.2.3,1,1,1", "loss_c4"),
        ("3,inf,1,1,1", "loss_c4"),
        ("3,3,0,1,1", "total_parameter_count"),
        ("3,3,1,-1,1", "flops_per_step"),
        ("3,3,1,1,0", "k"),
    ):
        with pytest.raises(InputError, match=rf"runs\.csv, row 3, column {column}: "):
            load_runs(write(f"{header}\n3,3,1,1,1\n{row}\n"))


def test_rows_are_counted_as_lines_also_where_a_cell_spans_several(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="row 5, column loss_validation"):
        load_runs(write('note,loss_validation\n"two\nlines",3\n\nx,bad\n'))


BAD_FILES = [
    (b"", "the file is empty"),
    (b"\n\r\n\n", "only empty lines"),
    (b"\xef\xbb\xbf", "the file is empty"),
    (HEADER.encode(), "a header and no rows"),
    (GOOD.replace("loss_validation", "loss_c4").encode(), "no column 'loss_validation' to fit (loss columns there: loss_c4)"),
    (b"a,b\n1,2\n", "no column 'loss_validation' to fit (columns there: a, b)"),
    (b"step,step,loss_validation\n1,2,3\n", "column 'step' occurs more than once"),
    (GOOD.replace("Dense", "D\xe9nse").encode("latin-1"), "row 2: not UTF-8"),
    (GOOD.encode("utf-16"), "encoded as UTF-16"),
    (GOOD.replace("Hash", "Ha\0sh").encode(), "row 4: a NUL byte"),
    (gzip.compress(GOOD.encode())[:-10], "the gzip data is cut off or corrupt"),
    (gzip.compress(GOOD.encode())[:15], "the gzip data is cut off or corrupt"),
    (b"\x1f\x8b", "the gzip data is c"),
    (gzip.compress(GOOD.encode())[:20] + b"xxxx" + gzip.compress(GOOD.encode())[24:], "the gzip data is cut off or corrupt"),
    (gzip.compress(GOOD.encode()) + b"trailing", "the gzip data is cut off or corrupt"),
    (b"loss_validation\n,\n", "2 cells where the header has 1"),
    (b"loss_validation,k\n,1\n", "column loss_validation: empty in every row"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_a_bad_file_is_one_line(write: Callable[..., Path], content: bytes, message: str) -> None:
    with pytest.raises(InputError) as raised:
        load_runs(write(content))
    assert message in str(raised.value)
    assert "runs.csv" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_path_that_cannot_be_read_is_one_line(write: Callable[..., Path], tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.csv", "absent.csv: no such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / ("x" * 5000), "cannot be read"),
        (write(GOOD) / "below", "cannot be read"),
        (write(GOOD, "runs.csv.gz"), "runs.csv.gz: named .gz but its content is not gzip"),
        (write("", "two\nlines.csv"), "lines.csv': the file is empty"),
    ):
        with pytest.raises(InputError) as raised:
            load_runs(path)
        assert message in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(InputError, match="no file given"):
        load_runs([])
    for target in ("num_experts", "hyper_id", "step", "router_type"):
        with pytest.raises(InputError, match="is not a loss"):
            load_runs(write(GOOD), target=target)


# No input whatever gives a traceback.


def assert_runs_or_one_line(path: Path, content: bytes) -> None:
    """Loads, and filters what was loaded; anything but Runs or a one-line InputError fails the test."""
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
    assert len(message.splitlines()) == 1


# The temporary folder is shared by all examples of a test, each of which overwrites the same file.
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
    assert_runs_or_one_line(tmp_path / "runs.csv", content)
    assert_runs_or_one_line(tmp_path / "runs.csv", gzip.compress(content))
    assert_runs_or_one_line(tmp_path / "runs.csv", b"loss_validation,k,a\n" + content)


@fuzz
@given(st.lists(headers, min_size=1, max_size=6, unique=True), st.data())
def test_no_table_gives_a_traceback(tmp_path: Path, names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(cells, min_size=len(names), max_size=len(names)), max_size=6))
    text = "\n".join(",".join(row) for row in [["loss_validation", *names[1:]], *rows])
    assert_runs_or_one_line(tmp_path / "runs.csv", text.encode("utf-8", errors="replace"))


@fuzz
@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 3), st.binary(max_size=3)), max_size=4))
def test_no_change_of_a_good_file_gives_a_traceback(tmp_path: Path, changes: list[tuple[int, int, bytes]]) -> None:
    content = GOOD.encode()
    for at, length, new in changes:
        content = content[:at] + new + content[at + length :]
    assert_runs_or_one_line(tmp_path / "runs.csv", content)


@fuzz
@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_no_change_of_a_gzip_file_gives_a_traceback(tmp_path: Path, at: int, new: bytes) -> None:
    content = gzip.compress(GOOD.encode(), mtime=0)
    assert_runs_or_one_line(tmp_path / "runs.csv.gz", content[:at] + new + content[at + len(new) :])


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


# In memory.


def test_runs_can_be_made_in_memory_and_are_checked_like_files() -> None:
    runs = Runs.from_columns({"loss": [3.0, 2.5], "E": [1, 8], "N": [1e6, 1e6], "router": ["Dense", "Hash"]})
    assert runs["num_experts"].tolist() == [1, 8]
    assert runs["router_type"].tolist() == ["Dense", "Hash"]
    for columns, message in (
        ({"loss": [3.0], "E": [0.5]}, "row 1, column E: '0.5': must be a whole number"),
        ({"loss": [3.0, float("nan")]}, "run 2, column loss_validation: empty; every run needs its loss"),
        ({"loss": [3.0, float("inf")]}, "row 2, column loss: 'inf': must be a finite number above 0"),
        ({"loss": [3.0], "E": [1.0, 2.0]}, "one entry per run"),
        ({"loss": [[3.0, 2.0]]}, "column loss: .* not a number"),
        ({"loss": []}, "no rows"),
        ({"E": [1.0]}, "no column 'loss_validation'"),
        ({"loss": [3.0], "E": ["x"]}, "row 1, column E: 'x': not a number"),
    ):
        with pytest.raises(InputError, match=message):
            Runs.from_columns(columns)


def test_keep_logs_what_it_drops_and_leaves_the_runs_it_was_given_alone() -> None:
    runs = Runs.from_columns({"loss": [3.0, 2.5, 2.0], "N": [1e6, 1e6, 1e9], "E": [1, 8, 8]})
    kept = runs.keep(np.array([True, True, False]), "small ones", ["1 run: too large"])
    assert len(runs) == 3
    assert kept.loss.tolist() == [3, 2.5]
    step = kept.log[-1]
    assert (step.rule, step.kept, step.dropped, step.reasons) == ("small ones", 2, 1, ("1 run: too large",))
    assert only(kept, "size-removed") == "dense_parameter_count 1000000000: its only run is removed by small ones"
    assert len(runs.keep(np.array([False] * 3), "none")) == 0


def test_the_same_settings_are_told_from_replicates_by_their_seed() -> None:
    columns = {"loss": [3.0, 2.5], "N": [1e6, 1e6], "E": [8, 8]}
    assert codes(Runs.from_columns(columns)) == ["duplicate-settings"]
    assert codes(Runs.from_columns({**columns, "seed": [1, 2]})) == []
    assert "run 1, run 2: loss_validation 3, 2.5" in only(Runs.from_columns(columns), "duplicate-settings")


# Data frames, Parquet, and what a notebook shows.


def as_lists(runs: Runs) -> dict[str, list[object]]:
    """The columns, NaN as None."""
    return runs.to_polars().to_dict(as_series=False)


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_data_frame_is_read_as_its_file_is(write: Callable[..., Path], library: str) -> None:
    path = write(GOOD)
    frame = pl.read_csv(path) if library == "polars" else pytest.importorskip("pandas").read_csv(path)
    runs = load_runs(frame)
    assert as_lists(runs) == as_lists(load_runs(path))
    assert runs.place(0) == "table in memory, row 2"
    assert runs.log[0].rule == "table in memory: 5 rows read"


def test_parquet_is_read_as_csv_is(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(GOOD)
    pl.read_csv(path).write_parquet(tmp_path / "runs.parquet")
    assert as_lists(load_runs(tmp_path / "runs.parquet")) == as_lists(load_runs(path))
    with pytest.raises(InputError, match="not valid Parquet"):
        load_runs(write(b"PAR1 and then nothing"))


def test_a_frame_of_runs_needs_no_evaluations() -> None:
    columns = {"loss": [3.0, 2.5], "E": [1, 8], "router": ["Dense", None], "when": [None, [1, 2]]}
    runs = Runs.from_columns(pl.DataFrame(columns, strict=False))
    assert runs["num_experts"].tolist() == [1, 8]
    assert runs["router_type"].tolist() == ["Dense", ""]
    assert runs["when"].dtype.kind == "U"
    with pytest.raises(InputError, match="not a table"):
        load_runs(3)


def test_runs_show_themselves_in_a_line() -> None:
    columns = {"loss": [3.0, 2.5, 2.0], "N": [1e6, 1e6, 1e9], "E": [1, 8, 8], "router": ["Dense", "Hash", "Hash"]}
    runs = Runs.from_columns(columns)
    shown = "3 runs; target loss_validation; routers Dense, Hash; dense_parameter_count 1000000 to 1000000000"
    assert repr(runs) == f"Runs({shown})"
    assert "<table" in runs._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert repr(runs.keep(np.zeros(3, dtype=np.bool_), "none")) == "Runs(0 runs; target loss_validation)"
    assert runs.to_polars()["num_experts"].to_list() == [1, 8, 8]


# The same request again.


def test_the_same_request_is_read_at_another_step_with_its_columns_and_filters(write: Callable[..., Path]) -> None:
    text = "name,iter,nats,c4,experts\na,1,4,5,1\na,2,3,4,1\nb,1,3.5,4.5,8\nb,2,2.5,3.5,8\nc,2,2,3,64\n"
    path = write(text)
    mapping = parse_columns("run=name,step=iter,loss=nats,E=experts,loss_c4=c4")
    runs = load_runs(path, columns=mapping).where("E < 64")
    early = runs.again(step=1)
    assert runs.loss.tolist() == [3, 2.5]
    assert (early.loss.tolist(), early.step, early["hyper_id"].tolist()) == ([4, 3.5], 1, ["a", "b"])
    assert early.again().loss.tolist() == runs.loss.tolist()
    other = runs.again(target="loss_c4")
    assert (other.loss.tolist(), other.target) == ([4, 3.5], "loss_c4")
    assert other.again(target="loss_validation").loss.tolist() == [3, 2.5]
    assert early.request is not None
    assert (early.request.paths, early.request.where) == ((str(path),), ("E < 64",))
    assert early.request.columns["loss_validation"] == "nats"
    path.unlink()
    assert runs.again(step=2).log[-1].rule == "--where E < 64"
    with pytest.raises(InputError, match=r"no run has a finite loss_validation at step 3 \(steps there: 1, 2\)"):
        runs.again(step=3)
    with pytest.raises(InputError, match="no column 'loss_pile' to fit"):
        runs.again(target="loss_pile")


def test_the_training_steps_of_a_renamed_file_are_not_lost() -> None:
    # Fault F15: the headers are nobody's but the file's owner's.
    path = Path(__file__).parents[4] / "shared" / "cases" / "10_mapped_curves.csv"
    if not path.exists():
        pytest.skip("the cases are not beside this checkout (expected ../shared/cases)")
    runs = load_runs(path, columns=parse_columns("run=run_name,N=params,E=experts,step=iter,loss=val_loss"))
    at = {step: runs.again(step=step) for step in (500, 1000)}
    assert {len(early) for early in at.values()} == {len(runs)}
    assert all((early.loss > runs.loss).all() for early in at.values())


def test_standard_input_can_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert load_runs("-").again(step=0).loss.tolist() == [10.5, 10.5]


def test_runs_made_in_memory_have_no_other_step() -> None:
    with pytest.raises(InputError, match="made in memory"):
        Runs.from_columns({"loss": [3.0]}).again(step=1)


# Equal rows.


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, float("nan")]), st.sampled_from(["a", "b"])), min_size=1, max_size=20))
def test_codes_are_equal_where_rows_are_and_nan_equals_nan(rows: list[tuple[float, str]]) -> None:
    numbers, texts = (np.array(column) for column in zip(*rows, strict=True))
    found = equal_rows([numbers, texts]).tolist()
    keys = [(str(value), text) for value, text in rows]
    assert [[a == b for b in found] for a in found] == [[a == b for b in keys] for a in keys]


def test_runs_of_other_lengths_are_no_duplicates() -> None:
    # Fault F22: every L(N, D) file has the same size at several numbers of tokens.
    columns = {"loss": [3.0, 2.5], "N": [1e6, 1e6], "E": [1, 1], "D": [1e9, 1e10]}
    assert codes(Runs.from_columns(columns)) == []
    assert codes(Runs.from_columns({**columns, "D": [1e9, 1e9]})) == ["duplicate-settings"]
