"""Whether residuals are wider at one end of a column than at the other, and by how much.

The test is Koenker's (1981) of equal spread, as an F test: squares of the residuals regressed on the column's logarithm. The spread itself
is a power of the column, variance = exp(c + 2 slope ln x), by maximum likelihood (Harvey 1976).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from fit.uncertainty.distributions import f_tail

UNEVEN, TIMES = 0.05, 1.5
"""Residuals are called uneven where the test of equal spread has a smaller p, and they are so many times wider at one end (our choice).

A missed spread costs more than a false one: under equal spread wild draws were measured to cover as often as residuals with intervals 4 %
longer, and a spread of 2 times over 61 runs is found by 0.05 in 57 % of simulations, by 0.01 in 22 %.
"""


@dataclass(frozen=True, eq=False)
class Spread:
    """The residuals' standard deviation as a power of a column, relative to their root mean square.

    `low` and `high` are the ends of the column's logarithm among the runs, `level` the logarithm of the standard deviation at 0 on that
    scale, `p` that of the test of equal spread.
    """

    column: str
    p: float
    slope: float
    level: float
    low: float
    high: float

    @property
    def times(self) -> float:
        """How many times wider residuals are at the column's large end than at its small one."""
        return float(np.exp(self.slope * (self.high - self.low)))

    @property
    def uneven(self) -> bool:
        """Whether the spread is called uneven."""
        return self.p < UNEVEN and max(self.times, 1 / self.times) > TIMES

    def at(self, data: Mapping[str, Shaped[np.ndarray, "points"]]) -> Float[np.ndarray, "points"]:
        """The standard deviation relative to the residuals' root mean square; beyond the runs what it is at their end."""
        return np.exp(self.level + self.slope * np.clip(np.log(np.real(data[self.column])), self.low, self.high))


def spreads(data: Mapping[str, Shaped[np.ndarray, "runs"]], raised: Float[np.ndarray, "runs"]) -> tuple[Spread, ...]:
    """The spread along each column that varies; `raised` are residuals raised for what the fit hides of them."""
    squares = raised**2 / max(float(np.mean(raised**2)), 1e-300)
    total, freedom = float(np.sum((squares - squares.mean()) ** 2)), len(raised) - 2
    found: list[Spread] = []
    for name, column in data.items():
        logs = np.log(np.real(column))
        x = logs - logs.mean()
        if freedom < 1 or total <= 0 or not np.any(x):
            continue
        explained = float(x @ squares) ** 2 / float(x @ x)
        p = f_tail(explained / max((total - explained) / freedom, 1e-300), 1, freedom)
        level, slope = _power(x, squares)
        found.append(Spread(name, p, slope, level - slope * float(logs.mean()), float(logs.min()), float(logs.max())))
    return tuple(found)


def clearest(found: tuple[Spread, ...]) -> Spread | None:
    """The uneven spread with the smallest p; None where all are even."""
    return min((one for one in found if one.uneven), key=lambda one: one.p, default=None)


def _power(x: Float[np.ndarray, "runs"], squares: Float[np.ndarray, "runs"]) -> tuple[float, float]:
    """Level and slope of ln SD = level + slope x, by Fisher scoring; `x` has mean 0.

    A step changes no run's variance more than e-fold, so that none overshoots.
    """
    level = slope = 0.0
    for _ in range(100):
        excess = squares / np.exp(2 * (level + slope * x)) - 1
        up, along = float(np.mean(excess)) / 2, float(x @ excess / (x @ x)) / 2
        part = min(1.0, 0.5 / max(abs(up) + abs(along) * float(np.abs(x).max()), 1e-300))
        level, slope = level + part * up, slope + part * along
        if abs(up) + abs(along) * float(np.abs(x).max()) < 1e-10:
            break
    return level, slope
