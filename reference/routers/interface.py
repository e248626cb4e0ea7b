"""The router interface: a pure function from a group of tokens to their experts and gates.

Axes, here and in the routers: `tokens` T in a group, `experts` E, `k` choices per token, `d_model`
D, `vocabulary` V. Losses and metrics are returned, never stored, so that they work under `vmap`,
`scan`, rematerialisation and pipelining.

A router is one file: its options (a subclass of `RouterOptions`), its module (an `AbstractRouter`),
and a line in the registry, `routers.ROUTERS`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class PolicyTrace(eqx.Module):
    """What a policy's loss needs once the reward is known, after the logits (RL-R only)."""

    log_prob: Float[Array, "*batch tokens"]
    """log policy(chosen expert), differentiable in the policy."""
    baseline: Float[Array, "*batch tokens"]
    """The predicted reward, differentiable in the baseline."""
    policy_weight: float = eqx.field(static=True)
    baseline_weight: float = eqx.field(static=True)

    def losses(
        self, reward: Float[Array, "*batch tokens"]
    ) -> dict[str, Float[Array, "*batch tokens"]]:
        """REINFORCE with a baseline: weighted terms per token.

                    policy:    -stop_gradient(reward - baseline) * log policy(chosen)
                    baseline:  (baseline - reward)^2

        No term has a gradient with respect to `reward`.
        """
        reward = jax.lax.stop_gradient(reward)
        advantage = jax.lax.stop_gradient(reward - self.baseline)
        return {
            "policy": -self.policy_weight * advantage * self.log_prob,
            "baseline": self.baseline_weight * (self.baseline - reward) ** 2,
        }


class Routing(eqx.Module):
    """The routing of a group's tokens.

    Under `vmap` and `scan`, every array has leading axes for groups and layers.
    """

    experts: Int[Array, "*batch tokens k"]
    """The chosen experts, 0 to E - 1, distinct for each token."""
    gates: Float[Array, "*batch tokens k"]
    """Factors that multiply the experts' outputs."""
    load: Float[Array, "*batch experts"]
    """Fraction of the group's T*k choices on each expert; sums to 1."""
    losses: dict[str, Float[Array, "*batch"]]
    """Weighted router losses that do not depend on a reward."""
    metrics: dict[str, Float[Array, "*batch"]]
    """Metrics by name; `routers.balance` has those common to all routers."""
    policy: PolicyTrace | None = None
    kept: Bool[Array, "*batch tokens k"] | None = None
    """Which choices were not dropped; set by the routed feed-forward."""


class AbstractRouter(eqx.Module):
    """Implementations are final; `RoutedFeedForward` maps them over groups."""

    @abstractmethod
    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """Choose experts for one group of tokens with ids `token_id`.

        `x` is the block's input to its feed-forward, after the norm. `key` is used in training by
        routers that sample. `inference`: evaluation, where no choice depends on other tokens.
        """


class RouterState(eqx.Module):
    """Router state that is updated from the load instead of by a gradient.

    It is not trainable: the optimizer does not see it, and the gradient norm does not count it
    (`transformer.partition_weights`). Implementations are final.
    """

    @abstractmethod
    def moved(self, load: Float[Array, "*layers experts"]) -> "RouterState":
        """The state after a training step with this load of the whole batch."""


class RouterShape(NamedTuple):
    """The dimensions of a router."""

    d_model: int
    num_experts: int
    k: int


Table = Int[Array, "vocabulary k"] | None
"""HASH's table; None for other routers."""


class RouterWeights(NamedTuple):
    """Parameter counts of one layer's router."""

    matrix: int
    """The router's D * E parameters, as the paper counts every technique."""
    baseline: int
    """Further parameters that the paper counts (RL-R's baseline)."""
    held: int
    """What the module holds instead of `matrix`."""


class RouterOptions(ABC):
    """Options of one technique: frozen dataclasses, checked when they are made."""

    name: ClassVar[str]
    """Name in commands and tables."""
    release_name: ClassVar[str]
    """Name in the curves' column `router_type`."""
    max_k: ClassVar[int | None] = None
    """Maximum experts per token; None: no limit."""
    d_model_multiple: ClassVar[int] = 1
    """`d_model` must be a multiple of this."""

    @abstractmethod
    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> AbstractRouter:
        """A router with weights initialised from `key`."""

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """Parameter counts of its router: one D x E matrix, where it says nothing else."""
        return RouterWeights(d_model * num_experts, 0, d_model * num_experts)
