"""A whole training step (forward, backward, AdamW) of routed models against the dense model of the same N, in the same run.

    uv run python -m benchmarks.train_routed

All models take steps in turn, so that what else the machine does meets all; the fastest of each count. The blocks are unrolled and freed
memory is kept, as `train` does on a CPU.

A routed model has E times the feed-forward weights in its routed blocks, and AdamW reads and writes all of them at each step, however
few tokens there are. The limit beside each routed model says what that alone sets: the dense model's step, plus the time in which this
machine moves what the routed model has more of weights, gradients and optimizer state. It is that many bytes (`more_bytes`) over the
bandwidth of adding two arrays as large together as they are, measured in the same run.

Targets: at most 1.2 times the dense step with 8 experts; with 64 at most 1.5 times, or 1.3 times the limit.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from benchmarks.common import save, show, verdict
from benchmarks.stepper import Stepper
from reference.config import ModelConfig, RouterConfig
from reference.count import dense_parameter_count, total_parameter_count
from reference.routers import ROUTERS
from reference.sizes import LADDER
from training.host import keep_freed_memory

TIMES = {8: 1.2, 64: 1.5}
"""Of the dense model's step, at most, by number of experts."""
OF_LIMIT = 1.3
"""Of the limit, at most, with 64 experts, where that is more."""

PASSES = 11
"""How often a step moves each weight or what belongs to it, as a program cannot avoid that does not fuse the backward pass with AdamW:
forward and backward pass read it (2) and write its gradient (1), the norm for clipping reads that (1), and AdamW reads weight, gradient
and two moments (4) and writes weight and moments (3)."""


@dataclass(frozen=True)
class Options:
    """A rung of the ladder, on bytes."""

    size: str = "427K"
    """The dense model."""
    context: int = 128
    """Tokens of a sequence."""
    batch: int = 32
    """Sequences of a step."""
    experts: tuple[int, ...] = (8, 64)
    """Numbers of experts."""
    router: tuple[str, ...] = tuple(ROUTERS)
    """Routers."""
    capacity_factor: float = 1.0
    """1 is the comparison of equal work; `train` has 1.25 unless told otherwise."""
    rounds: int = 12
    """Turns of each model."""
    json: Path | None = None
    """A file for the figures."""


def stepper(options: Options, technique: str | None, num_experts: int = 1) -> Stepper:
    """A model's step, the blocks unrolled."""
    router = None if technique is None else RouterConfig(ROUTERS[technique](), num_experts, capacity_factor=options.capacity_factor)
    size = LADDER[options.size]
    config = ModelConfig(size, router, vocabulary=257, context=options.context, unroll=size.num_blocks)
    return Stepper(config, options.batch)


def more_bytes(config: ModelConfig) -> int:
    """Bytes that a step moves for the weights that `config` has more than its dense model."""
    return 4 * PASSES * (total_parameter_count(config) - dense_parameter_count(config))


def bandwidth(megabytes: int, rounds: int) -> float:
    """Bytes a millisecond, of adding an array to another one in place: two are read, one is written."""
    add = jax.jit(jnp.add, donate_argnums=0)
    length = megabytes * 2**20 // 8
    total, one = jnp.zeros(length), jnp.ones(length)
    least = float("inf")
    for turn in range(rounds + 1):
        start = time.perf_counter()
        total = jax.block_until_ready(add(total, one))
        if turn:
            least = min(least, 1e3 * (time.perf_counter() - start))
    return 3 * 4 * length / least


def main(options: Options) -> None:
    """Time every model, print the table, and say which targets are met."""
    kept = keep_freed_memory()
    rows: list[list[str]] = []
    measured: list[dict[str, object]] = []
    missed: list[str] = []
    tokens = options.batch * options.context
    for num_experts in options.experts:
        steppers = {"dense": stepper(options, None)} | {name: stepper(options, name, num_experts) for name in options.router}
        turns = [{name: 1e3 * one.together(1) for name, one in steppers.items()} for _ in range(options.rounds)]
        least = {name: min(turn[name] for turn in turns) for name in steppers}
        extra = more_bytes(steppers[options.router[0]].config)
        speed = bandwidth(max(64, extra // PASSES // 2**20), options.rounds)
        limit = (least["dense"] + extra / speed) / least["dense"]
        for name in options.router:
            times = least[name] / least["dense"]
            met = times <= TIMES.get(num_experts, float("inf")) or (num_experts >= 64 and times <= OF_LIMIT * limit)
            if not met:
                missed.append(f"E = {num_experts}, {name}")
            cells = [f"{least['dense']:.1f}", f"{least[name]:.1f}", f"{tokens / least[name] * 1e3:,.0f}", f"{times:.2f}", f"{limit:.2f}"]
            rows.append([f"E = {num_experts}, {name}", *cells, f"{times / limit:.2f}"])
        measured.append(
            {"experts": num_experts, "milliseconds": turns, "more_bytes": extra, "bytes_per_millisecond": speed, "limit": limit}
        )
    what = f"{options.size}, {options.batch} x {options.context} tokens, capacity factor {options.capacity_factor:g}"
    header = ["", "dense ms", "routed ms", "tokens/s", "times dense", "limit", "times limit"]
    show(f"Training step, routed against dense of the same N ({what}, {len(os.sched_getaffinity(0))} threads)", header, rows)
    targets = ", ".join(f"{times} times at E = {num_experts}" for num_experts, times in TIMES.items())
    print(
        f"\nat most {targets}, or there {OF_LIMIT} times the limit: {verdict(not missed)}"
        + "".join(f"\n  above: {name}" for name in missed)
    )
    save(options.json, {"jax": jax.__version__, "kept_memory": kept, "passes": PASSES, "models": measured})


if __name__ == "__main__":
    main(tyro.cli(Options))
