"""Figures of an analysis, each a function that returns a matplotlib Figure. Import this where one is drawn: it imports matplotlib.

In all of them a curve is solid within the runs and dashed where it is extrapolated; bands are intervals, left out where a fit has none.
`residuals` are there for every law, `roll_out` where sizes were held out, `loss_by_size` and `laws_side_by_side` for laws that read N,
`loss_by_experts` for those with `has_epc`, `loss_by_tokens` for those in N and D, `loss_by_compute` for those in C alone,
`compute_optimal` for those with `has_allocation`; what is not raises `InputError`. Laws in N, E and D are shown at the largest D.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common import plots
from common.document.numbers import count
from common.errors import InputError
from common.plots import INK, MARKERS, ROUTERS, SOFT, house_style, panels
from fit.analysis import PAPER_LAW, Analysis, Result
from fit.budget.allocate import optimum_quantity
from fit.estimate import Estimate
from fit.quantities import FLOPS_PER_TOKEN, effective_parameter_count, has_allocation, has_epc, loss_quantity
from fit.report.view import HELD_OUT
from fit.runs.schema import C, D, E, N, U
from fit.select import RollOutStep
from fit.uncertainty.delta import Quantity, evaluate
from fit.uncertainty.intervals import estimates, new_run_estimates

Points = Float[np.ndarray, "points"]

LABELS = {
    N: "dense size N (parameters)", E: "number of experts E", D: "training tokens D (tokens)", C: "training compute C (FLOPs)", "": "",
}  # fmt: skip
_BEYOND, _FAR, _LAWS, _LINES = {N: 10.0, E: 4.0, D: 10.0, C: 100.0}, 100.0, 4, {N: 5, E: 6, D: 5}
"""How many times beyond the runs a law is drawn, and laws are compared; laws compared at most, and lines of a panel along N and E."""

_STEPS = 10
"""Steps of a roll-out in one panel; of more, those are drawn that predict the next value."""

_CURVE, _BAND, _MEANS = 120, 12, 12
"""Points along a curve; along a band, each of whose ends is read off all draws; and means of residuals at most."""


def _of(result: Result, column: str) -> Points:
    if column not in result.law.columns:
        raise InputError(
            f"no such figure of law {result.law.name!r}, which does not read {column}: it reads {', '.join(result.law.columns)}"
        )
    return result.fit.problem.data[column]


def _column(result: Result, column: str) -> Points:
    """A column of the runs fitted, the law's or not; empty where it is not there or not in all of them."""
    values = _of(result, column) if column in result.law.columns else result.runs.columns.get(column, np.empty(0)).astype(np.float64)
    return values if np.isfinite(values).all() else np.empty(0)


def _unit(results: Sequence[Result]) -> str:
    """The label of an axis of losses, in the runs' own unit."""
    return f"loss ({results[0].runs.unit})"


def _values(results: Sequence[Result], column: str) -> Points:
    """Every value of a column in the runs fitted, in order; none for laws without it."""
    return np.unique(np.concatenate([np.empty(0), *(_of(result, column) for result in results if column in result.law.columns)]))


def _some(values: Points, most: int) -> list[float]:
    """At most so many of the values, evenly spread, the first and the last among them."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(np.int64)].tolist()


def _names(results: Sequence[Result]) -> list[str]:
    several = len({result.law.name for result in results}) > 1
    return [f"{result.router}, {result.law.name}" if several else result.router for result in results]


def _style(k: int) -> dict[str, Any]:
    return {"color": ROUTERS[k % len(ROUTERS)], "marker": MARKERS[k % len(MARKERS)]}


def _keys(names: Sequence[str]) -> list[Any]:
    """Entries of a legend: colours and markers in order."""
    return [Line2D([], [], label=name, **_style(k)) for k, name in enumerate(names)]


def _band(ax: Axes, x: Points, found: Sequence[Estimate], k: int, alpha: float) -> None:
    low, high = (np.array([getattr(one, side) if one.known else np.nan for one in found], np.float64) for side in ("low", "high"))
    plots.band(ax, x, low, high, ROUTERS[k % len(ROUTERS)], alpha)


def _draw(ax: Axes, k: int, result: Result, column: str, make: Callable[[Points], Quantity], far: float, **how: Any) -> Points:
    """What `make` gives along a column, to `far` times its largest value: the curve, which is returned, and its band.

    `level`; `banded`; `marks` along the curve, for those without runs; it is drawn inside `keep`, and solid inside `solid` and the runs.
    """
    values = _values([result], column)
    x, at = (np.unique(np.append(np.geomspace(values.min(), values.max() * far, points), values.max())) for points in (_CURVE, _BAND))
    y, (least, most), (low, high) = evaluate(result.fit, make(x)), how.get("keep", (0, np.inf)), how.get("solid", (0, np.inf))
    style = _style(k) if how.get("marks") else {"color": _style(k)["color"]}
    inside = (x <= values.max()) & (y >= low) & (y <= high)
    plots.curve(ax, x, np.where((y > least) & (y < most), y, np.nan), inside, markevery=(6 * k, 24), **style)
    if how.get("banded", True):
        level = how.get("level", result.options.level)
        _band(ax, at, estimates(result.fit, result.draws, make(at), level, errors=False), k, 0.25)
    return y


def _places(result: Result, x: Points, **at: Any) -> dict[str, Points]:
    """The law's columns at points; one that is not given is held at its largest value."""
    return {name: np.broadcast_to(at.get(name, _of(result, name).max()), x.shape) for name in result.law.columns}


