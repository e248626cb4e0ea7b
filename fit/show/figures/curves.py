"""The paper's Figure 1 from the data: loss against experts (a), against dense size (b), against effective size (c); lines of equal loss."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fit.analysis import Result
from fit.epc import effective_parameter_count, equal_loss_line
from fit.intervals.bootstrap import Quantity, interval
from fit.laws.interface import Law
from fit.show.display import count
from fit.show.figures.style import experts_along, house_style, losses_along, outer_labels, padded, panels, sizes_along
from fit.show.render.palette import INK, MARKERS, PAPER, ROUTERS, SOFT, ordered
from fit.solver.solve import Fit

SIZE_LABEL = "dense size N (parameters)"
_EXPERTS_BEYOND, _SIZES_BEYOND = 4.0, 10.0
"""How far beyond the runs a law is drawn, dashed."""


def sizes_and_experts(results: Sequence[Result]) -> tuple[Float[np.ndarray, "sizes"], Float[np.ndarray, "counts"]]:
    """Every N and every E met in the runs of these results, in order."""
    n = np.concatenate([result.runs.numeric("dense_parameter_count") for result in results])
    e = np.concatenate([result.runs.numeric("num_experts") for result in results])
    return np.unique(n), np.unique(e)


def _curve(fit: Fit, n: Float[np.ndarray, "points"], e: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
    """Loss on the fitted curve, nats per token."""
    return 10 ** fit.log10_loss({"dense_parameter_count": n, "num_experts": e})


def _line(
    ax: Axes, x: Float[np.ndarray, "points"], y: Float[np.ndarray, "points"], within: Bool[np.ndarray, "points"], colour: str
) -> None:
    """A curve: solid within the runs, dashed where it is extrapolated."""
    ax.plot(x, np.where(within, y, np.nan), color=colour)
    # A dash begins at the last point within, so that the two parts join.
    beyond = ~within
    beyond[:-1] |= ~within[1:]
    beyond[1:] |= ~within[:-1]
    if not within.all():
        ax.plot(x, np.where(beyond, y, np.nan), color=colour, linestyle=(0, (4, 2.5)), linewidth=1.0)


def _edge(ax: Axes, x: float, place: Literal["top", "bottom"] = "top") -> None:
    """Where the runs end: beyond this line everything is extrapolated, and it says so."""
    ax.axvline(x, color=SOFT, linewidth=0.8, linestyle=":")
    ax.annotate(
        "extrapolated", (x, 0.98 if place == "top" else 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", va=place, ha="left", rotation=90, fontsize=7.5, color=SOFT, zorder=5,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1},
    )  # fmt: skip


def _grid(low: float, high: float, *through: float) -> Float[np.ndarray, "points"]:
    """Points evenly spread in the log, those of `through` among them."""
    return np.unique(np.concatenate([np.geomspace(low, high, 160), np.array(through)]))


@house_style()
def loss_by_experts(results: Sequence[Result]) -> Figure:
    """Figure 1 (a): loss against the number of experts, a line per dense size, a panel per router."""
    figure, axes = panels(len(results))
    sizes, experts = sizes_and_experts(results)
    most, colours = float(experts.max()), ordered(len(sizes))
    e = _grid(1.0, most * _EXPERTS_BEYOND, most)
    for ax, result in zip(axes, results, strict=True):
        n_of, e_of = result.runs.numeric("dense_parameter_count"), result.runs.numeric("num_experts")
        for k, size in enumerate(sizes):
            here = n_of == size
            if here.any():
                _line(ax, e, _curve(result.fit, np.full_like(e, size), e), e <= most, colours[k])
                ax.plot(e_of[here], result.runs.loss[here], MARKERS[k % len(MARKERS)], color=colours[k])
        ax.set_title(result.router)
        ax.set_xlim(0.85, most * _EXPERTS_BEYOND)
        experts_along(ax, "x", [*experts, most * _EXPERTS_BEYOND])
        losses_along(ax)
        _edge(ax, most)
    _legend(figure, [count(size) for size in sizes.tolist()], colours, "N")
    outer_labels(axes)
    return figure


@house_style()
def loss_by_size(results: Sequence[Result]) -> Figure:
    """Loss against dense size, a line per number of experts, a panel per router."""
    figure, axes = panels(len(results))
    sizes, experts = sizes_and_experts(results)
    least, most, colours = float(sizes.min()), float(sizes.max()), ordered(len(experts))
    n = _grid(least, most * _SIZES_BEYOND, most)
    for ax, result in zip(axes, results, strict=True):
        n_of, e_of = result.runs.numeric("dense_parameter_count"), result.runs.numeric("num_experts")
        for k, count_of in enumerate(experts):
            here = e_of == count_of
            if here.any():
                _line(ax, n, _curve(result.fit, n, np.full_like(n, count_of)), n <= most, colours[k])
                ax.plot(n_of[here], result.runs.loss[here], MARKERS[k % len(MARKERS)], color=colours[k])
        ax.set_title(result.router)
        ax.set_xlim(least / 1.25, most * _SIZES_BEYOND)
        sizes_along(ax, "x", SIZE_LABEL)
        losses_along(ax)
        _edge(ax, most)
    _legend(figure, [f"{value:g}" for value in experts.tolist()], colours, "E")
    outer_labels(axes)
    return figure


@house_style()
def loss_by_effective_size(results: Sequence[Result]) -> Figure:
    """Figure 1 (c): every run against its dense size N, and against its effective parameter count, where all fall onto the dense line."""
    figure, axes = panels(2, height=3.6)
    effective = {r.router: _effective(r) for r in results}
    everything = np.concatenate([*effective.values(), *(r.runs.numeric("dense_parameter_count") for r in results)])
    low, high = padded(everything[np.isfinite(everything)])
    largest_dense = max(_largest_dense(r) for r in results)
    n = _grid(low, high, largest_dense)
    for ax, title in zip(axes, ("by dense size N", "by effective parameter count"), strict=True):
        for k, result in enumerate(results):
            x = result.runs.numeric("dense_parameter_count") if ax is axes[0] else effective[result.router]
            ax.plot(x, result.runs.loss, MARKERS[k % len(MARKERS)], color=ROUTERS[k % len(ROUTERS)], label=result.router, alpha=0.8)
            _line(ax, n, _curve(result.fit, n, np.ones_like(n)), n <= largest_dense, INK)
        ax.set_title(title)
        ax.set_xlim(low, high)
        sizes_along(ax, "x", SIZE_LABEL if ax is axes[0] else "effective parameter count (parameters)")
        losses_along(ax)
        _edge(ax, largest_dense)
    axes[0].plot([], [], color=INK, label="fitted dense line" if len(results) == 1 else "fitted dense lines")
    axes[0].legend(loc="lower left")
    axes[1].set_ylabel("")
    return figure


def _effective(result: Result) -> Float[np.ndarray, "runs"]:
    """The effective parameter count of every run."""
    n, e = result.runs.numeric("dense_parameter_count"), result.runs.numeric("num_experts")
    return effective_parameter_count(result.law, result.fit.theta, result.fit.beta, n, e)


def _largest_dense(result: Result) -> float:
    """The largest N trained with one expert, or with the fewest there are."""
    n, e = result.runs.numeric("dense_parameter_count"), result.runs.numeric("num_experts")
    return float(n[e == e.min()].max())


@house_style()
def equal_loss(results: Sequence[Result], level: float) -> Figure:
    """Figure 1 (b): which N with how many experts reaches the loss of each dense size; bands are intervals, crosses the runs."""
    figure, axes = panels(len(results))
    sizes, experts = sizes_and_experts(results)
    most, colours = float(experts.max()), ordered(len(sizes))
    e = _grid(1.0, most * _EXPERTS_BEYOND, most)
    for ax, result in zip(axes, results, strict=True):
        lowest = float(sizes.min())
        for k, size in enumerate(sizes.tolist()):
            line = equal_loss_line(result.law, result.fit.theta, result.fit.beta, size, e)
            _line(ax, e, line, (e <= most) & (line >= sizes.min() * 0.999), colours[k])
            if result.draws is not None:
                found = interval(result.draws, _equal_loss(result.law, size, e), level)
                ax.fill_between(e, found.low, found.high, color=colours[k], alpha=0.18, linewidth=0)
            lowest = min(lowest, float(line[np.isfinite(line)].min(initial=np.inf)))
        ax.plot(result.runs.numeric("num_experts"), result.runs.numeric("dense_parameter_count"), "x", color=SOFT, markersize=3)
        ax.axhline(float(sizes.min()), color=SOFT, linewidth=0.8, linestyle=":")
        ax.annotate("extrapolated", (0.02, 0.02), xycoords="axes fraction", fontsize=7.5, color=SOFT)
        ax.set_title(result.router)
        ax.set_xlim(0.85, most * _EXPERTS_BEYOND)
        ax.set_ylim(lowest / 1.3, float(sizes.max()) * 1.6)
        experts_along(ax, "x", [*experts, most * _EXPERTS_BEYOND])
        sizes_along(ax, "y", "dense size N (parameters)")
        _edge(ax, most, "bottom")
    labels = [f"{count(size)}: {_dense_loss(results[0], size):.2f}" for size in sizes.tolist()]
    _legend(figure, labels, colours, "dense N: its loss", markers=False)
    outer_labels(axes)
    return figure


def _equal_loss(law: Law, size: float, e: Float[np.ndarray, "quantities"]) -> Quantity:
    return lambda theta, beta: equal_loss_line(law, theta, beta, size, e)


def _dense_loss(result: Result, size: float) -> float:
    return float(_curve(result.fit, np.array([size]), np.ones(1))[0])


def _legend(figure: Figure, labels: Sequence[str], colours: Sequence[str], title: str, *, markers: bool = True) -> None:
    """What each line is, right of the panels, in the order in which the lines lie."""
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[k % len(MARKERS)] if markers else "", label=label)
        for k, (label, colour) in enumerate(zip(labels, colours, strict=True))
    ]
    figure.legend(handles=handles, title=title, loc="outside right center", frameon=False)
