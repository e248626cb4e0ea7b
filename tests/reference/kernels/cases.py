"""The plain form of attention, and inputs drawn for it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reference.attention import attend_at_once

Inputs = tuple[Array, Array, Array, Array]

# Scores and softmax are float32 throughout. In bfloat16 a gradient has three roundings, by 2^-9 at most: of weights or changes of scores,
# of the output (in each row's sum), and of itself. Where terms of either sign make a smaller sum they are doubled: 6 x 2^-9. In float32
# everything is rounded, by 2^-24, and most by scores: of up to 2^6, hence weights by 2^-18.
BOUNDS = {"float32": 2.0**-17, "bfloat16": 6 * 2.0**-9}
"""The norm of the error over the norm of the exact result, at most, by the type of inputs that are exact in it."""

NAMES = ("output", "query", "key", "value", "position")
"""Of what is compared: the output, and the gradients."""


class Case(NamedTuple):
    """Shapes, whether the sequences consist of documents, and the standard deviation of scores."""

    batch: int
    heads: int
    context: int
    kqv: int
    documents: bool = False
    deviation: float = 1.0


def plain(
    query: Float[Array, "batch heads context kqv"],
    key: Float[Array, "batch heads context kqv"],
    value: Float[Array, "batch heads context kqv"],
    position: Float[Array, "1 heads context kqv"],
    document: Int[Array, "batch context"] | None = None,
) -> Float[Array, "batch heads context kqv"]:
    """All scores at once."""
    return jnp.moveaxis(attend_at_once(query, key, value, position, document), 1, 2)


def inputs(case: Case, dtype: Any = None) -> tuple[Inputs, Int[Array, "batch context"] | None, Array]:
    """Query, key, value and position; documents of a few tokens each; and the gradient of the output."""
    generator = np.random.default_rng(0)

    def _normal(*shape: int, scale: float = 1.0) -> Array:
        return jnp.asarray(generator.normal(0, scale, shape), dtype)

    shape = (case.batch, case.heads, case.context, case.kqv)
    query = _normal(*shape, scale=case.deviation * (2 * case.kqv) ** -0.5)
    given = (query, _normal(*shape), _normal(*shape), _normal(1, *shape[1:]))
    gradient = _normal(*shape)
    ids = np.cumsum(generator.random((case.batch, case.context)) < 0.15, axis=1)
    return given, jnp.asarray(ids, jnp.int32) if case.documents else None, gradient
