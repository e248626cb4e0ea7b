"""Run-time type checks of tests, and the processes that they start: how long a test waits, and simulated devices.

In every test the first calls of each function are checked, which is where mistakes show; the hundreds of thousands after them would make
whole analyses take five times as long as in use.
"""

import inspect
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, cached_property, wraps
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

from beartype import beartype
from jaxtyping import config

HANG_SECONDS = 1800
"""After which a process hangs: no busy machine takes as long for what tests start."""

CHECKED_CALLS = 20
"""Calls of each function that are checked in a test."""

Function = TypeVar("Function", bound=Callable[..., Any])

_calls: Counter[Any] = Counter()
_excused: set[Any] = set()
_checked: Callable[[Any], Any] = cache(beartype)


def first_calls(function: Function) -> Function:
    """Beartype for the first calls of a function in each test. jaxtyping hands over what has the function's name and annotations."""

    @wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        """The checked call, or once these are enough the plain one; then jaxtyping is asked to leave the function alone altogether."""
        _calls[function] += 1
        if _calls[function] <= CHECKED_CALLS:
            return _checked(function)(*args, **kwargs)
        if _calls[function] == CHECKED_CALLS + 1 and (own := _by_name(function.__module__, function.__qualname__)) is not None:
            own.__no_type_check__ = True
            _excused.add(own)
        return function(*args, **kwargs)

    return cast(Function, check)


def _by_name(module: str, name: str) -> Any:
    """The function or method of this name; None for one that was made in another."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None)
    found = found.fget if isinstance(found, property) else found.func if isinstance(found, cached_property) else found
    found = found.__func__ if isinstance(found, classmethod | staticmethod) else found
    return found if inspect.isfunction(found) else None


def check_anew() -> None:
    """Count the calls from zero."""
    _calls.clear()
    while _excused:
        del _excused.pop().__no_type_check__


def compile_quickly() -> None:
    """Programs of tests run for milliseconds and compile for seconds: XLA's optimizations, which change rounding alone, are left out.

    For the processes that are started too. Before JAX is imported, or used in the case of `XLA_FLAGS`.
    """
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Half of what is left; the newest JAX has no such option, and refuses it. Programs this small in one part: dividing them among
    # threads takes a quarter more.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags if metadata.version("jaxlib").startswith("0.10.") else "")


_ports = count(20_000 + os.getpid() % 500 * 20)


def free_port() -> int:
    """A port on which nothing listens, another one at each call.

    It is below those that systems give to outgoing connections (32,768 and up on Linux): one of those could be taken before a process
    that has yet to start listens on it.
    """
    for port in _ports:
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is no port")


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
