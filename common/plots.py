"""How figures look, and how they become files: one style, one palette, and the same figure gives the same bytes.

Routers and laws have a colour and a marker each, so that people who confuse hues, and printers without colour, tell them apart. A figure
is drawn on light `PAPER`, its axes transparent, so that as a file it can lie on any page. A page that can be dark, such as our HTML,
replaces each colour there by its counterpart in `DARK`, which has every colour of a figure; printed, figures stay as they were drawn.

Importing this imports matplotlib: do it where a figure is drawn. Figures are made of matplotlib's objects; pyplot is not touched.
"""

import io
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from common.document.numbers import count

INK, SOFT, GRID, PAPER = "#1b1e23", "#5c646e", "#dfe3e8", "#ffffff"

ROUTERS = ("#0072b2", "#d55e00", "#00855f", "#a8518a", "#7a6a00", "#5b5bb5")
"""One per router or law, in order: of Okabe and Ito (2008), the green and the purple darkened so that all stand out from white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

DARK = {
    INK: "#e4e7eb", SOFT: "#a3abb5", GRID: "#343a42", PAPER: "#15181c",
    "#0072b2": "#56b4e9", "#d55e00": "#f08a3c", "#00855f": "#2fc595", "#a8518a": "#dd8fbf", "#7a6a00": "#d9c84a", "#5b5bb5": "#a3a3f0",
}  # fmt: skip
"""Every colour of a figure, and its counterpart on a dark page."""

_SETTINGS: Mapping[Any, Any] = {
    "axes.edgecolor": SOFT, "axes.facecolor": "none", "axes.grid": True, "axes.labelcolor": INK, "axes.labelsize": 9, "axes.linewidth": 0.8,
    "axes.spines.right": False, "axes.spines.top": False, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlesize": 10,
    "axes.titleweight": "bold", "figure.facecolor": PAPER, "figure.edgecolor": PAPER, "font.size": 9, "grid.color": GRID,
    "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8, "legend.labelcolor": INK, "legend.title_fontsize": 8,
    "lines.linewidth": 1.4, "lines.markersize": 4, "savefig.facecolor": "auto", "svg.fonttype": "none", "svg.hashsalt": "routelaw",
    "text.color": INK, "xtick.color": SOFT, "xtick.labelcolor": INK, "xtick.labelsize": 8, "ytick.color": SOFT, "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}  # fmt: skip

MOST_PANELS = 3
"""Panels beside each other; more go below."""

_KEYS = 6
"""Entries of a legend beside each other."""

Share = bool | Literal["row", "col"]


@contextmanager
def house_style() -> Generator[None, None, None]:
    """Our settings on top of matplotlib's defaults, whatever the user's own are; these are back afterwards. Also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def panels(
    number: int, height: float = 3.3, width: float = 9.6, *, across: int = MOST_PANELS, share_x: Share = True, share_y: Share = True,
    keys: int = 0, right: float = 0.1,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with so many panels, `across` abreast, and their axes; `width` and `height` (of a row of panels) in inches.

    Room for titles and labels is fixed, since to measure them takes as long as to draw the rest: `keys` entries of a legend have room
    below all panels, labels of lines `right` inches beside each.
    """
    across = min(number, across)
    down = math.ceil(number / across)
    wide, high = width if across > 1 else min(width, 6.4), height * down
    figure = Figure(figsize=(wide, high))
    FigureCanvasSVG(figure)
    bottom, between = 0.62 + (0.1 + 0.17 * math.ceil(keys / _KEYS) if keys else 0), 0.42 if share_x in (True, "col") else 0.85
    beside = right + (0.12 if share_y in (True, "row") else 0.62)
    room = {"left": 0.68 / wide, "right": 1 - right / wide, "bottom": bottom / high, "top": 1 - 0.42 / high}
    inner = (wide - 0.68 - right - (across - 1) * beside) / across, (high - 0.42 - bottom - (down - 1) * between) / down
    room |= {"wspace": beside / inner[0], "hspace": between / inner[1]}
    grid = figure.subplots(down, across, sharex=share_x, sharey=share_y, squeeze=False, gridspec_kw=room)
    axes = [ax for row in grid.tolist() for ax in row]
    for spare in axes[number:]:
        spare.set_visible(False)
    return figure, axes[:number]


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below all panels; `panels` leaves room for it by the number of its `keys`."""
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), _KEYS), borderaxespad=0.2)


