"""What a sampled token costs with cached keys and values, beside a full pass over the window for each token, as people write it first.

    python -m benchmarks.sampling

Seconds of `--tokens` tokens after a prompt of one token, without compilation; the median of `--times`, which take turns. Also of
`--texts` texts at once, for each token.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: where there is an accelerator, too, figures are a CPU's

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Int, PRNGKeyArray

from benchmarks.common import median, save, seconds, show, verdict
from reference.config import ModelConfig, RouterConfig
from reference.routers import ROUTERS
from reference.sizes import LADDER
from reference.transformer import Transformer
from training.sampling import sample

TARGET = 10
"""Times as fast as the full pass that cached sampling is to be."""


@dataclass(frozen=True)
class Options:
    """Cost of sampling against the full pass."""

    size: str = "1.9M"
    """A rung of the ladder."""
    router: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("dense", "s-base")
    """Models."""
    experts: int = 8
    """Experts of routed ones."""
    context: int = 1024
    """Tokens of a window."""
    tokens: int = 256
    """Tokens to sample."""
    texts: int = 8
    """Texts at once, in the second measurement."""
    times: int = 3
    """Times that each is measured."""
    json: Path | None = None
    """A file for the figures."""


@jax.jit
def next_token(model: Transformer, window: Int[Array, "context"], last: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
    """The token after `window[last]`, by a full pass."""
    logits = model(window[None], inference=True)[0][0, last]
    return jax.random.categorical(jax.random.fold_in(key, last), logits)


def by_full_passes(model: Transformer, length: int, key: PRNGKeyArray) -> None:
    """Sample `length` tokens, each by a full pass over the window."""
    tokens = [0]
    for _ in range(length):
        recent = tokens[-model.config.context :]
        window = np.pad(np.array(recent, np.int32), (0, model.config.context - len(recent)))
        tokens.append(int(next_token(model, jnp.asarray(window), jnp.asarray(len(recent) - 1), key)))


def measure(router: str, options: Options) -> dict[str, list[float]]:
    """Seconds of each way; what compiles is called before."""
    routed = None if router == "dense" else RouterConfig(ROUTERS[router](), options.experts)
    config = ModelConfig(LADDER[options.size], routed, vocabulary=257, context=options.context)
    key, prompt = jax.random.key(1), np.zeros(1, np.int32)
    model = eqx.filter_jit(Transformer)(config, key=jax.random.key(0))
    by_full_passes(model, 1, key)
    cached = {
        name: partial(sample, model, [prompt] * texts, options.tokens, list(jax.random.split(key, texts)))
        for name, texts in (("cached", 1), ("together", options.texts))
    }
    for way in cached.values():
        way()
    ways = {"full passes": partial(by_full_passes, model, options.tokens, key), **cached}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.times):
        for name, way in ways.items():
            found[name] += seconds(way, 1)
    return found


def main(options: Options) -> None:
    """Print the table, and whether the target is met."""
    found = {router: measure(router, options) for router in options.router}
    rows: list[list[str]] = []
    ratios: list[float] = []
    for router, taken in found.items():
        full, cached, together = (median(taken[name]) / options.tokens * 1000 for name in ("full passes", "cached", "together"))
        ratios.append(full / cached)
        rows.append([router, f"{full:.2f}", f"{cached:.2f}", f"{together / options.texts:.3f}", f"{ratios[-1]:.1f}"])
    heads = ("", "full pass", "cached", f"{options.texts} texts", "full / cached")
    show(f"Milliseconds a token, {options.size}, context {options.context}, {options.tokens} tokens", heads, rows)
    print(f"\nleast ratio {min(ratios):.1f} (at least {TARGET}: {verdict(min(ratios) >= TARGET)})")
    save(options.json, {"seconds": found, "least_ratio": min(ratios)})


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
