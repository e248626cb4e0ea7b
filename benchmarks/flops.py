"""FLOPs of a forward pass: the release's count, what the program multiplies, and what XLA says of the compiled program.

    uv run python -m benchmarks.flops

XLA takes the body of a loop once, however often it runs. So the model is compiled twice: as it is, and without loops, that is with
the groups of blocks one after the other and every block of an evaluation's experts at once. The parts say where the operations come
from that are no matrix products: each is compiled by itself, its products are taken off, and what is left is multiplied by how often
the part occurs. The rest is residuals, embedding, and what XLA does otherwise in a larger program. Sinkhorn's loop stays.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: where there is an accelerator, too, figures are a CPU's

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import equinox as eqx
import jax
import jax.numpy as jnp
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from benchmarks.common import save, show, verdict
from benchmarks.products import product_flops
from reference import feedforward
from reference.config import SIZES, ModelConfig, RouterConfig, Size, block_length, num_blocks
from reference.count import flops_per_step, matmul_flops
from reference.feedforward import Experts
from reference.routed import RoutedFeedForward
from reference.routers import ROUTERS
from reference.transformer import Group, Transformer

WITHIN = 1.10
"""What XLA counts over the matrix products, at most: a figure that is further off has an explanation that is missing here."""


@dataclass(frozen=True)
class Options:
    """Three counts of one forward pass, for the dense model and each router."""

    size: str = "tiny"
    """tiny (4 blocks of width 64), or a size of the paper; nothing is computed, but a large one takes long to compile."""
    experts: int = 8
    """Experts of a routed layer."""
    context: int = 128
    """Tokens of a sequence."""
    sequences: int = 2
    """Sequences."""
    vocabulary: int = 512
    """Token ids."""
    router: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("dense", *ROUTERS)
    """What to count."""
    json: Path | None = None
    """A file for the figures."""

    def config(self, router: str) -> ModelConfig:
        """The model with this router."""
        size = Size(64, 4, 2, 32) if self.size == "tiny" else SIZES[self.size]
        routed = None if router == "dense" else RouterConfig(ROUTERS[router](), self.experts)
        return ModelConfig(size, routed, vocabulary=self.vocabulary, context=self.context)


@dataclass(frozen=True)
class Count:
    """One forward pass, counted in every way."""

    release: int
    """F, as the release counts it."""
    products: int
    """The program's matrix products, by closed form."""
    walked: int
    """The same, by walking its jaxpr: the same integer."""
    xla: int
    """XLA's figure for the program as it is."""
    unrolled: int
    """XLA's figure with the groups of blocks one after the other."""
    elementwise: dict[str, int]
    """What XLA counts besides products, by part; together with `products` they sum to `unrolled`."""


