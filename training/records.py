"""What a run records: the lines of `metrics.jsonl`, and of them `curves.csv` (`curves.py`).

A line is a step or an evaluation. A step has `step`, `loss`, `router_losses`, `learning_rate`,
`gradient_norm`, the fields of `speed.Speed` (null for the first step, which compiles), `metrics`
(means over routed layers), `layers` (the same by layer), and `dropped_by_tenth`: the fraction of
choices dropped in each tenth of the context, by routed layer. An evaluation has `step` and
`evaluation`, with `loss`, `targets`, `others` (losses of other texts, by name), `changed`
(`router_changed` of the curves), `choices` (SHA-256 of the file in `choices/`), `load` (the
fraction of choices on each expert, by routed layer), `dropped_fraction` (by routed layer), and the
names of `corpus` and `tokenizer`, which may have moved since. Every line ends with `crc32`, the
checksum of what is before it.

A continued run truncates both files to its checkpoint, so that an interrupted run ends with the
same bytes.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Shaped

from common.errors import InputError
from common.files import write_atomically
from common.terminal import Say
from reference.objective import Report
from training.choices import CHOICES, Choices
from training.curves import CURVES, Curves, Record, Setting
from training.evaluate import Evaluation
from training.restore import CHECKPOINTS, checkpoint_steps
from training.sinks import GuardedSink, MakeSink, Sink
from training.speed import Speed

METRICS = "metrics.jsonl"


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
        say: Say = lambda message: None,
    ) -> None:
        """Open the files in `folder`, truncated to step `after`.

        Only one process `writes`. `sinks` are created here and receive every record; one that
        raises an exception is named by `say`, once, and does not end the run. `say` also reports
        rows of the curves that are written anew.
        """
        self._folder, self._setting, self._sinks = folder, setting, list[Sink]()
        self._choices = Choices(folder / CHOICES)
        self._writes, self._evaluated = writes, 0
        if not writes:
            return
        lines, records = _until(read_records(folder / METRICS), after)
        self._evaluated = _last_choices(records)[0]
        curves = Curves(folder / CURVES, setting, records)
        if curves.rows and not curves.write():
            say(f"{folder / CURVES} is written anew from {METRICS}")
        elif not curves.rows:
            (folder / CURVES).unlink(missing_ok=True)
        metrics = Metrics(folder / METRICS, lines)
        self._sinks = [
            metrics,
            _CurvesSink(curves),
            *(GuardedSink(make, folder, records, say) for make in sinks),
        ]

    def step(
        self, step: int, report: Report, learning_rate: float, speed: Speed
    ) -> dict[str, float]:
        """Record a step; returns the routers' metrics, means over layers."""
        layers = {name: np.asarray(values).tolist() for name, values in report.metrics.items()}
        means = {name: float(np.mean(values)) for name, values in layers.items()}
        if self._writes:
            record = {
                "step": step,
                "loss": float(report.loss),
                "router_losses": {
                    name: float(value) for name, value in report.router_losses.items()
                },
                "learning_rate": learning_rate,
                "gradient_norm": float(np.asarray(report.gradient_norm)),
                **asdict(speed),
                "metrics": means,
                "layers": layers,
                "dropped_by_tenth": _rounded(report.dropped),
            }
            self._add(record)
        return means

    def evaluation(self, step: int, found: Evaluation) -> None:
        """Record an evaluation: a row of the curves, and a line with the experts' loads."""
        if not self._writes:
            return
        changed, digest = None, None
        if found.choices is not None:
            changed = self._choices.changed(self._evaluated, found.choices)
            digest = self._choices.save(step, found.choices)
            self._choices.keep(checkpoint_steps(self._folder / CHECKPOINTS))
            self._evaluated = step
        about = {
            "loss": found.loss,
            "targets": found.targets,
            "others": found.others,
            "changed": changed,
            "choices": digest,
            "load": _rounded(found.load),
            "dropped_fraction": _rounded(found.dropped),
            "corpus": self._setting.corpus,
            "tokenizer": self._setting.tokenizer,
        }
        self._add({"step": step, "evaluation": about})

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    def _add(self, record: Record) -> None:
        for sink in self._sinks:
            sink.append(record)


