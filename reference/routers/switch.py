"""Switch routing (SMOE): the k largest softmax probabilities, balanced by auxiliary losses.

Shazeer et al. 2017 (top k), Fedus et al. 2021 (k = 1 and the balancing loss), Zoph et al. 2022
(z-loss). A baseline: not one of the paper's three techniques, but the one it compares with most
(paper, section 2).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.routers.balance import (
    balancing_loss,
    expert_load,
    initial_matrix,
    load_metrics,
    mean_entropy,
    router_logits,
)
from reference.routers.interface import AbstractRouter, RouterShape, Routing
from reference.routers.options import Switch


class SwitchRouter(AbstractRouter):
    """Gates are the chosen softmax probabilities, not renormalised for k > 1 (our choice)."""

    weight: Float[Array, "d_model experts"]
    k: int = eqx.field(static=True)
    options: Switch = eqx.field(static=True)

    def __init__(self, options: Switch, shape: RouterShape, *, key: PRNGKeyArray) -> None:
        self.weight = initial_matrix(shape, key)
        self.k = shape.k
        self.options = options

    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """The k largest logits, in training and in evaluation."""
        logits = router_logits(x, self.weight)
        log_p = jax.nn.log_softmax(logits)
        experts = jax.lax.top_k(logits, self.k)[1]
        load = expert_load(experts, logits.shape[-1], logits.dtype)
        return Routing(
            experts=experts,
            gates=jnp.exp(jnp.take_along_axis(log_p, experts, axis=-1)),
            load=load,
            losses={
                "balance": self.options.balance_weight * balancing_loss(load, jnp.exp(log_p)),
                "z": self.options.z_weight * z_loss(logits),
            },
            metrics=load_metrics(load, mean_entropy(log_p)),
        )


def z_loss(logits: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """mean_i logsumexp(l_i)^2, unweighted: keeps logits small (Zoph et al. 2022, Eq. 5)."""
    return jnp.mean(logsumexp(logits, axis=-1) ** 2)
