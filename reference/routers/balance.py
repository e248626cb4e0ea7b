"""Shared by the routers: their matrix, load, the balancing loss, and common metrics."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.routers.interface import RouterShape


def initial_matrix(shape: RouterShape, key: PRNGKeyArray) -> Float[Array, "d_model experts"]:
    """Normal with standard deviation 1/sqrt(D): initial logits have standard deviation 1."""
    return jax.random.normal(key, (shape.d_model, shape.num_experts)) / shape.d_model**0.5


def router_logits(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Float[Array, "tokens experts"]:
    """`x @ weight` in float32 or wider, whatever the dtype of the activations."""
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, weight.dtype), jnp.float32)
    return jnp.dot(x.astype(dtype), weight.astype(dtype), precision=jax.lax.Precision.HIGHEST)


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
