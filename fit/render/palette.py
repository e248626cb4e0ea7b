"""Colours of figures, told apart by people who confuse hues, and what becomes of each on a dark page.

Routers: the blue, vermilion, green and purple of Okabe and Ito (2008). Sizes and expert counts: an ordered scale cut from viridis, without
its ends, which vanish on white or on black. Markers differ wherever colours do.
"""

INK = "#1b1e23"
SOFT = "#5c646e"
GRID = "#dfe3e8"
PAPER = "#ffffff"

ROUTERS = ("#0072b2", "#d55e00", "#00855f", "#a8518a", "#7a6a00", "#5b5bb5")
"""One per router, in order; of Okabe and Ito's the green and the purple darkened so that all stand out from white."""

ORDERED = ("#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44a35a", "#6d9a2b", "#8f9000")
"""An ordered scale, from small to large: viridis up to its green, then darker than viridis so that it stands out from white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

DARK = {
    INK: "#e4e7eb", SOFT: "#a3abb5", GRID: "#343a42", PAPER: "#15181c",
    "#0072b2": "#56b4e9", "#d55e00": "#f08a3c", "#00855f": "#2fc595", "#a8518a": "#dd8fbf", "#7a6a00": "#d9c84a", "#5b5bb5": "#a3a3f0",
    "#482475": "#a98ae0", "#414487": "#8d95e8", "#355f8d": "#6ea6e0", "#2a788e": "#4fb3cc", "#21918c": "#43c7bf", "#22a884": "#4fd6ae",
    "#44a35a": "#7ddb8a", "#6d9a2b": "#b3dc57", "#8f9000": "#e6dc3c",
}  # fmt: skip
"""Every colour of a figure, and its counterpart on a dark page."""


def ordered(number: int) -> tuple[str, ...]:
    """So many colours along the ordered scale, evenly spread; they repeat beyond the scale's nine."""
    if number > len(ORDERED):
        return tuple(ORDERED[k * len(ORDERED) // number] for k in range(number))
    step = (len(ORDERED) - 1) / max(1, number - 1)
    return tuple(ORDERED[round(k * step)] for k in range(number))
