"""Runs: what the released file holds, which evaluation of a run is taken, runs in memory, and the same request again."""

import csv
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import Runs, load_runs
from fit.runs import codes as equal_rows
from fit.runs.headers import parse_columns
from tests.fit.runs.samples import GOOD, HEADER, ROWS, codes, only


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
    named, read, taken = runs.log
    assert named.rule.startswith("columns: ")
    assert named.rule.endswith("loss = loss_validation (nats per token)")
    assert "5799 rows" in read.rule
    assert (read.kept, read.dropped, taken.kept, taken.dropped) == (5799, 0, 223, 0)
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


def test_only_the_target_is_required_and_without_a_run_column_every_row_is_a_run(write: Callable[..., Path]) -> None:
    runs = load_runs(write("loss_validation\n3\n2.5\n"))
    assert runs.loss.tolist() == [3, 2.5]
    assert runs["num_experts"].tolist() == [1, 1]
    with pytest.raises(InputError, match=r"no column 'dense_parameter_count'.*columns there: loss_validation"):
        runs["N"]


def test_without_steps_a_run_may_have_one_row(write: Callable[..., Path]) -> None:
    assert len(load_runs(write("hyper_id,loss_validation\na,3\nb,2.5\n"))) == 2
    with pytest.raises(InputError, match=r"row 3: hyper_id 'a' has a second row, and there is no 'step' column.* row 2"):
        load_runs(write("hyper_id,loss_validation\na,3\na,2.5\n"))
    with pytest.raises(InputError, match="no column 'step', so the evaluation at step 10 cannot be chosen"):
        load_runs(write("hyper_id,loss_validation\na,3\n"), step=10)


def test_the_same_hyper_id_in_two_files_is_two_runs(write: Callable[..., Path]) -> None:
    first, second = write(GOOD), write("hyper_id,loss_validation,note\n0,3,x\n", "more.csv")
    runs = load_runs([first, second])
    assert len(runs) == 3
    assert runs["note"].tolist() == ["", "", "x"]
    assert [runs.place(i).rsplit("/")[-1] for i in range(3)] == ["runs.csv, row 3", "runs.csv, row 5", "more.csv, row 2"]
    assert runs.log[-1].rule == "2 files together"
    assert runs.log[-1].kept == 3
    assert runs["num_experts"].tolist() == [1, 8, 1]  # the second file has no experts, so it is dense
    with pytest.raises(InputError, match=r"more\.csv, row 2, column dense_parameter_count: empty"):
        runs["N"]


def test_of_many_files_the_log_has_a_line_for_each_thing_done(write: Callable[..., Path]) -> None:
    paths = [write(f"step,D,loss\n1,1e9,4\n2,2e9,{3 - i / 10}\n3,3e9,nan\n", f"N{i + 1}M.csv") for i in range(9)]
    runs = load_runs(paths, columns={"run": "@file"}, filename="N{N}.csv")
    assert runs["N"].tolist() == [i * 1e6 for i in range(1, 10)]
    assert [(step.rule.partition(" (")[0], step.kept, step.dropped) for step in runs.log] == [
        ("9 files: columns: N = N, D = D, run = @file, loss = loss", 27, 0),
        ("9 files: rows read", 27, 0),
        ("9 files: no column of experts or routers: all runs are dense", 27, 0),
        ("9 files: rows that are no runs", 18, 9),
        ("9 files: last evaluation with a finite loss", 9, 0),
        ("9 files together", 9, 0),
    ]
    left_out = [warning.message for warning in runs.warnings if warning.code == "rows-left-out"]
    assert left_out == [*(f"{path}: 1 row of 3 left out: loss is nan (row 4)" for path in paths[:4]), "and of 5 more files"]


def test_runs_that_stop_early_are_warned_of(write: Callable[..., Path]) -> None:
    runs = load_runs(write(GOOD + "2,89,3,4,1000000,Hash,42\n3,90,3,2,1000000,Hash,42\n"))
    assert only(runs, "short-runs") == "1 run ends before 90 % of the longest run's 100 steps: N=1000000 at step 89"


