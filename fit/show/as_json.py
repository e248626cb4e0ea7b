"""Results as JSON holds them: plain numbers and text, null for a number that is not finite."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fit.analysis import Estimate


def finite(value: Any) -> Any:
    """`value` with numpy's numbers as Python's, tuples as lists, and None for every number that JSON cannot hold.

    An end of an interval that is null beside a figure that has one is without limit; so is a null figure with a unit.
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def estimate_json(figure: Estimate | None) -> dict[str, Any] | None:
    """A figure with its interval, unit and whether it is extrapolated; None for None."""
    if figure is None:
        return None
    return {"value": figure.value, "low": figure.low, "high": figure.high, "unit": figure.unit, "extrapolated": figure.extrapolated}
