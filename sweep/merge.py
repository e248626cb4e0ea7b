"""The curves of many runs as one file, which `fit` reads."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.errors import WorkError
from common.files import write_atomically
from sweep.run import Run
from training.records import CURVES


def merge(runs: Sequence[Run], path: Path, *, unfinished: bool = False) -> int:
    """Write the curves of the `runs` that are done to `path`, or, `unfinished`, those of all that
    have any. Returns how many.

    `hyper_id` is a run's number in `runs`, so that the same runs are the same bytes, whenever and
    in whatever order they were trained. A column that only some of the files have, as those of a
    later version may, is empty for the others. If any run is a variant, there is a column
    `variant`. Raises `WorkError` for a file without `hyper_id`.
    """
    columns: dict[str, None] = {}
    rows: list[dict[str, str]] = []
    merged = 0
    for number, run in enumerate(runs):
        if not (unfinished or run.held_out() is not None):
            continue
        found, of_run = _read(run.folder / CURVES)
        merged += bool(of_run)
        columns |= dict.fromkeys(found)
        rows += [
            {**row, "hyper_id": str(number)} | ({"variant": run.variant} if run.variant else {})
            for row in of_run
        ]
        if run.variant:
            columns |= {"variant": None}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
    return merged


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; neither, if there is no file."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    if "hyper_id" not in columns:
        raise WorkError(
            f"{path} has no column hyper_id; it is not what training writes: remove the run's folder to train it again"
        )
    return columns, rows
