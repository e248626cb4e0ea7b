"""What follows from each fit, by name: N_cutoff, EPC and loss at the models asked about, slopes, compute-optimal N and D."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from common.document.numbers import count
from fit.budget.allocate import allocate
from fit.causes import vary
from fit.engine.solve import Fit
from fit.estimate import Estimate
from fit.laws import Law
from fit.quantities import (
    FLOPS_PER_TOKEN,
    beyond,
    cutoff_quantity,
    epc_quantity,
    expert_slope,
    has_allocation,
    has_cutoff,
    has_epc,
    loss_quantity,
    slope,
)
from fit.runs import Runs
from fit.runs.schema import NATS, A, C, D, E, G, K, N, P, U
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Draws
from fit.uncertainty.intervals import WIDEST, estimates, new_run_estimates

TIMES = (1.0, 10.0, 100.0)
"""Training budgets that the best N and D are given for, as multiples of the largest run's."""


@dataclass(frozen=True)
class Point:
    """A model that a figure is asked for: its dense size (parameters, embeddings excluded), experts, training tokens and training FLOPs,
    all its parameters, experts per token, granularity and sparsity S = 1 - k/E.

    What is left out is not known: laws that need it have no figure there. k is 1, and S follows from k and E, where they are not given.
    """

    n: float = np.nan
    e: float = 1.0
    d: float | None = None
    c: float | None = None
    p: float | None = None
    k: float | None = None
    g: float | None = None
    s: float | None = None

    @property
    def label(self) -> str:
        """Such as `1.31B/E=64`, `70B/D=1.4T`."""
        given = (("P", self.p), ("D", self.d), ("C", self.c))
        further = [f"{name}={count(value)}" for name, value in given if value is not None]
        further += [f"{name}={value:g}" for name, value in (("k", self.k), ("G", self.g), ("S", self.s)) if value is not None]
        experts = [f"E={self.e:g}"] if self.e > 1 or not further else []
        return "/".join([*([count(self.n)] if np.isfinite(self.n) else []), *experts, *further])

    def known(self) -> dict[str, float]:
        """What is known of the model, by column: C = 6 N D, k = 1, A = k/E and P = N of a dense model where nothing else is said."""
        size = self.n if np.isfinite(self.n) else None
        flops = self.c if self.c is not None or self.d is None or size is None else FLOPS_PER_TOKEN * size * self.d
        active = (self.k or 1.0) / self.e if self.s is None else 1 - self.s
        total = size if self.p is None and self.e == 1 and not self.s else self.p
        found = {N: size, E: self.e, D: self.d, C: flops, P: total, K: self.k or 1.0, G: self.g, A: active}
        return {name: value for name, value in found.items() if value is not None}

    def columns(self, law: Law) -> dict[str, Float[np.ndarray, "1"]] | None:
        """The values of the law's columns at this point; None where one of them is not known."""
        known = self.known()
        return {name: np.array([known[name]]) for name in law.columns} if {*law.columns} <= {*known} else None


def known_places(runs: Runs) -> dict[str, Float[np.ndarray, "known"]]:
    """N, E and, where there are any, D of the runs that have all of them; empty without."""
    data = {name: runs.columns[name] for name in (N, E, D) if runs.has(name)}
    known = np.all([np.isfinite(column) for column in data.values()], axis=0)
    return {name: column[known] for name, column in data.items()} if {N, E} <= set(data) and known.any() else {}


def default_points(data: Mapping[str, Float[np.ndarray, "runs"]]) -> tuple[Point, ...]:
    """The smallest and largest size of the runs at E = 64, or at their largest E below it; before them the paper's worked example.

    That is 5M/E=128; it is left out where it lies further than ten times from all sizes (our choice: nobody asked to extrapolate that far),
    and where tokens vary: then each point has the most of them.
    """
    n, experts = data[N], min(64.0, float(data[E].max())) if E in data else 1.0
    d = float(data[D].max()) if D in data and vary(data[D]) else None
    example = (Point(5e6, 128.0),) if d is None and experts > 1 and n.min() / 10 <= 5e6 <= n.max() * 10 else ()
    ends = dict.fromkeys([float(n.min()), float(n.max())])
    return (*example, *(Point(size, experts, d) for size in ends))


class _Figures(NamedTuple):
    """Figures of one kind: their names and unit, the quantity that gives them, and how far outside the runs each is asked for."""

    names: Sequence[str]
    unit: str
    quantity: Quantity
    distances: Sequence[float]
    widest: float = WIDEST


