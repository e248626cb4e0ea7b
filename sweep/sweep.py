"""A sweep from its grid to one curves.csv: what is done is left alone, all others are started,
watched, and merged at the end.

The same command continues a sweep that was stopped, however it was: a run that is done is not
trained again, one that was stopped goes on from its checkpoint, one that failed is tried again. A
run that fails stops no other.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweep.cluster import Cluster, Phase
from sweep.merge import merge
from sweep.run import Run, State, Status, done_status, read_note, status
from training.folder import check_options, locked
from training.prepare import prepare
from training.records import CURVES
from training.signals import stop_on_signals

Show = Callable[[Sequence[Status]], None]


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    statuses: tuple[Status, ...]
    """Of all runs, in the grid's order."""
    curves: Path
    """The merged curves."""
    merged: int
    """Runs in it."""

    def count(self, state: State) -> int:
        """How many runs ended so."""
        return Counter(status.state for status in self.statuses)[state]


def sweep(
    runs: Sequence[Run],
    out: Path,
    start: Callable[[list[Run]], Cluster],
    show: Show,
    on_event: Callable[[str], None],
    cache: Path,
    *,
    unfinished: bool = False,
    poll_seconds: float = 1.0,
) -> Outcome:
    """Train those of `runs` that are not done on the cluster that `start` makes; merge the curves
    into `out`.

    A signal is passed on to the runs, which write checkpoints. `unfinished`: merge what there is of
    all runs. Raises `InputError` before the first run for a corpus that cannot be read and for a
    folder with a run of other options; `WorkError` if another sweep has `out`.
    """
    for run in runs:
        check_options(run.folder, run.config)
    with locked(out, on_event), stop_on_signals(on_event) as stop:
        done = {run.name: held_out for run in runs if (held_out := run.held_out()) is not None}
        todo = [run for run in runs if run.name not in done]
        if todo:
            # All runs read the same text: made once, instead of by the first few runs at the same
            # time.
            data = todo[0].config.data
            prepare(data, cache, on_event)
        cluster, told = start(todo), False
        try:
            while True:
                if stop.asked and not told:
                    cluster.stop()
                    told = True
                phases = cluster.poll()
                statuses = tuple(_status(run, phases.get(run.name), done) for run in runs)
                show(statuses)
                if all(phase.name == "ended" for phase in phases.values()):
                    break
                until = time.monotonic() + poll_seconds
                while time.monotonic() < until and (told or not stop.asked):
                    time.sleep(min(poll_seconds, 0.1))
        finally:
            cluster.close()
        return Outcome(statuses, out / CURVES, merge(runs, out / CURVES, unfinished=unfinished))


def _status(run: Run, phase: Phase | None, done: dict[str, float]) -> Status:
    """How far `run` is; `done` remembers those that are."""
    if run.name in done:
        return done_status(run, done[run.name])
    assert phase is not None
    if phase.name != "ended":
        return status(run, phase.name, phase.log)
    held_out = run.held_out()
    if held_out is not None:
        done[run.name] = held_out
        return done_status(run, held_out)
    note = read_note(run)
    if note is None:
        return status(run, "failed" if phase.words else "stopped", phase.log, phase.words)
    return status(run, "failed" if note.state == "failed" else "stopped", phase.log, note.reason)
