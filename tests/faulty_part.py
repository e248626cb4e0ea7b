"""A part of `benchmarks.accelerator` whose items go wrong, each in its own way; `tests/test_benchmarks.py` runs it."""

import signal
from typing import Any


def measure(item: dict[str, Any]) -> dict[str, Any]:
    """By the item's name: raises, hangs, or is measured."""
    if item["name"] == "raises":
        raise ValueError("no such kernel")
    if item["name"] == "hangs":
        signal.pause()
    return {"value": 1}
