"""Run filters in plain terms: `k == 1 and routing_frequency == 0.5`, evaluated without running any code.

The expression is parsed as Python and walked: column names, numbers, text in quotes, comparisons (chained ones too, and
`in` with a list), `and`, `or`, `not`, parentheses and arithmetic with numbers. Anything else is an `InputError`.
Numbers are compared exactly: a routing frequency of 1/12 is not 0.083, but `routing_frequency < 0.1` finds it.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from common.errors import InputError
from fit.load.schema import full_name, listed, number, quoted

_LONGEST = 2000
_LARGEST = 1e300
_ALLOWED = (
    "allowed are column names, numbers, text in quotes, == != < <= > >= in, and/or/not, + - * / **, and parentheses, "
    "as in k == 1 and routing_frequency == 0.5"
)
_COMPARE: Mapping[type[ast.cmpop], Callable[..., object]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OPPOSITE: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Found:
    """The runs that a filter keeps; why the others go, with counts; and the comparisons that no run satisfies."""

    mask: Bool[np.ndarray, "runs"]
    reasons: tuple[str, ...]
    unmatched: tuple[str, ...]


def evaluate(
    expression: str,
    columns: Mapping[str, Shaped[np.ndarray, "runs"]],
    target: str,
    column: Callable[[str], Shaped[np.ndarray, "runs"]],
    runs: int,
) -> Found:
    """Which of the `runs` satisfy `expression`; `column` gives a column by its name, or raises `InputError`.

    Raises `InputError` for anything that is not such an expression, with the offending piece and what is allowed.
    """
    tree = _parsed(expression)
    walker = _Walker(expression, columns, target, column, runs)
    # What `and` joins is applied one after the other, so that each run dropped is counted once, under its first reason.
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    mask = np.ones(runs, dtype=np.bool_)
    reasons: list[str] = []
    try:
        for part in parts:
            holds = walker.condition(part)
            dropped = int(np.count_nonzero(mask & ~holds))
            if dropped:
                reasons.append(f"{dropped} {'run' if dropped == 1 else 'runs'}: {_negated(part)}")
            mask &= holds
    except RecursionError:
        raise InputError(f"--where {quoted(expression)}: nested too deeply") from None
    return Found(mask, tuple(reasons), tuple(walker.unmatched))


def _parsed(expression: str) -> ast.expr:
    if len(expression) > _LONGEST:
        raise InputError(f"--where {quoted(expression)}: longer than {_LONGEST} characters")
    if not expression.strip():
        raise InputError(f"--where is empty; {_ALLOWED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of things such as `1and 2`, which are refused or harmless here
            return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
        raise InputError(f"--where {quoted(expression)}: {reason}; {_ALLOWED}") from None


def _negated(part: ast.expr) -> str:
    """The opposite of one condition, as a reason why a run was dropped."""
    if isinstance(part, ast.Compare) and len(part.ops) == 1:
        part = ast.Compare(part.left, [_OPPOSITE[type(part.ops[0])]()], part.comparators)
        return ast.unparse(part)
    if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not):
        return ast.unparse(part.operand)
    return f"not ({ast.unparse(part)})"


class _Walker:
    """Evaluates the nodes of one expression over all runs at once."""

    def __init__(
        self,
        expression: str,
        columns: Mapping[str, Shaped[np.ndarray, "runs"]],
        target: str,
        column: Callable[[str], Shaped[np.ndarray, "runs"]],
        runs: int,
    ) -> None:
        self._expression, self._columns, self._target = expression, columns, target
        self._column, self._runs = column, runs
        self.unmatched: list[str] = []

    def condition(self, node: ast.expr) -> Bool[np.ndarray, "runs"]:
        """A node that is true or false for each run."""
        if isinstance(node, ast.BoolOp):
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return combine.reduce([self.condition(value) for value in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.condition(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        raise self._refused(node, "is not a condition" if isinstance(node, ast.Name | ast.Constant) else "is not allowed")

    def _comparison(self, node: ast.Compare) -> Bool[np.ndarray, "runs"]:
        result = np.ones(self._runs, dtype=np.bool_)
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            one = ast.Compare(left, [op], [right])
            if isinstance(op, ast.In | ast.NotIn):
                among = self._among(self._value(left), right, one)
                holds = among if isinstance(op, ast.In) else ~among
            elif type(op) in _COMPARE:
                holds = self._compared(self._value(left), op, self._value(right), one)
            else:
                raise self._refused(one, "is not allowed")
            if not holds.any():
                self._note_unmatched(one)
            result &= holds
        return result

    def _compared(
        self, left: Shaped[np.ndarray, "runs"], op: ast.cmpop, right: Shaped[np.ndarray, "runs"], node: ast.Compare
    ) -> Bool[np.ndarray, "runs"]:
        if (left.dtype.kind == "f") != (right.dtype.kind == "f"):
            raise self._refused(node, "compares text with a number")
        if left.dtype.kind != "f" and not isinstance(op, ast.Eq | ast.NotEq):
            raise self._refused(node, "orders text, which can only be compared with ==, !=, in and not in")
        return np.asarray(_COMPARE[type(op)](left, right), dtype=np.bool_)

    def _among(self, left: Shaped[np.ndarray, "runs"], choices: ast.expr, node: ast.Compare) -> Bool[np.ndarray, "runs"]:
        if not isinstance(choices, ast.List | ast.Tuple):
            raise self._refused(choices, "is not a list: write in [1, 2]")
        among = np.zeros(self._runs, dtype=np.bool_)
        for choice in choices.elts:
            if any(isinstance(part, ast.Name) for part in ast.walk(choice)):
                raise self._refused(choice, "in a list: only numbers and text are allowed there")
            among |= self._compared(left, ast.Eq(), self._value(choice), node)
        return among

    def _value(self, node: ast.expr) -> Shaped[np.ndarray, "runs"]:
        """A node that is a number or text for each run."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=str(text)):
                return np.full(self._runs, text)
            case ast.Constant(value=bool()):
                raise self._refused(node, "is neither a number nor text; put text in quotes")
            case ast.Constant(value=int() | float() as value):
                return self._literal(node, value)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                value = self._number(operand)
                return -value if isinstance(op, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._arithmetic(node, self._number(left), op, self._number(right))
            case _:
                raise self._refused(node, "is not allowed")

    def _literal(self, node: ast.Constant, value: int | float) -> Float[np.ndarray, "runs"]:
        if abs(value) > _LARGEST:  # before it becomes a float, which a whole number of 400 digits cannot
            raise self._refused(node, "is too large")
        return np.full(self._runs, float(value))

    def _number(self, node: ast.expr) -> Float[np.ndarray, "runs"]:
        value = self._value(node)
        if value.dtype.kind != "f":
            raise self._refused(node, "is text, not a number")
        return value

    def _arithmetic(
        self, node: ast.BinOp, left: Float[np.ndarray, "runs"], op: ast.operator, right: Float[np.ndarray, "runs"]
    ) -> Float[np.ndarray, "runs"]:
        with np.errstate(all="ignore"):
            value = np.asarray(_ARITHMETIC[type(op)](left, right), dtype=np.float64)
        if not np.isfinite(value).all():
            raise self._refused(node, "is not a finite number for every run")
        return value

    def _note_unmatched(self, node: ast.Compare) -> None:
        names = dict.fromkeys(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
        there = "; ".join(f"{name} is {self._values_of(name)}" for name in names)
        self.unmatched.append(f"no run has {ast.unparse(node)}" + (f" ({there})" if there else ""))

    def _values_of(self, name: str) -> str:
        values = np.unique(self._columns[full_name(name, self._target, self._columns)])
        if values.dtype.kind != "f":
            return listed([repr(str(value)) for value in values.tolist()])
        if len(values) > 12:
            return f"between {number(values[0])} and {number(values[-1])}"
        return listed([number(value) for value in values.tolist()], most=12)

    def _refused(self, node: ast.expr, why: str) -> InputError:
        return InputError(f"--where {quoted(self._expression)}: {quoted(ast.unparse(node))} {why}; {_ALLOWED}")
