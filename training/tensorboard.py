"""A run's records for TensorBoard: one event for each line of `metrics.jsonl`, scalars, and an
image of the experts' loads at evaluations.

`events` is a pure function of records, so that a run that is done can be converted as one that goes
on is written. A run's events are one file in RUN/tensorboard, written anew from `metrics.jsonl`,
and so cut back with it, whenever the run is taken up; older files go.

Needs the package tensorboard (52 MB with what it brings, the viewer among it; tensorboardX would be
one package of 0.1 MB without a viewer or a reader), an extra of this project. It is imported only
where it is used.
"""

import importlib
import importlib.util
import io
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from common.errors import WorkError
from common.files import write_atomically
from training.records import MakeSink

Event = Any
"""tensorboard.compat.proto.event_pb2.Event:
protobuf makes the class when it is imported, so that there is no type to name."""

FOLDER = "tensorboard"
PIXELS = 8
"""Width and height of one expert's load in the image."""


def require_tensorboard() -> None:
    """Raises `WorkError`, saying how to install it, if the package is not there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise WorkError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "uv sync --extra tensorboard"
        )


def event_file(folder: Path) -> MakeSink:
    """The sink that writes the records of the run in `folder` for TensorBoard.

    Raises `WorkError` if the package is not there.
    """
    require_tensorboard()
    return partial(EventFile, folder / FOLDER)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of one line of `metrics.jsonl`, by tag:
    a step's losses and rates, each routed layer's metrics; an evaluation's loss."""
    if "evaluation" in record:
        return {"held_out/loss": record["evaluation"]["loss"]}
    names = ("loss", "learning_rate", "gradient_norm", "tokens_per_second")
    found = {f"train/{name}": record[name] for name in names if record[name] is not None}
    found |= {f"router_losses/{name}": value for name, value in record["router_losses"].items()}
    found |= {f"routing/{name}": value for name, value in record["metrics"].items()}
    return found | {
        f"layers/{name}/{i}": value
        for name, values in record["layers"].items()
        for i, value in enumerate(values)
    }


def heat_map(load: Float[np.ndarray, "layers experts"]) -> bytes:
    """A PNG with a row for each routed layer and a column for each expert:
    white is the mean load, red more, blue less, to twice it."""
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
    """An event for each record, in order, with wall time `at`, in seconds since 1970:
    records have none."""
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
    """Events as they lie in a file."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in some:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def convert(records: list[dict[str, Any]], folder: Path, at: float) -> Path:
    """All events of `records` as the one file in `folder`;
    returns it. Older ones are removed once it is there."""
    event = importlib.import_module("tensorboard.compat.proto.event_pb2")
    # Readers take a file's name as the order in which they were begun; one that is read now does
    # not change under its reader.
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
    """A run's events while it goes on: a sink of its records."""

    def __init__(self, folder: Path, records: list[dict[str, Any]]) -> None:
        """Begin with what the run has so far."""
        self._file: IO[bytes] = convert(records, folder, time.time()).open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Add a record's event, whole."""
        self._file.write(encoded(events([record], time.time())))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        os.fsync(self._file.fileno())
        self._file.close()
