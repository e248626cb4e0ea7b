"""Ctrl-C ends a command at once, with one line and exit code 130, whatever it is doing."""

import io
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""The exit code: shells give it to what SIGINT ended."""

GRACE_SECONDS = 1.0
"""For the command to remove what it is writing. Our choice."""


class Interrupt:
    """Whether Ctrl-C has been pressed."""

    def __init__(self) -> None:
        self.asked = False
        self._claimed = threading.Lock()

    def end(self) -> bool:
        """Write the line, and return whether this was the first call."""
        first = self._claimed.acquire(blocking=False)
        if first:
            # No stream of Python's: its lock may be held by what is interrupted.
            with suppress(OSError):
                os.write(2, b"interrupted\n")
        return first


@contextmanager
def interruptible() -> Generator[Interrupt]:
    """SIGINT raises `KeyboardInterrupt`; if the command is still there after a second, the process ends.

    For programs are compiled in C++, which returns to Python when it is done; Python ignores exceptions in callbacks of its garbage
    collector, such as JAX has; and extensions that are being imported make an `ImportError` of them. Commands that have a handler of their
    own (`train`, `sweep`) are left to it, and so is SIGINT where it is ignored. Does nothing outside of the main thread.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    ended, errors, (reads, writes) = threading.Event(), sys.stderr, os.pipe()

    def _stop(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        # Where the exception is ignored, or made another one of, Python and extensions print it.
        sys.stderr = io.StringIO()
        raise KeyboardInterrupt

    def _watch() -> None:
        """Told of signals at once, whatever the main thread is doing; ends when the pipe is closed."""
        while number := os.read(reads, 1):
            own = signal.getsignal(signal.SIGINT) is _stop
            if number[0] == signal.SIGINT and own and not ended.wait(GRACE_SECONDS) and interrupt.end():
                os._exit(INTERRUPTED)
        os.close(reads)

    os.set_blocking(writes, False)
    signal.signal(signal.SIGINT, _stop)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_watch, daemon=True).start()
    try:
        yield interrupt
    finally:
        ended.set()
        sys.stderr = errors
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(writes)
