"""Figures of designs, each a function that returns a matplotlib Figure. Import this where one is drawn: it imports matplotlib."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.plots import INK, MARKERS, ROUTERS, SOFT, experts_along, house_style, legend_below, losses_along, panels, sizes_along
from fit.design.answer import Answer, solve
from fit.design.search import Space, space

_AROUND = 4.0
"""How many times beyond the band the plane is drawn."""

_SIZES = 90
"""Points along N_a."""

_BUDGETS = 17
"""Points of the frontier, over two decades to either side."""


@house_style()
def loss_plane(answers: Sequence[Answer]) -> Figure:
    """Loss over E, or over G where E is the law's own, and N_a: a panel a law."""
    figure, axes = panels(len(answers), share_x=False, share_y=True, keys=4)
    for ax, one in zip(axes, answers, strict=True):
        _plane(ax, one)
    for ax in axes[1:]:
        ax.set_ylabel("")
    handles = (
        Line2D([], [], color=SOFT, label="equal loss"),
        Patch(color=ROUTERS[0], alpha=0.35, label="as good as the best"),
        Line2D([], [], color=ROUTERS[1], marker=MARKERS[0], linestyle="", label="best"),
        Line2D([], [], color=INK, linewidth=2, label="limit"),
    )
    legend_below(figure, handles)
    return figure


def _grid(one: Answer) -> tuple[Float[np.ndarray, "values"], Float[np.ndarray, "sizes"], Space]:
    """Values along x, sizes along y, and a cell for each pair, x outermost."""
    best, band = one.best, one.band
    assert best is not None
    assert band is not None
    n = np.geomspace(band.active[0] / _AROUND, band.active[1] * _AROUND, _SIZES)
    tried = space(one.question, one.predictor)
    if one.across == "E":
        x = np.unique(tried.e)
        x = x[(x >= band.experts[0] / _AROUND) & (x <= band.experts[1] * _AROUND)]
        e, g = np.repeat(x, _SIZES), np.full(len(x) * _SIZES, best.granularity)
    else:
        x = np.unique(tried.g)
        x = x[(x >= band.granularity[0] / _AROUND) & (x <= band.granularity[1] * _AROUND)]
        # Lines of equal loss are smooth in G, of which powers of two alone are tried.
        x = np.geomspace(x[0], x[-1], _SIZES // 2)
        e, g = np.full(len(x) * _SIZES, best.experts), np.repeat(x, _SIZES)
    return x, n, Space(one.question, one.predictor, e, g)


def _plane(ax: Axes, one: Answer) -> None:
    best, band, predictor = one.best, one.band, one.predictor
    assert best is not None
    assert band is not None
    x, n, cells = _grid(one)
    log_n = np.tile(np.log(n), len(x))
    allowed = cells.allows(log_n) & (cells.tokens(log_n) > 0)
    losses = np.where(allowed, cells.loss(log_n, predictor.theta, predictor.beta), np.nan).reshape(len(x), len(n)).T
    steps = best.loss.value * (1 + np.array([0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16]))
    if np.isfinite(losses).any() and min(losses.shape) > 1:
        ax.contourf(x, n, losses, levels=[0, band.threshold], colors=[ROUTERS[0]], alpha=0.35)
        lines = ax.contour(x, n, losses, levels=steps, colors=[SOFT], linewidths=0.8)
        # The innermost lie too close together for labels.
        ax.clabel(lines, levels=steps[2:], fmt="%.3g", fontsize=7)
    each = Space(one.question, predictor, x, np.full_like(x, best.granularity)) if one.across == "E" else None
    edge = each if each is not None else Space(one.question, predictor, np.full_like(x, best.experts), x)
    ends = np.exp(edge.largest)
    ax.plot(x, np.where(ends < 1e14, ends, np.nan), color=INK, linewidth=2)
    marked = best.experts if one.across == "E" else best.granularity
    ax.plot([marked], [best.active], MARKERS[0], color=ROUTERS[1], markersize=6)
    ax.set_title(predictor.name)
    ax.set_ylim(n[0], n[-1])
    powers = 2.0 ** np.arange(np.floor(np.log2(x[0])), np.ceil(np.log2(x[-1])) + 1)
    ax.set_xlim(x[0], x[-1])
    experts_along(ax, "x", powers.tolist(), "number of experts E" if one.across == "E" else "granularity G")
    sizes_along(ax, "y", "active parameters")


@house_style()
def frontier(answers: Sequence[Answer]) -> Figure:
    """The least loss of each law against the training budget, other limits alike."""
    shown = [one for one in answers if one.best is not None and one.question.flops is not None]
    figure, (ax,) = panels(1, keys=len(shown), right=0.3)
    for k, one in enumerate(shown):
        best = one.best
        assert best is not None
        flops = (one.question.flops or 1.0) * np.logspace(-2, 2, _BUDGETS)
        found = [solve(replace(one.question, flops=float(each)), one.predictor) for each in flops]
        losses = [np.nan if each is None else each.loss for each in found]
        ax.plot(flops, losses, color=ROUTERS[k % len(ROUTERS)], label=one.predictor.name)
        ax.plot([one.question.flops or 1.0], [best.loss.value], MARKERS[k % len(MARKERS)], color=ROUTERS[k % len(ROUTERS)], markersize=6)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("training FLOPs")
    losses_along(ax, "least loss (nats per token)")
    legend_below(figure, ax.get_lines()[::2])
    return figure
