"""Signals that ask a run to stop:
Ctrl-C, and SIGTERM, which schedulers send before they take a machine away."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a signal has asked the run to stop."""

    asked = False


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Generator[Stop]:
    """SIGINT and SIGTERM let the step finish and a checkpoint be written; a second one is obeyed at
    once, by the system.

    Outside of the main thread, where Python takes no signals, there is nothing to do.
    """
    stop = Stop()
    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, before[signal.SIGINT])
    except ValueError:
        yield stop
        return

    def _ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        say("stopping: a checkpoint is written; once more stops at once")

    for number in before:
        signal.signal(number, _ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