class _CurvesSink:
    """The curves as a sink."""

    def __init__(self, curves: Curves) -> None:
        self.append = curves.append

    def close(self) -> None:
        """Does nothing: every row is written at once."""


class Metrics:
    """`metrics.jsonl` of one run."""

    def __init__(self, path: Path, lines: Sequence[bytes]) -> None:
        """Open the file at `path`, with `lines` as its content so far."""
        write_atomically(path, b"".join(line + b"\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Record) -> None:
        """Append a line."""
        self._file.write(to_line(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Lines(NamedTuple):
    """The beginning of a `metrics.jsonl` that is as it was written."""

    lines: list[bytes]
    records: list[Record]
    damage: str
    """What follows it, if that is damaged; "" otherwise."""

    @property
    def last_step(self) -> int:
        """The step of the last record; 0 if there is none."""
        return self.records[-1]["step"] if self.records else 0


def read_metrics(path: Path) -> list[Record]:
    """The records at `path`; of a run in progress, the complete ones.

    Raises `InputError` naming the first damaged line.
    """
    found = read_records(path)
    if found.damage:
        raise InputError(f"{found.damage}; the command that trained the run mends it if it can")
    return found.records


def read_records(path: Path) -> Lines:
    """The records at `path` up to the first damaged line; none without a file."""
    lines, records = list[bytes](), list[Record]()
    if not path.is_file():
        return Lines(lines, records, "")
    *complete, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(complete, 1):
        record = _record(line)
        if record is None or not _follows(record, records):
            return Lines(lines, records, f"{path}: line {number} is damaged")
        lines.append(line)
        records.append(record)
    return Lines(lines, records, "")


def unusable(folder: Path, step: int) -> str | None:
    """Why the records in `folder` do not let its run continue from `step`; None if they do.

    They do if they reach it and the choices of the last evaluation before it are there, or if a
    user has removed them all.
    """
    path = folder / METRICS
    if not path.exists() and not (folder / CURVES).exists():
        return None
    found = read_records(path)
    if found.last_step < step:
        what = found.damage or f"{path} ends at step {found.last_step}, before step {step}"
        return f"{what}. To go on without the records so far, remove {METRICS} and {CURVES}"
    evaluated, digest = _last_choices(_until(found, step)[1])
    if digest is not None and Choices(folder / CHOICES).digest(evaluated) != digest:
        file = Choices(folder / CHOICES).path(evaluated)
        return f"{file} is missing or damaged. To go on without it, remove {METRICS} and {CURVES}"
    return None


def to_line(record: Record) -> str:
    """A record as a line, with its checksum."""
    text = json.dumps(record)
    return f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}'


_LINE = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"}', re.DOTALL)


def _record(line: bytes) -> Record | None:
    """The record in a line; None if it is not what was written."""
    match = _LINE.fullmatch(line)
    if match is None or zlib.crc32(match[1] + b"}") != int(match[2], 16):
        return None
    return json.loads(match[1] + b"}")


def _follows(record: Record, before: Sequence[Record]) -> bool:
    """Whether a record's step is the next one, or its evaluation that of the last one."""
    return not before or record["step"] == before[-1]["step"] + ("evaluation" not in record)


def _until(found: Lines, step: int) -> tuple[list[bytes], list[Record]]:
    """Lines and records up to `step`."""
    many = sum(record["step"] <= step for record in found.records)
    return found.lines[:many], found.records[:many]


def _last_choices(records: Sequence[Record]) -> tuple[int, str | None]:
    """Step and digest of the choices of the last evaluation that has any; 0 and None without."""
    for record in reversed(records):
        digest = record.get("evaluation", {}).get("choices")
        if digest is not None:
            return record["step"], digest
    return 0, None


def _rounded(values: Shaped[Array | np.ndarray, "..."] | None) -> list[Any] | None:
    return None if values is None else np.round(np.asarray(values), 6).tolist()
