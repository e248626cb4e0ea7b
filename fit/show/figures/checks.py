"""What a fit leaves over and what it cannot tell: residuals, the objective's valley, and errors beyond the sizes fitted."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fit.analysis import Result
from fit.assess.lack_of_fit import RollOutStep
from fit.laws.interface import Law
from fit.show.display import count
from fit.show.figures.curves import SIZE_LABEL
from fit.show.figures.style import experts_along, house_style, outer_labels, panels, sizes_along
from fit.show.render.palette import INK, MARKERS, PAPER, ROUTERS, SOFT, ordered
from fit.solver.losses import SquaredLog
from fit.solver.search import project
from fit.solver.solve import Fit

_SPREAD = 0.035
"""How far, as a share of a log axis, the routers' points stand apart."""


@house_style()
def residuals(results: Sequence[Result]) -> Figure:
    """Residuals of every run against N and against E; lines join each router's means, so that a curve left over shows."""
    figure, axes = panels(2, height=3.3, share_x=False)
    for ax, column in zip(axes, ("dense_parameter_count", "num_experts"), strict=True):
        every = np.unique(np.concatenate([r.runs.numeric(column) for r in results]))
        span = np.log(every.max() / every.min()) if len(every) > 1 else 1.0
        for k, result in enumerate(results):
            x, r = result.runs.numeric(column), 100 * (10**result.fit.residuals - 1)
            aside = np.exp((k - (len(results) - 1) / 2) * _SPREAD * span * 0.5)
            colour = ROUTERS[k % len(ROUTERS)]
            ax.plot(x * aside, r, MARKERS[k % len(MARKERS)], color=colour, markersize=3, alpha=0.55, markeredgewidth=0)
            values = np.unique(x)
            ax.plot(values * aside, [float(r[x == v].mean()) for v in values], color=colour)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_xlim(every.min() / np.exp(0.06 * span), every.max() * np.exp(0.06 * span))
    sizes_along(axes[0], "x", SIZE_LABEL)
    experts_along(axes[1], "x", np.unique(np.concatenate([r.runs.numeric("num_experts") for r in results])).tolist())
    axes[0].set_ylabel("observed above predicted loss (%)")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    axes[0].set_title("along N")
    axes[1].set_title("along E")
    handles = [
        Line2D([], [], color=ROUTERS[k % len(ROUTERS)], marker=MARKERS[k % len(MARKERS)], markersize=3, label=result.router)
        for k, result in enumerate(results)
    ]
    figure.legend(handles=handles, title="runs, and\ntheir mean", loc="outside right center", frameon=False)
    return figure


def has_valley(law: Law) -> bool:
    """Whether the law's shapes are a saturation's start and end and nothing else, so that its objective can be drawn on paper."""
    return (
        len(law.shapes) == 2 and len(law.ratios) == 1 and {law.shapes[0].name, law.shapes[1].name} == set(next(iter(law.ratios.values())))
    )


@house_style()
def valley(results: Sequence[Result], level: float) -> Figure:
    """The objective over (E_start, E_max), everything else at its best there: contours of its ratio to the least value.

    Shaded: the joint region of this level by the likelihood ratio, RSS/RSS_min <= (1 - level)^(-2/(n - p)), the F form for two
    parameters. Marked: our optimum, some of the draws, and the published point where there is one.
    """
    figure, axes = panels(len(results), height=3.5)
    (end, (start, _)), drawn = next(iter(results[0].law.ratios.items())), False
    box = _box(results, start, end)
    for ax, result in zip(axes, results, strict=True):
        ax.set_title(result.router)
        ax.set_xlim(*box[0])
        ax.set_ylim(*box[1])
        experts_along(ax, "x", _round_numbers(*box[0]), f"{start} ({result.law.units[start]})")
        experts_along(ax, "y", _round_numbers(*box[1]), f"{end} ({result.law.units[end]})")
        _contours(ax, result.fit, box, level)
        drawn |= _points(ax, result, start, end)
    handles = [
        Line2D([], [], marker="o", color=INK, linestyle="", label="our optimum"),
        Line2D([], [], marker="*", color=ROUTERS[1], markersize=9, linestyle="", label="published"),
        Line2D([], [], marker=".", color=ROUTERS[0], linestyle="", alpha=0.5, label="draws"),
        Line2D([], [], color=ROUTERS[2], linewidth=6, alpha=0.35, label=f"{100 * level:g}% region"),
        Line2D([], [], color=SOFT, label="objective over\nits least value"),
    ]
    figure.legend(handles=[h for h in handles if drawn or h.get_label() != "published"], loc="outside right center", frameon=False)
    outer_labels(axes)
    return figure


Box = tuple[tuple[float, float], tuple[float, float]]
"""Ranges of the start and of the end of saturation that are drawn."""


def _box(results: Sequence[Result], start: str, end: str) -> Box:
    """Ranges that hold every optimum, published point and nearly all draws, within what was searched."""
    ranges: list[tuple[float, float]] = []
    for name in (start, end):
        values = [result.coefficients[name].value for result in results]
        for result in results:
            published = result.law.published_for(result.router)
            values += [published.values[name]] if published else []
            if result.draws is not None and len(result.draws):
                k = result.law.parameter_names.index(name)
                drawn = result.law.parameter_values(result.draws.refits.theta, result.draws.refits.beta)[:, k]
                values += np.quantile(drawn, [0.01, 0.97]).tolist()
        ranges.append((min(values) / 1.6, min(max(values), 30 * values[0]) * 1.6))
    limits = results[0].fit.problem.limits[0]
    return (max(ranges[0][0], float(limits[0])), min(ranges[0][1], float(limits[1]))), ranges[1]


