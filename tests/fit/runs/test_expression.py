"""Filters in plain terms: what they keep, what they refuse, and that nothing else happens."""

import ast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import InputError
from fit.runs import Runs

COLUMNS = {
    "loss_validation": [3.0, 2.9, 2.8, 2.7],
    "num_experts": [1.0, 8.0, 64.0, 512.0],
    "dense_parameter_count": [1e6, 1e6, 1e9, 1e9],
    "k": [1.0, 1.0, 2.0, 1.0],
    "routing_frequency": [0.5, 1 / 12, 0.5, 1.0],
    "router_type": ["Dense", "S-Base", "Hash", "Hash"],
    "gap": [1.0, np.nan, 1.0, 1.0],
}
RUNS = Runs.from_columns(COLUMNS)


def kept(expression: str) -> list[int]:
    """Which of the four runs are kept."""
    return [int(line) - 1 for line in RUNS.where(expression).line_of]


@pytest.mark.parametrize(
    ("expression", "runs"),
    [
        ("k == 1", [0, 1, 3]),
        ("k == 1 and routing_frequency == 0.5", [0]),
        ("k == 2 or num_experts == 1", [0, 2]),
        ("not k == 1", [2]),
        ("not (k == 1 and num_experts > 1)", [0, 2]),
        ("k == 1 or k == 2 and num_experts == 1", [0, 1, 3]),  # `and` binds tighter
        ("1 < num_experts <= 64", [1, 2]),
        ("num_experts in [1, 512]", [0, 3]),
        ("num_experts not in (1, 512)", [1, 2]),
        ("router_type == 'Hash'", [2, 3]),
        ('router_type != "Hash"', [0, 1]),
        ("router_type in ['Dense', 'S-Base']", [0, 1]),
        ("'Hash' == router_type", [2, 3]),
        ("-num_experts < -8", [2, 3]),
        ("dense_parameter_count * num_experts >= 5 * 10 ** 11", [3]),
        ("(num_experts - 1) / 7 + 0 == 1", [1]),
        ("routing_frequency == 1 / 12", [1]),
        ("N < 1e8 and E > 1", [1]),
        ("loss < 2.75", [3]),
        ("  k==1  ", [0, 1, 3]),
        ("1 == 1", [0, 1, 2, 3]),
    ],
)
def test_a_filter_keeps_the_runs_it_describes(expression: str, runs: list[int]) -> None:
    assert kept(expression) == runs


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("k = 1", "syntax"),
        ("k ==", "syntax"),
        ("k == 1 & num_experts == 1", "'1 & num_experts' is not allowed"),
        ("k", "'k' is not a condition"),
        ("1", "'1' is not a condition"),
        ("k and k == 1", "'k' is not a condition"),
        ("k == True", "'True' is not allowed"),
        ("k == None", "'None' is not allowed"),
        ("k is 1", "'k is 1' is not a condition"),
        ("k == 1j", "'1j' is not allowed"),
        ("k == b'1'", "is not allowed"),
        ("k == f'{k}'", "is not allowed"),
        ("k == ...", r"'\.\.\.' is not allowed"),
        ("abs(k) == 1", r"'abs\(k\)' is not allowed"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("k.real == 1", "'k.real' is not allowed"),
        ("k[0] == 1", r"'k\[0\]' is not allowed"),
        ("[k for k in [1]] == 1", "is not allowed"),
        ("(lambda: 1)() == 1", "is not allowed"),
        ("(x := 1) == 1", "is not allowed"),
        ("k % 2 == 1", "is not allowed"),
        ("~k == 1", "is not allowed"),
        ("k == 1 if k == 1 else k == 2", "is not a condition"),
        ("router_type == 1", "mixes text and numbers"),
        ("k == '1'", "mixes text and numbers"),
        ("k in ['1']", "mixes text and numbers"),
        ("router_type < 'S'", "takes numbers; text is compared with"),
        ("router_type + 'x' == 'Hashx'", "mixes text and numbers"),
        ("k in 1", "is not a list"),
        ("'Ha' in router_type", "is not a list"),
        ("k in [num_experts]", "is not a list of numbers or text"),
        ("k == [1]", "is not allowed"),
        ("k / 0 == 1", "not a finite number"),
        ("k == 10 ** 10 ** 10", "not a finite number"),
        ("k == 1e999", "not a finite number"),
        ("k == 1" + "0" * 400, "not a finite number"),
        ("k == 1" + "0" * 5000, "--where"),
        ("k == 1 and read_csv('/etc/passwd') == 1", "is not allowed"),
        ("k == (SELECT 1)", "syntax"),
        ("num_experst == 1", "no column 'num_experst'; did you mean num_experts"),
        ("k == 3", r"leaves none of 4 runs: no run has k == 3 \(k is 1, 2\)"),
        ("router_type == 'hash'", "router_type is Dense, Hash, S-Base"),
        ("routing_frequency == 0.083", "routing_frequency is 0.08333333333333333, 0.5, 1"),
        ("k == 1 and num_experts == 64", "leaves none of 4 runs"),
        ("(" * 900 + "k" + ")" * 900, "--where"),
        ("-" * 1900 + "k == 1", "--where"),
        ("+".join(["1"] * 900) + " == 1", "--where"),
        ("k == 1\n\nimport os", "syntax"),
        ("k == '\0'", "--where"),
        ("k == '\\ud800'", "mixes text"),
        ("k == '\ud800'", "--where"),
    ],
)
def test_anything_else_is_one_line_that_says_what_is_wrong(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        RUNS.where(expression)
    assert "\n" not in str(raised.value)


def test_a_filter_says_how_many_runs_each_part_of_it_drops() -> None:
    step = RUNS.where("k == 1 and not num_experts == 8 and (E == 1 or E == 512 and k == 1)").log[-1]
    assert step.rule == "--where k == 1 and not num_experts == 8 and (E == 1 or E == 512 and k == 1)"
    assert (step.kept, step.dropped) == (2, 2)
    assert step.reasons == ("1 run: k != 1", "1 run: num_experts == 8")


def test_a_comparison_that_matches_nothing_is_warned_of() -> None:
    runs = RUNS.where("router_type == 'Hash' or routing_frequency == 0.083")
    found = [warning.message for warning in runs.warnings if warning.code == "matches-nothing"]
    assert found == [
        "no run has routing_frequency == 0.083 (routing_frequency is 0.08333333333333333, 0.5, 1)",
    ]


names = st.sampled_from(["k", "num_experts", "router_type", "gap", "nothing", "N", "E"])
literals = st.one_of(st.integers().map(str), st.floats().map(str), st.text(max_size=5).map(repr), st.booleans().map(str))
atoms = st.one_of(names, literals)
operators = st.sampled_from(
    ["==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "+", "-", "*", "/", "**", "//", "%", "is", "&", ":=", ","]
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, operators, inner).map(" ".join),
        inner.map("({})".format),
        inner.map("[{}]".format),
        inner.map("not {}".format),
        inner.map("-{}".format),
        st.tuples(atoms, inner).map(lambda pair: f"{pair[0]}({pair[1]})"),
    ),
    max_leaves=12,
)


@given(st.one_of(expressions, st.text()))
@example("k in []")
@example("k == 1 and\t\\")
@example("1and 2")
def test_no_expression_gives_a_traceback(expression: str) -> None:
    message = "one line"
    try:
        assert 0 < len(RUNS.where(expression)) <= len(RUNS)
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


conditions = st.recursive(
    st.tuples(
        st.sampled_from(["k", "num_experts", "routing_frequency"]),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["1", "8", "0.5", "2 ** 6", "1 / 12", "num_experts", "k + 1"]),
    ).map(" ".join),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map("(not {})".format),
    ),
    max_leaves=8,
)


@given(conditions)
def test_a_filter_means_what_python_means_by_it(expression: str) -> None:
    # The oracle is Python itself, one run at a time, on expressions that are made here and so are safe to run.
    code = compile(ast.parse(expression, mode="eval"), "test", "eval")
    rows = [{name: COLUMNS[name][i] for name in ("k", "num_experts", "routing_frequency")} for i in range(len(RUNS))]
    wanted = [i for i, row in enumerate(rows) if eval(code, {}, row)]
    try:
        assert kept(expression) == wanted
    except InputError:
        assert wanted == []
