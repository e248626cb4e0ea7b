"""Numbers as people read them: as many digits as their interval warrants. Rounding happens here and nowhere else."""

import math
from collections.abc import Iterable

from fit.analysis import Estimate, short_count

FAR = "†"
"""Marks a figure that lies outside the data."""

_COUNTED = frozenset({"parameters", "FLOPs"})
"""Units of figures that span powers of ten: written 3.86B, not 3857091077."""

_MOST_DECIMALS = 9
_SHORT_BELOW = 9.995e14
"""Counts from here on have no letter that people read; they are written as powers of ten."""


def count(n: float, digits: int = 0) -> str:
    """A number of parameters (or FLOPs, or the like): 5M, 16.5M, 1.31B, 6.8e18; `inf` for infinity, `none` for NaN.

    With `digits`, so many significant ones, noughts at the end included.
    """
    if not math.isfinite(n):
        return _not_finite(n)
    if abs(n) >= _SHORT_BELOW:
        mantissa, _, exponent = f"{n:.{max(digits, 2) - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if not digits:
        return short_count(n)
    scale, letter = next(((x, c) for x, c in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(n) >= x * 0.9995), (1.0, ""))
    places = max(0, digits - 1 - math.floor(math.log10(max(abs(n / scale), 1e-9))))
    return f"{n / scale:.{min(places, _MOST_DECIMALS)}f}{letter}"


def _not_finite(x: float) -> str:
    return "none" if math.isnan(x) else "inf" if x > 0 else "-inf"


def decimals(low: float, high: float) -> int | None:
    """Decimals at which half the interval's width has two significant digits; None where there is no width to go by."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    return max(0, 1 - math.floor(math.log10(half)))


def plain(x: float, places: int | None = None) -> str:
    """A number at so many decimals; at four significant digits where none are given or they would be very many."""
    if not math.isfinite(x):
        return _not_finite(x)
    if places is None or places > _MOST_DECIMALS:
        return f"{x:.4g}"
    text = f"{x:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_interval(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """`-0.0838 [-0.0892, -0.0800]`, or `3.86B [3.40B, 4.45B]` for a count; the value alone where there is no interval.

    An interval of NaN is one that too few draws gave; its absence is explained by the fit's own warnings.
    """
    if low is None or high is None or (math.isnan(low) and math.isnan(high)):
        return count(value) if unit in _COUNTED else plain(value)
    if unit in _COUNTED:
        digits = _count_digits(value, low, high)
        return f"{count(value, digits)} [{count(low, digits)}, {count(high, digits)}]"
    places = decimals(low, high)
    return f"{plain(value, places)} [{plain(low, places)}, {plain(high, places)}]"


def _count_digits(value: float, low: float, high: float) -> int:
    """Three significant digits, and more where the interval is so narrow that its ends would look alike."""
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0 and math.isfinite(value) and value > 0):
        return 3
    return min(12, max(3, 1 - math.floor(math.log10(half / value))))


def estimate(figure: Estimate | None) -> str:
    """An estimate as a table's cell, marked where it is extrapolated; empty for None."""
    if figure is None:
        return ""
    text = with_interval(figure.value, figure.low, figure.high, figure.unit)
    return f"{text} {FAR}" if figure.extrapolated else text


def listing(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def many(number: int, what: str) -> str:
    """`1 run`, `61 runs`, `1,000 draws`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def percent(fraction: float) -> str:
    """`95%`, `99.5%`."""
    return f"{100 * fraction:g}%"
