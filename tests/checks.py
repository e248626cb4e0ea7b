"""Run-time type checks of tests, and how long a test waits for a process.

Types are checked everywhere, but for the few computations whose hundreds of thousands of calls they would repeat.

A whole analysis takes five times as long with its types checked as in use, and calls the functions that smaller tests call with checks on.
"""

from collections.abc import Generator
from contextlib import contextmanager

from jaxtyping import config

HANG_SECONDS = 1800
"""After which a process hangs: no busy machine takes as long for what tests start."""


@contextmanager
def unchecked() -> Generator[None]:
    """As a context or a decorator: what runs inside runs as it does in use, without checks of its types."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