def count(config: ModelConfig, sequences: int, *, inference: bool) -> Count:
    """Count a forward pass in every way."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = eqx.filter_eval_shape(Transformer, config, key=key)
    arguments = (model, jax.ShapeDtypeStruct((sequences, config.context), jnp.int32), key)

    def _forward(model: Transformer, tokens: Int[Array, "batch context"], key: PRNGKeyArray) -> PyTree:
        return model(tokens, key=key, inference=inference)

    def _unrolled(model: Transformer, tokens: Int[Array, "batch context"], key: PRNGKeyArray) -> PyTree:
        x, routings = model.embed(tokens), []
        for i in range(config.size.num_blocks // config.period):
            x, routing = _nth(model.groups, i)(x, tokens, jax.random.fold_in(key, i), inference)
            routings.append(routing)
        return model.logits(x), routings

    products = matmul_flops(config, sequences, inference=inference).total
    with patch.object(feedforward, "COPIES", 2**62):  # no loop over blocks, either: memory is none of a compiler's concern
        unrolled = xla_flops(_unrolled, *arguments)
        parts = {name: part.elementwise() for name, part in parts_of(model, sequences, inference=inference).items()}
    if config.router is not None:
        parts["dispatch"] -= parts["router"] + parts["experts"]
    return Count(
        release=flops_per_step(config, sequences),
        products=products,
        walked=product_flops(_forward, *arguments),
        xla=xla_flops(_forward, *arguments),
        unrolled=unrolled,
        elementwise={**parts, "rest": unrolled - products - sum(parts.values())},
    )


@dataclass(frozen=True)
class Part:
    """A function that stands `times` times in a forward pass, and the shapes of what it is given."""

    times: int
    function: Callable[..., PyTree]
    arguments: tuple[PyTree, ...]

    def elementwise(self) -> int:
        """FLOPs that are in no matrix product, all times together."""
        return self.times * (xla_flops(self.function, *self.arguments) - product_flops(self.function, *self.arguments))


def parts_of(model: Transformer, sequences: int, *, inference: bool) -> dict[str, Part]:
    """A forward pass taken apart; `dispatch` is the whole routed layer, router and experts included."""
    config = model.config
    x = jax.ShapeDtypeStruct((sequences, config.context, config.size.d_model), jnp.float32)
    group = jax.eval_shape(lambda model: _nth(model.groups, 0), model)
    block, layers, blocks = group.blocks[0], config.routed_layers, config.size.num_blocks
    parts = {
        "norms": Part(2 * blocks + 1, _apply, (block.attention_norm, x)),
        "attention": Part(blocks, _apply, (block.attention, x)),
    }
    if layers < blocks:
        parts["feed-forward"] = Part(blocks - layers, _apply, (block.feedforward, x))
    routed = group.blocks[-1].feedforward
    if isinstance(routed, RoutedFeedForward):
        tokens, key = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), sequences))
        route = jax.vmap(lambda router, x, ids, key: router(x, ids, key=key, inference=inference), (None, 0, 0, 0))
        parts["router"] = Part(layers, route, (routed.router, x, tokens, keys))
        parts["experts"] = Part(layers, *_experts(routed, x, inference=inference))
        layer = partial(_routed, inference=inference)
        parts["dispatch"] = Part(layers, layer, (routed, x, tokens, key))
    return parts


def _apply(module: Callable[..., PyTree], x: Float[Array, "batch context d_model"]) -> PyTree:
    return module(x)


def _routed(routed: RoutedFeedForward, x: PyTree, tokens: PyTree, key: PyTree, *, inference: bool) -> PyTree:
    return routed(x, tokens, key=key, inference=inference)


def _experts(routed: RoutedFeedForward, x: jax.ShapeDtypeStruct, *, inference: bool) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
    """The experts on their buffers, or on blocks where nothing is dropped."""
    sequences, context, d_model = x.shape
    free = inference and routed.config.evaluation_capacity_factor is None
    size = sequences if free else routed.config.group_of(sequences, context, inference)
    number, tokens = sequences // size, size * context
    capacity = routed.config.capacity(tokens, inference=inference)
    if capacity is not None:
        return _apply, (routed.experts, jax.ShapeDtypeStruct((number, routed.config.num_experts, capacity, d_model), x.dtype))
    choices, num_experts = tokens * routed.config.k, routed.config.num_experts
    blocks = num_blocks(choices, num_experts)
    buffer = jax.ShapeDtypeStruct((number, blocks, block_length(choices, num_experts), d_model), x.dtype)
    return Experts.by_block, (routed.experts, buffer, jax.ShapeDtypeStruct((number, blocks), jnp.int32))


def _nth(groups: Group, i: int) -> Group:
    """One group of the stack."""
    return jax.tree.map(lambda weights: weights[i], groups)


def xla_flops(function: Callable[..., PyTree], *arguments: PyTree) -> int:
    """FLOPs by XLA's analysis of the compiled function: products, and an operation per element of most others."""
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    return round((analysis or {})["flops"])


def main(options: Options) -> None:
    """Count every model in training and in evaluation, and print both tables."""
    counts: dict[str, Count] = {}
    for router in options.router:
        for inference in (False, True) if router != "dense" else (False,):
            name = router + (", evaluation" if inference else ", training") * (router != "dense")
            counts[name] = count(options.config(router), options.sequences, inference=inference)
    of = f"{options.sequences} x {options.context} tokens, {options.size}, {options.experts} experts"
    heads = ("", "release", "products", "XLA, scan", "XLA, unrolled", "/ products")
    rows = [
        [name, *(f"{value:,}" for value in (c.release, c.products, c.xla, c.unrolled)), f"{c.unrolled / c.products:.3f}"]
        for name, c in counts.items()
    ]
    show(f"FLOPs of a forward pass ({of})", heads, rows)
    parts = list(dict.fromkeys(part for c in counts.values() for part in c.elementwise))
    parts.append(parts.pop(parts.index("rest")))
    rows = [[name, *(f"{c.elementwise.get(part, 0):,}" for part in parts)] for name, c in counts.items()]
    show("XLA, unrolled, without the products: by part", ("", *parts), rows)
    exact = all(c.walked == c.products for c in counts.values())
    print(f"\nproducts by closed form are those of the jaxpr: {verdict(exact)}")
    print(f"XLA counts at most {WITHIN} times the products: {verdict(all(c.unrolled <= WITHIN * c.products for c in counts.values()))}")
    save(options.json, {"jax": jax.__version__, "options": of, "counts": {name: asdict(c) for name, c in counts.items()}})


if __name__ == "__main__":
    main(tyro.cli(Options))
