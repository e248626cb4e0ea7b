"""What the benchmarks share: the released runs, timing, tables and JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.files import write_atomically
from fit.laws import Law
from fit.runs import Runs, canonical, load_runs

ROOT = Path(__file__).parents[1]

RELEASE = ROOT.parent / "shared" / "data" / "curves.csv.gz"
"""Where the released curves are, beside the checkout."""

Sample = tuple[dict[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]
"""The columns a law reads, N and E besides, and each run's loss in nats per token."""


def sample_for(law: Law, router: str, curves: Path = RELEASE) -> Sample:
    """The runs that `law` is fitted to for `router`: the canonical ones, or for Eq. 2 those of every k and R."""
    runs: Runs = load_runs(curves)
    if law.dense:
        runs = canonical(runs, "Dense")
    elif law.name == "utilisation":
        labels = runs["router_type"]
        runs = runs.keep((labels == router) | (labels == "Dense"), f"{router} and dense runs")
    else:
        runs = canonical(runs, router)
    names = dict.fromkeys((*law.columns, "dense_parameter_count", "num_experts"))
    return {name: runs.numeric(name) for name in names}, runs.loss


def seconds(work: Callable[[], object], times: int) -> list[float]:
    """Wall seconds of each of `times` calls."""
    taken: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    return statistics.median(values)


def machine() -> dict[str, str | int]:
    """What a figure depends on besides the code."""
    packages = {name: version(name) for name in ("numpy", "scipy")}
    return {"python": platform.python_version(), "processor": _processor(), "cores": os.cpu_count() or 1, **packages}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: a title, and columns as wide as their widest cell, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    print(f"\n{title}")
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())


def save(path: Path | None, figures: dict[str, object]) -> None:
    """Write the figures with the machine they were measured on as JSON, if a path is given."""
    if path is not None:
        write_atomically(path, json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
        print(f"\nwritten: {path}")


def verdict(met: bool) -> str:
    """How a target went."""
    return "met" if met else "MISSED"
