"""`sweep`: a grid of training runs."""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from sweep.cluster import Cluster
    from sweep.run import Run, Status
    from sweep.sweep import Outcome


@dataclass(frozen=True)
class Sweep:
    """Train a grid of models: sizes x routers x experts x seeds. The same command continues a sweep that was stopped, however it was."""

    grid: Annotated[Path, tyro.conf.Positional]
    """A TOML file: lists in [grid], and what all runs share in the sections of a run's config.toml."""
    out: Path | None = None
    """The folder of all runs, with their merged curves.csv; none: one named after the grid, in runs/."""
    jobs: int | None = None
    """Runs at once; none: locally one for each core, or one where there is a GPU or TPU, and with SLURM as many as it allows."""
    cluster: Literal["local", "slurm"] = "local"
    """Processes of this machine, or jobs of SLURM (uv run --extra slurm cli.py sweep ...)."""
    slurm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An option of sbatch, such as partition=gpu, time=120, gpus_per_node=1, ntasks_per_node=2; may be given several times."""
    unfinished: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Merge the curves of runs that are not done as well."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the outcome as JSON on standard output, and nothing else there."""

    def run(self) -> None:
        """Train, merge, and say how many runs are done and which failed."""
        from common.errors import InputError, WorkError
        from sweep.grid import read_grid
        from sweep.sweep import sweep
        from sweep.table import counts
        from training.prepare import cache_folder

        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: at least 1 run must be at work")
        out = self.out or Path("runs") / self.grid.stem
        parameters = _parameters(self.slurm)
        if parameters and self.cluster == "local":
            raise InputError("--slurm is for --cluster slurm")
        runs, seconds = read_grid(self.grid, out), 1.0 if self.cluster == "local" else 5.0
        start = partial(self._cluster, out=out, parameters=parameters)
        with showing() as (show, say):
            outcome = sweep(runs, out, start, show, say, cache_folder(), unfinished=self.unfinished, poll_seconds=seconds)
        _tell(outcome, self.json)
        if outcome.count("done") < len(runs):
            left = "those that failed are tried again" if outcome.count("failed") else "it goes on from there"
            raise WorkError(f"{counts(outcome.statuses)}; give the same command again, and {left}")

    def _cluster(self, runs: "list[Run]", out: Path, parameters: dict[str, Any]) -> "Cluster":
        """Whatever trains `runs`."""
        if self.cluster == "slurm":
            from sweep.slurm import JobArray

            return JobArray(runs, out, self.jobs, parameters)
        from sweep.local import Pool, default_parallel

        parallel = self.jobs or (default_parallel() if runs else 1)
        return Pool(runs, max(1, min(parallel, len(runs))))


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as a dictionary; whole numbers as such."""
    from common.errors import InputError

    parameters: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise InputError(f"--slurm {each}: give an option of sbatch and its value, such as partition=gpu")
        parameters[name.strip().removeprefix("--").replace("-", "_")] = int(value) if value.isdigit() else value
    return parameters


def _tell(outcome: "Outcome", as_json: bool) -> None:
    if as_json:
        import json

        record = {
            "curves": str(outcome.curves),
            "merged": outcome.merged,
            "done": outcome.count("done"),
            "failed": outcome.count("failed"),
            "stopped": outcome.count("stopped"),
            "runs": [asdict(status) for status in outcome.statuses],
        }
        print(json.dumps(record, indent=2))
        return
    for status in outcome.statuses:
        if status.state == "failed":
            print(f"{status.name} failed: {status.reason} ({status.log})")
    print(f"{outcome.curves}: {outcome.merged} of {len(outcome.statuses)} runs")
    if outcome.merged:
        print(f"Fit them with: cli.py fit {outcome.curves}")


@contextmanager
def showing() -> Generator["tuple[Callable[[Sequence[Status]], None], Callable[[str], None]]"]:
    """What shows runs, and what says something in a line: a live table on a terminal, elsewhere lines; on standard error."""
    from sweep.table import table

    if not sys.stderr.isatty():
        yield Lines().show, partial(print, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    # What is in brackets is the user's, not a style.
    console = Console(stderr=True, markup=False, highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        # The title, the header, and a line for what is left out.
        yield lambda statuses: live.update(table(statuses, console.size.height - 4), refresh=True), console.print


class Lines:
    """A line for each run that changes its state, and now and then one for each that is at work."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self._before: Sequence[Status] = ()
        self._last = time.monotonic()

    def show(self, statuses: "Sequence[Status]") -> None:
        """Print what there is to say."""
        from sweep.table import changes, counts, line

        said = changes(self._before, statuses)
        if time.monotonic() - self._last > self.SECONDS:
            self._last = time.monotonic()
            said += [counts(statuses), *(line(each) for each in statuses if each.state == "running")]
        for text in said:
            print(text, file=sys.stderr, flush=True)
        self._before = statuses
