"""Work that Ctrl-C ends at once."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Generator[Callable[[], None]]:
    """SIGINT and SIGTERM raise `KeyboardInterrupt`, whatever they do outside.

    Gives a function that raises it too after a signal: Python ignores exceptions in callbacks of
    its garbage collector, such as JAX has. Does nothing outside of the main thread, where Python
    receives no signals.
    """
    asked = False

    def _check() -> None:
        if asked:
            raise KeyboardInterrupt

    def _stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield _check
        return
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield _check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
