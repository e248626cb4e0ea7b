"""A profile of some steps of a run: a trace in its folder, for Perfetto or TensorBoard."""

from pathlib import Path
from typing import NamedTuple

import jax

from common.errors import InputError
from common.terminal import Say
from reference.objective import Report

PROFILE = "profile"


class Steps(NamedTuple):
    """The steps to trace, both included."""

    first: int
    last: int


def parse_steps(text: str) -> Steps:
    """Steps from FIRST:LAST, such as 20:22. Raises `InputError`."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(f"--profile {text}: give the first and the last step, such as 20:22")
    return Steps(int(first), int(last))


class Tracer:
    """Traces the steps of a run that are asked for, if any."""

    def __init__(self, folder: Path, steps: Steps | None, say: Say) -> None:
        self._folder, self._steps, self._say = folder / PROFILE, steps, say
        self._traces = False

    def before(self, step: int) -> None:
        """Called before a step is dispatched; a run that continues within the steps joins in."""
        if self._steps and not self._traces and self._steps.first <= step <= self._steps.last:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._traces = True

    def after(self, step: int, report: Report) -> None:
        """Called after a step is dispatched; waits for the last one's report."""
        if self._traces and self._steps and step >= self._steps.last:
            jax.block_until_ready(report)
            self.close()

    def close(self) -> None:
        """End the trace, if one is being made."""
        if not self._traces:
            return
        self._traces = False
        jax.profiler.stop_trace()
        self._say(
            f"profile: {self._folder} (perfetto_trace.json.gz in it opens at ui.perfetto.dev, the "
            "folder in TensorBoard with its profile plugin)"
        )