def to_svg(figure: Figure) -> str:
    """The figure as an SVG file with selectable text. No date, no random ids."""
    buffer = io.BytesIO()
    with house_style():
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8").replace("\r\n", "\n")


def sizes_along(ax: Axes, which: str, label: str) -> None:
    """A log axis (`x` or `y`) of counts, with ticks such as 20M, 50M, 100M, 1B."""
    axis, low, high = _log_axis(ax, which, label)
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.4 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value).replace(".0e", "e")))


def experts_along(ax: Axes, which: str, values: Sequence[float], label: str = "number of experts E") -> None:
    """A log axis of expert counts, with a tick at each of `values`; at every second one where they are many."""
    axis, _, _ = _log_axis(ax, which, label)
    axis.set_major_locator(FixedLocator(list(values)[:: math.ceil(len(values) / 7)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def losses_along(ax: Axes, label: str) -> None:
    """A log y axis of losses, with plain ticks."""
    axis, low, high = _log_axis(ax, "y", label)
    step = next(step for step in (m * 10.0**k for k in range(-4, 9) for m in (1, 2, 5)) if (high - low) / step <= 8)
    axis.set_major_locator(FixedLocator((np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step).tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def percent_along(ax: Axes, label: str) -> None:
    """A y axis of signed differences: +1, 0, -1, with a line at zero."""
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_ylabel(label)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", "\u2212") if value else "0"))


def _log_axis(ax: Axes, which: str, label: str) -> tuple[Axis, float, float]:
    """A log axis without minor ticks, and its limits."""
    ax.set(**{f"{which}scale": "log", f"{which}label": label})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_minor_locator(NullLocator())
    return axis, *(ax.get_xlim() if which == "x" else ax.get_ylim())


def outer_labels(axes: Sequence[Axes], across: int = MOST_PANELS) -> None:
    """Keep axis labels, and ticks' labels, at the left and the bottom of a grid of panels that share their axes."""
    for k, ax in enumerate(axes):
        if k % across:
            ax.set_ylabel("")
        if k + across < len(axes):
            ax.set_xlabel("")
        ax.tick_params(labelleft=not k % across, labelbottom=k + across >= len(axes))


def curve(ax: Axes, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], within: Bool[np.ndarray, "n"], **line: Any) -> None:
    """A line: solid within the data, dashed beyond, from the last point within on; `line` is matplotlib's."""
    beyond = ~within | np.append(~within[1:], False) | np.append(False, ~within[:-1])
    for part, dash in ((within, "-"), (beyond, (0, (4, 2.5)))):
        ax.plot(x, np.where(part, y, np.nan), linestyle=dash, **line)


def band(ax: Axes, x: Float[np.ndarray, "n"], low: Float[np.ndarray, "n"], high: Float[np.ndarray, "n"], colour: str, alpha: float) -> None:
    """A filled interval on log axes, which does not move their limits: an open end is cut by the frame. Nothing where an end is NaN."""
    there = ~np.isnan(low) & ~np.isnan(high)
    x, low, high = x[there], *(np.clip(end[there], 1e-30, 1e30) for end in (low, high))
    outline = np.column_stack([np.append(x, x[::-1]), np.append(low, high[::-1])])
    ax.add_collection(PolyCollection([outline] if there.any() else [], color=colour, alpha=alpha, linewidth=0), autolim=False)


def edge(ax: Axes, x: float) -> None:
    """Where the data end."""
    ax.axvline(x, color=SOFT, linewidth=0.8, linestyle=":")
    place: Any = {"xycoords": ax.get_xaxis_transform(), "xytext": (3, 0), "textcoords": "offset points", "va": "top", "rotation": 90}
    ax.annotate("extrapolated", (x, 0.98), fontsize=7.5, color=SOFT, bbox={"color": PAPER, "alpha": 0.7, "pad": 0.5}, **place)


def label_lines(ax: Axes, ends: Sequence[tuple[float, str]], colour: str | Sequence[str], *, right: bool) -> None:
    """The name of each line at its y, right of the panel or at the left inside; of those too close (log axis) the later ones have none.

    `colour`: one, or one for each line.
    """
    taken: list[float] = []
    colours = [colour] * len(ends) if isinstance(colour, str) else colour
    for (y, text), own in zip(ends, colours, strict=True):
        place = math.log(y / ax.get_ylim()[0]) / math.log(ax.get_ylim()[1] / ax.get_ylim()[0])
        if all(abs(place - other) > 0.04 for other in taken):
            ax.text(1.01 if right else 0.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7.5, color=own)
            taken.append(place)