def objective_over(fit: Fit, starts: Float[np.ndarray, "starts"], ends: Float[np.ndarray, "ends"]) -> Float[np.ndarray, "ends starts"]:
    """The objective with the shapes held at each pair, over the fit's own; NaN where the pair makes no sense (end below start).

    Exact for the squared error of log10 loss, where the coefficients follow by least squares.
    """
    problem = fit.problem
    theta = np.array([[start, start / end] for end in ends for start in starts])
    held = theta[:, 1] <= problem.limits[1, 1]
    found = np.full(len(theta), np.nan)
    beta = project(problem, theta[held])
    found[held] = problem.objective(problem.residuals(theta[held], beta, problem.observed[None]), None)
    return found.reshape(len(ends), len(starts)) / fit.certificate.objective


_LEVELS = (1.01, 1.05, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)


def _contours(ax: Axes, fit: Fit, box: Box, level: float) -> None:
    starts, ends = np.geomspace(*box[0], 61), np.geomspace(*box[1], 61)
    ratio = objective_over(fit, starts, ends)
    freedom = max(fit.num_runs - fit.law.num_parameters, 1)
    region = (1 - level) ** (-2 / freedom)
    ax.contourf(starts, ends, ratio, levels=[0, region], colors=[ROUTERS[2]], alpha=0.25)
    lines = ax.contour(starts, ends, ratio, levels=_LEVELS, colors=SOFT, linewidths=0.7)
    for text in ax.clabel(lines, fontsize=7, fmt=lambda value: f"{value:g}"):
        text.set(color=INK, zorder=5)
        inside = ax.transAxes.inverted().transform(ax.transData.transform(text.get_position()))
        # A label at the frame would be cut in two.
        text.set_visible(bool(np.all((inside > 0.05) & (inside < 0.95))))


_SHOWN_DRAWS = 250


def _points(ax: Axes, result: Result, start: str, end: str) -> bool:
    """Draws, optimum, published point; whether there is a published one."""
    names = result.law.parameter_names
    if result.draws is not None:
        refits = result.draws.refits
        drawn = result.law.parameter_values(refits.theta, refits.beta)[:_SHOWN_DRAWS]
        ax.plot(drawn[:, names.index(start)], drawn[:, names.index(end)], ".", color=ROUTERS[0], markersize=2.5, alpha=0.45)
    ax.plot(result.coefficients[start].value, result.coefficients[end].value, "o", color=INK, markeredgecolor=PAPER, markersize=6)
    published = result.law.published_for(result.router)
    if published is None:
        return False
    ax.plot(published.values[start], published.values[end], "*", color=ROUTERS[1], markeredgecolor=PAPER, markersize=11)
    return True


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within a range."""
    every = [m * 10.0**k for k in range(-3, 7) for m in (1, 2, 5)]
    return [value for value in every if low <= value <= high]


def valley_is_exact(fit: Fit) -> bool:
    """Whether the contours are those of the objective minimised: squared error of log10 loss."""
    return type(fit.problem.loss) is SquaredLog


@house_style()
def roll_out_errors(results: Sequence[Result], steps: Mapping[str, Sequence[RollOutStep]], level: float) -> Figure:
    """Errors at sizes larger than any fitted, a panel per router of `steps`, the runs of a size side by side from few to many experts.

    Bars are prediction intervals about the observed loss: a run is covered where its bar reaches nought; the figures above count them.
    """
    shown = [result for result in results if steps.get(result.router)]
    figure, axes = panels(len(shown), height=3.6)
    splits = sorted({step.trained_up_to for result in shown for step in steps[result.router]})
    colours = dict(zip(splits, ordered(len(splits)), strict=True))
    for ax, result in zip(axes, shown, strict=True):
        own = steps[result.router]
        for place, step in enumerate(own):
            _errors(ax, place, step, result.runs.numeric("num_experts")[step.runs], colours[step.trained_up_to])
            if place and step.trained_up_to != own[place - 1].trained_up_to:
                ax.axvline(place - 0.5, color=SOFT, linewidth=0.6, linestyle=":")
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_title(result.router, pad=16)
        ax.set_xlim(-0.55, len(own) - 0.45)
        ax.set_xticks(range(len(own)), [count(step.size) for step in own])
        ax.grid(visible=False, axis="x")
        ax.set_xlabel("size predicted, N (parameters)")
        ax.set_ylabel("predicted above observed loss (%)")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    handles = [Line2D([], [], marker="o", markersize=3, color=colours[size], label=f"up to {count(size)}") for size in splits]
    handles += [Line2D([], [], color=SOFT, linewidth=4, alpha=0.35, label=f"{100 * level:g}% interval\nof a new run")]
    figure.legend(handles=handles, title="fitted to runs", loc="outside right center", frameon=False)
    outer_labels(axes)
    for ax in axes:
        ax.tick_params(labelbottom=True)
    return figure


def _errors(ax: Axes, place: int, step: RollOutStep, experts: Float[np.ndarray, "held_out"], colour: str) -> None:
    """One group: the runs of one size under one split, and how many of them their intervals cover."""
    if step.reason is not None or not len(step.runs):
        return
    order = np.argsort(experts, kind="stable")
    x = place + (np.linspace(-0.36, 0.36, len(order)) if len(order) > 1 else np.zeros(1))
    low, middle, high = (100 * (values[order] / step.observed[order] - 1) for values in (step.low, step.predicted, step.high))
    if np.isfinite(low).all() and np.isfinite(high).all():
        ax.vlines(x, low, high, color=colour, linewidth=2.2, alpha=0.35)
    ax.plot(x, middle, "o", color=colour, markersize=3)
    score = step.score
    if score is not None and score.covered is not None:
        text = f"{score.covered}/{score.runs}"
        ax.annotate(text, (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7, color=SOFT)
