"""What tracing and compiling a training step's loss and gradients cost at 6 and at 24 blocks: a scan makes it the same.

    uv run --group bench python -m benchmarks.depth

CPU seconds, of all threads (wall seconds are also those of whoever else is on the machine), of `jax.jit(...).lower(...)`, which traces,
and `.compile()`, with nothing cached; the median of `--times`. Beside them what the same model costs whose groups of blocks are
not scanned but written out one after the other.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: where there is an accelerator, too, figures are a CPU's

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import equinox as eqx
import jax
import jax.numpy as jnp
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from benchmarks.common import median, save, show, verdict
from reference.config import ModelConfig, RouterConfig, Size
from reference.objective import objective
from reference.routers import ROUTERS
from reference.transformer import Transformer

LIMIT = 1.2
"""Most that 24 blocks may cost over 6."""


@dataclass(frozen=True)
class Options:
    """Cost of tracing and compiling against depth."""

    blocks: Annotated[tuple[int, int], tyro.conf.arg(metavar="SHALLOW DEEP")] = (6, 24)
    """Blocks of the two models."""
    times: int = 5
    """Times that each is traced and compiled."""
    router: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("dense", *ROUTERS)
    """Models."""
    written_out: bool = True
    """Also the model without a scan."""
    json: Path | None = None
    """A file for the figures."""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one model."""

    router: str
    blocks: int
    scanned: bool
    trace: float
    compile: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.trace + self.compile


def costs(router: str, options: Options, *, scanned: bool, times: int) -> tuple[Cost, Cost]:
    """Medians for the shallow and the deep model, which take turns, so that a machine's slow minutes fall on both."""
    taken: tuple[list[tuple[float, float]], ...] = ([], [])
    for _ in range(times):
        for blocks, of_depth in zip(options.blocks, taken, strict=True):
            of_depth.append(trace_and_compile(router, blocks, scanned=scanned))
    shallow, deep = (
        Cost(router, blocks, scanned, *(median(part) for part in zip(*of_depth, strict=True)))
        for blocks, of_depth in zip(options.blocks, taken, strict=True)
    )
    return shallow, deep


def trace_and_compile(router: str, blocks: int, *, scanned: bool) -> tuple[float, float]:
    """CPU seconds for loss and gradients of a batch of two sequences; nothing is computed, and weights are only shapes."""
    routed = None if router == "dense" else RouterConfig(ROUTERS[router](), 8)
    config = ModelConfig(Size(64, blocks, 4, 16), routed, vocabulary=512, context=128)
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = eqx.filter_eval_shape(Transformer, config, key=key)
    weights, rest = eqx.partition(model, lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact))
    arguments = (weights, rest, jax.ShapeDtypeStruct((2, 129), jnp.int32), key)

    def _loss(weights: PyTree, rest: PyTree, tokens: Int[Array, "batch context_and_one"], key: PRNGKeyArray) -> Float[Array, ""]:
        return objective(eqx.combine(weights, rest), tokens, key=key)[0]

    groups, scan = config.size.num_blocks // config.period, jax.lax.scan

    def _written_out(body: Callable[..., PyTree], carry: PyTree, xs: PyTree) -> PyTree:
        length = jax.tree.leaves(xs)[0].shape[0]
        return scan(body, carry, xs, unroll=length == groups)  # the iterations of S-BASE stay in their scan

    jax.clear_caches()
    with patch.object(jax.lax, "scan", scan if scanned else _written_out):
        start = time.process_time()
        lowered = jax.jit(jax.value_and_grad(_loss)).lower(*arguments)
        traced = time.process_time()
        lowered.compile()
    return traced - start, time.process_time() - traced


def main(options: Options) -> None:
    """Print both tables, and whether the limit is met."""
    trace_and_compile(options.router[0], options.blocks[0], scanned=True)  # what only the first of all costs
    found: dict[bool, list[tuple[Cost, Cost]]] = {}
    for scanned in (True, False) if options.written_out else (True,):
        times = options.times if scanned else 1
        found[scanned] = [costs(router, options, scanned=scanned, times=times) for router in options.router]
        heads = ("", *(f"{what}, {blocks}" for what in ("trace", "compile", "both") for blocks in options.blocks), "ratio")
        rows = [
            [
                a.router,
                *(f"{x:.2f}" for x in (a.trace, b.trace, a.compile, b.compile, a.total, b.total)),
                f"{b.total / a.total:.2f}",
            ]
            for a, b in found[scanned]
        ]
        how = f"scanned, median of {times}" if scanned else "written out, once"
        show(f"CPU seconds to trace and compile {' and '.join(map(str, options.blocks))} blocks, {how}", heads, rows)
    worst = max(deep.total / shallow.total for shallow, deep in found[True])
    print(f"\n{options.blocks[1]} blocks over {options.blocks[0]}, worst: {worst:.2f} (at most {LIMIT}: {verdict(worst <= LIMIT)})")
    save(options.json, {"costs": [asdict(c) for pairs in found.values() for pair in pairs for c in pair], "worst": worst})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
