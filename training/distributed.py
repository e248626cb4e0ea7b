"""Several processes as one run: joining them, agreeing with them, and ending when one of them is
gone.

Each process has devices of its own; the mesh spans all. Every process runs the same program on its
share of the batch. Process 0 alone writes the run's files, and decides whatever depends on them
(`decided`); to checkpoints each process adds its part, so that the run's folder must be a shared
one.
"""

import atexit
import json
import os
import sys
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.errors import InputError, WorkError

HEARTBEAT_SECONDS = 20
"""Seconds without a heartbeat after which a process counts as lost.

Our choice: JAX's 100 s are long to pay for idle machines.
"""

SHUTDOWN_SECONDS = 30
"""How long a process that is done waits for the others to be."""


@dataclass(frozen=True)
class Processes:
    """How processes find each other;
    nothing given: as the cluster's environment says (SLURM, Open MPI, Kubernetes, TPU pods)."""

    coordinator: str | None = None
    """Address and port of process 0, such as 10.0.0.1:1234."""
    count: int | None = None
    index: int | None = None
    """This process's number, from 0."""

    def __post_init__(self) -> None:
        given = [part is not None for part in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise InputError(
                "several processes need all of: the coordinator's address, how many they are, "
                "and which one this is"
            )
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise InputError(
                f"process {self.index} of {self.count}: "
                f"processes are numbered from 0 to {self.count - 1}"
            )


def surrounding() -> Processes | None:
    """The processes that SLURM or Open MPI has started with this one;
    None if it is the only one."""
    counts = (
        os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    return Processes() if any(count.isdigit() and int(count) > 1 for count in counts) else None


def join(processes: Processes) -> None:
    """Find the other processes; before anything else is asked of JAX. Once joined, nothing happens.

    Raises `InputError` where none are named and JAX finds no cluster, `WorkError` if they cannot be
    reached.
    """
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.index,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if processes.coordinator is not None:
            raise
        # What JAX raises where it finds no cluster.
        raise InputError(
            "JAX finds no other processes here; name them: --coordinator, --processes and --process"
        ) from error
    except RuntimeError as error:
        raise WorkError(
            f"the other processes cannot be reached ({_first_line(error)}); "
            "start all of them within five minutes"
        ) from error


def check_alike(what: str) -> None:
    """Raises `InputError` unless every process says the same of itself, `what` being its options
    and data.
    """
    if jax.process_count() == 1:
        return
    own = np.uint32(zlib.crc32(what.encode()))
    all_of_them = np.asarray(multihost_utils.process_allgather(own))
    different = np.flatnonzero(all_of_them != all_of_them[0])
    if len(different):
        raise InputError(
            f"process {different[0]} has other options or other data than process 0; "
            "start all with the same command"
        )


def decided(decide: Callable[[], Any]) -> Any:
    """What `decide` returns in process 0, in every process; an `InputError` of it is raised in all.

    For decisions that depend on files, which the processes may not see in the same state: a
    collective program that only some of them enter would never end. The value must be one that
    JSON keeps. Called by every process at the same point.
    """
    if jax.process_count() == 1:
        return decide()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": decide()}
        except InputError as error:
            answer = {"error": str(error)}
    encoded = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.zeros(length, np.uint8)
    if jax.process_index() == 0:
        padded[:] = encoded
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


@contextmanager
def peers(kept: str) -> Generator[None]:
    """Around a collective program: if it fails in one process, the others end, too.

    What JAX raises when another process is gone becomes a `WorkError`, which says what is `kept`. A
    process that fails leaves as soon as Python ends, without waiting for the others as JAX would;
    those notice by its connections. Does nothing for a single process.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        atexit.register(_leave, 2 if isinstance(error, InputError) else 1)
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise WorkError(
                f"another process of this run is gone or has failed ({_first_line(error)}); {kept}"
            ) from error
        raise


def _leave(code: int) -> None:
    """End at once. Registered later than JAX's own farewell, it comes before it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
