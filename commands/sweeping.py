"""`sweep`: a grid of training runs."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from commands.program import program


@dataclass(frozen=True)
class Sweep:
    """Train a grid of models: sizes x routers x experts x seeds. The same command resumes an interrupted sweep."""

    grid: Annotated[Path, tyro.conf.Positional]
    """A TOML file: lists in [grid], and options shared by all runs in the sections of a run's config.toml."""
    out: Path | None = None
    """The folder for all runs and their merged curves.csv; default: one named after the grid, in runs/."""
    jobs: int | None = None
    """Concurrent runs; default: locally one per core, or per GPU, each with GPUs of its own, or one with TPUs; with SLURM no limit."""
    cluster: Literal["local", "slurm"] = "local"
    """Local processes, or SLURM jobs (uv run --extra slurm cli.py sweep ...)."""
    slurm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An sbatch option, such as partition=gpu, time=120, gpus_per_node=1, ntasks_per_node=2; repeatable."""
    unfinished: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also merge the curves of unfinished runs."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Train, merge, and print the number of finished runs and the failures."""
        from common.errors import InputError, WorkError
        from sweep.grid import read_grid
        from sweep.local import default_jobs, train_locally
        from sweep.slurm import train_on_slurm
        from sweep.sweep import merge, sweep
        from training.text.files import check_local

        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: must be at least 1")
        options = _options(self.slurm)
        if self.cluster == "slurm":
            train = partial(train_on_slurm, options=({"array_parallelism": self.jobs} if self.jobs else {}) | options)
        elif options:
            raise InputError("--slurm is for --cluster slurm")
        else:
            train = partial(train_locally, jobs=self.jobs or default_jobs())
        out = self.out or Path("runs") / self.grid.stem
        check_local(str(out))
        runs = read_grid(self.grid, out)
        ended = sweep(runs, out, train, partial(print, file=sys.stderr, flush=True))
        merged = merge(runs, out / "curves.csv", unfinished=self.unfinished)
        count = Counter(run.state for run in ended)
        if self.json:
            import json

            outcome = {"curves": str(out / "curves.csv"), "merged": merged, "runs": [run._asdict() for run in ended]}
            print(json.dumps(outcome | {state: count[state] for state in ("done", "failed", "stopped")}, indent=2))
        else:
            print(*(f"{run.name} failed: {run.reason} ({run.log})\n" for run in ended if run.state == "failed"), sep="", end="")
            print(f"{out / 'curves.csv'}: {merged} of {len(runs)} runs; {program()} fit fits them")
        if count["done"] < len(runs):
            states = ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
            raise WorkError(f"{len(runs)} runs: {states}; repeat the command to continue the unfinished ones")


def _options(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as a dictionary; integers are parsed."""
    from common.errors import InputError

    options: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise InputError(f"--slurm {each}: give an option of sbatch and its value, such as partition=gpu")
        options[name.strip().removeprefix("--").replace("-", "_")] = int(value) if value.isdecimal() else value
    return options
