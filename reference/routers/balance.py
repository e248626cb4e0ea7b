"""Shared by the routers: load, the balancing loss, and common metrics."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int


@jax.custom_jvp
def router_logits(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Float[Array, "tokens experts"]:
    """`x @ weight` in float32 or wider, whatever the dtype of the activations.

    In the highest precision, because choices depend on it: a TPU's default rounds both factors to
    bfloat16. Gradients decide nothing, and have the default.
    """
    return wide_product(x, weight, jax.lax.Precision.HIGHEST)


def _router_logits_jvp(
    primals: tuple[Float[Array, "tokens d_model"], Float[Array, "d_model experts"]],
    tangents: tuple[Any, Any],
) -> tuple[Float[Array, "tokens experts"], Float[Array, "tokens experts"]]:
    logits = router_logits(*primals)
    (x, weight), (dx, dweight) = primals, tangents
    terms: list[Float[Array, "tokens experts"]] = []
    if not isinstance(dx, SymbolicZero):
        terms.append(wide_product(dx, weight))
    if not isinstance(dweight, SymbolicZero):
        terms.append(wide_product(x, dweight))
    return logits, sum(terms, start=jnp.zeros_like(logits))


# RL-R's policy reads tokens without a gradient, for which no product is then made.
router_logits.defjvp(_router_logits_jvp, symbolic_zeros=True)


def wide_product(
    x: Float[Array, "tokens d_model"],
    weight: Float[Array, "d_model outputs"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "tokens outputs"]:
    """`x @ weight` in float32 or wider."""
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, weight.dtype), jnp.float32)
    return jnp.dot(x.astype(dtype), weight.astype(dtype), precision=precision)


def expert_load(
    experts: Int[Array, "tokens k"], num_experts: int, dtype: jnp.dtype
) -> Float[Array, "experts"]:
    """Fraction f_e of the group's T*k choices on each expert."""
    chosen = experts[..., None] == jnp.arange(num_experts, dtype=experts.dtype)
    return jnp.mean(chosen.astype(dtype), axis=(0, 1))


def balancing_loss(
    load: Float[Array, "experts"], probabilities: Float[Array, "tokens experts"]
) -> Float[Array, ""]:
    """E * sum_e f_e * mean_i p_ie, unweighted: 1 when both are uniform (Fedus et al. 2021, Eq. 4).

    f_e is a fraction of all T*k choices, as in Megatron-LM; flaxformer divides by T, which makes
    the loss k times as large.
    """
    return load.shape[0] * jnp.sum(load * jnp.mean(probabilities, axis=0))


def mean_entropy(log_probabilities: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """Mean over tokens of the entropy of their distributions over experts, in nats."""
    return -jnp.mean(jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1))


def load_metrics(
    load: Float[Array, "experts"], entropy: Float[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Metrics of every router: load imbalance (1 is balanced), and routing entropy in nats."""
    return {
        "load_max_over_mean": load.shape[0] * jnp.max(load),
        "entropy": jax.lax.stop_gradient(entropy),
    }
