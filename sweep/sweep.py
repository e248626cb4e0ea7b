"""A sweep: train the unfinished runs, and merge all curves into one curves.csv.

The same command resumes an interrupted sweep: finished runs are not repeated, stopped ones continue
from their checkpoints, failed ones are retried.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from common.errors import WorkError
from common.files import write_atomically
from common.terminal import Say
from sweep.run import Run, Status, status
from training.cache import cache_folder
from training.folder import check_options, locked
from training.records import CURVES
from training.signals import Stop, stop_on_signals
from training.text.prepare import prepare

Train = Callable[[Sequence[Run], Stop, Callable[[Run], None]], None]
"""Trains runs until all have ended or a stop is requested, with a callback after each."""


def sweep(runs: Sequence[Run], out: Path, train: Train, say: Say) -> list[Status]:
    """Train the unfinished `runs` with `train`, reporting each with `say`; returns how all ended.

    SIGINT and SIGTERM stop the runs, which write checkpoints. Raises `InputError` before the first
    run for a corpus that cannot be read or a folder with a run of other options; `WorkError` if
    another sweep uses `out`.
    """
    for run in runs:
        check_options(run.folder, run.config)
    with locked(out, say), stop_on_signals(say) as stop:
        todo = [run for run in runs if run.held_out() is None]
        say(f"{len(runs)} runs, {len(runs) - len(todo)} of them done")
        if todo:
            # Once, instead of concurrently by the first few runs.
            prepare(todo[0].config.data, cache_folder(), say)
            train(todo, stop, lambda run: say(_line(status(run))))
        return [status(run) for run in runs]


def _line(ended: Status) -> str:
    if ended.loss is not None:
        return f"{ended.name} done: held-out loss {ended.loss:.4f}"
    return f"{ended.name} {ended.state}: {ended.reason} ({ended.log})"


def merge(runs: Sequence[Run], path: Path, *, unfinished: bool = False) -> int:
    """Write the curves of the finished `runs` to `path`; returns their number.

    `unfinished`: of all runs that have any. `hyper_id` is the index in `runs`, so that the same
    runs give the same bytes. A column that only some files have is empty for the others. Raises
    `WorkError` for a file without `hyper_id`.
    """
    tables: list[pl.DataFrame] = []
    for number, run in enumerate(runs):
        source = run.folder / CURVES
        if not source.exists() or not (unfinished or run.held_out() is not None):
            continue
        # As text: every digit stays as it is.
        table = pl.read_csv(source, infer_schema=False)
        if "hyper_id" not in table.columns:
            raise WorkError(f"{source} has no column hyper_id; remove the run's folder")
        labels = {"hyper_id": str(number)} | ({"variant": run.variant} if run.variant else {})
        tables.append(table.with_columns(**{name: pl.lit(text) for name, text in labels.items()}))
    write_atomically(path, pl.concat(tables, how="diagonal").write_csv() if tables else "")
    return len(tables)
