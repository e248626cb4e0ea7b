"""TensorBoard output: scalars per line of `metrics.jsonl`, and images of the experts' loads.

`events` is a pure function of records, so that a finished run is converted to the same events as
are written during training. A run's events are one file in RUN/tensorboard, rewritten from
`metrics.jsonl`, and hence truncated with it, whenever the run is resumed; older files are removed.

Needs the optional dependency tensorboard (52 MB with its dependencies, including the viewer;
tensorboardX would be 0.1 MB without viewer or reader), imported lazily.
"""

import importlib
import importlib.util
import io
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from common.errors import WorkError
from common.files import write_atomically
from training.sinks import MakeSink
from training.speed import Speed

Event = Any
"""tensorboard.compat.proto.event_pb2.Event, a class that protobuf creates at import."""

FOLDER = "tensorboard"
PIXELS = 8
"""Size of one expert's load in the image, in pixels."""


def require_tensorboard() -> None:
    """Raises `WorkError`, naming the install command, if the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise WorkError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "uv sync --extra tensorboard"
        )


def event_file() -> MakeSink:
    """A sink that writes a run's records for TensorBoard.

    Raises `WorkError` if the package is missing.
    """
    require_tensorboard()
    return EventFile


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl`, by tag.

    A step's losses, rates and metrics by routed layer; an evaluation's losses.
    """
    if "evaluation" in record:
        about = record["evaluation"]
        others = {f"others/{name}": loss for name, loss in about.get("others", {}).items()}
        return {"held_out/loss": about["loss"], **others}
    names = ("loss", "learning_rate", "gradient_norm", *(each.name for each in fields(Speed)))
    found = {f"train/{name}": record[name] for name in names if record.get(name) is not None}
    found |= {f"router_losses/{name}": value for name, value in record["router_losses"].items()}
    found |= {f"routing/{name}": value for name, value in record["metrics"].items()}
    return found | {
        f"layers/{name}/{i}": value
        for name, values in record["layers"].items()
        for i, value in enumerate(values)
    }


def heat_map(load: Float[np.ndarray, "layers experts"]) -> bytes:
    """A PNG of loads, a row per routed layer and a column per expert.

    White is the mean load, red more, blue less, up to twice the mean.
    """
    from matplotlib.image import imsave

    image = io.BytesIO()
    imsave(
        image,
        np.kron(load * load.shape[1], np.ones((PIXELS, PIXELS))),
        vmin=0.0,
        vmax=2.0,
        cmap="RdBu_r",
        format="png",
    )
    return image.getvalue()


def events(records: Iterable[dict[str, Any]], at: float) -> Iterator[Event]:
    """An event per record, in order, with wall time `at` (Unix seconds): records have no time."""
    event, summary = (
        importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        for name in ("event", "summary")
    )
    for record in records:
        values = [
            summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars(record).items()
        ]
        load = record.get("evaluation", {}).get("load")
        if load is not None:
            array = np.asarray(load, float)
            height, width = (PIXELS * side for side in array.shape)
            image = summary.Summary.Image(
                height=height, width=width, colorspace=4, encoded_image_string=heat_map(array)
            )
            values.append(summary.Summary.Value(tag="held_out/load", image=image))
        yield event.Event(wall_time=at, step=record["step"], summary=summary.Summary(value=values))


def encoded(some: Iterable[Event]) -> bytes:
    """Serialised events, in the format of an event file."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in some:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def convert(records: list[dict[str, Any]], folder: Path, at: float) -> Path:
    """Write the events of `records` as the only event file in `folder`; returns its path.

    Older files are removed once it exists.
    """
    event = importlib.import_module("tensorboard.compat.proto.event_pb2")
    # Readers order files by name; a new name keeps a file that is being read unchanged.
    old = sorted(folder.glob("events.out.tfevents.*")) if folder.is_dir() else []
    number = 1 + max((int(path.name.split(".")[3]) for path in old), default=0)
    path = folder / f"events.out.tfevents.{number:06d}.routelaw"
    write_atomically(
        path,
        encoded([event.Event(wall_time=at, file_version="brain.Event:2"), *events(records, at)]),
    )
    for each in old:
        each.unlink()
    return path


class EventFile:
    """A sink: a run's event file during training."""

    def __init__(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Start, in the run's `folder`, with its records so far."""
        self._file: IO[bytes] = convert(records, folder / FOLDER, time.time()).open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Append a record's event and flush."""
        self._file.write(encoded(events([record], time.time())))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        os.fsync(self._file.fileno())
        self._file.close()