def _losses_along(result: Result, along: str, by: str, value: float) -> Callable[[Points], Quantity]:
    return lambda x: loss_quantity(result.law, _places(result, x, **{by: value, along: x}))


def _runs(ax: Axes, result: Result, along: str, by: str, value: float | None, *, held: bool = False, **style: Any) -> None:
    """The losses of the runs with this value of a column; None: of all. Those of the most tokens alone where these are held at that."""
    here = _of(result, by) == value if value is not None and by in result.law.columns else np.full(len(result.runs), fill_value=True)
    if (held or D in result.law.columns) and D not in (along, by):
        here &= _column(result, D) == _column(result, D).max()
    ax.plot(_of(result, along)[here], 10 ** result.fit.problem.observed[here], markersize=3.5, linestyle="", zorder=3, **style)


def _axis(ax: Axes, column: str, values: Points, far: float = 1.0, room: float = 0.03) -> None:
    """The x axis, from the least value to `far` times the largest, with `room` at the left."""
    low, high = float(values.min()), float(values.max()) * far
    ax.set_xlim(low / (high / low) ** room, high * ((high / low) ** room if far == 1 else 1))
    if column == E:
        plots.experts_along(ax, "x", (2.0 ** np.arange(round(np.log2(low)), round(np.log2(high)) + 1)).tolist(), LABELS[E])
    else:
        plots.sizes_along(ax, "x", LABELS.get(column, column))
    if far > 1:
        plots.edge(ax, float(values.max()))


@house_style()
def loss_by_experts(results: Sequence[Result]) -> Figure:
    """Loss against E: the routers compared at one size (the largest routed one), then every run of each, a line per size."""
    routed = np.concatenate([_of(result, N)[_of(result, E) > 1] for result in results])
    return _losses(results, E, N, float(max(routed, default=_values(results, N).max())))


@house_style()
def loss_by_size(results: Sequence[Result]) -> Figure:
    """Loss against N: the routers compared at one E (the largest up to 64), then every run of each, a line per E."""
    values = _values(results, E)
    return _losses(results, N, E if len(values) else "", float(max(values[values <= 64], default=values.max(initial=1))))


@house_style()
def loss_by_compute(results: Sequence[Result]) -> Figure:
    """Loss against training compute: every run, the curve, and the interval of a new run."""
    return _losses(results, C, "", 1.0)


@house_style()
def loss_by_tokens(results: Sequence[Result]) -> Figure:
    """Loss against N with a line for each of at most five D, and against D with one for each N: a row of two panels per result.

    Every run is drawn in the colour of the nearest line. Bands: the mean curve, and around it a new run.
    """
    figure, axes = panels(2 * len(results), 3.6, across=2, share_x=False, share_y="row", keys=1, right=0.75)
    for row, (result, name) in enumerate(zip(results, _names(results), strict=True)):
        for ax, along, by in zip(axes[2 * row : 2 * row + 2], (N, D), (D, N), strict=True):
            held, ends = _some(_values([result], by), _LINES[by]), list[tuple[float, str]]()
            nearest = np.argmin(np.abs(np.log(_of(result, by)[:, None] / np.array(held))), axis=1)
            for k, value in enumerate(held):
                x, y = _of(result, along)[nearest == k], 10 ** result.fit.problem.observed[nearest == k]
                ax.plot(x, y, markersize=3.5, linestyle="", zorder=3, **_style(k))
                curve = _draw(ax, k, result, along, _losses_along(result, along, by, value), _BEYOND[along])
                at = np.geomspace(_of(result, along).min(), _of(result, along).max() * _BEYOND[along], _BAND)
                new = new_run_estimates(result.fit, result.draws, _places(result, at, **{by: value, along: at}), result.options.level)
                _band(ax, at, new, k, 0.14)
                ends.append((float(curve[-1]), f"{'D' if by == D else 'N'} = {count(value)}"))
            _axis(ax, along, _values([result], along), _BEYOND[along])
            plots.losses_along(ax, _unit(results) if along == N else "")
            order = [0, *range(len(ends) - 1, 0, -1)]
            plots.label_lines(ax, [ends[k] for k in order], [ROUTERS[k] for k in order], right=True)
            ax.set_title(f"{name}, {result.law.name}" if along == N else "")
    level = f"{100 * results[0].options.level:g}% interval"
    plots.legend_below(figure, [Patch(color=SOFT, alpha=a, label=f"{level}, {of}") for a, of in ((0.4, "mean"), (0.14, "new run"))])
    return figure


