"""Expressions over columns, evaluated without running any code: filters such as `k == 1 and E > 8`, values such as `compute/(6*N)`.

The text is parsed as Python, and each node that is allowed is one NumPy function of the columns; all else is refused, so that an
expression reaches nothing but them (polars' SQL expressions read files: `k IN (SELECT k FROM read_csv('...'))`). A header that is no
Python name, such as `eval/loss`, is written as it stands. Numbers are compared exactly: a routing frequency of 1/12 is not 0.083.
"""

import ast
import keyword
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Shaped

from common.errors import InputError
from fit.runs.cells import Cells, parsed
from fit.runs.grid import DataWarning
from fit.runs.schema import count, listed, number, quoted

_ALLOWED = {
    "--where": "allowed are column names, numbers, text in quotes, == != < <= > >= in, and/or/not, + - * / **, as in k == 1 and E > 8",
    "--columns": "allowed are column names, numbers, + - * / ** and ln log2 log10 exp sqrt, as in D=compute/(6*N),loss=ln(ppl)",
}
_ORDER = {"Lt": np.less, "LtE": np.less_equal, "Gt": np.greater, "GtE": np.greater_equal}
_COMPARE = {"Eq": np.equal, "NotEq": np.not_equal, "In": np.equal, "NotIn": np.equal, **_ORDER}
_OPPOSITE = {"Eq": "!=", "NotEq": "==", "In": "not in", "NotIn": "in", "Lt": ">=", "LtE": ">", "Gt": "<=", "GtE": "<"}
_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mult": np.multiply, "Div": np.true_divide, "Pow": np.power}
_FUNCTIONS = {"ln": np.log, "log2": np.log2, "log10": np.log10, "exp": np.exp, "sqrt": np.sqrt}
_OPERATORS = frozenset({"and", "or", "not", "in"})

_Decided = tuple[Bool[np.ndarray, "..."], Bool[np.ndarray, "..."]]
"""Where a condition is true, and where it is false; neither where an empty cell decides."""
_Found = TypeVar("_Found", _Decided, Float[np.ndarray, "..."])