def derived_figures(
    fit: Fit, draws: Draws | None, points: Sequence[Point] = (), level: float = 0.95, budgets: Sequence[float] = ()
) -> dict[str, Estimate]:
    """Every figure by name, with its interval and its distance from the runs; `points`: the models that loss and EPC are given for."""
    law, data = fit.law, fit.problem.data
    found: dict[str, Estimate] = {}
    for figures in _of_law(fit, points):
        rows = estimates(fit, draws, figures.quantity, level, unit=figures.unit, errors=draws is not None, widest=figures.widest)
        found |= {name: replace(one, distance=far) for name, one, far in zip(figures.names, rows, figures.distances, strict=True)}
    labels, columns, far = _places(law, data, points)
    if labels and draws is not None:
        runs = new_run_estimates(fit, draws, columns, level)
        found |= {f"new_run_loss({label})": replace(one, distance=x) for label, x, one in zip(labels, far, runs, strict=True)}
    found = {name: _placed(name, one, data) for name, one in found.items()}
    return found | _optima(fit, draws, budgets, level) if has_allocation(law) else found


def _optima(fit: Fit, draws: Draws | None, budgets: Sequence[float], level: float) -> dict[str, Estimate]:
    """Compute-optimal N, D and loss of each budget (FLOPs; left out: `TIMES` the largest run's), and how N and D grow with it."""
    data = fit.problem.data
    largest, unique = float(np.max(FLOPS_PER_TOKEN * data[N] * data[D])), float(data[U].max()) if U in data else None
    best = allocate(fit, budgets or [times * largest for times in TIMES], draws=draws, level=level, unique_tokens=unique)
    found = {"exponent_N": best.exponent_n, "exponent_D": best.exponent_d}
    for one in best.optima:
        named = {"N": one.n, "D": one.d, "loss": one.loss}
        found |= {f"optimal_{name}({one.flops:.2g} FLOPs)": figure for name, figure in named.items()}
    return found


def _places(
    law: Law, data: Mapping[str, Float[np.ndarray, "runs"]], points: Sequence[Point]
) -> tuple[list[str], dict[str, Float[np.ndarray, "points"]], list[float]]:
    """The points that the law has figures at: their labels, the law's columns there, and how far outside the runs they are."""
    there = [(point, values) for point in points if not law.sizes and (values := point.columns(law)) is not None]
    columns = {name: np.concatenate([values[name] for _, values in there]) for name in law.columns} if there else {}
    far = [max(beyond(data[name], float(column[k])) for name, column in columns.items()) for k in range(len(there))]
    return [point.label for point, _ in there], columns, far


def _placed(name: str, one: Estimate, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Estimate:
    """The figure with the one rule of extrapolation: asked for outside the runs, or itself beyond the largest of its kind."""
    if name.startswith("epc("):
        dense = data[N][data[E] == 1]  # without a dense run E = 1 is itself outside the runs
        largest, without = (dense, 1.0) if len(dense) else (data[N], float(data[E].min()))
        return replace(one, distance=max(one.distance, without, one.value / float(largest.max())))
    if name.endswith("_cutoff"):
        return replace(one, distance=max(1.0, one.value / float(data[N if name == "n_cutoff" else "flops_per_step"].max())))
    return one


def _of_law(fit: Fit, points: Sequence[Point]) -> Iterator[_Figures]:
    """The figures that this law has for these runs."""
    law, data = fit.law, fit.problem.data
    if has_cutoff(law):
        name, unit = ("n_cutoff", "parameters") if N in law.columns else ("f_cutoff", "FLOPs")
        yield _Figures([name], unit, cutoff_quantity(law), [1.0], np.inf)
    labels, columns, far = _places(law, data, points)
    if labels:
        yield _Figures([f"loss({label})" for label in labels], NATS, loss_quantity(law, columns), far)
    if has_epc(law):
        if labels:
            yield _Figures([f"epc({label})" for label in labels], "parameters", epc_quantity(law, columns), far)
        counts, ends = np.array([data[E].min(), data[E].max()]), np.array([data[N].min(), data[N].max()])
        middle = {N: np.full(2, np.exp(np.log(data[N]).mean())), E: counts}
        if D not in law.columns:
            yield _Figures([f"a(E={count:g})" for count in counts], "", lambda t, b: slope(law, t, b, middle, N), [1.0, 1.0])
        if law.roles is not None:
            yield _Figures([f"b(N={count(x)})" for x in ends], "", lambda t, b: expert_slope(law, b, ends), [1.0, 1.0])