@house_style()
def compute_optimal(results: Sequence[Result]) -> Figure:
    """N and D of least loss, and that loss, along the training budget, to 100 times the largest run's; crosses are the runs."""
    found = [result for result in results if has_allocation(result.law)]
    if not found:
        raise InputError("no law here has a compute-optimal N and D")
    figure, axes = panels(3, 3.5, share_x=True, share_y=False, keys=len(found))
    for k, result in enumerate(found):
        n, d = _of(result, N), _of(result, D)
        spent = FLOPS_PER_TOKEN * n * d
        x, at = (np.geomspace(spent.min(), spent.max() * _FAR, points) for points in (_CURVE, _BAND))
        for ax, which, seen in zip(axes, range(3), (n, d, 10**result.fit.problem.observed), strict=True):

            def along(budgets: Points, which: int = which, result: Result = result) -> Quantity:
                """N, D or the loss at the optimum of these budgets, which stand after the exponents."""
                unique = float(_of(result, U).max()) if U in result.law.columns else None
                optima, many = optimum_quantity(result.law, budgets.tolist(), unique_tokens=unique), len(budgets)
                return lambda theta, beta: optima(theta, beta)[..., 2 + which * many : 2 + (which + 1) * many]

            ax.plot(spent, seen, marker="x", color=SOFT, markersize=3.5, linestyle="", zorder=1)
            plots.curve(ax, x, evaluate(result.fit, along(x)), x <= spent.max(), color=ROUTERS[k % len(ROUTERS)])
            _band(ax, at, estimates(result.fit, result.draws, along(at), result.options.level, errors=False), k, 0.25)
    spent = np.concatenate([FLOPS_PER_TOKEN * _of(result, N) * _of(result, D) for result in found])
    for ax, label in zip(axes, (LABELS[N], LABELS[D], _unit(found)), strict=True):
        _axis(ax, C, spent, _FAR)
        (plots.losses_along if ax is axes[2] else lambda a, text: plots.sizes_along(a, "y", text))(ax, label)
    plots.legend_below(figure, [Line2D([], [], label=name, color=ROUTERS[k % len(ROUTERS)]) for k, name in enumerate(_names(found))])
    return figure


def _at_tokens(results: Sequence[Result]) -> str:
    """The number of tokens that laws with tokens and experts are shown at."""
    values = _values(results, D)
    return f", D = {count(values.max())}" if len(values) else ""


def _losses(results: Sequence[Result], along: str, by: str, chosen: float) -> Figure:
    """A panel with all results at the chosen value of `by` where there are several, and one with every run of each."""
    several, far, values, letter = len(results) > 1 or not by, _BEYOND[along], _values(results, along), LABELS[by].partition(" (")[0][-1:]
    number, names = several + len(results) * bool(by), _names(results)
    level, drawn = f"{100 * results[0].options.level:g}% interval", any(result.draws for result in results)
    shades = [Patch(color=SOFT, alpha=a, label=f"{level}, {of}") for a, of in ((0.45, "mean"), (0.18, "new run"))] if drawn else []
    keys, beside = [*_keys(names), *shades] if several else [], 0.75 if along == E else 0.1
    figure, axes = panels(number, 3.5, across=3 if number == 3 else 2, share_x=False, share_y=False, keys=len(keys), right=beside)
    for k, result in enumerate(results if several else ()):
        _draw(axes[0], k, result, along, _losses_along(result, along, by, chosen), far)
        _runs(axes[0], result, along, by, chosen, **_style(k))
        at = np.geomspace(values.min(), values.max() * far, _BAND)
        places = _places(result, at, **{by: chosen, along: at})
        _band(axes[0], at, new_run_estimates(result.fit, result.draws, places, result.options.level), k, 0.14)
    ends: list[list[tuple[float, str]]] = []
    for k, (ax, result) in enumerate(zip(axes[several:], results, strict=False)):
        ax.sharey(axes[several])
        _runs(ax, result, along, by, None, **_style(k))
        held = _some(_values([result], by), _LINES[along])
        # Along N the lines run together: bands of the outer two.
        bands = [along == E or value in (held[0], held[-1]) for value in held]
        curves = [_draw(ax, k, result, along, _losses_along(result, along, by, v), far, banded=b) for v, b in zip(held, bands, strict=True)]
        ends.append([(float(y[-1 if along == E else 0]), f"{letter} = {count(v)}") for y, v in zip(curves, held, strict=True)])
        ax.set_title(names[k] if several else f"{names[k]}, {result.law.name}{_at_tokens([result])}")
    for k, ax in enumerate(axes, start=-several):
        _axis(ax, along, values, far, 0.03 if k < 0 or along == E else 0.3 if number == 3 else 0.17)
        plots.losses_along(ax, _unit(results))
        if k >= 0:
            plots.label_lines(ax, [ends[k][0], *ends[k][:0:-1]], ROUTERS[k % len(ROUTERS)], right=along == E)
    if several:
        plots.legend_below(figure, keys)
        axes[0].set_title(f"at {letter} = {count(chosen)}{_at_tokens(results)}" if by else "")
    return figure


