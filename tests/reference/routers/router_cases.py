"""Logits, and routers that have them, for the tests of the routers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reference.routers import ROUTERS, AbstractRouter, Hash, RouterOptions, Routing
from reference.routers.hash import hash_table
from reference.routers.interface import RouterShape

TECHNIQUES: dict[str, RouterOptions] = {name: options() for name, options in ROUTERS.items()}

VOCABULARY = 32
"""Of HASH's tables."""

Route = Callable[..., Routing]

ROUTE: Route = jax.jit(
    lambda router, *group, inference, key=None: router(*group, inference=inference, key=key),
    static_argnames="inference",
)
"""A router on one group, compiled: `ROUTE(router, x, token_id, inference=..., key=...)`."""


def some_logits(tokens: int, experts: int, scale: float = 1.0, seed: int = 0) -> Float[np.ndarray, "tokens experts"]:
    """Normal logits with standard deviation `scale`, in float64."""
    return scale * np.random.default_rng(seed).standard_normal((tokens, experts))


def some_ids(*shape: int, seed: int = 0) -> Int[Array, "..."]:
    """Token ids, uniformly from the vocabulary."""
    return jnp.asarray(np.random.default_rng(seed).integers(VOCABULARY, size=shape), jnp.int32)


def a_router(name: str, d_model: int, num_experts: int, k: int = 1, options: RouterOptions | None = None, seed: int = 0) -> AbstractRouter:
    """The technique called `name`, in float64 where that is on."""
    options = options or TECHNIQUES[name]
    table = hash_table(options, VOCABULARY, num_experts, k, layer=0) if isinstance(options, Hash) else None
    given = None if table is None else jnp.asarray(table, jnp.int32)
    return options.build(RouterShape(d_model, num_experts, k), jax.random.key(seed), given)


def passing_through(router: Any) -> Any:
    """`router`, which has as many experts as d_model, with the identity for weight: its input is its logits."""
    return eqx.tree_at(lambda router: router.weight, router, jnp.eye(*router.weight.shape, dtype=router.weight.dtype))


def load_of(experts: Int[Array, "tokens k"], num_experts: int) -> Float[np.ndarray, "experts"]:
    """Fraction of the choices that fell on each expert, counted."""
    return np.bincount(np.asarray(experts).reshape(-1), minlength=num_experts) / experts.size
