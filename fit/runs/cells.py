"""Cells as numbers: `10M`, `1.5B`, `1,000,000` and `18.9 M` beside `1e7`."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

_WRITTEN = re.compile(
    r"([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(thousand|million|billion|trillion|[kmbgt])?", re.IGNORECASE
)
UNITS = {"k": 3, "thousand": 3, "m": 6, "million": 6, "b": 9, "g": 9, "billion": 9, "t": 12, "trillion": 12}
"""Units of cells and headers, as powers of ten."""


def parsed(text: str) -> float | None:
    """The number that a cell says: plain, with commas between thousands, or with a unit such as k, M, B, T or `million`; else None."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or not (digits := found[1].replace(",", "")):
        return None
    power = UNITS[found[2].lower()] if found[2] else 0
    try:
        return float(digits) * 10.0**power if "e" in digits.lower() else float(f"{digits}e{power}")
    except ValueError:
        return None


def as_numbers(cells: pl.Series) -> pl.Series:
    """The cells as Float64: null where they are empty or say no number."""
    numbers = cells.cast(pl.Float64, strict=False)
    if cells.dtype != pl.String or numbers.null_count() == cells.null_count():
        return numbers
    odd = cells.filter(numbers.is_null() & cells.is_not_null()).unique().to_list()
    read = {text: value for text in odd if (value := parsed(text)) is not None}
    if not read:
        return numbers
    return numbers.fill_null(cells.replace_strict(list(read), list(read.values()), default=None, return_dtype=pl.Float64))


@dataclass(frozen=True)
class Cells:
    """A column as it stands, read as numbers or as text, whichever is asked for."""

    series: pl.Series

    @cached_property
    def numbers(self) -> Float[np.ndarray, "rows"]:
        """The numbers; NaN where a cell is empty or says none."""
        return np.array(as_numbers(self.series).fill_null(np.nan).to_numpy(), dtype=np.float64)

    @cached_property
    def texts(self) -> Shaped[np.ndarray, "rows"]:
        """The cells as text, empty ones as ""."""
        return np.array(self.series.cast(pl.String).fill_null("").to_list(), dtype=np.str_)

    @cached_property
    def has_numbers(self) -> bool:
        """Whether any cell says a number."""
        return bool(np.isfinite(self.numbers).any())

    @property
    def is_text(self) -> bool:
        """Whether the cells are text as they stand, which may say numbers."""
        return self.series.dtype == pl.String

    @cached_property
    def has_texts(self) -> bool:
        """Whether any filled cell says no number."""
        return self.is_text and bool((as_numbers(self.series).is_null() & self.series.is_not_null()).any())
