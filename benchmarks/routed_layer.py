"""One routed feed-forward against a dense one, value and gradient, and what the router alone takes of it.

    uv run python -m benchmarks.routed_layer

Dense and routed layers see the same tokens and take turns, so that what else the machine does meets both; the fastest of each count.
With k = 1 and a capacity factor of 1 the experts multiply as much as the dense layer: that is the comparison of equal work. The
limit beside it is the experts alone, on buffers that are full already: E times the weights have to be read, and their gradient
written. Sinkhorn's share is its time alone, forward only as it has no gradient, over that of the whole S-BASE layer.

Targets: at most 1.15 times the dense layer with 8 experts, 1.4 times with 64, at a capacity factor of 1.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, PyTree

from benchmarks.common import save, show, verdict
from reference.config import ModelConfig, RouterConfig, Size
from reference.feedforward import Experts, FeedForward
from reference.routed import RoutedFeedForward
from reference.routers import ROUTERS
from reference.routers.interface import AbstractRouter, Routing
from reference.routers.sinkhorn_base import sinkhorn
from training.host import keep_freed_memory

TARGETS = {8: 1.15, 64: 1.4}
"""Time over the dense layer's, at most, by number of experts."""

Work = Callable[[], PyTree]
"""A compiled function with its arguments."""


