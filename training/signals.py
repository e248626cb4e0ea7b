"""Signals that stop a run: Ctrl-C, and SIGTERM, which schedulers send before preemption."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from common.terminal import Say


class Stop:
    """Whether a signal has asked the run to stop."""

    asked = False


@contextmanager
def stop_on_signals(say: Say) -> Generator[Stop]:
    """On SIGINT or SIGTERM, finish the step and write a checkpoint; a second signal kills at once.

    Does nothing outside of the main thread, where Python receives no signals.
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
        say("stopping after this step, with a checkpoint; a second signal stops at once")

    for number in before:
        signal.signal(number, _ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
