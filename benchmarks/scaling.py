"""How time and memory of refits grow with the number of draws, and with the number of runs: linearly, and not at all.

    uv run python -m benchmarks.scaling

Eq. 1 on one router's released runs for 10^3, 10^4 and 10^5 residual draws; and on simulated designs of 10^2, 10^3 and 10^4 runs
for 200 draws. Every measurement is a process of its own, whose peak memory the system reports. Targets: a log-log slope of
time of at most 1.1, and a peak no more than what the results themselves take above the smallest measurement's.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float

from benchmarks.common import RELEASE, ROOT, Sample, sample_for, save, show, verdict
from fit.engine.solve import fit_law
from fit.laws import BOUNDED
from fit.uncertainty.draws import resample

SLOPE = 1.1
"""The largest log-log slope of time that counts as linear."""

HEADROOM_MB = 64.0
"""Peak memory above the smallest measurement's, besides the draws and results themselves: what the allocator and blocks need."""

FIXED_DRAWS = 200
"""Draws where the number of runs varies."""


@dataclass(frozen=True)
class Options:
    """Time and peak memory of refits."""

    draws: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of draws, on the released runs."""
    runs: tuple[int, ...] = (100, 1_000, 10_000)
    """Numbers of simulated runs."""
    router: str = "S-Base"
    """The router whose runs are used."""
    curves: Path = RELEASE
    """The released curves."""
    child: tuple[int, int] | None = None
    """For the script itself: measure this number of runs (0: the released ones) and of draws, print JSON, and end."""
    json: Path | None = None
    """A file for the figures."""


def simulated(runs: int, truth: Float[np.ndarray, "6"]) -> Sample:
    """A design of this many runs: sizes from 15M to 1.3B, 1 to 512 experts, losses of Eq. 1 with noise of 0.003 (log10)."""
    generator = np.random.default_rng(runs)
    n = 10 ** generator.uniform(7.2, 9.1, runs)
    e = 2.0 ** generator.integers(0, 10, runs)
    data = {"dense_parameter_count": n, "num_experts": e}
    curve = BOUNDED.log10_loss(truth[4:], truth[:4], data)
    return data, 10 ** (curve + 0.003 * generator.standard_normal(runs))


def measure(runs: int, draws: int, options: Options) -> dict[str, float]:
    """Seconds that the refits take, and the process's peak memory before and after (MB)."""
    data, loss = sample_for(BOUNDED, options.router, options.curves)
    fit = fit_law(BOUNDED, data, loss)
    if runs:
        data, loss = simulated(runs, np.concatenate([fit.beta, fit.theta]))
        fit = fit_law(BOUNDED, data, loss)
    resample(fit, "residuals", 20)
    before, start = _peak(), time.perf_counter()
    resample(fit, "residuals", draws, seed=1)
    return {"runs": len(loss), "draws": draws, "seconds": time.perf_counter() - start, "before_mb": before, "peak_mb": _peak()}


def _peak() -> float:
    """Largest resident size so far, MB. Linux counts in kB, macOS in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def in_child(runs: int, draws: int, options: Options) -> dict[str, float]:
    """The same in a process of its own, so that one measurement's memory is not another's."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--child", str(runs), str(draws)]
    command += ["--router", options.router, "--curves", str(options.curves)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def slope(found: list[dict[str, float]], along: str) -> float:
    """Log-log slope of time, fitted by least squares."""
    return float(np.polyfit(np.log([one[along] for one in found]), np.log([one["seconds"] for one in found]), 1)[0])


def own_mb(one: Mapping[str, float]) -> float:
    """What the draws and their results take whatever the method: losses, picks and noise of every run, and parameters."""
    return 3 * 8 * one["draws"] * one["runs"] / 2**20 + 16 * 8 * one["draws"] / 2**20


def main(options: Options) -> None:
    """Measure, print both tables, and say whether the growth is linear and memory bounded."""
    if options.child is not None:
        print(json.dumps(measure(*options.child, options)))
        return
    figures: dict[str, object] = {}
    for along, sizes in (("draws", [(0, draws) for draws in options.draws]), ("runs", [(runs, FIXED_DRAWS) for runs in options.runs])):
        found = [in_child(*size, options) for size in sizes]
        rows = [
            [
                f"{one['runs']:,.0f}", f"{one['draws']:,.0f}", f"{one['seconds']:.2f} s",
                f"{1e6 * one['seconds'] / one['draws'] / one['runs']:.2f} us",
                f"{one['peak_mb']:.0f} MB", f"{one['peak_mb'] - one['before_mb']:.0f} MB", f"{own_mb(one):.0f} MB",
            ]
            for one in found
        ]  # fmt: skip
        show(
            f"Refits of Eq. 1, by {along}",
            ["runs", "draws", "time", "per draw and run", "peak", "more than before", "the draws' own"],
            rows,
        )
        steep = slope(found, along)
        extra = max(one["peak_mb"] - one["before_mb"] - own_mb(one) for one in found)
        print(f"log-log slope of time {steep:.2f} (at most {SLOPE}): {verdict(steep <= SLOPE)}")
        print(f"memory above the draws' own {extra:.0f} MB (at most {HEADROOM_MB:.0f}): {verdict(extra <= HEADROOM_MB)}")
        figures[along] = {"measured": found, "slope": steep, "extra_mb": extra}
    save(options.json, figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
