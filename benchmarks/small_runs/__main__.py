"""What the laws say of runs small enough for two cores, beside what they say of the released ones: writes docs/small_runs.md.

    uv run python -m benchmarks.small_runs

Every figure on the page comes from this command: its tables and figures from the small runs' files in `golden/` and the release; its
words are in `page.template.md` beside this.
"""

import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.common import RELEASE, ROOT
from benchmarks.small_runs.page import page
from benchmarks.small_runs.sources import Scale, Sources
from commands.shared import progress_shown
from common.document import Document
from common.document.render import to_markdown
from common.errors import InputError
from common.files import write_atomically
from common.plots import to_svg
from fit.analysis import PAPER_LAW, Analysis, Options, analyse
from fit.derived import Point
from fit.report import cleaned
from fit.runs import Runs, load_runs
from golden import small_choices, small_curves, small_dense, small_standing, small_variants


@dataclass(frozen=True)
class Arguments:
    """The page on small runs."""

    curves: Path = field(default_factory=small_curves)
    """The small runs."""
    variants: Path = field(default_factory=small_variants)
    """Other forms of their routers."""
    choices: Path = field(default_factory=small_choices)
    """How much information their choices carry."""
    standing: Path = field(default_factory=small_standing)
    """What choices are worth that stand."""
    dense: Path = field(default_factory=small_dense)
    """Dense models of several numbers of tokens."""
    release: Path = RELEASE
    """The released curves."""
    out: Path = ROOT / "docs"
    """Folder of the page: small_runs.md, small_runs.json and figures."""
    draws: int = 1000
    """Bootstrap draws of every fit."""
    target: str = "loss_test"
    """Loss of the small runs that the laws are fitted to."""


def main(arguments: Arguments) -> None:
    """Fit both sets of runs and write the page."""
    ours, release = load_runs(arguments.curves, target=arguments.target), load_runs(arguments.release)
    variants, dense = (load_runs(path, target=arguments.target) for path in (arguments.variants, arguments.dense))
    choices, standing = (json.loads(path.read_text()) for path in (arguments.choices, arguments.standing))
    with progress_shown("fits") as progress:
        small, large = (analyse(runs, Options(draws=arguments.draws, points=points_of(runs)), progress) for runs in (ours, release))
    scales = Scale("ours", small), Scale("release", large)
    document = page(Sources(*scales, variants, watched(arguments.variants), choices, standing, dense))
    write(document, arguments.out, {scale.name: recorded(scale.analysis) for scale in scales})


def recorded(analysis: Analysis) -> dict[str, Any]:
    """What the page's numbers rest on, at full precision: ranking, scores and parameters of every law, and what Eq. 1 implies."""
    derived = [row for row in analysis.derived().to_dicts() if row["law"] == PAPER_LAW]
    tables = {"scores": analysis.scores().to_dicts(), "parameters": analysis.parameters().to_dicts(), "derived": derived}
    return cleaned({"quoted": analysis.quoted, "ranking": analysis.ranking, "skipped": analysis.skipped, **tables})


def watched(path: Path) -> list[dict[str, str]]:
    """The evaluations of the runs that were evaluated often."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["variant"] == "watched"]


def points_of(runs: Runs) -> tuple[Point, ...]:
    """Every size of the runs with 8 and with 64 experts."""
    sizes = np.unique(runs.numeric("dense_parameter_count"))
    return tuple(Point(float(size), experts) for experts in (8.0, 64.0) for size in sizes)


def write(document: Document, folder: Path, record: Mapping[str, Any]) -> None:
    """The page, its figures and its numbers."""
    for figure in document.figures():
        write_atomically(folder / "figures" / f"{figure.name}.svg", to_svg(figure.draw()))
    tables = [vars(table) for table in document.tables()]
    write_atomically(folder / "small_runs.json", json.dumps({**record, "tables": tables}, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(folder / "small_runs.md", to_markdown(document))


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except InputError as error:
        sys.exit(f"error: {error}")
