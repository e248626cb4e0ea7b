"""A whole training step (forward, backward, AdamW) of small models against the same architecture in PyTorch, eager and torch.compile.

    uv run python -m benchmarks.train_step --torch-python PATH [--quick]

PATH is a Python that has PyTorch, which this project does not depend on: `pip install torch==2.13.0` into an environment of its
own. It runs `benchmarks/torch_step.py`; torch.compile needs a C++ compiler besides. All sides take a few steps in turn, in the same
minutes, so that what else the machine does meets all. All use every core the process may use: `taskset 1 python ...` measures one
thread. Without PATH only our sides are timed.

Dense: the blocks one after the other (`ModelConfig.unroll`), and with a scan over them. Routed: Switch, nothing dropped, as PyTorch has
it with a loop over the experts and with grouped_mm; and with the usual capacity factor of 1.25.

The target: at least the tokens per second of each of PyTorch's forms, blocks unrolled and nothing dropped. `--quick` answers within a
minute: fewer steps of the smallest models, ours as held against PyTorch's, and PyTorch's as people write them first: eager, in a loop.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: the peer runs on the CPU, too

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import tyro

from benchmarks.common import median, save, show, verdict
from benchmarks.stepper import Stepper
from benchmarks.torch_peer import Clock, Peer, peer
from reference.config import ModelConfig, RouterConfig, Size
from reference.routers import Switch
from reference.sizes import LADDER
from training.host import keep_freed_memory

TIMES = 1.0
"""Tokens per second over PyTorch's, at least."""

SHAPES = LADDER | {"0.8M": Size(128, 4, 4, 32)}

OURS = "JAX"
"""The side that is held against PyTorch's."""


@dataclass(frozen=True)
class Options:
    """Small models, dense and routed."""

    sizes: tuple[str, ...] = ("0.8M", "5M")
    """0.8M (width 128, four blocks), or rungs of the ladder."""
    experts: tuple[int, ...] = (1, 8)
    """Experts of every second block; 1: dense."""
    context: int = 128
    """Tokens of a sequence."""
    batch: int = 16
    """Sequences of a step."""
    vocabulary: int = 256
    """Number of token ids."""
    rounds: int = 12
    """Turns of each side."""
    steps: int = 3
    """Steps of a turn."""
    quick: bool = False
    """The smallest models, five turns of two steps, and of both sides one form alone."""
    clock: Clock = "wall"
    """What is measured: seconds that pass, or seconds of all threads together, which a busy machine changes less; with more than one
    thread PyTorch's wait for each other by spinning, which counts."""
    keep_memory: bool = True
    """Keep freed memory in our process (`training.host`)."""
    torch_python: Path | None = None
    """A Python that has PyTorch."""
    json: Path | None = None
    """A file for the figures."""


def ours(options: Options, size: Size, experts: int) -> dict[str, Stepper]:
    """Our forms of a model."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    dense = ModelConfig(size, None, vocabulary=options.vocabulary, context=options.context, unroll=size.num_blocks)
    if experts == 1:
        configs = {OURS: dense, "JAX, scan": replace(dense, unroll=1)}
    else:
        factors = {OURS: None, "JAX, capacity 1.25": 1.25}
        configs = {name: replace(dense, router=RouterConfig(Switch(), experts, capacity_factor=each)) for name, each in factors.items()}
    return {name: Stepper(config, options.batch, clock) for name, config in configs.items() if name == OURS or not options.quick}


def torch_forms(options: Options, experts: int) -> dict[str, tuple[bool, str]]:
    """PyTorch's forms of a model: whether it is compiled, and how experts are computed."""
    named: dict[str, tuple[bool, str]] = {}
    for compiled in (False,) if options.quick else (False, True):
        way = "compiled" if compiled else "eager"
        if experts == 1:
            named[f"PyTorch, {way}"] = compiled, "loop"
        else:
            named |= {f"PyTorch, {way}, {form}": (compiled, form) for form in ("loop", *(() if options.quick else ("grouped",)))}
    return named


def compare(options: Options, size: Size, experts: int) -> list[dict[str, list[float]]]:
    """Seconds of each step of each side, by turn."""
    sides: dict[str, Stepper | Peer] = {**ours(options, size, experts)}
    config = next(iter(sides.values()))
    assert isinstance(config, Stepper)
    with ExitStack() as stack:
        if options.torch_python is not None:
            for name, (compiled, form) in torch_forms(options, experts).items():
                theirs = peer(options.torch_python, config.config, options.batch, compiled=compiled, form=form, clock=options.clock)
                sides[name] = stack.enter_context(theirs)
        return [{name: side.seconds(options.steps) for name, side in sides.items()} for _ in range(options.rounds)]


def rows_of(turns: list[dict[str, list[float]]], tokens: int, name: str) -> tuple[list[list[str]], dict[str, Mapping[str, float]]]:
    """The table's rows, and how many times as fast ours is as each of PyTorch's: by the fastest steps, and by the median of turns."""
    rows: list[list[str]] = []
    ratios: dict[str, Mapping[str, float]] = {}
    least = {side: min(min(turn[side]) for turn in turns) for side in turns[0]}
    for side in least:
        middle = median([one for turn in turns for one in turn[side]])
        cells = [f"{1e3 * least[side]:.1f}", f"{1e3 * middle:.1f}", f"{tokens / least[side]:,.0f}"]
        if side.startswith("PyTorch"):
            paired = median([min(turn[side]) / min(turn[OURS]) for turn in turns])
            ratios[side] = {"least": least[side] / least[OURS], "pairs": paired}
        rows.append([f"{name}, {side}", *cells, *(f"{one:.2f}" for one in ratios.get(side, {}).values())])
        rows[-1] += [""] * (6 - len(rows[-1]))
    return rows, ratios


def main(options: Options) -> None:
    """Time all sides in turn, for each model."""
    if options.quick:
        options = replace(options, sizes=options.sizes[:1], rounds=5, steps=2)
    kept = options.keep_memory and keep_freed_memory()
    tokens = options.batch * options.context
    rows: list[list[str]] = []
    figures: dict[str, object] = {"jax": jax.__version__, "kept_memory": kept, "clock": options.clock, "tokens": tokens}
    missed: list[str] = []
    for size in options.sizes:
        for experts in options.experts:
            name = f"{size}, " + ("dense" if experts == 1 else f"E = {experts}")
            turns = compare(options, SHAPES[size], experts)
            more, ratios = rows_of(turns, tokens, name)
            rows += more
            figures[name] = {"seconds": turns, "times_theirs": ratios}
            missed += [f"{name}, {side}" for side, ratio in ratios.items() if ratio["least"] < TIMES]
    header = ["", "least ms", "median ms", "tokens/s", "ours over it", "median of pairs"]
    what = f"{options.batch} x {options.context} tokens, V = {options.vocabulary}, {len(os.sched_getaffinity(0))} threads"
    show(f"Training step, {what}, {options.clock} time", header, rows)
    if options.torch_python is not None:
        print(f"\nat least {TIMES} times the tokens per second of each of PyTorch's forms, by the fastest steps: {verdict(not missed)}")
        print("".join(f"  slower than {name}\n" for name in missed), end="")
    save(options.json, figures)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
