"""`curves.csv` of a run, which `fit` reads: a function of the lines of `metrics.jsonl`.

A row is an evaluation: the release's columns, ours, and

- `router_NAME` for each of `ROUTER_METRICS`: the mean over routed layers and over the steps since
  the previous evaluation;
- `router_changed`: the fraction of the choices on held-out text that differ from the previous
  evaluation's;
- `loss_NAME` for each further text.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common.files import write_atomically
from reference.config import ModelConfig
from reference.count import dense_parameter_count, flops_per_step, total_parameter_count
from reference.routers import ROUTERS

CURVES = "curves.csv"

Record = dict[str, Any]
"""A line of `metrics.jsonl` (`records.py`)."""

ROUTER_TYPES = {"dense": "Dense"} | {
    name: options.release_name for name, options in ROUTERS.items()
}
"""Router names in the column `router_type`."""


ROUTER_METRICS = (
    *("load_max_over_mean", "entropy", "dead_experts", "dropped_fraction", "gate"),
    *("marginal_error", "advantage", "baseline_error"),
)
"""The routers' metrics in the curves: common ones, S-BASE's, and RL-R's."""


@dataclass(frozen=True)
class CurvesRow:
    """One evaluation: the release's 22 columns in order, then ours.

    Losses in nats per token; a loss that was not measured is an empty cell. `flops_per_step` is the
    forward pass over the run's own batch.
    """

    hyper_id: int
    step: int
    loss_c4: float | None
    loss_curation_corpus: float | None
    loss_lambada: float | None
    loss_pile: float | None
    loss_validation: float
    loss_wikitext103: float | None
    num_experts: int
    d_model: int
    num_blocks: int
    num_heads: int
    kqv_size: int
    flop_increase: float
    k: int
    router_type: str
    seed: int
    routing_frequency: float
    total_parameter_count: float
    dense_parameter_count: float
    flops_per_step: float
    model_size_label: str
    tokens_seen: int
    corpus: str
    tokenizer: str


@dataclass(frozen=True)
class Setting:
    """What all rows of a run have in common."""

    model: ModelConfig
    router: str
    label: str
    batch: int
    seed: int
    corpus: str
    tokenizer: str
    others: tuple[str, ...] = ()
    """Names of the other texts."""


def columns_of(setting: Setting) -> list[str]:
    """The columns of a run's curves."""
    ours = [
        *(f"router_{name}" for name in ROUTER_METRICS),
        "router_changed",
        *(f"loss_{name}" for name in setting.others),
    ]
    return list(dict.fromkeys([*(field.name for field in fields(CurvesRow)), *ours]))


def curves_row(setting: Setting, step: int, loss: float) -> CurvesRow:
    """The row of an evaluation after `step` steps, with `loss` on the held-out text."""
    model, size = setting.model, setting.model.size
    router = model.router
    return CurvesRow(
        hyper_id=0,
        step=step,
        loss_c4=None,
        loss_curation_corpus=None,
        loss_lambada=None,
        loss_pile=None,
        loss_validation=loss,
        loss_wikitext103=None,
        num_experts=router.num_experts if router else 1,
        d_model=size.d_model,
        num_blocks=size.num_blocks,
        num_heads=size.num_heads,
        kqv_size=size.kqv_size,
        flop_increase=1.0,
        k=router.k if router else 1,
        router_type=ROUTER_TYPES[setting.router],
        seed=setting.seed,
        routing_frequency=model.routing_frequency,
        total_parameter_count=float(total_parameter_count(model)),
        dense_parameter_count=float(dense_parameter_count(model)),
        flops_per_step=float(flops_per_step(model, setting.batch)),
        model_size_label=setting.label,
        tokens_seen=step * setting.batch * model.context,
        corpus=setting.corpus,
        tokenizer=setting.tokenizer,
    )


class Curves:
    """`curves.csv` of one run, rewritten at each row."""

    def __init__(self, path: Path, setting: Setting, records: Sequence[Record]) -> None:
        """Of the run with the `records` so far, whose rows are in the file after `write`."""
        self._path, self._setting = path, setting
        self._columns = columns_of(setting)
        self._rows: list[dict[str, str]] = []
        self._since: list[dict[str, float]] = []
        for record in records:
            self._take(record)

    def append(self, record: Record) -> None:
        """Take a step's record, or write the row of an evaluation's."""
        before = len(self._rows)
        self._take(record)
        if len(self._rows) > before:
            self.write()

    def write(self) -> bool:
        """Write all rows; returns whether the file began with them."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        content = text.getvalue().encode()
        had = self._path.is_file() and self._path.read_bytes().startswith(content)
        write_atomically(self._path, content)
        return had

    @property
    def rows(self) -> int:
        """How many evaluations there are."""
        return len(self._rows)

    def _take(self, record: Record) -> None:
        if "evaluation" not in record:
            self._since.append(record["metrics"])
            return
        found, step = record["evaluation"], record["step"]
        routers = {f"router_{name}": self._mean_since(name) for name in ROUTER_METRICS}
        losses = {f"loss_{name}": loss for name, loss in found["others"].items()}
        row = asdict(curves_row(self._setting, step, found["loss"])) | routers
        row |= {"router_changed": found["changed"]} | losses
        # A text that is no longer evaluated keeps its earlier losses.
        self._columns = list(dict.fromkeys([*self._columns, *row]))
        self._since = []
        cells = {name: "" if value is None else str(value) for name, value in row.items()}
        if all(cells["step"] != known["step"] for known in self._rows):
            self._rows.append(cells)

    def _mean_since(self, metric: str) -> float | None:
        """Mean of a router's metric since the previous evaluation; None if it has none."""
        values = [means[metric] for means in self._since if metric in means]
        return sum(values) / len(values) if values else None


def last_loss(path: Path, step: int) -> float | None:
    """Held-out loss after `step` in the curves at `path`.

    None if there is no such row, or the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
        return float(rows[-1]["loss_validation"]) if rows else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, csv.Error):
        return None
