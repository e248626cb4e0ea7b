"""Runs a part's items in a process of their own until a deadline: what fails, hangs or is left out is a result too."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from benchmarks.common import ROOT

Item = dict[str, Any]
"""What is measured, as `measure` of the part's module takes it."""

Found = dict[str, Any]
"""What was measured; `failed` or `skipped` with the reason where nothing was."""


@dataclass(frozen=True)
class Part:
    """A part of the check."""

    module: str
    """Its `measure` maps an item to what was found."""
    title: str
    items: Sequence[Item]
    header: Sequence[str]
    row: Callable[[Item, Found], list[str]]
    """The cells of an item that was measured."""


@dataclass(frozen=True)
class Result:
    """Of one part."""

    part: Part
    seconds: float
    found: Sequence[Found]
    """By item."""

    def rows(self) -> list[list[str]]:
        """Cells of each item; of one without figures its name and the reason."""
        rows: list[list[str]] = []
        for item, found in zip(self.part.items, self.found, strict=True):
            reason = next((f"{how}: {found[how]}" for how in ("failed", "skipped") if how in found), None)
            name = item["name"]
            rows.append([f"{name} ({reason})", *[""] * (len(self.part.header) - 1)] if reason else self.part.row(item, found))
        return rows

    def record(self) -> dict[str, Any]:
        """For JSON."""
        items = [{"item": item, **found} for item, found in zip(self.part.items, self.found, strict=True)]
        return {"seconds": self.seconds, "items": items}


LEAST = 20.0
"""Seconds below which the time of a part is not divided among its items."""


def half(item: Item, left: float) -> float:
    """Seconds that an item may take of what is `left` of its part's: half, so that one that hangs leaves time for the others."""
    return max(left / 2, LEAST)


def run_part(part: Part, deadline: float, on_found: Callable[[Item, Found], None], limit: Callable[[Item, float], float] = half) -> Result:
    """Measure the items in order until `deadline`, by `time.monotonic`.

    After one that fails, or takes longer than its `limit`, the others go on in a new process. The last may take all that is left.
    """
    start, found = time.monotonic(), list[Found]()
    while len(found) < len(part.items) and time.monotonic() < deadline:
        todo = part.items[len(found) :]
        with tempfile.TemporaryFile("w+", errors="replace") as errors, _Worker(part.module, todo, errors) as worker:
            for item in todo:
                left = deadline - time.monotonic()
                seconds = left if item is todo[-1] else min(left, limit(item, left))
                one = worker.next_result(seconds)
                if "failed" in one and seconds == left and time.monotonic() >= deadline:
                    break
                found.append(one)
                on_found(item, one)
                if "failed" in one:
                    break
    for item in part.items[len(found) :]:
        found.append({"skipped": "no time left"})
        on_found(item, found[-1])
    return Result(part, time.monotonic() - start, found)


class _Worker:
    """A process that measures items, and all that it starts."""

    def __init__(self, module: str, items: Sequence[Item], errors: IO[str]) -> None:
        self._errors = errors
        command = [sys.executable, "-m", "benchmarks.device.worker", module, json.dumps(list(items))]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._errors, text=True, start_new_session=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._code()

    def next_result(self, seconds: float) -> Found:
        """The next item's result; `failed` with the reason if there is none in so many seconds."""
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return {"failed": f"not done within {seconds:.3g} s"}
        if line is not None:
            return json.loads(line)
        code = self._code()
        self._errors.seek(0)
        messages = [line for line in self._errors.read().splitlines() if line.strip() and not line.startswith(" ")]
        return {"failed": f"{messages[-1][:200] if messages else 'no message'} (exit code {code})"}

    def _code(self) -> int | None:
        """The exit code; None of a process that a driver keeps even where it is killed, which is left behind."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return self._process.returncode

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self._lines.put(line)
        self._lines.put(None)
