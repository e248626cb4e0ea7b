"""Records of a batch of fits: dataclasses whose arrays all have one row a fit."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

Picked = Int[np.ndarray, "picked"] | Bool[np.ndarray, "batch"] | slice
"""Some fits of a batch."""

Thetas = Float[np.ndarray, "batch shapes"]
"""Shape parameters, a row a fit."""

Betas = Float[np.ndarray, "batch features"]
"""Coefficients, a row a fit."""

PerRun = Float[np.ndarray, "batch runs"]
"""A figure for every run of every fit."""

PerFit = Float[np.ndarray, "batch"]
"""A figure for every fit."""

Own = TypeVar("Own", bound="Rows")


class Rows:
    """A dataclass of arrays with one row a fit."""

    def take(self: Own, rows: Picked) -> Own:
        """Some of the fits."""
        return type(self)(**{name: value[rows] for name, value in vars(self).items()})

    def put(self: Own, rows: Picked, part: Own) -> None:
        """Write `part` over some of the fits."""
        for name, value in vars(self).items():
            value[rows] = getattr(part, name)

    @classmethod
    def joined(cls: type[Own], parts: Sequence[Own]) -> Own:
        """The fits of all parts, in their order."""
        return parts[0] if len(parts) == 1 else cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])})
