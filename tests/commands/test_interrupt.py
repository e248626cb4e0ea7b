"""Ctrl-C: one line, exit code 130, and nothing half-written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from golden import small_curves
from tests.checks import HANG_SECONDS

ROOT = Path(__file__).parents[2]

DEAF = """
import dataclasses, gc, sys, threading, cli

lines = iter(["working\\n"])

def busy(phase, info):
    print(next(lines, ""), end="", flush=True)
    threading.Event().wait()

@dataclasses.dataclass
class Deaf:
    def run(self):
        gc.callbacks.append(busy)
        while True:
            gc.collect()

cli.COMMANDS["cache"] = Deaf
sys.exit(cli.main(["cache"]))
"""
"""A command in a callback of the garbage collector, where Python prints exceptions and ignores them."""


HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Where the tests themselves are in the background of a script, they and what they start ignore SIGINT."""


def started(code: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """A process of Python that can be sent signals."""
    pipe, environment = subprocess.PIPE, os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HEEDING + code]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=environment)


def assert_interrupted(process: subprocess.Popen[str]) -> None:
    """That SIGINT ends it with one line and code 130."""
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, output, error) == (130, "", "interrupted\n"), error


def test_a_command_that_is_interrupted_writes_nothing(tmp_path: Path) -> None:
    process = started('import sys, cli; sys.exit(cli.main(["fit", "-", "--out", "report"]))', cwd=tmp_path)
    assert process.stdin is not None
    # More than a pipe holds: the command is reading it by the time this returns, and waits for the end.
    process.stdin.write(small_curves().read_text().ljust(200_000, "\n"))
    process.stdin.flush()
    assert_interrupted(process)
    assert not list(tmp_path.iterdir())


def test_a_command_in_which_the_exception_is_ignored_is_ended() -> None:
    process = started(DEAF)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    assert_interrupted(process)
