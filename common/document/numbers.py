"""Numbers as people read them: as many digits as their interval warrants. Rounding happens here and nowhere else."""

import math
from collections.abc import Iterable, Sequence
from functools import partial

_MOST_DECIMALS = 9
_MOST_DIGITS = 6
"""Significant digits of a figure at most: beyond, a narrow interval tells of runs without noise alone."""

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SHORT_BELOW = 9.995e14
"""Counts from here on have no letter that people read; they are written as powers of ten."""


def count(n: float, digits: int = 0) -> str:
    """A number of parameters (or FLOPs, or the like): 5M, 16.5M, 1.31B, 6.8e18; `inf` for infinity, `none` for NaN.

    With `digits`, so many significant ones, zeros at the end included; without, up to three.
    """
    if not math.isfinite(n):
        return _not_finite(n)
    if 0 < abs(n) < 10.0**-_MOST_DECIMALS:
        return f"{n:.{digits or 3}g}"
    if abs(n) >= _SHORT_BELOW:
        mantissa, _, exponent = f"{n:.{max(digits, 2) - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    scale, letter = next(((x, c) for x, c in _UNITS if abs(n) >= x * 0.9995), (1.0, ""))
    if not digits:
        return f"{n / scale:.3g}{letter}"
    places = max(0, digits - 1 - math.floor(math.log10(max(abs(n / scale), 1e-9))))
    return f"{n / scale:.{min(places, _MOST_DECIMALS)}f}{letter}"


def plain(x: float, places: int | None = None) -> str:
    """A number at so many decimals; at four significant digits where none are given or they would be very many."""
    if not math.isfinite(x):
        return _not_finite(x)
    if places is None or places > _MOST_DECIMALS:
        return f"{x:.4g}"
    text = f"{x:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def percent(fraction: float, places: int = 2) -> str:
    """`0.52%`; `none` for NaN."""
    return f"{100 * fraction:.{places}f}%" if math.isfinite(fraction) else _not_finite(fraction)


def decimals(half: float, value: float = 0.0) -> int | None:
    """Decimals at which half an interval's width has two significant digits, and `value` six at most; None without a width."""
    if not (math.isfinite(half) and half > 0):
        return None
    places = 1 - math.floor(math.log10(half))
    most = _MOST_DIGITS - 1 - math.floor(math.log10(abs(value))) if math.isfinite(value) and value else places
    return max(0, min(places, most))


def interval(value: float, low: float, high: float, *, counted: bool = False, limit: float = math.inf) -> str:
    """`-0.0838 [-0.0892, -0.0800]`, `3.86B [3.40B, 4.45B]` where `counted`, `12 [4, open above]` where an end is infinite.

    An upper end above `limit` is written as `>` and the limit: digits there would mean nothing. An interval too narrow to be told from
    its value is left out.
    """
    half = (high - low) / 2 if math.isfinite(high - low) else high - value if math.isfinite(high) else value - low
    places = decimals(half, max(value, high if math.isfinite(high) else value, low if math.isfinite(low) else value, key=abs))
    digits = 3 if places is None or not value > 0 else min(_MOST_DIGITS, max(3, 1 - math.floor(math.log10(half / value))))
    text = partial(count, digits=digits) if counted else partial(plain, places=places)
    if text(low) == text(value) == text(high):
        return text(value)
    above = "open above" if math.isinf(high) else f">{count(limit)}" if high > limit else text(high)
    return f"{text(value)} [{'open below' if math.isinf(low) else text(low)}, {above}]"


def listing(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items: Sequence[str] = list(words)
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def many(number: int, what: str) -> str:
    """`1 run`, `61 runs`, `1,000 draws`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _not_finite(x: float) -> str:
    return "none" if math.isnan(x) else "inf" if x > 0 else "-inf"
