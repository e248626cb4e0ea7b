"""Models small enough to compile in a second, with weights drawn by NumPy: every array is filled, norms included."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reference.config import ModelConfig, RouterConfig, Size
from reference.decoding import Cache, decode, prefill
from reference.routers import ROUTERS
from reference.transformer import Transformer, checked_tables

SIZE = Size(d_model=16, num_blocks=4, num_heads=2, kqv_size=4)
VOCABULARY = 23
CONTEXT = 12

T = TypeVar("T")


def small(technique: str, *, num_experts: int = 4, k: int = 1, router: dict[str, Any] | None = None, **model: Any) -> ModelConfig:
    """A configuration; "dense", or a technique by name; `router` and `model` are further fields of either configuration."""
    further: dict[str, Any] = {"sequences_per_group": 1, **(router or {})}
    routed = None if technique == "dense" else RouterConfig(ROUTERS[technique](), num_experts, k, **further)
    fields: dict[str, Any] = {"size": SIZE, "router": routed, "vocabulary": VOCABULARY, "context": CONTEXT, **model}
    return ModelConfig(**fields)


def draw(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model with drawn weights, norms included, and the hash tables that `config` asks for."""
    return drawn(eqx.filter_eval_shape(Transformer, config, key=jax.random.key(0)), seed, tables=checked_tables(config, None))


def drawn(shapes: T, seed: int = 0, *, tables: Int[Array, "layers vocabulary k"] | None = None) -> T:
    """A module with its weights in place of their shapes: normal with 0.3, at which every part matters, scales of norms around 1."""
    generator = np.random.default_rng(seed)

    def _fill(path: Any, leaf: jax.ShapeDtypeStruct) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert tables is not None
            return tables
        centre = 1.0 if path[-1].name == "scale" else 0.0
        return jnp.asarray(centre + 0.3 * generator.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(_fill, shapes)


def some_tokens(batch: int, context: int = CONTEXT, seed: int = 1) -> Int[Array, "batch context"]:
    """Token ids, uniformly at random."""
    return jnp.asarray(np.random.default_rng(seed).integers(VOCABULARY, size=(batch, context)), jnp.int32)


def decoded(model: Transformer, tokens: Int[Array, "batch context"], length: Int[Array, "batch"]) -> Float[Array, "batch context rows"]:
    """Logits of a text that is read a token at a time after the first `length` of each sequence; at the end, the last position again."""
    last = tokens.shape[1] - 1

    def _read(cache: Cache, step: Int[Array, ""]) -> tuple[Cache, Float[Array, "batch rows"]]:
        position = jnp.minimum(length + step, last)
        here = jnp.take_along_axis(tokens, position[:, None], axis=1)[:, 0]
        logits, cache = decode(model, here, cache, position)
        return cache, logits

    _, logits = jax.lax.scan(_read, prefill(model, tokens[:, :last], length), jnp.arange(last + 1))
    return jnp.moveaxis(logits, 0, 1)


def some_normal(*shape: int, seed: int = 0) -> Float[Array, "..."]:
    """Standard normal numbers, in float32 or, where JAX has it on, float64."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype=float)
