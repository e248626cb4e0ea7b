"""Switch routing (SMOE): the k largest softmax probabilities, balanced by auxiliary losses.

Shazeer et al. 2017 (top k), Fedus et al. 2021 (k = 1 and the balancing loss), Zoph et al. 2022
(z-loss). A baseline: not one of the paper's three techniques, but the one it compares with most
(paper, section 2).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import Range, check_ranges
from reference.routers.balance import (
    balancing_loss,
    expert_load,
    load_metrics,
    mean_entropy,
    router_logits,
)
from reference.routers.interface import AbstractRouter, RouterOptions, RouterShape, Routing, Table


@dataclass(frozen=True)
class Switch(RouterOptions):
    """Top-k softmax routing (SMOE; Shazeer et al. 2017).

    With the losses of Fedus et al. 2021 and Zoph et al. 2022.
    """

    name: ClassVar[str] = "switch"
    release_name: ClassVar[str] = "Switch"

    balance_weight: Annotated[float, Range(0)] = 1e-2
    """Weight alpha of the balancing loss (Fedus et al. 2021, Eq. 4)."""
    z_weight: Annotated[float, Range(0)] = 1e-3
    """Weight of the squared log-partition (Zoph et al. 2022, Eq. 5)."""

    def __post_init__(self) -> None:
        check_ranges(self, "Switch's ")

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "SwitchRouter":
        """A Switch router."""
        return SwitchRouter(*shape, self, key=key)


class SwitchRouter(AbstractRouter):
    """Gates are the chosen softmax probabilities, not renormalised for k > 1 (our choice)."""

    weight: Float[Array, "d_model experts"]
    k: int = eqx.field(static=True)
    options: Switch = eqx.field(static=True)

    def __init__(
        self, d_model: int, num_experts: int, k: int, options: Switch, *, key: PRNGKeyArray
    ) -> None:
        self.weight = jax.random.normal(key, (d_model, num_experts)) / d_model**0.5
        self.k = k
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
