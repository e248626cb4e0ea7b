"""Compute-optimal allocation: the N and D of least loss for a training budget C = 6 N D (Hoffmann et al. 2022, approach 3, Eq. 4).

    N_opt = G (C/6)^(b/(a+b)),   D_opt = (C/6)^(a/(a+b)) / G,   G = (a A/(b B))^(1/(a+b))

6 FLOPs per parameter and token is the convention of Kaplan et al. 2020 (section 2.1), and our choice; for the exponents it does not
matter. A law of repeated tokens is minimised numerically: it has no closed form where tokens are read more than once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.engine.solve import Fit
from fit.estimate import Estimate, figure_cells, frame
from fit.laws.complex_step import STEP
from fit.laws.interface import Law
from fit.quantities import FLOPS_PER_TOKEN, beyond, has_allocation
from fit.runs.schema import NATS, D, N, U
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Draws
from fit.uncertainty.intervals import estimates

if TYPE_CHECKING:
    import polars as pl

    from fit.analysis import Result

_PER_BUDGET = ("n", "d", "loss", "tokens_per_parameter")
_UNITS = ("parameters", "tokens", NATS, "tokens per parameter")

_SCAN = 121
"""Sizes tried for a bracket of the least loss, over the whole range."""

_LEAST = 1e3
"""The smallest N and D that an optimum is sought at."""


@dataclass(frozen=True)
class Optimum:
    """The best model of one training budget of `flops`: its size N, its tokens D, its loss, and D/N."""

    flops: float
    n: Estimate
    d: Estimate
    loss: Estimate
    tokens_per_parameter: Estimate


@dataclass(frozen=True, eq=False)
class Allocation:
    """The best N and D of each budget, and how they grow: N_opt ~ C^exponent_n, D_opt ~ C^exponent_d.

    With repeated tokens these exponents hold while D_opt is at most `unique_tokens`. A figure's `distance` is the largest of how many
    times the budget, the N and the D lie outside the runs.
    """

    law: str
    exponent_n: Estimate
    exponent_d: Estimate
    optima: tuple[Optimum, ...]
    unique_tokens: float | None = None

    def __repr__(self) -> str:
        return f"Allocation({self.law}: N ~ C^{self.exponent_n.value:.3f}, D ~ C^{self.exponent_d.value:.3f}; {len(self.optima)} budgets)"

    def table(self) -> "pl.DataFrame":
        """A row for each budget and figure: flops, figure, value, low, high, status, se, unit, distance; the exponents first."""
        rows = [figure_row(None, name, getattr(self, name)) for name in ("exponent_n", "exponent_d")]
        return frame(rows + [figure_row(one.flops, name, getattr(one, name)) for one in self.optima for name in _PER_BUDGET])


def figure_row(flops: float | None, name: str, one: Estimate) -> dict[str, Any]:
    """A row of a table of figures, each of one budget or, without `flops`, of all."""
    return {"flops": flops, "figure": name, **figure_cells(one)}


def allocate(
    fit: "Result | Fit",
    flops: float | Sequence[float],
    *,
    draws: Draws | None = None,
    level: float = 0.95,
    unique_tokens: float | None = None,
) -> Allocation:
    """The best N and D of each budget of `flops` (FLOPs of the whole training), with intervals from the draws.

    Of a `Result` draws and level are its own, and those given here are not used. A law that reads unique tokens needs how many
    there are. Raises `InputError` for a law that is not one in N and D, and for budgets that are not above 0.
    """
    units = _UNITS
    if not isinstance(fit, Fit):
        units = tuple(fit.runs.unit if unit == NATS else unit for unit in _UNITS)
        fit, draws, level = fit.fit, fit.draws, fit.options.level
    budgets = [float(one) for one in np.atleast_1d(np.asarray(flops, dtype=np.float64))]
    if not all(np.isfinite(one) and one > 0 for one in (*budgets, unique_tokens or 1.0)):
        raise InputError(f"budgets and unique tokens must be finite and above 0: {budgets}")
    quantity = optimum_quantity(fit.law, budgets, unique_tokens)
    found = estimates(fit, draws, quantity, level, unit=["", "", *(unit for unit in units for _ in budgets)])
    columns, optima = fit.problem.data, list[Optimum]()
    compute = FLOPS_PER_TOKEN * columns[N] * columns[D]
    for k, budget in enumerate(budgets):
        own = found[2 + k :: len(budgets)]
        far = max(beyond(compute, budget), *(_far(columns[name], one.value) for name, one in zip((N, D), own, strict=False)))
        optima.append(Optimum(budget, *(replace(one, distance=far) for one in own)))
    return Allocation(fit.law.name, found[0], found[1], tuple(optima), unique_tokens)


def _far(values: Float[np.ndarray, "runs"], value: float) -> float:
    return beyond(values, value) if np.isfinite(value) and value > 0 else np.inf


def optimum_quantity(law: Law, flops: Sequence[float], unique_tokens: float | None = None) -> Quantity:
    """Both exponents, then N_opt, D_opt, the loss there and D_opt/N_opt, each for every budget; NaN where a law has no optimum."""
    if not has_allocation(law):
        raise InputError(f"law {law.name!r} has no best N and D: it is not a law in N and D, as --law tokens is")
    if U in law.columns and unique_tokens is None:
        raise InputError(f"law {law.name!r} needs to know how many different tokens there are, such as unique_tokens=1e11")
    where = [law.parameter_names.index(name) for name in ("A", "a", "B", "b")]
    given = {} if U not in law.columns or unique_tokens is None else {U: unique_tokens}

    def figures(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "draws quantities"]:
        """A row of them for each draw."""
        in_n, a, in_d, b = (law.parameter_values(theta, beta)[..., [place]] for place in where)
        products = np.array(flops) / FLOPS_PER_TOKEN
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if given:
                n = np.stack([_least(law, theta, beta, product, given[U]) for product in products.tolist()], axis=-1)
            else:
                n = (a * in_n / (b * in_d)) ** (1 / (a + b)) * products ** (b / (a + b))
            d = products / n
            loss = 10 ** law.log10_loss(theta, beta, {N: n, D: d, **{name: np.full_like(n, value) for name, value in given.items()}})
            return np.concatenate([b / (a + b), a / (a + b), n, d, loss, d / n], axis=-1)

    return figures


def _least(
    law: Law, theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"], product: float, unique: float
) -> Float[np.ndarray, "draws"]:
    """The N of least loss where N D = `product`, for every draw: bracketed on a geometric scan, then bisected on the exact slope.

    NaN where the least is at an end of the scan, N or D of 1,000, or where the law's losses end.
    """
    scan = np.linspace(np.log(_LEAST), np.log(product / _LEAST), _SCAN)

    def along(log_n: Float[np.ndarray, "#draws sizes"], step: complex) -> Inexact[np.ndarray, "draws sizes"]:
        """log10 loss at these sizes, moved by a factor of 1 + step along the budget."""
        n = np.exp(log_n)
        return law.log10_loss(theta, beta, {N: n * (1 + step), D: product / n * (1 - step), U: np.full_like(n, unique)})

    losses = np.real(along(scan[None], 0j))
    least = np.argmin(np.where(np.isfinite(losses), losses, np.inf), axis=-1)
    place = np.clip(least, 1, _SCAN - 2)
    around = np.take_along_axis(losses, place[:, None] + np.array([-1, 1]), axis=-1)
    inside = (place == least) & np.isfinite(around).all(axis=-1)
    low, high = scan[place - 1], scan[place + 1]
    for _ in range(60):
        middle = (low + high) / 2
        falls = np.imag(along(middle[:, None], 1j * STEP))[:, 0] < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    return np.where(inside, np.exp((low + high) / 2), np.nan)
