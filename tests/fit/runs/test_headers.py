"""Headers: which are recognised, what is asked where two could be one column, and columns as expressions."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import load_runs
from fit.runs.cells import Cells
from fit.runs.expression import Expression
from fit.runs.headers import parse_columns
from tests.fit.runs.samples import only


def test_headers_of_other_people_are_mapped(write: Callable[..., Path]) -> None:
    path = write("val_loss,params,experts,loss_validation\n3,1e6,8,9\n")
    runs = load_runs(path, columns=parse_columns("loss_validation=val_loss,N=params, num_experts = experts"))
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
        ({"loss": "val_loss", "N": "params", "dense_parameter_count": "params"}, "'N' is asked for twice"),
        ({"loss": "val_loss", "N": "params", "n_params": "params"}, "'N' is asked for twice"),
        ({"loss": "val_loss", "N": "params*tokens"}, "no column 'tokens'"),
        ({"loss": "val_loss", "N": "D*2", "D": "N/2"}, "no column '[ND]'"),
        ({"loss": "val_loss", "router": "1+1"}, "no column '1[+]1'"),
        ({"loss": "val_loss", "run": "params+nothing"}, "no column 'nothing'"),
        ({"loss": "val_loss+"}, "--columns 'val_loss[+]'"),
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


RECOGNISED = {
    "dense_parameter_count": "N n Params n_params num_params Model-Size model.size MODEL_SIZE active_params config.n_params params(N) "
    "Parameters",
    "total_parameter_count": "P total_params Total.Parameters",
    "num_experts": "E experts n_experts Num_Experts config/num_experts moe_num_experts num_local_experts",
    "tokens_seen": "D tokens train_tokens n_tokens Training-Tokens dataset/size data.size config.train.tokens tokens_seen",
    "training_flops": "C flops Compute train_flops total-flops training_compute",
    "flops_per_step": "F flops_per_step",
    "k": "k top_k Top-K num_experts_per_tok",
    "routing_frequency": "R routing.frequency",
    "unique_tokens": "U unique_tokens",
    "router_type": "router router-type routing_method",
    "hyper_id": "run run_id Run-Name run.name exp_name",
    "step": "step steps iter global_step trainer/global_step _step Iteration",
    "seed": "seed random_seed",
}


@pytest.mark.parametrize("ours", RECOGNISED)
def test_a_header_is_recognised_whatever_its_case_dots_slashes_and_blanks(write: Callable[..., Path], ours: str) -> None:
    for header in RECOGNISED[ours].split():
        for written in (header, header.replace("_", " ").replace("-", " ")):
            other = "E" if ours == "total_parameter_count" else "other"  # without sizes and experts a total is a size
            runs = load_runs(write(f"{written},loss,{other}\n8,3,4\n16,2,8\n"), columns=None if ours != "step" else {"run": "other"})
            assert runs[ours].tolist() == [8, 16] if ours != "router_type" else ["8", "16"], written


LOSSES = "loss val_loss Validation.Loss eval/loss final_loss test-loss summary.val/loss train_loss bpb nll val/nll Loss(nats) C4_loss"


@pytest.mark.parametrize("header", LOSSES.split())
def test_a_loss_is_recognised(write: Callable[..., Path], header: str) -> None:
    runs = load_runs(write(f"N,{header},router_z_loss,loss_std\n1e6,3,0.1,0.2\n1e7,2,0.1,0.2\n"))
    assert (runs.target, runs.loss.tolist()) == (header, [3, 2])


def test_a_loss_of_held_out_text_goes_before_that_of_training_and_loss_before_perplexity(write: Callable[..., Path]) -> None:
    header = "ppl,train_loss,loss,val_loss"
    for drop, target in ((0, "val_loss"), (1, "loss"), (2, "train_loss")):
        names = header.split(",")[: 4 - drop]
        assert load_runs(write(f"{','.join(names)}\n{','.join('9543'[: 4 - drop])}\n")).target == target
    runs = load_runs(write("Val PPL\n9\n"))
    assert (runs.target, runs.loss.tolist()) == ("loss", [np.log(9)])


def test_a_unit_at_the_end_of_a_header_is_a_factor(write: Callable[..., Path]) -> None:
    for header, factor in (
        ("params_millions", 1e6), ("Params (M)", 1e6), ("params (in billions)", 1e9), ("model size [B]", 1e9), ("paramsM", 1e6),
        ("n_params_b", 1e9), ("size in millions", 1e6), ("Params (K)", 1e3),
    ):  # fmt: skip
        runs = load_runs(write(f"{header},loss\n1.5,3\n2,2\n"))
        np.testing.assert_allclose(runs["N"], [1.5 * factor, 2 * factor], rtol=1e-15)
        assert f"N = {header}*1e" in runs.log[0].rule
    # Not the dimension of the keys: a symbol of one letter takes no unit.
    assert not load_runs(write("d_k,loss\n64,3\n")).has("D")


def test_a_loss_without_numbers_is_named(write: Callable[..., Path]) -> None:
    for cells in ("3 nats", ""):
        with pytest.raises(InputError, match=r"runs\.csv, column val_loss: no number in any row"):
            load_runs(write(f"N,val_loss\n1e6,{cells}\n1e7,{cells}\n"))


def test_two_headers_for_one_column_are_asked_about(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError) as raised:
        load_runs(write("params,active params,loss\n1e6,5e5,3\n"))
    assert str(raised.value).splitlines()[0].endswith("row 1: 'params' and 'active params' could each be N (dense_parameter_count)")
    assert str(raised.value).splitlines()[1] == "say which, such as --columns N=params"
    path = write("active params,all/params,loss,eval loss,test loss\n1e6,5e5,3,2,1\n")
    with pytest.raises(InputError, match=r"'eval loss' and 'test loss' could each be the loss\nsay which, such as --target 'eval loss'"):
        load_runs(path)
    assert load_runs(path, target="test loss").loss.tolist() == [1]
    # Our own short name goes before others, and an identifier and a name together name a run.
    assert load_runs(write("N,params,loss\n1e6,5e5,3\n"))["N"].tolist() == [1e6]
    runs = load_runs(write("run_id,run_name,step,loss\n1,a,1,3\n1,a,2,2\n2,a,1,4\n"))
    assert runs.loss.tolist() == [2, 4]


def test_a_column_that_does_not_hold_what_its_header_promises_is_not_taken(write: Callable[..., Path]) -> None:
    runs = load_runs(write("model_size,params,arch,steps,loss\nsmall,1e6,gpt,,3\nlarge,1e7,llama,,2\n"))
    assert runs["N"].tolist() == [1e6, 1e7]
    assert not runs.has("router_type")
    assert not runs.has("step")
    # But one of our own short names that holds none is an error, and no other column.
    with pytest.raises(InputError, match="row 2, column E: 'many': not a number"):
        load_runs(write("E,loss\nmany,3\nfew,2\n"))


def test_a_name_is_that_of_a_run_where_it_occurs_once_at_a_step(write: Callable[..., Path]) -> None:
    assert load_runs(write("name,params,step,loss\na,1e6,1,3\na,1e6,2,2\nb,1e6,2,2.5\n")).loss.tolist() == [2, 2.5]
    with pytest.raises(InputError, match="no column says which rows are one run"):
        load_runs(write("name,params,step,loss\na,1e6,1,3\na,1e6,2,2\na,1e6,2,2.5\n"))


def test_columns_are_expressions_over_headers_and_over_each_other(write: Callable[..., Path]) -> None:
    path = write("model.size,train flops,eval/ppl,dim\n2,12e15,20,64\n4,48e15,10,128\n")
    asked = "N=model.size*1e6,D=train flops/(6*N),loss=ln(eval/ppl),E=1,k=2,width=sqrt(dim)**2"
    runs = load_runs(path, columns=parse_columns(asked))
    assert runs["N"].tolist() == [2e6, 4e6]
    np.testing.assert_allclose(runs["D"], [1e9, 2e9], rtol=1e-15)
    assert runs.loss.tolist() == np.log([20, 10]).tolist()
    assert (runs["E"].tolist(), runs["k"].tolist()) == ([1, 1], [2, 2])
    np.testing.assert_allclose(runs["width"], [64, 128], rtol=1e-15)
    # A short name means the column asked for, but for the file's own in its own definition.
    runs = load_runs(write("N,C,loss\n2,12e15,3\n"), columns=parse_columns("N=N*1e6,D=C/(6*N)"))
    assert (runs["N"].tolist(), runs["D"].tolist()) == ([2e6], [1e9])


def test_a_row_in_which_an_expression_has_no_value_is_left_out(write: Callable[..., Path]) -> None:
    runs = load_runs(write("a,b,loss\n6,2,3\n6,0,2\n6,,2\n8,2,1\n9,3,1\n"), columns={"N": "a/b"})
    assert runs["N"].tolist() == [3, 4, 3]
    assert only(runs, "rows-left-out") == "2 rows of 5 left out: a/b is inf, empty (rows 3, 4)"


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "my size", "x/y", "2", "0.5", "1e3"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map("-{}".format),
        inner.map("sqrt({})".format),
        inner.map("ln({})".format),
    ),
    max_leaves=6,
)
ROW = {"a": 3.0, "b": 0.25, "my size": 7.0, "x/y": 1e-3}


@given(EXPRESSIONS)
def test_an_expression_means_what_python_means_by_it(expression: str) -> None:
    # The oracle is Python itself, on expressions that are made here; odd headers are names there.
    names = {"sqrt": np.sqrt, "ln": np.log, "my_size": 7.0, "x_y": 1e-3, "a": 3.0, "b": 0.25}
    text = expression.replace("my size", "my_size").replace("x/y", "x_y")
    code = compile(ast.parse(text, mode="eval"), "test", "eval")
    try:
        with np.errstate(all="ignore"):
            wanted = float(eval(code, {name: value if callable(value) else np.float64(value) for name, value in names.items()}))
    except ZeroDivisionError:
        wanted = np.nan
    found = Expression(expression, lambda name: Cells(pl.Series([ROW[name]])), tuple(ROW), "--columns")
    try:
        assert found.values(1).tolist() == [wanted]
    except InputError:
        assert not np.isfinite(wanted) or "/ 0" in expression


@pytest.mark.parametrize(
    "expression",
    [
        "open('x')", "__import__('os').getcwd()", "params.__class__", "read_csv('x')", "eval('1')", "ln.__globals__", "[params]",
        "params[0]", "lambda: 1", "f'{params}'", "(y := 1)", "params if 1 else 2", "ln(params, 2)", "ln(x=params)", "ln(*params)", "'text'",
        "params == 1", "SELECT 1", "", "params;params", "exp(params", "9" * 5000, "params**" * 200 + "2", "ln(" * 500 + "1" + ")" * 500,
    ],
)  # fmt: skip
def test_an_expression_reaches_nothing_but_the_columns(write: Callable[..., Path], expression: str) -> None:
    with pytest.raises(InputError) as raised:
        load_runs(write("params,loss\n1e6,3\n"), columns={"D": expression})
    assert len(str(raised.value).splitlines()) <= 3


def test_a_filter_sees_the_headers_of_the_file_whatever_they_were_taken_for(write: Callable[..., Path]) -> None:
    # Fault F28.
    path = write("model.size,data/mix,my E,val loss\n1,web,8,3\n2,web,8,2\n2,code,,1\n")
    columns = parse_columns("N=model.size*1e6,E=my E")
    for where, losses in (
        ("model.size == 1", [3]), ("N == 1e6", [3]), ("dense_parameter_count == 2e6 and my E > 1", [2]), ("data/mix == 'web'", [3, 2]),
        ("data/mix in ['web'] and loss < 3", [2]), ("val loss >= 2", [3, 2]), ("'data/mix' != 'web' and E == 8", [3, 2]),
        ("params == 2e6 and E > 1", [2]),
    ):  # fmt: skip
        assert load_runs(path, columns=columns, where=where).loss.tolist() == losses, where
    sizes = load_runs(write("model_size_label,loss\n370M,3\n1.3B,2\n", "sizes.csv"))
    assert sizes.where("model_size_label == '370M'").loss.tolist() == sizes.where("model_size_label == 370e6").loss.tolist() == [3]
    with pytest.raises(InputError, match=r"no column 'data'; did you mean data/mix"):
        load_runs(path, columns=columns, where="data == 'web'")


def test_an_empty_cell_decides_nothing_that_another_condition_decides(write: Callable[..., Path]) -> None:
    path = write("arch,k,loss\ndense,,3\nmoe,1,2\nmoe,2,1\nmoe,,4\n")
    for where, losses in (
        ("arch == 'dense' or k == 1", [3, 2]), ("k == 1", [2]), ("not k == 1", [1]), ("k != 1", [1]),
        ("not (arch == 'moe' and k == 1)", [3, 1]), ("arch == 'moe' and k in [1, 2]", [2, 1]), ("k not in [1]", [1]), ("1 <= k < 2", [2]),
        ("not (arch == 'dense' or k == 1)", [1]),
    ):  # fmt: skip
        assert load_runs(path, where=where).loss.tolist() == losses, where
    step = next(step for step in load_runs(path, where="k == 1").log if "--where" in step.rule)
    assert step.reasons == ("2 runs: k is empty or no number", "1 run: k != 1")
