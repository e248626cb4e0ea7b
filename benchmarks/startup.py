"""How long the command line takes to start, and what it imports, beside a bare interpreter in the same run.

    uv run python -m benchmarks.startup

Limits: `cli.py --help` within 0.5 s; neither it nor `cli.py fit` imports JAX, pandas, or (unless a report is written) scipy or
matplotlib; `--help` no numerics at all.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.common import RELEASE, ROOT, median, save, seconds, show, verdict

HELP_SECONDS = 0.5
"""The limit for `--help`."""

WATCHED = ("numpy", "scipy", "matplotlib", "pandas", "polars", "jax", "rich", "tyro", "jaxtyping", "beartype")
"""Packages whose import is reported."""

FORBIDDEN = {
    "cli.py --help": ("numpy", "scipy", "matplotlib", "pandas", "polars", "jax"),
    "cli.py fit": ("scipy", "matplotlib", "pandas", "jax"),
}
"""What a command has no use for."""


@dataclass(frozen=True)
class Options:
    """Start-up time and imports of the command line."""

    curves: Path = RELEASE
    """The curves that `cli.py fit` is run on."""
    times: int = 7
    """Runs of each command, of which the median counts."""
    json: Path | None = None
    """A file for the figures."""


def run(command: list[str], *flags: str) -> str:
    """Run Python with this command; returns its standard error."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, *flags, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return done.stderr


def imported(command: list[str]) -> set[str]:
    """Top-level packages that this command imports, as `-X importtime` lists them."""
    lines = run(command, "-X", "importtime").splitlines()
    modules = (line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:"))
    return {module.partition(".")[0] for module in modules}


def main(options: Options) -> None:
    """Time the commands in turn, print them beside a bare interpreter, and say which limits hold."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "cli.py --help": ["cli.py", "--help"],
        "cli.py fit": ["cli.py", "fit", str(options.curves)],
    }
    taken: dict[str, float] = {}
    for name, command in commands.items():
        run(command)
        taken[name] = median(seconds(lambda command=command: run(command), options.times))
    packages = {name: sorted(imported(commands[name]) & set(WATCHED)) for name in FORBIDDEN}
    bare, numpy = taken["python -c pass"], taken["import numpy"]
    rows = [
        [name, f"{value:.3f} s", f"{value / bare:.1f}", f"{value / numpy:.1f}", ", ".join(packages.get(name, []))]
        for name, value in taken.items()
    ]
    show("Start-up", ["", "time", "x bare", "x numpy", "imports"], rows)
    print(f"\n--help {taken['cli.py --help']:.2f} s (at most {HELP_SECONDS}): {verdict(taken['cli.py --help'] <= HELP_SECONDS)}")
    for name, forbidden in FORBIDDEN.items():
        found = sorted(set(packages[name]) & set(forbidden))
        print(f"{name} imports none of {', '.join(forbidden)}: {verdict(not found)}{': ' + ', '.join(found) if found else ''}")
    save(options.json, {"seconds": taken, "imports": packages})


if __name__ == "__main__":
    main(tyro.cli(Options))