class Filter(NamedTuple):
    """What `--where` does to rows: which are kept, the rule and the reasons for the log, and a warning for what no row satisfies."""

    mask: Bool[np.ndarray, "rows"]
    rule: str
    reasons: tuple[str, ...]
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True)
class Expression:
    """A text over the columns that `column` gives by name; `headers` are those that may stand in it though they are no Python names.

    `unmatched` collects the comparisons that no row satisfies. Raises `InputError` with what is allowed.
    """

    text: str
    column: Callable[[str], Cells]
    headers: Collection[str] = ()
    option: str = "--where"
    unmatched: list[str] = field(default_factory=list[str])
    _unknown: list[tuple[str, Bool[np.ndarray, "rows"]]] = field(default_factory=list[tuple[str, Bool[np.ndarray, "rows"]]])

    @cached_property
    def _odd(self) -> dict[str, str]:
        """Names that stand in the parsed text for headers that are no Python names."""
        odd = [name for name in self.headers if re.search(r"[^\W\d]", name) and name not in _OPERATORS and parsed(name) is None]
        odd = [name for name in odd if not name.isidentifier() or keyword.iskeyword(name)]
        return {f"header_{i}_": name for i, name in enumerate(sorted(odd, key=len, reverse=True))}

    def _parsed(self) -> ast.expr:
        text = self.text.strip().replace("\0", "\\0")
        if self._odd:
            place = {name: stand for stand, name in self._odd.items()}
            names = "|".join(map(re.escape, place))
            text = re.sub(rf"""("[^"]*"|'[^']*')|(?<!\w)({names})(?!\w)""", lambda found: found[1] or place[found[2]], text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of things such as `1and 2`, which are refused or harmless here
                return ast.parse(text, mode="eval").body
        except (SyntaxError, UnicodeError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", "") or getattr(error, "reason", "nested too deeply")
            raise self._error(reason if self.text.strip() else "empty") from None

    def filter(self, rows: int, what: str) -> Filter:
        """Which of the `rows`, each a `what`, satisfy the text. Raises `InputError` if none does."""
        mask, reasons = self._mask(rows)
        text = self.text.strip()
        rule = f"--where {text if text.isprintable() else repr(self.text)}"
        if not mask.any():
            notes = f": {'; '.join(self.unmatched)}" if self.unmatched else ""
            raise InputError(f"{quoted(rule)} leaves none of {count(rows, what)}{notes}")
        return Filter(mask, rule, reasons, tuple(DataWarning("matches-nothing", note) for note in self.unmatched))

    def _mask(self, rows: int) -> tuple[Bool[np.ndarray, "rows"], tuple[str, ...]]:
        """Which of the `rows` satisfy the text, and why the others do not, with counts.

        What an empty cell decides is neither true nor false, as in SQL: `k == 1 or arch == 'dense'` holds where k is empty in a dense row.
        """
        mask, reasons, tree = np.ones(rows, dtype=np.bool_), list[str](), self._parsed()
        # What `and` joins is applied one after the other, so that each row dropped is counted once, under its first reason.
        for part in tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]:
            self._unknown.clear()
            holds, fails = (np.broadcast_to(each, rows) for each in self._safely(self._condition, part))
            if undecided := int(np.count_nonzero(mask & ~holds & ~fails)):
                names = dict.fromkeys(name for name, empty in self._unknown if empty.any())
                reasons.append(f"{count(undecided)}: {' or '.join(names)} is empty or no number")
            if dropped := int(np.count_nonzero(mask & fails)):
                reasons.append(f"{count(dropped)}: {self._negated(part)}")
            mask &= holds
        return mask, tuple(reasons)

    def values(self, rows: int) -> Float[np.ndarray, "rows"]:
        """The number that the text is in each row: NaN where a cell that it names is empty, infinite where it divides by zero."""
        found = self._safely(self._number, self._parsed())
        return np.array(np.broadcast_to(found, rows), dtype=np.float64)

    def _safely(self, evaluate: Callable[[ast.expr], _Found], node: ast.expr) -> _Found:
        try:
            with np.errstate(all="ignore"):
                return evaluate(node)
        except RecursionError:
            raise self._error("nested too deeply") from None

    def _condition(self, node: ast.expr) -> _Decided:
        """Where a node is true and where it is false: for each row, or for all of them where no column is in it."""
        match node:
            case ast.BoolOp(op=op, values=[*values, last]):
                holds, fails = self._condition(ast.BoolOp(op, values)) if len(values) > 1 else self._condition(values[0])
                also, also_not = self._condition(last)
                both = isinstance(op, ast.And)
                return (holds & also, fails | also_not) if both else (holds | also, fails & also_not)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                holds, fails = self._condition(operand)
                return fails, holds
            case ast.Compare(left=left, ops=[op, *ops], comparators=[right, *others]) if type(op).__name__ in _COMPARE:
                holds, fails = self._comparison(ast.Compare(left, [op], [right]), left, op, right)
                if not others:
                    return holds, fails
                also, also_not = self._condition(ast.Compare(right, ops, others))
                return holds & also, fails | also_not
            case _:
                raise self._refused(node, "is not a condition")

    def _comparison(self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Decided:
        """One link of a chain, noted if no row satisfies it."""
        before = len(self._unknown)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple) or any(isinstance(part, ast.Name) for part in ast.walk(right)):
                raise self._refused(right, "is not a list of numbers or text: write in [1, 2]")
            each = [self._compared(node, np.equal, left, item) for item in right.elts]
            holds = np.logical_or.reduce(np.broadcast_arrays(*each)) if each else np.zeros_like(self._texts(left) != "", dtype=np.bool_)
            holds = np.asarray(holds ^ isinstance(op, ast.NotIn))
        else:
            holds = self._compared(node, _COMPARE[type(op).__name__], left, right)
        known = ~np.logical_or.reduce([empty for _, empty in self._unknown[before:]], axis=0, initial=False)
        if not (holds & known).any():
            names = dict.fromkeys(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            there = "; ".join(f"{self._shown(name)} is {listed(self._there(name), 12)}" for name in names)
            self.unmatched.append(f"no run has {self._written(node)}" + (f" ({there})" if there else ""))
        return np.asarray(holds & known), np.asarray(~holds & known)

    def _compared(self, node: ast.expr, ufunc: np.ufunc, left: ast.expr, right: ast.expr) -> Bool[np.ndarray, "..."]:
        """Two sides compared: as text where one is text, else as numbers."""
        kinds = [self._kind(side) for side in (left, right)]
        if "text" in kinds:
            if "number" in kinds:
                raise self._refused(node, "mixes text and numbers")
            if ufunc not in (np.equal, np.not_equal):
                raise self._refused(node, "takes numbers; text is compared with ==, !=, in and not in")
            return np.asarray(ufunc(self._texts(left), self._texts(right)))
        return np.asarray(ufunc(self._number(left), self._number(right)))

    def _kind(self, node: ast.expr) -> str:
        """`number`, `text`, or `either` for a column of cells that can be read as both, such as labels of sizes: `370M`."""
        if isinstance(node, ast.Constant):
            return "text" if isinstance(node.value, str) else "number"
        if not isinstance(node, ast.Name):
            return "number"
        cells = self.column(self._shown(node.id))
        return "number" if not cells.is_text else "either" if cells.has_numbers or not cells.has_texts else "text"

    def _texts(self, node: ast.expr) -> Shaped[np.ndarray, "..."]:
        match node:
            case ast.Name(id=name):
                return self.column(self._shown(name)).texts
            case ast.Constant(value=str(text)):
                return np.asarray(text)
            case _:
                raise self._refused(node, "mixes text and numbers")

    def _number(self, node: ast.expr) -> Float[np.ndarray, "..."]:
        """A node that is a number: for each row, or one for all."""
        match node:
            case ast.Name(id=name):
                cells = self.column(self._shown(name))
                if cells.has_texts and not cells.has_numbers:
                    raise self._refused(node, "takes numbers; text is compared with ==, !=, in and not in")
                self._unknown.append((self._shown(name), ~np.isfinite(cells.numbers)))
                return cells.numbers
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                result = np.asarray(value if abs(value) < 1e300 else np.inf, dtype=np.float64)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
                result = np.asarray(-self._number(operand) if isinstance(op, ast.USub) else self._number(operand))
            case ast.BinOp(left=left, op=op, right=right) if ufunc := _ARITHMETIC.get(type(op).__name__):
                result = np.asarray(ufunc(self._number(left), self._number(right)))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS and self.option == "--columns":
                result = np.asarray(_FUNCTIONS[name](self._number(argument)))
            case _:
                raise self._refused(node, "is not allowed")
        if not np.isfinite(result).any():
            raise self._refused(node, "is not a finite number in any row")
        return result

    def _there(self, name: str) -> list[str]:
        """The distinct values of a column."""
        cells = self.column(self._shown(name))
        if cells.has_texts:
            return np.unique(cells.texts).tolist()
        return [number(value) for value in np.unique(cells.numbers[np.isfinite(cells.numbers)]).tolist()]

    def _shown(self, name: str) -> str:
        """The header that a name of the parsed text stands for."""
        return self._odd.get(name, name)

    def _written(self, node: ast.expr) -> str:
        """A node as text, with headers as they stand."""
        return re.sub(r"\bheader_\d+_", lambda found: self._shown(found[0]), ast.unparse(node))

    def _negated(self, part: ast.expr) -> str:
        """The opposite of one condition, as a reason why a row was dropped."""
        if isinstance(part, ast.Compare) and len(part.ops) == 1:
            return f"{self._written(part.left)} {_OPPOSITE[type(part.ops[0]).__name__]} {self._written(part.comparators[0])}"
        return self._written(part.operand) if isinstance(part, ast.UnaryOp) else f"not ({self._written(part)})"

    def _refused(self, node: ast.expr, why: str) -> InputError:
        return self._error(f"{quoted(self._written(node))} {why}")

    def _error(self, why: str) -> InputError:
        return InputError(f"{self.option} {quoted(self.text)}: {why}; {_ALLOWED[self.option]}")
