"""The figures of `docs/small_runs.md` that no report has: both sets of runs on one axis of N."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from benchmarks.small_runs.sources import ROUTERS, Scale, loss_at
from common.plots import INK, MARKERS, house_style, losses_along, outer_labels, panels, sizes_along
from common.plots import ROUTERS as COLOURS
from fit.laws import DENSE, DENSE_FLOOR

EXPERTS = (8.0, 64.0)


@house_style()
def gain_by_size(scales: Sequence[Scale]) -> Figure:
    """What experts take off ln L, by N: a panel per number of experts, small runs to the left, released ones to the right."""
    figure, axes = panels(len(EXPERTS), height=3.6)
    sizes = np.concatenate([scale.sizes() for scale in scales])
    for ax, experts in zip(axes, EXPERTS, strict=True):
        for k, router in enumerate(ROUTERS):
            for scale in scales:
                n = np.array(scale.sizes())
                dense, routed = (np.array([loss_at(scale.runs, router, size, e) for size in scale.sizes()]) for e in (1.0, experts))
                gain = np.log(dense / routed)
                there = np.isfinite(gain)
                label = router if scale is scales[0] else None
                ax.plot(n[there], gain[there], f"{MARKERS[k]}-", color=COLOURS[k], label=label, linewidth=0.9)
        ax.axhline(0.0, color=INK, linewidth=0.8, linestyle=":")
        ax.set_title(f"E = {experts:g}")
        ax.set_xlim(sizes.min() / 1.8, sizes.max() * 1.8)
        sizes_along(ax, "x", "dense size N (parameters)")
        ax.set_ylabel("ln L(dense) - ln L(routed)")
    axes[0].legend(loc="lower left")
    outer_labels(axes)
    return figure


@house_style()
def dense_by_size(scales: Sequence[Scale]) -> Figure:
    """Dense losses of each set of runs, with the power law fitted to them, dotted, and the one with a floor."""
    figure, axes = panels(len(scales), height=3.4, share_x=False, share_y=False)
    for ax, scale in zip(axes, scales, strict=True):
        runs = scale.dense().runs
        n = runs.numeric("dense_parameter_count")
        line = np.geomspace(n.min(), n.max(), 80)
        for law, style, label in ((DENSE, ":", "power law"), (DENSE_FLOOR, "-", "with a floor")):
            fitted = 10 ** scale.dense(law.name).fit.log10_loss({"dense_parameter_count": line})
            ax.plot(line, fitted, style, color=INK, linewidth=0.9, label=label)
        ax.plot(n, runs.loss, MARKERS[0], color=COLOURS[0])
        ax.set_title(scale.name)
        ax.set_xlim(n.min() / 1.4, n.max() * 1.4)
        sizes_along(ax, "x", "N (parameters)")
        losses_along(ax, "dense loss (nats per token)")
    axes[0].legend(loc="upper right")
    return figure
