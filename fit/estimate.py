"""A figure with its interval and what the interval is worth: one status, made in one place, by which everything downstream prints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


class Status(StrEnum):
    """What an interval is worth."""

    OK = "ok"
    OPEN = "open"
    """No limit on one side: the end on that side is infinite."""
    NOT_IDENTIFIED = "not identified"
    """The runs do not determine the figure: the law is not identified, too many resamples do not identify it or never ended, or the
    interval would span more than six decades."""
    TOO_FEW_DRAWS = "too few draws"
    """The level asks for quantiles beyond the draws."""
    NO_DEGREES = "no degrees of freedom"
    """As many parameters as runs: nothing is known of the noise."""
    NOT_ASKED = "no interval"
    """No draws were asked for."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    `low` and `high` are None unless the status is ok or open; then low <= value <= high. `se`: standard error by the delta method, None
    where there is none. `distance`: how many times outside the runs the figure is asked for or lies, 1 within them.
    """

    value: float
    low: float | None = None
    high: float | None = None
    status: Status = Status.NOT_ASKED
    unit: str = ""
    se: float | None = None
    distance: float = 1.0

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def extrapolated(self) -> bool:
        """Whether the figure is outside the runs."""
        return self.distance > 1

    @property
    def sign(self) -> int:
        """+1 or -1 where the whole interval is on that side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @property
    def spread(self) -> float:
        """Ratio of the interval's ends, for a positive figure; infinite without an interval."""
        if self.low is None or self.high is None or not self.low > 0:
            return math.inf
        return self.high / self.low

    def scaled(self, factor: float, unit: str = "") -> "Estimate":
        """The figure in another unit: value and ends times `factor`, a positive number."""
        low, high, se = (None if end is None else end * factor for end in (self.low, self.high, self.se))
        return Estimate(self.value * factor, low, high, self.status, unit, se, self.distance)


def figure_cells(figure: Estimate) -> dict[str, Any]:
    """The columns of a figure in a table."""
    return {
        "value": figure.value, "low": figure.low, "high": figure.high, "status": str(figure.status), "se": figure.se, "unit": figure.unit,
        "distance": figure.distance,
    }  # fmt: skip


def frame(rows: Sequence[Mapping[str, Any]]) -> "pl.DataFrame":
    """Rows as a data frame; polars takes 0.3 s to import, so that it is loaded here."""
    import polars as pl

    return pl.DataFrame(list(rows), infer_schema_length=None)
