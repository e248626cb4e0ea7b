"""Formulas written with NumPy, recorded as they run: the same formula as a JavaScript expression, so that no page has a copy of its own.

A recorded number is a `float`, a recorded array a float64 `ndarray`, in which a value of 2^1000 and more stands for a step of the
recording: formulas may stack, slice and fill arrays as they like. Arithmetic, `np.where` and the product of features and coefficients are
recorded; whatever else would compute with these values raises.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.lib.mixins import NDArrayOperatorsMixin

_FIRST, _NEXT = 2.0**1000, 2.0**950
"""What stands for step 0, and how much more for each further one."""

_TOO_LARGE = 2.0**900
"""A constant above this was computed of what stands for a step."""

JAVASCRIPT: Mapping[str, str] = {
    "add": "{}+{}", "subtract": "{}-{}", "multiply": "{}*{}", "divide": "{}/{}", "negative": "-{}", "square": "Math.pow({},2)",
    "reciprocal": "1/{}", "greater": "{}>{}", "greater_equal": "{}>={}", "less": "{}<{}", "less_equal": "{}<={}", "equal": "{}==={}",
    "logical_and": "{}&&{}", "bitwise_and": "{}&&{}", "logical_or": "{}||{}", "bitwise_or": "{}||{}", "logical_not": "!{}",
    "invert": "!{}", "where": "{}?{}:{}", "isnan": "Number.isNaN({})", "isfinite": "Number.isFinite({})", "minimum": "Math.min({},{})",
    "maximum": "Math.max({},{})", "power": "Math.pow({},{})", "absolute": "Math.abs({})", "arcsinh": "Math.asinh({})",
    **{name: f"Math.{name}({{}})" for name in
       ("exp", "expm1", "log", "log10", "log1p", "log2", "sqrt", "cbrt", "sinh", "cosh", "tanh", "floor", "ceil", "sign")},
}  # fmt: skip
"""How JavaScript writes NumPy's functions."""

_ARRANGE = (np.ones_like, np.zeros_like, np.full_like, np.real, np.result_type, np.iscomplexobj, np.broadcast_to, np.concatenate, np.stack)
"""Functions that move values and do not compute with them."""

Argument = int | float


class Recording:
    """Steps of a computation: `(function, arguments)`, an argument a constant or, as an `int`, an earlier step. Equal steps are one."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, tuple[Argument, ...]]] = []
        self._place: dict[tuple[str, str], int] = {}

    def number(self, text: str) -> "Number":
        """What JavaScript calls `text`."""
        return Number(self, self._step(text, ()))

    def numbers(self, texts: Sequence[str]) -> "Numbers":
        """An array of them."""
        return self.array(np.array([self._step(text, ()) for text in texts], dtype=np.float64))

    def array(self, values: Float[np.ndarray, "*shape"]) -> "Numbers":
        """Values, some of which may stand for steps, as an array whose use is recorded."""
        found = np.asarray(values, dtype=np.float64).view(Numbers)
        found.recording = self
        return found

    def _step(self, function: str, arguments: tuple[Argument, ...]) -> float:
        """What stands for this step, made where it is new."""
        key = function, repr(arguments)
        if key not in self._place:
            self._place[key] = len(self.steps)
            self.steps.append((function, arguments))
        return _FIRST + self._place[key] * _NEXT

    def argument(self, value: float) -> Argument:
        """The step that a value stands for, or the constant that it is. Raises `TypeError` for one computed of the former."""
        if value >= _FIRST and np.isfinite(value):
            place = (value - _FIRST) / _NEXT
            if place < len(self.steps) and place == int(place):
                return int(place)
        if np.isfinite(value) and abs(value) > _TOO_LARGE:
            raise TypeError(f"{value:g}: computed of a recorded value without being recorded")
        return float(value)

    def apply(self, name: str, compute: Callable[..., Any], *inputs: Any) -> "Number | Numbers":
        """A function of numbers, element by element."""
        wide = np.broadcast_arrays(*(np.asarray(one, dtype=np.float64) for one in inputs))
        found: list[float] = []
        for row in zip(*(one.ravel().tolist() for one in wide), strict=True):
            arguments = tuple(map(self.argument, row))
            constant = not any(isinstance(one, int) for one in arguments)
            found.append(float(compute(*row)) if constant else self._step(name, arguments))
        shape = wide[0].shape
        return self.array(np.array(found).reshape(shape)) if shape else Number(self, found[0])

    def javascript(self, result: Any) -> str:
        """The body of a function that returns the value: steps used more than once as constants, others in place."""
        last = self.argument(np.asarray(result, dtype=np.float64).item())
        if not isinstance(last, int):
            return f"return {_constant(last)};"
        uses = [0] * len(self.steps)
        uses[last] = 1
        for place in range(last, -1, -1):
            if uses[place]:
                for one in self.steps[place][1]:
                    if isinstance(one, int):
                        uses[one] += 1
        texts, lines = [""] * len(self.steps), list[str]()
        for place in range(last + 1):
            if uses[place]:
                name, arguments = self.steps[place]
                texts[place] = name
                if arguments:
                    given = [texts[one] if isinstance(one, int) else _constant(one) for one in arguments]
                    texts[place] = f"({JAVASCRIPT[name].format(*given)})"
                    if uses[place] > 1:
                        lines.append(f"const v{place}={texts[place]};")
                        texts[place] = f"v{place}"
        return "".join(lines) + f"return {texts[last]};"


def _constant(value: float) -> str:
    text = {np.inf: "Infinity", -np.inf: "-Infinity"}.get(value) or ("NaN" if np.isnan(value) else repr(value))
    return f"({text})" if text[0] == "-" else text


class Number(NDArrayOperatorsMixin, float):
    """A number whose use is recorded."""

    recording: Recording

    def __new__(cls, recording: Recording, value: float) -> "Number":
        """`value` as it stands for a step."""
        found = super().__new__(cls, value)
        found.recording = recording
        return found

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> "Number | Numbers":
        """Record it."""
        return _record(self.recording, ufunc, method, inputs, options)


class Numbers(np.ndarray):
    """An array of numbers whose use is recorded."""

    recording: Recording

    def __array_finalize__(self, made_of: Any) -> None:
        """Keep the recording in views."""
        if isinstance(made_of, Numbers) and hasattr(made_of, "recording"):
            self.recording = made_of.recording

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> "Number | Numbers":
        """Record it."""
        return _record(self.recording, ufunc, method, inputs, options)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """`where` and the product of features and coefficients are recorded; functions that move values do so."""
        if func is np.where:
            return self.recording.apply("where", np.where, *args)
        if func is np.einsum and args[0] == "...rf,...f->...r":
            features, beta = map(np.asarray, args[1:])
            terms = [self.recording.apply("multiply", np.multiply, features[..., k], beta[..., k : k + 1]) for k in range(beta.shape[-1])]
            return sum(terms[1:], start=terms[0])
        if func not in _ARRANGE:
            raise TypeError(f"{func.__name__} cannot be recorded")
        found = func(*map(_plain, args), **{name: _plain(one) for name, one in kwargs.items()})
        return self.recording.array(found) if isinstance(found, np.ndarray) else found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return np.asarray(value) if isinstance(value, Numbers) else value


def _record(recording: Recording, ufunc: np.ufunc, method: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Number | Numbers:
    if method != "__call__" or options or ufunc.__name__ not in JAVASCRIPT:
        raise TypeError(f"{ufunc.__name__} ({method}) cannot be recorded")
    return recording.apply(ufunc.__name__, ufunc, *inputs)
