"""Run filters in plain terms: `k == 1 and routing_frequency == 0.5`, evaluated without running any code.

The expression is parsed as Python, and each node that is allowed is one NumPy function of the columns; all else is refused, so that
an expression reaches nothing but them (polars' SQL expressions read files: `k IN (SELECT k FROM read_csv('...'))`). Numbers are
compared exactly: a routing frequency of 1/12 is not 0.083.
"""

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Shaped

from common.errors import InputError
from fit.runs.schema import count, listed, number, quoted

_ALLOWED = "allowed are column names, numbers, text in quotes, == != < <= > >= in, and/or/not, + - * / **, as in k == 1 and E > 8"
_ORDER = {"Lt": np.less, "LtE": np.less_equal, "Gt": np.greater, "GtE": np.greater_equal}
_COMPARE = {"Eq": np.equal, "NotEq": np.not_equal, "In": np.equal, "NotIn": np.equal, **_ORDER}
_OPPOSITE = {"Eq": "!=", "NotEq": "==", "In": "not in", "NotIn": "in", "Lt": ">=", "LtE": ">", "Gt": "<=", "GtE": "<"}
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mult": np.multiply, "Div": np.true_divide, "Pow": np.power}


@dataclass(frozen=True)
class Filter:
    """An expression over the columns that `column` gives by name; `unmatched` collects the comparisons that no run satisfies."""

    expression: str
    column: Callable[[str], Shaped[np.ndarray, "runs"]]
    unmatched: list[str] = field(default_factory=list[str])

    def apply(self, runs: int) -> tuple[Bool[np.ndarray, "runs"], tuple[str, ...]]:
        """Which of the `runs` satisfy the expression, and why the others do not, with counts. Raises `InputError` with what is allowed."""
        mask, reasons = np.ones(runs, dtype=np.bool_), list[str]()
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # Python warns of things such as `1and 2`, which are refused or harmless here
                tree = ast.parse(self.expression.strip().replace("\0", "\\0"), mode="eval").body
                # What `and` joins is applied one after the other, so that each run dropped is counted once, under its first reason.
                for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
                    holds = np.broadcast_to(self._condition(part), runs)
                    if dropped := int(np.count_nonzero(mask & ~holds)):
                        reasons.append(f"{count(dropped)}: {_negated(part)}")
                    mask &= holds
        except (SyntaxError, UnicodeError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", "") or getattr(error, "reason", "nested too deeply")
            raise InputError(f"--where {quoted(self.expression)}: {reason if self.expression.strip() else 'empty'}; {_ALLOWED}") from None
        return mask, tuple(reasons)

    def _condition(self, node: ast.expr) -> Bool[np.ndarray, "..."]:
        """A node that is true or false: for each run, or for all of them where no column is in it."""
        match node:
            case ast.BoolOp(op=op, values=[*values, last]):
                first = self._condition(ast.BoolOp(op, values)) if len(values) > 1 else self._condition(values[0])
                return np.asarray(first & self._condition(last) if isinstance(op, ast.And) else first | self._condition(last))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return np.asarray(~self._condition(operand))
            case ast.Compare(left=left, ops=[op, *ops], comparators=[right, *others]) if type(op).__name__ in _COMPARE:
                holds = self._comparison(ast.Compare(left, [op], [right]), left, op, right)
                return np.asarray(holds & self._condition(ast.Compare(right, ops, others))) if others else holds
            case _:
                raise self._refused(node, "is not a condition")

    def _comparison(self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Bool[np.ndarray, "..."]:
        """One link of a chain, noted if no run satisfies it."""
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple) or any(isinstance(part, ast.Name) for part in ast.walk(right)):
                raise self._refused(right, "is not a list of numbers or text: write in [1, 2]")
            holds = np.zeros_like(self._value(left), dtype=np.bool_)
            for item in right.elts:
                holds |= self._combined(node, np.equal, left, item)
            holds = np.asarray(holds ^ isinstance(op, ast.NotIn))
        else:
            holds = self._combined(node, _COMPARE[type(op).__name__], left, right)
        if not holds.any():
            names = dict.fromkeys(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            values = {name: np.unique(self.column(name)).tolist() for name in names}
            there = "; ".join(f"{name} is {listed([v if isinstance(v, str) else number(v) for v in values[name]], 12)}" for name in names)
            self.unmatched.append(f"no run has {ast.unparse(node)}" + (f" ({there})" if there else ""))
        return holds

    def _combined(self, node: ast.expr, ufunc: np.ufunc, *operands: ast.expr) -> Shaped[np.ndarray, "..."]:
        values = [self._value(operand) for operand in operands]
        if len({value.dtype.kind for value in values}) > 1:
            raise self._refused(node, "mixes text and numbers")
        if values[0].dtype.kind != "f" and ufunc not in (np.equal, np.not_equal):
            raise self._refused(node, "takes numbers; text is compared with ==, !=, in and not in")
        return np.asarray(ufunc(*values))

    def _value(self, node: ast.expr) -> Shaped[np.ndarray, "..."]:
        """A node that is a number or text: for each run, or one for all."""
        match node:
            case ast.Name(id=name):
                return self.column(name)
            case ast.Constant(value=str(text)):
                return np.asarray(text)
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                result = np.asarray(value if abs(value) < 1e300 else np.inf, dtype=np.float64)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                result = self._combined(node, np.negative if isinstance(op, ast.USub) else np.positive, operand)
            case ast.BinOp(left=left, op=op, right=right) if ufunc := _ARITHMETIC.get(type(op).__name__):
                result = self._combined(node, ufunc, left, right)
            case _:
                raise self._refused(node, "is not allowed")
        if not np.isfinite(result).all():
            raise self._refused(node, "is not a finite number for every run")
        return result

    def _refused(self, node: ast.expr, why: str) -> InputError:
        return InputError(f"--where {quoted(self.expression)}: {quoted(ast.unparse(node))} {why}; {_ALLOWED}")


def _negated(part: ast.expr) -> str:
    """The opposite of one condition, as a reason why a run was dropped."""
    if isinstance(part, ast.Compare) and len(part.ops) == 1:
        return f"{ast.unparse(part.left)} {_OPPOSITE[type(part.ops[0]).__name__]} {ast.unparse(part.comparators[0])}"
    return ast.unparse(part.operand) if isinstance(part, ast.UnaryOp) else f"not ({ast.unparse(part)})"
