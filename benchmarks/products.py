"""FLOPs of the matrix products in a JAX function, exactly: its jaxpr is walked, and nothing is compiled or computed.

A compiler's own figure depends on what it fuses and folds, and takes a loop's body once; here a scan counts with its length.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Sum of 2*m*n*k over every product that `function` does on `arguments` (arrays, or their shapes).

    Raises `ValueError` for products in a `while` loop, whose length is not known, and for branches that differ.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    inner = [_flops(jaxpr) for jaxpr in _jaxprs(parameters)]
    if name == "while" and any(inner):
        raise ValueError("matrix products in a while loop: how often they are done is not known")
    if name == "cond":
        if len(set(inner)) > 1:
            raise ValueError(f"branches with {inner} FLOPs: which is taken is not known")
        return inner[0]
    if name.startswith("custom_"):  # holds the derivative's rule besides the function
        inner = inner[:1]
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one
