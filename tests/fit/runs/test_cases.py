"""Faults that owners of files met (numbered as in ../shared/cases/FAULTS.md): each file now gives its law by the shortest command.

The first part makes its files from laws that are stated; the second reads the files themselves where they lie beside this checkout.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from fit.runs import load_runs
from fit.runs.headers import parse_columns
from tests.fit.runs.layouts import HOFFMANN, S_BASE, assert_law, dense_runs, parameters, routed_runs, table
from tests.fit.runs.samples import codes, only


def arch(run: Mapping[str, float]) -> dict[str, str]:
    """A column that says whether a run is dense."""
    return {"arch": "dense" if run["E"] == 1 else "moe"}


DENSE, ROUTED = dense_runs(), routed_runs()
DIVERGED = [{"N": 2e7, "D": 2e9, "loss": text} for text in ("NaN", "inf", "diverged", "N/A", "")] + [{"N": 0, "D": 0, "loss": 3.0}]
MADE_UP: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "F1, F2": (table(DENSE), {}, "tokens"),
    "F3, with units": (table([{**r, "N": f"{r['N'] / 1e6:g}M", "D": f"{r['D'] / 1e9:g}B"} for r in DENSE]), {}, "tokens"),
    "F3, in millions": (
        table([{"params_millions": r["N"] / 1e6, "tokens_billions": r["D"] / 1e9, "loss": r["loss"]} for r in DENSE]), {}, "tokens",
    ),
    "F3, of FLOPs": (
        table([{"params": r["N"], "train_flops": 6 * r["N"] * r["D"], "loss": r["loss"]} for r in DENSE]),
        {"columns": {"D": "train_flops/(6*N)"}}, "tokens",
    ),
    "F4": (table([{**r, "k": 2} for r in ROUTED]), {}, "bilinear"),
    "F6": (table([*DENSE[:3], *DIVERGED, *DENSE[3:]]), {}, "tokens"),
    "F7, empty": (table([{**arch(r), **r, "E": r["E"] if r["E"] > 1 else ""} for r in ROUTED]), {}, "bilinear"),
    "F7, zero": (table([{**arch(r), **r, "E": r["E"] if r["E"] > 1 else 0} for r in ROUTED]), {}, "bilinear"),
    "F8, tabs": (table(DENSE, "\t"), {}, "tokens"),
    "F8, JSON": (json.dumps(DENSE, indent=0), {}, "tokens"),
    "F8, JSON Lines": ("\n".join(map(json.dumps, DENSE)), {}, "tokens"),
    "F28": (
        table([{**r, "data/mix.v": "a"} for r in DENSE] + [{**DENSE[0], "loss": 9, "data/mix.v": "b"}]),
        {"where": "data/mix.v == 'a'"}, "tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", MADE_UP)
def test_a_file_that_was_refused_gives_its_law(write: Callable[..., Path], fault: str) -> None:
    text, options, law = MADE_UP[fault]
    runs = load_runs(write(text), **options)
    routed = law == "bilinear"
    assert_law(law, S_BASE if routed else HOFFMANN, runs, next(r for r in ("moe", "all") if r in text or r == "all") if routed else "Dense")


def test_fault_8b_a_run_may_be_several_columns_a_file_or_a_row(write: Callable[..., Path]) -> None:
    text = "model,seed,step,params,val_loss\na,1,1,1e6,4\na,1,2,1e6,3\na,2,2,1e6,2.9\nb,1,2,1e7,2.5\n"
    path = write(text)
    assert load_runs(path, columns={"run": "model+seed"}).loss.tolist() == [3, 2.9, 2.5]
    assert load_runs(path, columns={"run": "params+seed"}).loss.tolist() == [3, 2.9, 2.5]
    assert load_runs(path, columns={"run": "N+seed"}).loss.tolist() == [3, 2.9, 2.5]
    assert load_runs(path, columns={"run": "@row"}).loss.tolist() == [4, 3, 2.9, 2.5]
    logs = [write("step,loss\n1,4\n2,3\n", "N1M.csv"), write("step,loss\n1,4\n2,2\n", "N2M.csv")]
    runs = load_runs(logs, columns={"run": "@file"}, filename="N{N}.csv")
    assert (runs["N"].tolist(), runs.loss.tolist()) == ([1e6, 2e6], [3, 2])
    with pytest.raises(InputError, match=r"no-size\.csv: its name is not of the form --filename 'N{N}\.csv'"):
        load_runs(write("step,loss\n1,4\n", "no-size.csv"), filename="N{N}.csv")
    for pattern in ("N.csv", "{N}{N}.csv", "{1}.csv", ""):
        if pattern:
            with pytest.raises(InputError, match="takes columns in braces"):
                load_runs(path, filename=pattern)
    with pytest.raises(InputError, match="a table without a name"):
        load_runs({"loss": [3.0]}, filename="{N}.csv")


def test_fault_20_checkpoints_are_never_taken_for_runs(write: Callable[..., Path]) -> None:
    path = write("N,E,step,loss\n1e6,1,100,4\n1e6,1,200,3\n1e6,8,100,3.9\n1e6,8,200,2.9\n")
    with pytest.raises(InputError) as raised:
        load_runs(path)
    assert str(raised.value).splitlines()[0].endswith("2 settings at several steps, and no column says which rows are one run")
    assert "--columns run=N+E;" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 3
    assert load_runs(path, columns={"run": "N+E"}).loss.tolist() == [3, 2.9]
    assert len(load_runs(path, columns={"run": "@row"})) == 4
    # One step a setting, or other tokens at other steps of another size, are runs.
    assert len(load_runs(write("N,step,loss\n1e6,100,4\n1e7,200,3\n"))) == 2


def test_fault_29_labels_have_the_unit_that_was_given(write: Callable[..., Path]) -> None:
    for header, unit in (
        ("val_loss", "nats per token"), ("bpb", "bits per byte"), ("val/bpb", "bits per byte"), ("ppl", "nats per token"),
        ("Test Loss", "nats per token"),
    ):  # fmt: skip
        assert load_runs(write(f"N,{header}\n1e6,3\n1e7,2\n")).unit == unit
    path = write("N,ppl,score\n1e6,3,1\n1e7,2,2\n")
    assert load_runs(path, target="ppl").unit == "perplexity"
    assert load_runs(path, target="score").unit == "unit of score"
    assert load_runs(path, target="score", unit="points").unit == "points"


def test_fault_32_a_router_with_a_comma_is_chosen_by_a_filter_on_its_header(write: Callable[..., Path]) -> None:
    rows = [{"Router Type": f'"{"Dense" if r["E"] == 1 else "top-2, noisy"}"', **r} for r in ROUTED]
    other = [{**row, "Router Type": "hash", "loss": 9.0} for row in rows if row["E"] != 1]
    runs = load_runs(write(table([*rows, *other])), where="Router Type in ['Dense', 'top-2, noisy']")
    assert_law("bilinear", S_BASE, runs, "top-2, noisy")


# The files themselves. The right values are those of FAULTS.md, from SciPy, with as many digits as it gives.

CASES = Path(__file__).parents[4] / "shared" / "cases"
TOKENS = {"L_0": 1.6839, "A": 368.05, "a": 0.33315, "B": 456.50, "b": 0.28552}
BILINEAR = {"a": -0.08106, "b": -0.11238, "c": 0.01047, "d": 1.10901}
RIGHT: Mapping[str, tuple[str, str, str, Mapping[str, float]]] = {
    "01_dense_plain.csv": ("", "tokens", "Dense", TOKENS),
    "01e_dense_with_E.csv": ("", "tokens", "Dense", TOKENS),
    "02_units.csv": ("", "tokens", "Dense", TOKENS),
    "02b_millions.csv": ("", "tokens", "Dense", TOKENS),
    "03_flops.csv": ("D=train_flops/(6*N)", "tokens", "Dense", TOKENS),
    "04_diverged.csv": ("", "tokens", "Dense", {"L_0": 1.7144, "A": 401.97, "a": 0.33877, "B": 515.70, "b": 0.29220}),
    "05_tabs.tsv": ("", "tokens", "Dense", TOKENS),
    "06_records.json": ("", "tokens", "Dense", TOKENS),
    "06b_records.jsonl": ("", "tokens", "Dense", TOKENS),
    "07_uniform_k2.csv": ("", "bilinear", "all", BILINEAR),
    "08_dense_rows_blank_E.csv": ("", "bilinear", "moe", BILINEAR),
    "08b_dense_rows_E0.csv": ("", "bilinear", "moe", BILINEAR),
}


def case(name: str) -> Path:
    """A file of ../shared/cases; the test is skipped only where it is absent."""
    if not (CASES / name).exists():
        pytest.skip("the cases are not beside this checkout (expected ../shared/cases)")
    return CASES / name


@pytest.mark.parametrize("name", RIGHT)
def test_a_case_gives_the_value_that_scipy_gives(name: str) -> None:
    columns, law, router, right = RIGHT[name]
    found = parameters(law, load_runs(case(name), columns=parse_columns(columns) if columns else None), router)
    # Half a unit of the last digit given: 5e-6 of 0.01, 5e-5 of 1.6839, 5e-3 of 368.05.
    for parameter, value in right.items():
        digits = len(f"{value:g}".split(".")[1]) if abs(value) < 1 else 4 if abs(value) < 2 else 2
        assert found[parameter] == pytest.approx(value, abs=0.51 * 10.0 ** -min(digits, 5)), parameter


def test_the_cases_of_checkpoints_are_asked_about() -> None:
    with pytest.raises(InputError, match="16 settings at several steps"):
        load_runs(case("20_curves_from_step_100.csv"))
    runs = load_runs(case("20_curves_from_step_100.csv"), columns={"run": "N+E"})
    assert (len(runs), set(runs["step"].tolist())) == (16, {10_000})
    named = load_runs(case("10_mapped_curves.csv"))
    assert (len(named), set(named["step"].tolist())) == (16, {10_000})


def test_the_case_of_diverged_runs_lists_its_rows() -> None:
    runs = load_runs(case("04_diverged.csv"))
    assert codes(runs) == ["rows-left-out"]
    assert only(runs, "rows-left-out") == "3 rows of 20 left out: loss is NaN, nan, inf (rows 5, 11, 13)"
    with pytest.raises(InputError, match="row 5, column loss: 'NaN': must be a finite number above 0"):
        load_runs(case("04_diverged.csv"), strict=True)