def test_runs_can_be_made_in_memory_and_are_checked_like_files() -> None:
    runs = Runs.from_columns({"loss": [3.0, 2.5], "E": [1, 8], "N": [1e6, 1e6], "router": ["Dense", "Hash"]})
    assert runs["num_experts"].tolist() == [1, 8]
    assert runs["router_type"].tolist() == ["Dense", "Hash"]
    assert [step.rule for step in Runs.from_columns({"loss": [3.0]}).log] == [
        "runs made in memory",
        "no column of experts or routers: all runs are dense",
    ]
    assert "column-set-aside" in codes(Runs.from_columns({"loss": [3.0], "N": [None], "params": [1e6]}))
    for columns, message in (
        ({"loss": [3.0], "E": [0.5]}, "row 1, column E: '0.5': must be a whole number"),
        ({"loss": [3.0, float("nan")]}, "row 2, column loss: empty"),
        ({"loss": [3.0, float("inf")]}, "row 2, column loss: 'inf': must be a finite number above 0"),
        ({"loss": [3.0], "E": [1.0, 2.0]}, "one entry per run"),
        ({"loss": [[3.0, 2.0]]}, "column loss: no number in any row"),
        ({"loss": []}, "no rows"),
        ({"E": [1.0]}, "no column is known for the loss"),
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
    assert "run 1, run 2: loss 3, 2.5" in only(Runs.from_columns(columns), "duplicate-settings")


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
    shown = "3 runs; target loss; routers Dense, Hash; dense_parameter_count 1000000 to 1000000000"
    assert repr(runs) == f"Runs({shown})"
    assert "<table" in runs._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert repr(runs.keep(np.zeros(3, dtype=np.bool_), "none")) == "Runs(0 runs; target loss)"
    assert runs.to_polars()["num_experts"].to_list() == [1, 8, 8]


def test_the_last_evaluations_are_those_of_the_step_that_is_asked_for(write: Callable[..., Path]) -> None:
    text = "name,iter,nats,c4,experts\na,1,4,5,1\na,2,3,4,1\nb,1,3.5,4.5,8\nb,2,2.5,3.5,8\nc,2,2,3,64\n"
    path, mapping = write(text), parse_columns("run=name,step=iter,loss=nats,E=experts,loss_c4=c4")
    for step, target, losses in ((None, None, [3, 2.5]), (1, None, [4, 3.5]), (None, "loss_c4", [4, 3.5]), (1, "loss_c4", [5, 4.5])):
        asked = {name: origin for name, origin in mapping.items() if target is None or name != "loss"}
        runs = load_runs(path, columns=asked, target=target, step=step, where="E < 64")
        assert (runs.loss.tolist(), runs.step, runs["hyper_id"].tolist()) == (losses, step, ["a", "b"])
        assert runs.origins[target or "nats"] == ("c4" if target else "nats")
    with pytest.raises(InputError, match=r"no run has a finite nats at step 3 \(steps there: 1, 2\)"):
        load_runs(path, columns=mapping, step=3)


def test_the_loss_of_the_first_file_is_that_of_all(write: Callable[..., Path]) -> None:
    first, second = write("N,val_loss\n1e6,3\n", "a.csv"), write("N,train_loss,val_loss\n1e7,9,\n1e8,8,\n", "b.csv")
    both = write("N,loss,val_loss\n1e7,9,2\n", "c.csv")
    ppl = [write("N,ppl\n1e6,9\n", "d.csv"), write("N,ppl\n1e7,8\n", "e.csv")]
    assert load_runs([first, both]).loss.tolist() == [3, 2]
    assert load_runs(ppl).loss.tolist() == np.log([9, 8]).tolist()
    with pytest.raises(InputError, match=r"b\.csv, row 2, column val_loss: empty"):
        load_runs([first, second])
    with pytest.raises(InputError, match=r"d\.csv, row 1: no column 'val_loss' to fit"):
        load_runs([first, ppl[0]])


def test_a_column_of_runs_has_the_names_that_a_filter_of_rows_knows(write: Callable[..., Path]) -> None:
    path = write("model.size,k,val loss,lr\n1e6,8,3,.1\n1e7,16,2,.2\n")
    columns = {"E": "k"}
    runs = load_runs(path, columns=columns)
    for name in ("model.size", "params", "N", "dense_parameter_count"):
        assert runs[name].tolist() == [1e6, 1e7]
        assert runs.where(f"{name} == 1e7").loss.tolist() == load_runs(path, columns=columns, where=f"{name} == 1e7").loss.tolist() == [2]
    assert runs.where("val loss < 2.5 and loss < 2.5").loss.tolist() == [2]
    # One of our own names is no header that became another column.
    assert runs["E"].tolist() == [8, 16]
    assert not runs.has("k")


def test_the_training_steps_of_a_renamed_file_are_not_lost() -> None:
    # Fault F15: the headers are nobody's but the file's owner's.
    path = Path(__file__).parents[4] / "shared" / "cases" / "10_mapped_curves.csv"
    if not path.exists():
        pytest.skip("the cases are not beside this checkout (expected ../shared/cases)")
    columns = parse_columns("run=run_name,N=params,E=experts,step=iter,loss=val_loss")
    runs = load_runs(path, columns=columns)
    at = {step: load_runs(path, columns=columns, step=step) for step in (500, 1000)}
    assert {len(early) for early in at.values()} == {len(runs)}
    assert all((early.loss > runs.loss).all() for early in at.values())


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