@dataclass(frozen=True)
class Options:
    """A layer of width D on so many tokens."""

    tokens: int = 8192
    """Tokens."""
    d_model: int = 256
    """Width; the hidden one is four times that."""
    experts: tuple[int, ...] = (8, 64)
    """Numbers of experts."""
    groups: tuple[int, ...] = (1, 4)
    """Numbers of groups that the tokens are routed in."""
    capacity_factor: tuple[float, ...] = (1.0, 1.25)
    """Capacity factors."""
    router: tuple[str, ...] = tuple(ROUTERS)
    """Routers."""
    sinkhorn_experts: tuple[int, ...] = (8, 64, 512)
    """Numbers of experts for Sinkhorn's share; one group."""
    rounds: int = 7
    """Turns."""
    clock: Literal["wall", "processor"] = "wall"
    """What is measured: seconds that pass, or seconds of all our threads together, which a busy machine changes less."""
    keep_memory: bool = True
    """Keep freed memory in our process (`training.host`)."""
    json: Path | None = None
    """A file for the figures."""

    @property
    def size(self) -> Size:
        """The layer's."""
        return Size(self.d_model, 4, 4, self.d_model // 4)


def value_and_gradient(function: Callable[..., Float[Array, ""]], module: eqx.Module, *arguments: Array) -> Work:
    """`function(module, *arguments)` with its gradient to the module's weights and the first argument."""
    weights, rest = eqx.partition(module, eqx.is_inexact_array)

    @jax.jit
    def compiled(weights: eqx.Module, *arguments: Array) -> PyTree:
        return jax.value_and_grad(lambda weights, *given: function(eqx.combine(weights, rest), *given), (0, 1))(weights, *arguments)

    return lambda: compiled(weights, *arguments)


def dense_layer(options: Options, groups: int) -> Work:
    """The dense layer."""
    x = inputs(options, groups)
    layer = FeedForward(options.size, 4 * options.d_model, key=jax.random.key(1))
    return value_and_gradient(lambda layer, x: jnp.vdot(layer(x), x), layer, x)


def experts_alone(options: Options, num_experts: int) -> Work:
    """The experts on full buffers: nothing is routed and nothing moved."""
    buffer = inputs(options, 1).reshape(1, num_experts, -1, options.d_model)
    layer = Experts(options.size, 4 * options.d_model, num_experts, key=jax.random.key(1))
    return value_and_gradient(lambda layer, x: jnp.vdot(layer(x), x), layer, buffer)


def routed_layer(options: Options, technique: str, num_experts: int, groups: int, capacity_factor: float) -> tuple[Work, Work]:
    """The routed layer, and its router alone, both with the router's own losses (RL-R's as if each reward were 0)."""
    x, ids = inputs(options, groups), jnp.arange(options.tokens).reshape(groups, -1)
    config = RouterConfig(ROUTERS[technique](), num_experts, capacity_factor=capacity_factor, sequences_per_group=1)
    table = jnp.arange(options.tokens)[:, None] % num_experts
    layer = RoutedFeedForward(ModelConfig(options.size, config, 1.0), key=jax.random.key(1), hash_table=table)
    key = jax.random.key(2)

    def whole(layer: RoutedFeedForward, x: Float[Array, "groups tokens d_model"]) -> Float[Array, ""]:
        y, routing = layer(x, ids, key=key)
        return jnp.vdot(y, x) + losses(routing)

    def alone(router: AbstractRouter, x: Float[Array, "groups tokens d_model"]) -> Float[Array, ""]:
        keys = jax.random.split(key, groups)
        routing = jax.vmap(lambda x, ids, key: router(x, ids, key=key, inference=False))(x, ids, keys)
        # Whom a token goes to has no gradient, but has to be computed: a sum that XLA cannot leave out.
        return jnp.sum(routing.gates) + jnp.sum(routing.experts).astype(x.dtype) + losses(routing)

    def losses(routing: Routing) -> Float[Array, ""]:
        terms = dict(routing.losses)
        if routing.policy is not None:
            terms |= routing.policy.losses(jnp.zeros_like(routing.policy.baseline))
        return sum((jnp.mean(term) for term in terms.values()), start=jnp.zeros(()))

    return value_and_gradient(whole, layer, x), value_and_gradient(alone, layer.router, x)


def sinkhorn_alone(options: Options, num_experts: int) -> Work:
    """Sinkhorn's iterations on one group's logits."""
    logits = jax.random.normal(jax.random.key(3), (options.tokens, num_experts))
    compiled = jax.jit(lambda logits: sinkhorn(logits, 10))
    return lambda: compiled(logits)


def inputs(options: Options, groups: int) -> Float[Array, "groups tokens d_model"]:
    """Tokens as a norm gives them."""
    return jax.random.normal(jax.random.key(0), (groups, options.tokens // groups, options.d_model))


def least_milliseconds(works: dict[str, Work], options: Options) -> dict[str, float]:
    """Each work's fastest turn, after one that compiles it."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    least = dict.fromkeys(works, np.inf)
    for turn in range(options.rounds + 1):
        for name, work in works.items():
            start = clock()
            jax.block_until_ready(work())
            if turn:
                least[name] = min(least[name], 1e3 * (clock() - start))
    return least


def compare(options: Options, num_experts: int, groups: int, capacity_factor: float) -> dict[str, float]:
    """Milliseconds of the dense layer, the experts alone, each routed layer, and each router alone."""
    works = {"dense": dense_layer(options, groups), "experts alone": experts_alone(options, num_experts)}
    for router in options.router:
        works[router], works[f"{router} alone"] = routed_layer(options, router, num_experts, groups, capacity_factor)
    return least_milliseconds(works, options)


def main(options: Options) -> None:
    """Time every layer, print both tables, and say which targets are met."""
    kept = options.keep_memory and keep_freed_memory()
    rows: list[list[str]] = []
    measured: list[dict[str, object]] = []
    missed: list[str] = []
    for num_experts in options.experts:
        for groups in options.groups:
            for factor in options.capacity_factor:
                taken = compare(options, num_experts, groups, factor)
                measured.append({"experts": num_experts, "groups": groups, "capacity_factor": factor, "milliseconds": taken})
                dense = taken["dense"]
                for router in options.router:
                    times, alone = taken[router] / dense, taken[f"{router} alone"]
                    name = f"E = {num_experts}, groups {groups}, factor {factor}, {router}"
                    limit = f"{taken['experts alone'] / dense:.2f}" if factor == 1 else ""
                    rows.append(
                        [
                            name,
                            f"{dense:.1f}",
                            f"{taken[router]:.1f}",
                            f"{times:.2f}",
                            limit,
                            f"{alone:.1f}",
                            f"{alone / taken[router]:.1%}",
                        ]
                    )
                    if factor == 1 and times > TARGETS.get(num_experts, np.inf):
                        missed.append(name)
    what = f"{options.tokens} tokens, D = {options.d_model}, {len(os.sched_getaffinity(0))} threads, {options.clock} time"
    header = ["", "dense ms", "routed ms", "times dense", "experts alone", "router ms", "its share"]
    show(f"Routed feed-forward, value and gradient ({what})", header, rows)

    shares: dict[str, object] = {}
    rows = []
    for num_experts in options.sinkhorn_experts:
        layer, router = routed_layer(options, "s-base", num_experts, 1, 1.0)
        works = {"layer": layer, "router": router, "sinkhorn": sinkhorn_alone(options, num_experts), "dense": dense_layer(options, 1)}
        taken = least_milliseconds(works, options)
        shares[str(num_experts)] = taken
        columns = [f"{taken[name]:.1f}" for name in ("layer", "router", "sinkhorn")]
        rows.append([f"E = {num_experts}", *columns, f"{taken['sinkhorn'] / taken['layer']:.1%}", f"{taken['layer'] / taken['dense']:.2f}"])
    header = ["", "layer ms", "router ms", "Sinkhorn ms", "Sinkhorn's share", "layer, times dense"]
    show(f"Sinkhorn's share of an S-BASE layer ({what}, one group)", header, rows)
    targets = ", ".join(f"{times} times at E = {num_experts}" for num_experts, times in TARGETS.items())
    print(f"\nat most {targets}, capacity factor 1: {verdict(not missed)}" + "".join(f"\n  above: {name}" for name in missed))
    save(options.json, {"jax": jax.__version__, "kept_memory": kept, "clock": options.clock, "layers": measured, "sinkhorn": shares})


if __name__ == "__main__":
    main(tyro.cli(Options))
