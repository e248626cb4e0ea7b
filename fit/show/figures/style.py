"""How every figure looks, and how it becomes SVG: the same figure gives the same bytes.

Matplotlib is imported here and in the other modules of this package, and this package only where a figure is drawn: a fit without
a written report never pays for it. Figures are made with matplotlib's objects; pyplot and its global state are not touched.
"""

import io
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from fit.show.display import count
from fit.show.render.palette import GRID, INK, PAPER, SOFT

_SETTINGS: Mapping[Any, Any] = {
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "figure.edgecolor": PAPER,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.edgecolor": GRID,
    "legend.facecolor": PAPER,
    "legend.fontsize": 8,
    "legend.framealpha": 1,
    "legend.labelcolor": INK,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "routelaw",
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}

MOST_PANELS = 3
"""Panels beside each other; more go below."""


@contextmanager
def house_style() -> Generator[None, None, None]:
    """Our settings on top of matplotlib's defaults, whatever the user's own are; these are back afterwards. Also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def panels(
    number: int, height: float = 3.3, width: float = 9.6, *, share_x: bool = True, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, three abreast, and their axes; `width` and `height` (of a row of panels) in inches."""
    across = min(number, MOST_PANELS)
    down = math.ceil(number / across)
    if across == 1:
        width = min(width, 6.4)
    figure = Figure(figsize=(width, height * down), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(down, across, sharex=share_x, sharey=share_y, squeeze=False)
    axes = [ax for row in grid.tolist() for ax in row]
    for spare in axes[number:]:
        spare.set_visible(False)
    return figure, axes[:number]


def to_svg(figure: Figure) -> str:
    """The figure as an SVG file with selectable text. No date, no random ids."""
    buffer = io.BytesIO()
    with house_style():
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8").replace("\r\n", "\n")


def to_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with house_style():
        figure.set_dpi(dots_per_inch)
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def sizes_along(ax: Axes, which: str, label: str) -> None:
    """A log axis (`x` or `y`) of parameter counts, with ticks such as 20M, 50M, 100M, 1B."""
    _log_axis(ax, which, label)
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 4.5 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def experts_along(ax: Axes, which: str, values: Sequence[float], label: str = "experts E per routed layer") -> None:
    """A log axis of expert counts, with a tick at each of `values`; at every second one where they are many."""
    _log_axis(ax, which, label)
    axis = ax.xaxis if which == "x" else ax.yaxis
    shown = list(values) if len(values) <= 7 else list(values)[:: math.ceil(len(values) / 6)]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def losses_along(ax: Axes, label: str = "loss (nats per token)") -> None:
    """A log y axis of losses, with plain ticks."""
    _log_axis(ax, "y", label)
    low, high = ax.get_ylim()
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, math.inf) if (high - low) / step <= 8)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step if math.isfinite(step) else np.array([low, high])
    ax.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _log_axis(ax: Axes, which: str, label: str) -> None:
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    if which == "x":
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.set_xlabel(label)
    else:
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        ax.set_ylabel(label)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def padded(values: Float[np.ndarray, "values"], share: float = 0.06) -> tuple[float, float]:
    """Limits of a log axis around positive `values`, with a margin of `share` of their span in the log."""
    low, high = float(values.min()), float(values.max())
    margin = (high / low) ** share if high > low else 1.2
    return low / margin, high * margin


def outer_labels(axes: Sequence[Axes]) -> None:
    """Keep axis labels at the left and the bottom of a grid of panels only."""
    across = min(len(axes), MOST_PANELS)
    for k, ax in enumerate(axes):
        if k % across:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        lowest = k + across >= len(axes)
        if not lowest:
            ax.set_xlabel("")
        ax.tick_params(labelbottom=lowest)
