"""Loss-free balancing: a bias per expert, updated by the sign of its load, and no balancing loss.

Wang et al. 2024; DeepSeek-V3, section 2.1.2.

    s_ie = sigmoid(x_i W)_e,    chosen: the k largest of s_ie + b_e,    gate: s_ie

    b_e <- b_e + speed * sign(mean load - load_e)    after every step, with the whole batch's load

The bias affects the choice but no gate, so balancing does not perturb the language model's
gradient. Not one of the paper's three techniques; included because current large models use it. Our
choices: gates are not normalised over the chosen experts (as in Wang et al.; DeepSeek-V3
normalises, which at k = 1 would leave the router without a gradient), and there is no sequence-wise
balancing loss.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import Range, check_ranges
from reference.routers.balance import expert_load, load_metrics, mean_entropy, router_logits
from reference.routers.interface import (
    AbstractRouter,
    RouterOptions,
    RouterShape,
    RouterState,
    Routing,
    Table,
)


@dataclass(frozen=True)
class LossFree(RouterOptions):
    """Sigmoid gates and a load-dependent bias (Wang et al. 2024)."""

    name: ClassVar[str] = "loss-free"
    release_name: ClassVar[str] = "Loss-Free"

    speed: Annotated[float, Range(0, more=True)] = 1e-3
    """Size of a bias update (Wang et al. 2024, section 4.3)."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss-free's ")

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "LossFreeRouter":
        """A loss-free router; biases start at 0."""
        return LossFreeRouter(*shape, self, key=key)


class ExpertBias(RouterState):
    """b, one per expert, which is not counted as a parameter."""

    value: Float[Array, "*layers experts"]
    speed: float = eqx.field(static=True)

    def moved(self, load: Float[Array, "*layers experts"]) -> "ExpertBias":
        """Raise the bias of experts below the mean load, lower it above."""
        below = jnp.mean(load, axis=-1, keepdims=True) - load
        return ExpertBias(self.value + self.speed * jnp.sign(below), self.speed)


class LossFreeRouter(AbstractRouter):
    """Loss-free balancing. `weight` is normal with standard deviation 1/sqrt(D) (our choice)."""

    weight: Float[Array, "d_model experts"]
    bias: ExpertBias
    k: int = eqx.field(static=True)

    def __init__(
        self, d_model: int, num_experts: int, k: int, options: LossFree, *, key: PRNGKeyArray
    ) -> None:
        self.weight = jax.random.normal(key, (d_model, num_experts)) / d_model**0.5
        self.bias = ExpertBias(jnp.zeros(num_experts), options.speed)
        self.k = k

    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """The k largest of score + bias, in training and in evaluation."""
        logits = router_logits(x, self.weight)
        scores = jax.nn.sigmoid(logits)
        experts = jax.lax.top_k(jax.lax.stop_gradient(scores + self.bias.value), self.k)[1]
        load = expert_load(experts, logits.shape[-1], logits.dtype)
        return Routing(
            experts=experts,
            gates=jnp.take_along_axis(scores, experts, axis=-1),
            load=load,
            losses={},
            metrics=load_metrics(load, mean_entropy(jax.nn.log_softmax(logits))),
        )
