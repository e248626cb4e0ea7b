"""Processes meet at the coordinator's port before JAX does, so that one can say who is missing.

Process 0 listens there; each other one connects, sends `INDEX COUNT` and waits. When all have come,
process 0 answers `go` and leaves the port to JAX's service.
"""

import select
import socket
import time

from common.errors import InputError, WorkError
from common.terminal import Say

PATIENCE_SECONDS = 5
"""Seconds of waiting before it is mentioned."""

_GO = b"go\n"


def meet(coordinator: str, count: int, index: int, timeout: float, say: Say) -> None:
    """Return when all `count` processes are there.

    Raises `WorkError` if that is not so after `timeout` seconds, or the port is taken; `InputError`
    for an address that cannot be used, or processes that do not belong together.
    """
    host, port = _address(coordinator)
    end = time.monotonic() + timeout
    if index == 0:
        _receive(coordinator, port, count, end, timeout, say)
    else:
        _arrive((host, port), count, index, end, timeout, say)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"coordinator {coordinator}: give an address and a port, such as 10.0.0.1:1234"
        )
    try:
        socket.getaddrinfo(host, int(port))
    except OSError as error:
        raise InputError(f"coordinator {coordinator}: {error.strerror}") from error
    return host, int(port)


def _receive(coordinator: str, port: int, count: int, end: float, timeout: float, say: Say) -> None:
    """Process 0: wait for the others, then send them on."""
    try:
        # On all addresses, as JAX's service listens.
        listening = socket.create_server(("", port), backlog=count)
    except OSError as error:
        raise WorkError(
            f"port {port} cannot be used ({error.strerror}); name another one in --coordinator, "
            "in all processes"
        ) from error
    arrived: dict[int, socket.socket] = {}
    waiting = _Waiting(say, end)
    with listening:
        while len(arrived) < count - 1:
            missing = ", ".join(str(i) for i in range(1, count) if i not in arrived)
            what = f"process {missing} of {count} at {coordinator}"
            if select.select([listening], [], [], waiting.next_pause(what))[0]:
                joined, _ = listening.accept()
                try:
                    arrived[_introduced(joined, count)] = joined
                except OSError:
                    joined.close()
            elif time.monotonic() > end:
                raise WorkError(_timed_out(what, timeout))
        for joined in arrived.values():
            with joined:
                joined.sendall(_GO)


def _introduced(joined: socket.socket, count: int) -> int:
    """The index that a process gives. Raises `InputError` if it is of another run."""
    joined.settimeout(PATIENCE_SECONDS)
    words = joined.makefile("rb").readline().split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        raise ConnectionError("not one of our processes")
    index, processes = map(int, words)
    if processes != count:
        raise InputError(
            f"process {index} was started with --processes {processes}, process 0 with {count}; "
            "start all with the same number"
        )
    return index


def _arrive(
    address: tuple[str, int], count: int, index: int, end: float, timeout: float, say: Say
) -> None:
    """Another process: wait for process 0, and for its word."""
    what = f"process 0 of {count} at {address[0]}:{address[1]}"
    waiting = _Waiting(say, end)
    while True:
        pause = waiting.next_pause(what)
        try:
            with socket.create_connection(address, timeout=max(pause, 0.1)) as joined:
                joined.sendall(f"{index} {count}\n".encode())
                while not select.select(
                    [joined], [], [], waiting.next_pause(f"{what} and the others")
                )[0]:
                    if time.monotonic() > end:
                        raise WorkError(_timed_out(what, timeout))
                if joined.recv(len(_GO)) == _GO:
                    return
        except OSError:
            # Not there yet, or not one of ours.
            time.sleep(0.2)
        if time.monotonic() > end:
            raise WorkError(_timed_out(what, timeout))


class _Waiting:
    """Says once that there is something to wait for."""

    def __init__(self, say: Say, end: float) -> None:
        self._say, self._end, self._mentioned = say, end, False
        self._mention = time.monotonic() + PATIENCE_SECONDS

    def next_pause(self, what: str) -> float:
        """Seconds to wait for `what` until there is something to do; it is mentioned when due."""
        now = time.monotonic()
        if now >= self._mention and not self._mentioned:
            self._mentioned = True
            self._say(f"waiting for {what}")
        due = self._end if self._mentioned else min(self._mention, self._end)
        return max(due - now, 0.0)


def _timed_out(what: str, timeout: float) -> str:
    return f"{what} did not come within {timeout:g} s (--join-timeout); start all processes"
