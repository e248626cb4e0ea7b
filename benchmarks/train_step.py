"""A whole training step (forward, backward, AdamW) of a small dense model against the same architecture in eager PyTorch.

    uv run python -m benchmarks.train_step --torch-python PATH

PATH is a Python that has PyTorch, which this project does not depend on: `pip install torch==2.13.0` into an environment of its
own. It runs `benchmarks/torch_step.py`. Both sides take a few steps in turn, in the same minutes, so that what else the machine
does meets both. Both use every core the process may use: `taskset 1 python ...` measures one thread. Without PATH only our
side is timed, as it is by default, with a scan over the blocks, and with the blocks one after the other (`ModelConfig.unroll`).

The target: at least the tokens per second of PyTorch.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: the peer runs on the CPU, too

import json
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import tyro

from benchmarks.common import ROOT, median, save, show, verdict
from reference.config import ModelConfig, Size
from reference.transformer import Transformer
from training.host import keep_freed_memory
from training.optimizer import OptimizerConfig, make_optimizer
from training.step import init_state, train_step

TIMES = 1.0
"""Tokens per second over PyTorch's, at least."""


@dataclass(frozen=True)
class Options:
    """One small dense model, 0.8M parameters unless said otherwise."""

    d_model: int = 128
    """Width."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Attention heads, which share the width."""
    context: int = 128
    """Tokens of a sequence."""
    batch: int = 16
    """Sequences of a step."""
    vocabulary: tuple[int, ...] = (256, 4096)
    """Numbers of token ids, one model each."""
    rounds: int = 15
    """Turns of each side."""
    steps: int = 4
    """Steps of a turn."""
    clock: Literal["wall", "processor"] = "wall"
    """What is measured: seconds that pass, or seconds of all threads together, which a busy machine changes less; with more than one
    thread PyTorch's wait for each other by spinning, which counts."""
    keep_memory: bool = True
    """Keep freed memory in our process (`training.host`)."""
    torch_python: Path | None = None
    """A Python that has PyTorch."""
    json: Path | None = None
    """A file for the figures."""


class Ours:
    """Our step, compiled and warm."""

    def __init__(self, options: Options, vocabulary: int, unroll: int) -> None:
        self._clock = time.perf_counter if options.clock == "wall" else time.process_time
        size = Size(options.d_model, options.layers, options.heads, options.d_model // options.heads)
        optimizer = make_optimizer(OptimizerConfig())
        config = ModelConfig(size, None, vocabulary=vocabulary, context=options.context, unroll=unroll)
        model = Transformer(config, key=jax.random.key(0))
        self._state = init_state(model, optimizer)
        self._key = jax.random.key(1)
        self._tokens = jax.random.randint(jax.random.key(2), (options.batch, options.context + 1), 0, vocabulary)
        self._step = jax.jit(partial(train_step, optimizer=optimizer), donate_argnums=0)
        self.seconds(2)

    def seconds(self, steps: int) -> list[float]:
        """Seconds of each of so many further steps."""
        taken: list[float] = []
        for _ in range(steps):
            start = self._clock()
            self._state, report = self._step(self._state, self._tokens, self._key)
            jax.block_until_ready((self._state, report))
            taken.append(self._clock() - start)
        return taken


class Peer:
    """PyTorch's step, in a process of its own that waits while it is not asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.version = self._line()
        self.seconds(2)

    def seconds(self, steps: int) -> list[float]:
        """Seconds of each of so many further steps."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"error: {self._process.args} ended; is PyTorch installed for that Python?")
        return line


@contextmanager
def peer(options: Options, vocabulary: int) -> Generator[Peer | None]:
    """PyTorch's side while the block lasts; None if no Python was given."""
    if options.torch_python is None:
        yield None
        return
    given = {
        "d_model": options.d_model, "heads": options.heads, "kqv": options.d_model // options.heads, "layers": options.layers,
        "context": options.context, "vocabulary": vocabulary, "batch": options.batch, "threads": len(os.sched_getaffinity(0)),
        "clock": options.clock,
    }  # fmt: skip
    command = [str(options.torch_python), str(ROOT / "benchmarks" / "torch_step.py"), json.dumps(given)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Peer(process)
    finally:
        process.terminate()
        process.wait()


def main(options: Options) -> None:
    """Time both sides in turn, for each vocabulary."""
    kept = options.keep_memory and keep_freed_memory()
    tokens = options.batch * options.context
    rows: list[list[str]] = []
    figures: dict[str, object] = {"jax": jax.__version__, "kept_memory": kept, "clock": options.clock, "tokens": tokens}
    met = True
    for vocabulary in options.vocabulary:
        sides: dict[str, Ours | Peer] = {"scan": Ours(options, vocabulary, 1), "unrolled": Ours(options, vocabulary, options.layers)}
        with peer(options, vocabulary) as theirs:
            if theirs is not None:
                sides["torch"] = theirs
            turns = [{name: side.seconds(options.steps) for name, side in sides.items()} for _ in range(options.rounds)]
        least = {name: min(min(turn[name]) for turn in turns) for name in sides}
        times = {name: least["torch"] / least[name] for name in sides if "torch" in sides}
        paired = {name: median([min(turn["torch"]) / min(turn[name]) for turn in turns]) for name in times}
        figures[str(vocabulary)] = {"seconds": turns, "times": times, "times_in_pairs": paired}
        met &= times.get("unrolled", TIMES) >= TIMES
        for name in sides:
            middle = median([one for turn in turns for one in turn[name]])
            cells = [f"{1e3 * least[name]:.1f}", f"{1e3 * middle:.1f}", f"{tokens / least[name]:,.0f}"]
            rows.append([f"V = {vocabulary}, {name}", *cells, *(f"{ratio[name]:.2f}" if ratio else "" for ratio in (times, paired))])
    what = f"D = {options.d_model}, L = {options.layers}, H = {options.heads}, {options.batch} x {options.context} tokens"
    header = ["", "least ms", "median ms", "tokens/s", "times torch's", "median of pairs"]
    show(f"Training step, {what}, {len(os.sched_getaffinity(0))} threads, {options.clock} time", header, rows)
    if options.torch_python is not None:
        print(f"\nat least {TIMES} times PyTorch's tokens per second, blocks unrolled, by the fastest steps: {verdict(met)}")
    save(options.json, figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
