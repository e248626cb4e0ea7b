"""Run-time type checks of tests, and the processes that they start: how long a test waits, and simulated devices.

Types are checked everywhere, but for the few computations whose hundreds of thousands of calls they would repeat.

A whole analysis takes five times as long with its types checked as in use, and calls the functions that smaller tests call with checks on.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from jaxtyping import config

HANG_SECONDS = 1800
"""After which a process hangs: no busy machine takes as long for what tests start."""


def compile_quickly() -> None:
    """Programs of tests run for milliseconds and compile for seconds: XLA's optimizations, which change rounding alone, are left out.

    For the processes that are started too. Before JAX is imported, or used in the case of `XLA_FLAGS`.
    """
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Half of what is left; the newest JAX has no such option, and refuses it.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false" if metadata.version("jaxlib").startswith("0.10.") else "")


def on_devices(number: int) -> dict[str, str]:
    """The environment of a process with `number` simulated devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={number}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}


@contextmanager
def unchecked() -> Generator[None]:
    """As a context or a decorator: what runs inside runs as it does in use, without checks of its types."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
