"""Rows: which are no runs, that they are left out and listed, and cells as numbers."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import load_runs
from fit.runs.cells import as_numbers
from tests.fit.runs.samples import HEADER, ROWS, codes, only

BAD_ROWS = [
    ("0,200,abc,1,1000000,Dense,42", "column loss_validation: 'abc': not a number"),
    ("0,200,1_0,1,1000000,Dense,42", "column loss_validation: '1_0': not a number"),
    ('0,200,"3,5",1,1000000,Dense,42', "column loss_validation: '3,5': not a number"),
    ("0,200,nan,1,1000000,Dense,42", "column loss_validation: 'nan': must be a finite number above 0"),
    ("0,200,inf,1,1000000,Dense,42", "column loss_validation: 'inf': must be a finite number above 0"),
    ("0,200,1e999,1,1000000,Dense,42", "column loss_validation: '1e999': must be a finite number above 0"),
    ("0,200,0,1,1000000,Dense,42", "column loss_validation: '0': must be a finite number above 0"),
    ("0,200,-3,1,1000000,Dense,42", "column loss_validation: '-3': must be a finite number above 0"),
    ("0,200,3,0,1000000,Hash,42", "column num_experts: '0': must be a whole number of experts, at least 1"),
    ("0,200,3,2.5,1000000,Dense,42", "column num_experts: '2.5': must be a whole number"),
    ("0,200,3,nan,1000000,Hash,42", "column num_experts: 'nan': must be a whole number"),
    ("0,200,3,many,1000000,Dense,42", "column num_experts: 'many': not a number"),
    ("0,200,3,1,0,Dense,42", "column dense_parameter_count: '0': must be a finite number above 0"),
    ("0,200,3,1,370Q,Dense,42", "column dense_parameter_count: '370Q': not a number"),
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
        load_runs(write("\n".join([HEADER, *ROWS, "", row])), strict=True)
    assert message in str(raised.value)
    assert "runs.csv, row 8" in str(raised.value)  # below the header, five rows and an empty line
    assert len(str(raised.value).splitlines()) <= 3


def test_the_first_bad_row_is_the_one_named(write: Callable[..., Path]) -> None:
    rows = [*ROWS, "2,0,3,1,-1,Dense,1", "3,0,bad,1,1,Dense,1"]
    with pytest.raises(InputError, match="row 7, column dense_parameter_count: '-1'"):
        load_runs(write("\n".join([HEADER, *rows])), strict=True)


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
            load_runs(write(f"{header}\n3,3,1,1,1\n{row}\n"), strict=True)


def test_rows_are_counted_as_lines_also_where_a_cell_spans_several(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="row 5, column loss_validation"):
        load_runs(write('note,loss_validation\n"two\nlines",3\n\nx,bad\n'), strict=True)


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
    runs = load_runs(write("loss_validation,k\n3,1\n2,\n2,\n"))
    with pytest.raises(InputError, match=r"runs\.csv, row 3, column k: empty \(and in 1 more"):
        runs["k"]
    first = runs.keep(np.array([True, False, False]), "the first")
    assert first["k"].tolist() == [1]


LEFT_OUT = [
    ("0,200,3,,1000000,Hash,42", "num_experts is empty (row 8)"),
    ("0,200,diverged,1,1000000,Dense,42", "loss_validation is diverged (row 8)"),
    ("0,200,3,1,,Dense,42", "dense_parameter_count is empty (row 8)"),
    ("0,200,3,1,0,Dense,42", "dense_parameter_count is 0 (row 8)"),
    ("0,,3,1,1000000,Dense,42", "step is empty (row 8)"),
    (",200,3,1,1000000,Dense,42", "hyper_id is empty (row 8)"),
    ("mean,,3,,,,", "dense_parameter_count is empty (row 8)"),
    ("0,200,3,1,1000000,Dense", "6 cells where the header has 7 (row 8)"),
]


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT, ids=[reason for _, reason in LEFT_OUT])
def test_a_row_that_is_no_run_is_left_out_counted_and_listed(write: Callable[..., Path], row: str, reason: str) -> None:
    path = write("\n".join([HEADER, *ROWS, "", row]))
    runs = load_runs(path)
    assert runs.loss.tolist() == [3.5, 3.25]
    (step,) = [step for step in runs.log if step.rule.startswith("rows that are no runs")]
    assert (step.rule, step.kept, step.dropped, step.reasons) == ("rows that are no runs", 5, 1, (reason,))
    assert only(runs, "rows-left-out") == f"1 row of 6 left out: {reason}"


def test_a_seed_that_is_no_number_loses_no_run(write: Callable[..., Path]) -> None:
    runs = load_runs(write("\n".join([HEADER, *ROWS, "2,100,3,8,1000000,Hash,x"])))
    assert len(runs) == 3
    assert np.isnan(runs.columns["seed"]).tolist() == [False, False, True]


def test_a_file_is_refused_where_more_than_half_of_its_rows_are_no_runs(write: Callable[..., Path]) -> None:
    assert load_runs(write("N,loss\n1e6,3\n1e7,nan\n1e8,2\n1e9,oom\n")).loss.tolist() == [3, 2]
    with pytest.raises(
        InputError, match=r"row 3, column loss: 'nan': must be a finite number above 0\n3 of 5 rows are such, more than half"
    ):
        load_runs(write("N,loss\n1e6,3\n1e7,nan\n1e8,2\n1e9,oom\n1e9,inf\n"))
    with pytest.raises(InputError, match=r"1 of 1 rows"):
        load_runs(write("N,loss\n1e6,nan\n"))


def test_many_bad_rows_are_counted_and_the_first_of_them_named(write: Callable[..., Path]) -> None:
    rows = [f"1e7,{loss}" for loss in ["nan"] * 10 + ["3"] * 12]
    runs = load_runs(write("\n".join(["N,loss", *rows])))
    assert only(runs, "rows-left-out") == "10 rows of 22 left out: loss is nan (rows 2, 3, 4, 5, 6, 7, 8, 9 and 2 more)"


def test_a_filter_comes_before_rows_are_judged(write: Callable[..., Path]) -> None:
    # Fault F6: a diverged run could not be dropped by --where, since the file was refused first.
    path = write("status,N,loss\nok,1e6,3\ncrashed,1e7,nan\ncrashed,,bad\nok,1e8,2\n")
    runs = load_runs(path, where="status != 'crashed'", strict=True)
    assert runs.loss.tolist() == [3, 2]
    assert [step.reasons for step in runs.log if "--where" in step.rule] == [("2 runs: status == 'crashed'",)]


def test_dense_rows_have_one_expert_however_they_say_so(write: Callable[..., Path]) -> None:
    # Faults F1 and F7.
    for text, experts in (
        ("arch,N,E,loss\ndense,1e6,,3\nmoe,1e6,8,2\n", [1, 8]),
        ("arch,N,E,loss\nDense,1e6,0,3\nmoe,1e6,8,2\n", [1, 8]),
        ("arch,N,E,loss\ndense,1e6,-,3\nmoe,1e6,8,2\n", [1, 8]),
        ("arch,N,E,loss\ndense,1e6,N/A,3\nmoe,1e6,8,2\n", [1, 8]),
        ("N,E,loss\n1e6,0,3\n1e6,8,2\n", [1, 8]),
        ("N,loss\n1e6,3\n1e6,2\n", [1, 1]),
    ):
        runs = load_runs(write(text))
        assert runs["num_experts"].tolist() == experts
        assert sum("num_experts = 1" in step.rule or "all runs are dense" in step.rule for step in runs.log) == 1
    # A routed row without experts is no dense run.
    runs = load_runs(write("arch,N,E,loss\ndense,1e6,1,3\nmoe,1e6,0,2\nmoe,1e6,8,2\n"))
    assert runs["num_experts"].tolist() == [1, 8]
    every = load_runs(write("arch,N,E,loss\nx,1e6,8,3\ny,1e6,,2\n"), dense=True)
    assert every["num_experts"].tolist() == [1, 1]
    assert not every.has("router")


@pytest.mark.parametrize("none", ["0", "-", "none", ""])
def test_dense_rows_need_no_experts_per_token(write: Callable[..., Path], none: str) -> None:
    for header, dense, routed in (
        ("arch,E", "dense,", "moe,8"),
        ("E,lr", "1,1", "8,1"),
        ("E,lr", "0,1", "8,1"),
        ("arch,lr", "dense,1", "moe,1"),
    ):
        runs = load_runs(write(f"{header},k,N,loss\n{dense},{none},1e6,3\n{routed},2,1e6,2\n"))
        assert runs.columns["k"].tolist() == pytest.approx([np.nan, 2], nan_ok=True), header
    # A routed row without them is no run.
    assert load_runs(write("E,k,N,loss\n1,1,1e6,3\n8,0,1e6,2\n"))["k"].tolist() == [1]


NUMBERS = [
    ("10M", 1e7), ("1.5B", 1.5e9), ("32k", 32e3), ("1,000,000", 1e6), ("18.9 M", 18.9e6), ("1T", 1e12), ("2 billion", 2e9),
    ("1.2 Million", 1.2e6), ("1e7", 1e7), ("1E+07", 1e7), ("  5  ", 5.0), ("+3", 3.0), (".5", 0.5), ("1,234.5", 1234.5), ("7G", 7e9),
    ("1e-3M", 1e3), ("160m", 160e6), ("5 thousand", 5e3), ("1e3 thousand", 1e6), ("2 trillion", 2e12),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_read_as_people_write_it(text: str, value: float) -> None:
    assert as_numbers(pl.Series([text, "1"])).to_list() == [value, 1.0]


@pytest.mark.parametrize(
    "text", ["", "M", "1,00", "1,0000", "10 MM", "1_000", "0x10", "ten", "1e", "e5", ",", "1..2", "10Mb", "--1", "1 000"]
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert as_numbers(pl.Series([text, "1"])).to_list() == [None, 1.0]


@given(st.integers(0, 10**15), st.sampled_from(["k", "M", "B", "T", " thousand", " million", " billion", " trillion"]), st.integers(0, 6))
def test_a_unit_is_exactly_its_power_of_ten(digits: int, unit: str, places: int) -> None:
    # The oracle is exact decimal arithmetic, rounded once.
    text = format(Decimal(digits).scaleb(-places), "f")
    power = {"k": 3, "M": 6, "B": 9, "T": 12, " thousand": 3, " million": 6, " billion": 9, " trillion": 12}[unit]
    assert as_numbers(pl.Series([f"{text}{unit}"])).to_list() == [float(Decimal(text).scaleb(power))]


@given(st.integers(0, 10**12))
def test_commas_between_thousands_are_read_as_python_writes_them(value: int) -> None:
    assert as_numbers(pl.Series([f"{value:,}"])).to_list() == [float(value)]


def test_numbers_in_another_unit_are_asked_about(write: Callable[..., Path]) -> None:
    sizes = load_runs(write("model_size,tokens,loss\n10,1e9,3\n900,1e9,2\n"))
    assert only(sizes, "small-sizes") == "model_size is 10 to 900: in millions? then --columns 'N=model_size*1e6'"
    # One that is too small for its unit is enough: sizes in millions go above 1,000.
    wide = load_runs(write("params,tokens,loss\n44,1e9,3\n16183,1e9,2\n"))
    assert only(wide, "small-sizes") == "params is 44 to 16183: in millions? then --columns 'N=params*1e6'"
    tokens = load_runs(write("params,tokens,loss\n1e8,2000,3\n1e9,20000,2\n"))
    assert only(tokens, "small-sizes") == "tokens is 2000 to 20000: in millions? then --columns 'D=tokens*1e6'"
    flops = load_runs(write("params,tokens,compute,loss\n1e8,1e9,0.6,3\n1e9,1e9,6,2\n"))
    assert only(flops, "flops-unit") == "compute is 1e-18 times 6 N D: in another unit? then --columns 'C=6*N*D'"
    assert codes(load_runs(write("params,tokens,compute,loss\n1e8,1e9,2e18,3\n1e9,1e9,2e19,2\n"))) == []
    perplexity = load_runs(write("N,test loss\n1e6,30\n1e9,9\n"))
    assert only(perplexity, "loss-unit") == "test loss reaches 30: a perplexity? then --columns 'loss=ln(test loss)'"
    bits = load_runs(write("N,loss\n1e6,0.9\n1e9,0.7\n"))
    assert only(bits, "loss-unit") == "loss is at most 0.9: in bits per byte? then --unit 'bits per byte'"
    assert codes(load_runs(write("N,loss_bpb\n1e6,0.9\n1e9,0.7\n"))) == []
    compute = load_runs(write("N,train flops,loss\n1e6,6e15,3\n1e9,6e18,2\n"))
    assert only(compute, "no-tokens") == "no column of tokens: if train flops is 6 N D, then --columns 'D=train flops/(6*N)'"