@house_style()
def laws_side_by_side(analysis: Analysis) -> Figure:
    """What laws say far beyond the runs: EPC over N, and loss, of models with E = 64 (or the largest E), a column per router.

    The quoted law and the paper's, then those next in rank; for dense runs the dense laws. Crosses are the runs.
    """
    ranked = [analysis.quoted, PAPER_LAW, *(analysis.ranking.laws if analysis.ranking else ()), *(r.law.name for r in analysis.results)]
    there = [r for law in dict.fromkeys(ranked) for r in analysis.of_law(law) if N in r.law.columns and set(r.law.columns) <= {N, E, D}]
    if not there:
        raise InputError("no law in N, E and D was fitted to the runs of one router")
    shown = [result for result in there if has_epc(result.law)] or there
    laws, routed, values = list(dict.fromkeys(result.law.name for result in shown))[:_LAWS], has_epc(shown[0].law), _values(shown, N)
    routers, experts = list(dict.fromkeys(result.router for result in shown)), float(min(64.0, _values(shown, E).max(initial=1)))
    many, columns = len(routers) > 1, len(routers) if len(routers) > 1 else 1 + routed
    figure, axes = panels(
        len(routers) * (1 + routed), 3.0, max(9.6, 3.2 * columns), across=columns, share_y="row" if many else False, keys=len(laws)
    )
    at = f", E = {experts:g}" * routed + _at_tokens(shown)
    for result in (result for result in shown if result.law.name in laws):
        k, router = laws.index(result.law.name), routers.index(result.router)
        _draw(axes[router - len(routers)], k, result, N, _losses_along(result, N, E, experts), _FAR, marks=True)
        _runs(axes[router - len(routers)], result, N, E, experts, held=bool(_at_tokens(shown)), marker="x", color=INK)
        if routed:

            def worth(n: Points, result: Result = result) -> Quantity:
                """EPC/N at these sizes."""
                law, others = result.law, {D: _places(result, n)[D]} if D in result.law.columns else {}
                return lambda theta, beta: effective_parameter_count(law, theta, beta, n, np.full_like(n, experts), others) / n

            _draw(axes[router], k, result, N, worth, _FAR, marks=True, keep=(0.2, 50.0))
    for k, ax in enumerate(axes):
        if routed and k < len(routers):
            ax.axhline(1, color=INK, linewidth=0.8)
            plots.sizes_along(ax, "y", "EPC / N")
        else:
            plots.losses_along(ax, _unit(shown))
        _axis(ax, N, values, _FAR)
        ax.set_title(f"{routers[k]}{at}" if k < len(routers) else "")
    if many:
        plots.outer_labels(axes, columns)
    roles = {analysis.quoted: " (quoted)", PAPER_LAW: " (the paper's)"} if routed else {}
    plots.legend_below(figure, _keys([law + roles.get(law, "") for law in laws]))
    return figure


