"""RL-R: a policy over experts, trained by REINFORCE with a learned baseline (paper, section 3).

For logits l = x W the policy is pi = softmax(l). A token's expert is sampled from it in training,
and is the most probable one in evaluation (our choice). The expert's output is not scaled by pi. A
token's reward is the log-probability of the correct next token, known only after the logits and
shared by all routed layers. The loss is

    -stop_gradient(reward - baseline) * log pi(chosen)  +  (baseline - reward)^2

plus a balancing loss and an entropy term. The baseline is a bias-free network D -> D/8 -> 1, whose
D*(D/8) + D/8 weights the released counts show; its hidden GELU is our choice, as in the model's
feed-forwards.

No term has a gradient to the trunk: everything here starts from stop_gradient(x).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import ConfigError, Range, check_ranges
from reference.fast import draw
from reference.routers.balance import (
    balancing_loss,
    expert_load,
    load_metrics,
    mean_entropy,
    router_logits,
    wide_product,
)
from reference.routers.interface import (
    AbstractRouter,
    PolicyTrace,
    RouterOptions,
    RouterShape,
    RouterWeights,
    Routing,
    Table,
)


@dataclass(frozen=True)
class Reinforce(RouterOptions):
    """RL-R (paper, section 3): a policy over experts, trained by REINFORCE with a learned baseline.

    The weights of the four terms are our choice: the paper gives no values. They affect the
    router's own parameters only, whose gradients AdamW rescales, so mostly their ratios matter; but
    they also enter the global norm for clipping.
    """

    name: ClassVar[str] = "rl-r"
    release_name: ClassVar[str] = "RL-R"
    max_k: ClassVar[int | None] = 1
    d_model_multiple: ClassVar[int] = 8

    policy_weight: Annotated[float, Range(0)] = 1e-2
    """Weight of -(reward - baseline) log policy(chosen)."""
    baseline_weight: Annotated[float, Range(0)] = 1e-2
    """Weight of the baseline's squared error."""
    balance_weight: Annotated[float, Range(0)] = 1e-2
    """Weight of the balancing loss, as in Switch."""
    entropy_weight: Annotated[float, Range()] = 1e-3
    """Weight of the policy's entropy as a bonus, subtracted from the loss.

    A negative weight is an entropy penalty.
    """

    def __post_init__(self) -> None:
        check_ranges(self, "RL-R's ")

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "ReinforceRouter":
        """An RL-R router; `k` must be 1."""
        return ReinforceRouter(shape.d_model, shape.num_experts, self, key=key)

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """The policy's D x E matrix, and the baseline's D -> D/8 -> 1."""
        hidden = d_model // 8
        matrix = d_model * num_experts
        return RouterWeights(matrix, d_model * hidden + hidden, matrix)


class ReinforceRouter(AbstractRouter):
    """RL-R. Weights are normal with standard deviation 1/sqrt(fan-in) (our choice)."""

    weight: Float[Array, "d_model experts"]
    baseline_in: Float[Array, "d_model hidden"]
    baseline_out: Float[Array, "hidden"]
    options: Reinforce = eqx.field(static=True)

    def __init__(
        self, d_model: int, num_experts: int, options: Reinforce, *, key: PRNGKeyArray
    ) -> None:
        policy_key, in_key, out_key = jax.random.split(key, 3)
        hidden = d_model // 8
        self.weight = jax.random.normal(policy_key, (d_model, num_experts)) / d_model**0.5
        self.baseline_in = jax.random.normal(in_key, (d_model, hidden)) / d_model**0.5
        self.baseline_out = jax.random.normal(out_key, (hidden,)) / hidden**0.5
        self.options = options

    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """Sample one expert per token in training (requires `key`); argmax in evaluation."""
        x = jax.lax.stop_gradient(x)
        log_policy = jax.nn.log_softmax(router_logits(x, self.weight))
        if inference:
            experts = jnp.argmax(log_policy, axis=-1, keepdims=True)
        elif key is None:
            raise ConfigError(
                "RL-R samples experts in training but was given no key; "
                "pass key=, or inference=True"
            )
        else:
            experts = draw(log_policy, key)
        load = expert_load(experts, log_policy.shape[-1], log_policy.dtype)
        entropy = mean_entropy(log_policy)
        return Routing(
            experts=experts,
            gates=jnp.ones(experts.shape, log_policy.dtype),
            load=load,
            losses={
                "balance": self.options.balance_weight * balancing_loss(load, jnp.exp(log_policy)),
                "entropy": -self.options.entropy_weight * entropy,
            },
            metrics=load_metrics(load, entropy),
            policy=PolicyTrace(
                log_prob=jnp.take_along_axis(log_policy, experts, axis=-1)[:, 0],
                baseline=predict_reward(x, self.baseline_in, self.baseline_out),
                policy_weight=self.options.policy_weight,
                baseline_weight=self.options.baseline_weight,
            ),
        )


def predict_reward(
    x: Float[Array, "tokens d_model"],
    weight_in: Float[Array, "d_model hidden"],
    weight_out: Float[Array, "hidden"],
) -> Float[Array, "tokens"]:
    """The baseline: gelu(x W_in) w_out, in float32 or wider."""
    hidden = jax.nn.gelu(wide_product(x, weight_in))
    return wide_product(hidden, weight_out[:, None])[:, 0]
