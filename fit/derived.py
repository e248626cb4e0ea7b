"""What follows from each fit, by name: N_cutoff, EPC and loss at the models asked about, slopes, compute-optimal N and D."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from common.document.numbers import count
from fit.engine.solve import Fit
from fit.estimate import Estimate
from fit.quantities import (
    allocation_quantity,
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
from fit.runs.schema import D, E, N
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Draws
from fit.uncertainty.intervals import estimates, new_run_estimates

TIMES = (1.0, 10.0, 100.0)
"""Training budgets that the best N and D are given for, as multiples of the largest run's."""


@dataclass(frozen=True)
class Point:
    """A model that a figure is asked for: its dense size (parameters, embeddings excluded) and number of experts."""

    n: float
    e: float

    @property
    def label(self) -> str:
        """Such as `1.31B/E=64`."""
        return f"{count(self.n)}/E={self.e:g}"


def default_points(n: Float[np.ndarray, "runs"], e: Float[np.ndarray, "runs"]) -> tuple[Point, ...]:
    """The smallest and largest size of the runs at E = 64, or at their largest E below it; before them the paper's worked example.

    That is 5M/E=128; it is left out where it lies further than ten times from all sizes (our choice: nobody asked to extrapolate that far).
    """
    experts = min(64.0, float(e.max()))
    example = (Point(5e6, 128.0),) if n.min() / 10 <= 5e6 <= n.max() * 10 else ()
    return (*example, Point(float(n.min()), experts), Point(float(n.max()), experts))


@dataclass(frozen=True, eq=False)
class _Figures:
    """Figures of one kind: their names and unit, the quantity that gives them, and how far outside the runs each is asked for."""

    names: Sequence[str]
    unit: str
    quantity: Quantity
    distances: Sequence[float]


def derived_figures(fit: Fit, draws: Draws | None, points: Sequence[Point] = (), level: float = 0.95) -> dict[str, Estimate]:
    """Every figure by name, with its interval and how far outside the runs it lies; `points` left empty are `default_points`."""
    law, data = fit.law, fit.problem.data
    found: dict[str, Estimate] = {}
    for figures in _of_law(fit, points):
        rows = estimates(fit, draws, figures.quantity, level, unit=figures.unit, errors=draws is not None)
        found |= {name: replace(one, distance=far) for name, one, far in zip(figures.names, rows, figures.distances, strict=True)}
    if has_epc(law) and draws is not None:
        asked = points or default_points(data[N], data[E])
        runs = new_run_estimates(fit, draws, {N: np.array([p.n for p in asked]), E: np.array([p.e for p in asked])}, level)
        found |= {f"new_run_loss({p.label})": replace(one, distance=_far(data, p)) for p, one in zip(asked, runs, strict=True)}
    return {name: _placed(name, one, data) for name, one in found.items()}


def _far(data: Mapping[str, Float[np.ndarray, "runs"]], point: Point) -> float:
    return max(beyond(data[N], point.n), beyond(data[E], point.e))


def _placed(name: str, one: Estimate, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Estimate:
    """The figure with the one rule of extrapolation: asked for outside the runs, or itself beyond the largest of its kind."""
    if name.startswith("epc("):
        return replace(one, distance=max(one.distance, one.value / float(data[N][data[E] == data[E].min()].max())))
    if name.endswith("_cutoff"):
        return replace(one, distance=max(1.0, one.value / float(data[N if name == "n_cutoff" else "flops_per_step"].max())))
    return one


def _of_law(fit: Fit, points: Sequence[Point]) -> list[_Figures]:
    """The figures that this law has for these runs."""
    law, data = fit.law, fit.problem.data
    found: list[_Figures] = []
    if has_cutoff(law):
        by_flops = N not in law.columns
        found.append(_Figures(["f_cutoff" if by_flops else "n_cutoff"], "FLOPs" if by_flops else "parameters", cutoff_quantity(law), [1.0]))
    if has_epc(law):
        points = points or default_points(data[N], data[E])
        n, e, far = np.array([p.n for p in points]), np.array([p.e for p in points]), [_far(data, p) for p in points]
        found.append(_Figures([f"epc({p.label})" for p in points], "parameters", epc_quantity(law, n, e), far))
        found.append(_Figures([f"loss({p.label})" for p in points], "nats per token", loss_quantity(law, {N: n, E: e}), far))
        counts, ends = np.array([data[E].min(), data[E].max()]), np.array([data[N].min(), data[N].max()])
        middle = {N: np.full(2, np.exp(np.log(data[N]).mean())), E: counts}
        found.append(_Figures([f"a(E={count:g})" for count in counts], "", lambda t, b: slope(law, t, b, middle, N), [1.0, 1.0]))
        if law.roles is not None and law.roles.experts is not None:
            found.append(_Figures([f"b(N={count(x)})" for x in ends], "", lambda t, b: expert_slope(law, b, ends), [1.0, 1.0]))
    if has_allocation(law):
        largest = float(np.max(6 * data[N] * data[D]))
        for times in TIMES:
            names = [f"optimal_{key}({times * largest:.2g} FLOPs)" for key in ("N", "D")]
            found.append(_Figures(names, "", allocation_quantity(law, times * largest), [times, times]))
    return found
