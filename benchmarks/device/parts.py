"""Runs a part's items in a process of their own until a deadline: what fails, and what is left out, is a result too."""

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

    name: str
    """The module in `benchmarks.device` that measures it."""
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


def run_part(part: Part, deadline: float, on_found: Callable[[Item, Found], None]) -> Result:
    """Measure the items in order until `deadline`, by `time.monotonic`; after one that fails the others go on in a new process."""
    start, found = time.monotonic(), list[Found]()
    while len(found) < len(part.items):
        todo = part.items[len(found) :]
        reason = "no time left" if time.monotonic() >= deadline else None
        if reason is None:
            with tempfile.TemporaryFile("w+", errors="replace") as errors, _Worker(part.name, todo, errors) as worker:
                for item in todo:
                    one, reason = worker.next_result(deadline)
                    if one is None:
                        break
                    found.append(one)
                    on_found(item, one)
        if reason is not None:
            late = time.monotonic() >= deadline
            found += [{"skipped": reason}] * (len(part.items) - len(found)) if late else [{"failed": reason}]
            on_found(part.items[len(found) - 1], found[-1])
    return Result(part, time.monotonic() - start, found)


class _Worker:
    """A process that measures items, and all that it starts."""

    def __init__(self, name: str, items: Sequence[Item], errors: IO[str]) -> None:
        self._errors = errors
        command = [sys.executable, "-m", "benchmarks.device.worker", name, json.dumps(list(items))]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._errors, text=True, start_new_session=True)
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def next_result(self, deadline: float) -> tuple[Found | None, str | None]:
        """The next item's result, or why there is none."""
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None, "no time left"
        if line is not None:
            return json.loads(line), None
        code = self._process.wait()
        self._errors.seek(0)
        messages = [line for line in self._errors.read().splitlines() if line.strip() and not line.startswith(" ")]
        return None, f"{messages[-1][:200] if messages else 'no message'} (exit code {code})"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self._lines.put(line)
        self._lines.put(None)
