"""Where a run's records go besides its own files: TensorBoard, W&B, or any object of a user's."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from common.errors import first_line
from common.terminal import Say
from training.curves import Record

Result = TypeVar("Result")


@runtime_checkable
class Sink(Protocol):
    """Receives a run's records: the lines of `metrics.jsonl`, as dictionaries."""

    def append(self, record: Record) -> None:
        """Called with each record, of a step or an evaluation."""
        ...

    def close(self) -> None:
        """Called after the last record."""
        ...


MakeSink = Callable[[Path, list[Record]], Sink]
"""Makes a sink from the run's folder and the records before the checkpoint it continues from."""


class GuardedSink:
    """A sink whose exceptions do not end the run: the first is shown, and the next record tried.

    One that cannot be made receives nothing.
    """

    def __init__(self, make: MakeSink, folder: Path, records: list[Record], say: Say) -> None:
        self._say, self._failed = say, False
        self._sink = self._tried(lambda: make(folder, records))

    def append(self, record: Record) -> None:
        """Pass the record on."""
        sink = self._sink
        if sink is not None:
            self._tried(lambda: sink.append(record))

    def close(self) -> None:
        """Close the sink."""
        if self._sink is not None:
            self._tried(self._sink.close)

    def _tried(self, act: Callable[[], Result]) -> Result | None:
        try:
            return act()
        # A sink is anyone's code.
        except Exception as error:
            if not self._failed:
                self._failed = True
                what = f"{type(error).__name__}: {first_line(error)}"
                self._say(f"warning: a metrics sink failed ({what}); the run goes on without it")
        return None
