"""Multi-process training: joining, agreeing, and stopping when a process is lost.

Each process has its own devices; the mesh spans all of them. Every process runs the same program on
its shard of the batch. Process 0 alone writes the run's files and makes the decisions that depend
on them (`decided`). Each process writes its shards of a checkpoint, so the run's folder must be on
a shared file system.
"""

import atexit
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from common.errors import InputError, WorkError, first_line
from common.terminal import Say
from training.meeting import meet

HEARTBEAT_SECONDS = 20
"""Seconds without a heartbeat after which a process counts as lost.

Our choice: with JAX's 100 s, machines are idle for long.
"""

SHUTDOWN_SECONDS = 30
"""How long a finished process waits for the others to finish."""


@dataclass(frozen=True)
class Processes:
    """How processes find each other.

    By default through the cluster's environment (SLURM, Open MPI, Kubernetes, TPU pods).
    """

    coordinator: str | None = None
    """Address and port of process 0, such as 10.0.0.1:1234."""
    count: int | None = None
    index: int | None = None
    """Index of this process, from 0."""
    timeout: float = 300.0
    """Seconds to wait for the other processes."""

    def __post_init__(self) -> None:
        given = [part is not None for part in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise InputError(
                "several processes need all of: the coordinator's address, the number of "
                "processes, and this process's index"
            )
        if self.count is not None and self.index is not None and not 0 <= self.index < self.count:
            raise InputError(
                f"process {self.index} of {self.count}: "
                f"processes are numbered from 0 to {self.count - 1}"
            )
        if not 0 < self.timeout < math.inf:
            raise InputError(f"--join-timeout {self.timeout}: must be a number of seconds above 0")


def surrounding(timeout: float = 300.0) -> Processes | None:
    """The processes that SLURM or Open MPI started with this one; None for a single process."""
    counts = (
        os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    return (
        Processes(timeout=timeout)
        if any(count.isdecimal() and int(count) > 1 for count in counts)
        else None
    )


def join(processes: Processes, say: Say) -> None:
    """Initialise JAX's distributed runtime, before any other use of JAX; idempotent.

    Raises `InputError` where no processes are named and JAX finds no cluster, `WorkError` if they
    cannot be reached in time. JAX alone would wait without a word and abort.
    """
    if jax.distributed.is_initialized():
        return
    begun = time.monotonic()
    if processes.coordinator and processes.count and processes.index is not None:
        meet(processes.coordinator, processes.count, processes.index, processes.timeout, say)
    left = processes.timeout - (time.monotonic() - begun)
    alarm = threading.Timer(left, _give_up, [processes.timeout])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.index,
            # Longer than the alarm's: JAX aborts with a stack trace.
            initialization_timeout=math.ceil(left) + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if processes.coordinator is not None:
            raise
        # JAX raises this where it finds no cluster.
        raise InputError(
            "JAX finds no cluster here; give --coordinator, --processes and --process"
        ) from error
    except RuntimeError as error:
        raise WorkError(
            f"the other processes cannot be reached ({first_line(error)}); start all of them"
        ) from error
    finally:
        alarm.cancel()


def _give_up(seconds: float) -> None:
    """End the process: JAX's own waiting cannot be interrupted."""
    print(
        f"error: the other processes did not join within {seconds:g} s (--join-timeout); "
        "start all of them",
        file=sys.stderr,
    )
    _leave(1)


def check_alike(options: str, digests: Mapping[str, str]) -> None:
    """Raises `InputError` unless options and text are the same in every process.

    `digests`: SHA-256 of what was read, by names that follow from the options. Each host reads its
    own copy of a text: the message names the first process, and the first file, that differs.
    """
    if jax.process_count() == 1:
        return
    own = {"options": options, "digests": dict(digests), "host": socket.gethostname()}
    first, *others = (json.loads(text) for text in _gathered(json.dumps(own)))
    for index, other in enumerate(others, 1):
        process = f"process {index} (host {other['host']})"
        if other["options"] != first["options"]:
            raise InputError(
                f"{process} has other options than process 0; start all with the same command"
            )
        for name in sorted({*first["digests"], *other["digests"]}):
            ours, theirs = (each["digests"].get(name, "missing") for each in (other, first))
            if ours != theirs:
                raise InputError(
                    f"{process} has another text than process 0 (host {first['host']}):\n"
                    f"{name} has SHA-256 {ours:.12} there, {theirs:.12} on process 0;\n"
                    "copy the text from one host to all, and start all with the same command"
                )


def _gathered(text: str) -> list[str]:
    """The `text` of every process, in order, in all of them."""
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(own))))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def decided(decide: Callable[[], Any]) -> Any:
    """Broadcasts what `decide` returns, or the `InputError` it raises, in process 0.

    For decisions that depend on files, which the processes may see in different states: a
    collective that only some processes enter never ends. The value must be representable in JSON.
    All processes must call this at the same point.
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
    """Context for collective programs: if one process fails, the others end too.

    JAX's error when another process is lost becomes a `WorkError` that says what is `kept`. A
    failing process exits as soon as Python ends, instead of waiting for the others as JAX does;
    they notice by its closed connections. Does nothing for a single process.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        atexit.register(_leave, 2 if isinstance(error, InputError) else 1)
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise WorkError(
                f"another process of this run has exited or failed ({first_line(error)}); {kept}"
            ) from error
        raise


def _leave(code: int) -> None:
    """Exit at once; registered after JAX's own exit handler, it runs before it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