@house_style()
def residuals(results: Sequence[Result]) -> Figure:
    """Residuals of every run along N, E and D, a row of panels per law; lines join each router's means, so that a bend shows.

    The grey band is two standard deviations between seeds, where runs were repeated.
    """
    laws, routers = (list(dict.fromkeys(names)) for names in ([r.law.name for r in results], [r.router for r in results]))
    columns = [
        c for c in dict.fromkeys((N, E, D, *results[0].law.columns)) if len(np.unique(np.concatenate([_column(r, c) for r in results]))) > 1
    ]
    noise = [Patch(color=SOFT, alpha=0.3, label="2 SD between seeds")] if any(r.misfit.seed_ratio for r in results) else []
    keys = [*_keys(routers), *noise]
    figure, axes = panels(len(laws) * len(columns), 3.2, across=len(columns), share_x="col", keys=len(keys))
    for place, ax in enumerate(axes):
        law, column = laws[place // len(columns)], columns[place % len(columns)]
        values = np.unique(np.concatenate([_column(result, column) for result in results]))
        for result in (r for r in results if r.law.name == law and len(_column(r, column))):
            k, x, r = routers.index(result.router), _column(result, column), 100 * (10**result.fit.residuals - 1)
            aside = float(values.max() / values.min()) ** (0.016 * (k - (len(routers) - 1) / 2))
            ax.plot(x * aside, r, **_style(k), linestyle="", markersize=3.5, alpha=0.55, markeredgewidth=0)
            # Neighbours have one mean where values are many, or runs of one value few.
            groups = np.array_split(np.unique(x), min(_MEANS, len(np.unique(x)), max(3, len(x) // 3)))
            middles = [float(np.exp(np.log(group).mean())) * aside for group in groups]
            ax.plot(middles, [float(r[np.isin(x, group)].mean()) for group in groups], color=_style(k)["color"])
            if result.misfit.seed_ratio:
                reach = 200 * np.log(10) * result.fit.rmse_log10 / result.misfit.seed_ratio
                ax.axhspan(-reach, reach, color=SOFT, alpha=0.12, linewidth=0)
        _axis(ax, column, values, room=0.06)
        ax.set_title(law if not place % len(columns) else "")
        plots.percent_along(ax, "observed above predicted loss (%)")
    plots.outer_labels(axes, len(columns))
    plots.legend_below(figure, keys)
    return figure


def _predicted(result: Result, by: str) -> list[RollOutStep]:
    """The steps of a roll-out by this column that have predictions: of the next value, or of all where they are few."""
    steps = [step for step in result.steps if step.reason is None and step.by == by]
    return steps if len(steps) <= _STEPS else [step for step in steps if step.following]


@house_style()
def roll_out(results: Sequence[Result], level: float) -> Figure:
    """Errors at sizes larger than any fitted, a panel per result; runs of a size lie side by side from few to many experts.

    Bars are prediction intervals of a new run about the observed loss: a run is covered where its bar reaches zero; counts are above.
    """
    reach = list[float]()
    shown = [(r, name, by) for r, name in zip(results, _names(results), strict=True) for by in HELD_OUT if _predicted(r, by)]
    if not shown:
        raise InputError("no figure of sizes held out: none was predicted from the smaller ones")
    figure, axes = panels(len(shown), 3.5, share_x=False, keys=1)
    for ax, (result, name, by) in zip(axes, shown, strict=True):
        k, steps = results.index(result), _predicted(result, by)
        for place, step in enumerate(steps):
            order = np.argsort(_of(result, E)[step.runs], kind="stable") if E in result.law.columns else np.arange(len(step.runs))
            x = place + (np.linspace(-0.36, 0.36, len(order)) if len(order) > 1 else np.zeros(1))
            low, middle, high = (100 * (losses[order] / step.observed[order] - 1) for losses in (step.low, step.predicted, step.high))
            ax.vlines(x, low, high, color=_style(k)["color"], linewidth=2.2, alpha=0.3)
            ax.plot(x, middle, **_style(k), linestyle="", markersize=3)
            reach += [float(np.nanmax(np.abs([low, high, 1.1 * middle])))]
            text = f"{step.score.covered}/{step.score.runs}" if step.score is not None and step.score.covered is not None else ""
            ax.annotate(text, (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7, color=SOFT)
        ax.set_xticks(range(len(steps)), [f"{count(step.size)}\n\u2264 {count(step.trained_up_to)}" for step in steps], fontsize=7.5)
        ax.set(xlim=(-0.55, len(steps) - 0.45), xlabel=f"predicted / fitted, {LABELS[by]}")
        ax.set_title(name if by == N else f"{name}, by {HELD_OUT[by][0]}", pad=14)
        ax.grid(visible=False, axis="x")
        plots.percent_along(ax, "predicted above observed loss (%)")
    for ax in axes:
        ax.set_ylim(-1.03 * max(reach), 1.03 * max(reach))
    plots.outer_labels(axes)
    plots.legend_below(figure, [Patch(color=SOFT, alpha=0.3, label=f"{100 * level:g}% interval of a new run")])
    return figure
