"""How long `cli.py train` takes from the command to its first step, at nano size, in a fresh process.

    uv run python -m benchmarks.first_step

Cold: the user's cache folder is empty, so that text is tokenized and every program compiled. Warm: as the cold start has left it. A
step is there once its line is in `metrics.jsonl`, which is when the step after it is under way. Beside them how long a
process takes to import what training needs.

Targets: under 20 s cold, under 8 s warm.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import ROOT, median, save, seconds, show, verdict

COLD, WARM = 20.0, 8.0
"""Limits, in seconds."""


@dataclass(frozen=True)
class Options:
    """Time to the first step."""

    size: str = "107K"
    """A size of the ladder."""
    router: tuple[str, ...] = ("dense", "s-base")
    """Models."""
    times: int = 2
    """Warm starts of each, of which the median counts."""
    json: Path | None = None
    """A file for the figures."""


def start(options: Options, router: str, cache: Path, out: Path) -> float:
    """Seconds to the first step of a run in the new folder `out`; it then goes on to its second and last."""
    command = [sys.executable, "cli.py", "train", "--size", options.size, "--router", router, "--steps", "2", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    metrics = out / "metrics.jsonl"
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    taken = time.perf_counter() - begin
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}: {errors.strip().splitlines()[-1]}")
    return taken


def main(options: Options) -> None:
    """Start each model cold and then warm."""
    imports = [sys.executable, "-c", "import training.run"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    importing = seconds(lambda: subprocess.run(imports, cwd=ROOT, env=environment, check=True), 1 + options.times)
    rows = [["imports", f"{importing[0]:.1f}", f"{median(importing[1:]):.1f}", "", ""]]
    figures: dict[str, object] = {"imports": importing}
    met = True
    for router in options.router:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            cold, *warm = (start(options, router, cache, Path(folder) / f"run-{i}") for i in range(1 + options.times))
            programs = [path for path in cache.rglob("*") if "xla" in str(path) and path.is_file()]
            size = sum(path.stat().st_size for path in programs) / 2**20
        met &= cold < COLD and median(warm) < WARM
        rows.append([f"{options.size} {router}", f"{cold:.1f}", f"{median(warm):.1f}", str(len(programs)), f"{size:.1f}"])
        figures[router] = {"cold": cold, "warm": warm}
    show("From the command to the first step", ["s", "cold", "warm", "programs kept", "MiB"], rows)
    print(f"\nunder {COLD:.0f} s cold and {WARM:.0f} s warm: {verdict(met)}")
    save(options.json, figures)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
