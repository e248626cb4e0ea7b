"""PyTorch's side of a comparison: `torch_step.py` in a process of its own, which waits while it is not asked."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import ROOT
from common.errors import WorkError
from reference.config import ModelConfig

Clock = Literal["wall", "processor"]


class Peer:
    """A model in PyTorch, warm: compiled, if it is to be."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Any) -> None:
        self._process, self._errors = process, errors
        self.version = self._line()
        self.seconds(2)

    def seconds(self, steps: int) -> list[float]:
        """Seconds of each of so many further steps. Raises `WorkError` if PyTorch fails."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            self._errors.seek(0)
            raise WorkError(f"PyTorch failed: {exception_in(self._errors.read())}")
        return line


def exception_in(errors: str) -> str:
    """The last exception in what a process wrote: hints may follow it, and the compiler's own message is on a line of its own."""
    lines = [line for line in errors.splitlines() if line.strip()]
    raised = [at for at, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return " ".join(" ".join(lines[raised[-1] : raised[-1] + 2]).split())[:400] if raised else (lines or ["no message"])[-1]


@contextmanager
def peer(
    python: Path,
    config: ModelConfig,
    batch: int,
    *,
    compiled: bool,
    form: str = "loop",
    device: str = "cpu",
    clock: Clock = "wall",
    threads: int | None = None,
) -> Generator[Peer]:
    """The architecture of `config` while the block lasts; routed by Switch, nothing dropped, with experts by `torch_step.EXPERTS`.

    `threads`: on CPU, by default as many as there are cores.
    """
    size = config.size
    given = {
        "d_model": size.d_model, "heads": size.num_heads, "kqv": size.kqv_size, "layers": size.num_blocks, "context": config.context,
        "vocabulary": config.vocabulary, "batch": batch, "experts": config.router.num_experts if config.router else 1, "form": form,
        "dtype": config.dtype, "device": device, "compile": compiled, "threads": threads or len(os.sched_getaffinity(0)), "clock": clock,
    }  # fmt: skip
    command = [str(python), str(ROOT / "benchmarks" / "torch_step.py"), json.dumps(given)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield Peer(process, errors)
        finally:
            process.terminate()
            process.wait()
