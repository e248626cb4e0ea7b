"""What a run records: `curves.csv`, which `fit` reads, and `metrics.jsonl`.

A line of `metrics.jsonl` is a step or an evaluation. A step has `step`, `loss`, `router_losses`,
`learning_rate`, `gradient_norm`, `tokens_per_second` (null for the first step, which compiles),
`metrics` (means over routed layers), `layers` (the same by layer), and `dropped_by_tenth`: the
fraction of choices dropped in each tenth of the context, by routed layer. An evaluation has `step`
and `evaluation`, with `loss`, `targets`, `others` (losses of other texts, by name), `changed`
(`router_changed` below), `load` (the fraction of choices on each expert, by routed layer) and
`dropped_fraction` (by routed layer).

A row of the curves is an evaluation: the release's columns, ours, and

- `router_NAME` for each of `ROUTER_METRICS`: the mean over routed layers and over the steps since
  the previous evaluation;
- `router_changed`: the fraction of the choices on held-out text that differ from the previous
  evaluation's;
- `loss_NAME` for each further text.

A continued run truncates both files to its checkpoint, so that an interrupted run ends with the
same bytes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Shaped

from common.files import write_atomically
from reference.config import ModelConfig
from reference.count import dense_parameter_count, flops_per_step, total_parameter_count
from reference.objective import Report
from reference.routers import ROUTERS
from training.choices import CHOICES, Choices
from training.evaluate import Evaluation

METRICS, CURVES = "metrics.jsonl", "curves.csv"

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


@runtime_checkable
class Sink(Protocol):
    """Receives a run's records: the lines of `metrics.jsonl`, as dictionaries."""

    def append(self, record: dict[str, Any]) -> None:
        """Called with each record, of a step or an evaluation."""
        ...

    def close(self) -> None:
        """Called after the last record."""
        ...


MakeSink = Callable[[list[dict[str, Any]]], Sink]
"""Makes a sink from the records before the checkpoint that a run continues from."""


class Records:
    """Both files of a run, from a checkpoint on."""

    def __init__(
        self,
        folder: Path,
        setting: Setting,
        *,
        after: int,
        writes: bool,
        sinks: Sequence[MakeSink] = (),
    ) -> None:
        """Open the files in `folder`, truncated to step `after`; None writes nothing.

        Only one process writes. `sinks` are created here and receive every record.
        """
        self._setting = setting
        self._curves = Curves(folder / CURVES, columns_of(setting), after=after) if writes else None
        self._metrics: Metrics | None = None
        self._sinks: list[Sink] = []
        self._choices = Choices(folder / CHOICES) if writes else None
        self._since_evaluation: list[dict[str, float]] = []
        if writes:
            self._metrics = Metrics(folder / METRICS, after=after)
            before = read_metrics(folder / METRICS)
            self._since_evaluation = _steps_since_evaluation(before)
            self._sinks = [self._metrics, *(make(before) for make in sinks)]

    def step(
        self, step: int, report: Report, learning_rate: float, tokens_per_second: float | None
    ) -> dict[str, float]:
        """Record a step; returns the routers' metrics, means over layers."""
        layers = {name: np.asarray(values).tolist() for name, values in report.metrics.items()}
        means = {name: float(np.mean(values)) for name, values in layers.items()}
        if self._metrics is not None:
            record = {
                "step": step,
                "loss": float(report.loss),
                "router_losses": {
                    name: float(value) for name, value in report.router_losses.items()
                },
                "learning_rate": learning_rate,
                "gradient_norm": float(np.asarray(report.gradient_norm)),
                "tokens_per_second": tokens_per_second,
                "metrics": means,
                "layers": layers,
                "dropped_by_tenth": _rounded(report.dropped),
            }
            self._add(record)
            self._since_evaluation.append(means)
        return means

    def evaluation(self, step: int, found: Evaluation) -> None:
        """Record an evaluation: a row of the curves, and a line with the experts' loads."""
        if self._metrics is None or self._curves is None or self._choices is None:
            return
        changed = None if found.choices is None else self._choices.changed(step, found.choices)
        about = {
            "loss": found.loss,
            "targets": found.targets,
            "others": found.others,
            "changed": changed,
            "load": _rounded(found.load),
            "dropped_fraction": _rounded(found.dropped),
        }
        routers = {f"router_{name}": self._mean_since(name) for name in ROUTER_METRICS} | {
            "router_changed": changed
        }
        losses = {f"loss_{name}": loss for name, loss in found.others.items()}
        self._add({"step": step, "evaluation": about})
        self._curves.append(asdict(curves_row(self._setting, step, found.loss)) | routers | losses)
        self._since_evaluation = []

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    def _mean_since(self, metric: str) -> float | None:
        """Mean of a router's metric since the previous evaluation; None if it has none."""
        values = [means[metric] for means in self._since_evaluation if metric in means]
        return sum(values) / len(values) if values else None

    def _add(self, record: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.append(record)


class Curves:
    """`curves.csv` of one run, rewritten at each row."""

    def __init__(self, path: Path, columns: list[str], *, after: int) -> None:
        """Open the file at `path`, if it exists, truncated to step `after`."""
        self._path, self._columns = path, columns
        self._rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._rows = [row for row in reader if int(row["step"]) <= after]
                # A text that is no longer evaluated keeps its earlier losses.
                self._columns = list(dict.fromkeys([*columns, *(reader.fieldnames or ())]))
            self._write()

    def append(self, row: dict[str, Any]) -> None:
        """Append a row, unless its step already has one.

        Missing values and None are empty cells.
        """
        cells = {name: "" if value is None else str(value) for name, value in row.items()}
        if all(cells["step"] != known["step"] for known in self._rows):
            self._rows.append(cells)
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(
            text, self._columns, restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue())


def _rounded(values: Shaped[Array | np.ndarray, "..."] | None) -> list[Any] | None:
    return None if values is None else np.round(np.asarray(values), 6).tolist()


def _steps_since_evaluation(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The routers' metrics of the steps since the last evaluation."""
    last = max((i for i, record in enumerate(records) if "evaluation" in record), default=-1)
    return [record["metrics"] for record in records[last + 1 :]]


def last_loss(path: Path, step: int) -> float | None:
    """Held-out loss after `step` in the curves at `path`; None if there is no such file or row."""
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
    return float(rows[-1]["loss_validation"]) if rows else None


class Metrics:
    """`metrics.jsonl` of one run: a JSON object per line, each with its `step`."""

    def __init__(self, path: Path, *, after: int) -> None:
        """Open the file at `path`, truncated to step `after` and to complete lines."""
        kept: list[str] = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = _record(line)
                if record is not None and record["step"] <= after:
                    kept.append(line)
        write_atomically(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of the `metrics.jsonl` at `path`."""
    return [
        record
        for line in path.read_text(encoding="utf-8").splitlines()
        if (record := _record(line)) is not None
    ]


def _record(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
