"""Runs as processes of this machine, a few at a time.

Each of n processes is given its n-th of the cores (our choice, because processes with threads for
all cores get in each other's way: two at once on two cores made 1.7 times the tokens when each had
one, on a busy machine, and as many on an idle one: docs/LOG.md). The costliest run goes first (our
choice: when no run waits any more, those still at work are short; and what does not fit in memory
fails at once).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import reference
from sweep.cluster import Phase
from sweep.run import Run
from training.config import to_toml


class Pool:
    """At most `parallel` runs at once."""

    def __init__(self, runs: Sequence[Run], parallel: int) -> None:
        """Ready to start the first of `runs`."""
        self._waiting = sorted(runs, key=lambda run: -run.cost())
        self._parallel = parallel
        self._running: dict[str, tuple[int, subprocess.Popen[bytes]]] = {}
        self._phases = {run.name: Phase("waiting", run.log) for run in runs}
        self._logs = {run.name: run.log for run in runs}

    def poll(self) -> dict[str, Phase]:
        """See who has ended, start who can be."""
        for name, (_, process) in list(self._running.items()):
            if process.poll() is not None:
                self._running.pop(name)
                assert process.stdin is not None
                process.stdin.close()
                self._phases[name] = Phase("ended", self._logs[name], _words(process.returncode))
        while self._waiting and len(self._running) < self._parallel:
            run = self._waiting.pop(0)
            slot = min(set(range(self._parallel)) - {slot for slot, _ in self._running.values()})
            self._running[run.name] = slot, self._start(run, slot)
            self._phases[run.name] = Phase("running", run.log)
        return dict(self._phases)

    def stop(self) -> None:
        """Ask those at work to stop, each once:
        a second signal would cut their checkpoints off. Start no more."""
        for run in self._waiting:
            self._phases[run.name] = Phase("ended", run.log)
        self._waiting = []
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Leave none behind:
        those still at work take the end of their input for the end of the sweep."""
        for _, process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()

    def _start(self, run: Run, slot: int) -> subprocess.Popen[bytes]:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.note.unlink(missing_ok=True)
        # The worker finds this package wherever the sweep did.
        root = str(Path(reference.__file__).parents[1])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        }
        with run.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the sweep alone, which passes it on.
            process = subprocess.Popen(
                [sys.executable, "-m", "sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        request = {
            "name": run.name,
            "out": str(run.out),
            "config": to_toml(run.config),
            "cores": cores_of(slot, self._parallel),
        }
        _send(process.stdin, json.dumps(request) + "\n")
        return process


def cores_of(slot: int, slots: int) -> list[int]:
    """The cores of one of `slots` processes;
    none for no limit, where the system has no such limits or fewer cores than processes."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    if slots > len(cores):
        return []
    return cores[slot * len(cores) // slots : (slot + 1) * len(cores) // slots]


def default_parallel() -> int:
    """As many runs at once as there are cores;
    one where JAX has a GPU or a TPU, which takes one process."""
    # In a process of its own, which lets go of the device again.
    asked = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.stdout.strip() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _send(pipe: IO[bytes] | None, text: str) -> None:
    assert pipe is not None
    try:
        pipe.write(text.encode())
        pipe.flush()
    except BrokenPipeError:
        # It has ended already; its exit code says so.
        pass


def _words(code: int) -> str:
    """What there is to say of a process that ended with `code` and left no note;
    nothing, if it was asked to end before it had begun."""
    if code in (0, -signal.SIGTERM, -signal.SIGINT):
        return ""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (
            ", perhaps because memory ran out" if name == "SIGKILL" else ""
        )
    return f"ended with exit code {code}"
