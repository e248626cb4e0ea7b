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

ORDERED = (
    "#482475", "#433b82", "#3c508a", "#33648d", "#2b768e", "#24888d",
    "#219989", "#25a880", "#3ea462", "#5a9e40", "#76971f", "#8f9000",
)  # fmt: skip
"""An ordered scale, from small to large: viridis up to its green, then darker than viridis so that it stands out from white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

DARK = {
    INK: "#e4e7eb", SOFT: "#a3abb5", GRID: "#343a42", PAPER: "#15181c",
    "#0072b2": "#56b4e9", "#d55e00": "#f08a3c", "#00855f": "#2fc595", "#a8518a": "#dd8fbf", "#7a6a00": "#d9c84a", "#5b5bb5": "#a3a3f0",
    "#482475": "#a98ae0", "#433b82": "#9592e6", "#3c508a": "#7f9de4", "#33648d": "#68a8dc", "#2b768e": "#52b2ce", "#24888d": "#47c0c4",
    "#219989": "#47ccb9", "#25a880": "#53d6ab", "#3ea462": "#75da91", "#5a9e40": "#9adc6e", "#76971f": "#c1dc50", "#8f9000": "#e6dc3c",
}  # fmt: skip
"""Every colour of a figure, and its counterpart on a dark page."""


def ordered(number: int) -> tuple[str, ...]:
    """So many colours along the ordered scale, evenly spread; they repeat beyond the scale's twelve."""
    if number > len(ORDERED):
        return tuple(ORDERED[k * len(ORDERED) // number] for k in range(number))
    step = (len(ORDERED) - 1) / max(1, number - 1)
    return tuple(ORDERED[round(k * step)] for k in range(number))
