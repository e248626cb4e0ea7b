"""The router interface: a pure function from a group of tokens to their experts and gates.

Axes, here and in the routers: `tokens` T in a group, `experts` E, `k` choices per token, `d_model`
D, `vocabulary` V. Losses and metrics are returned, never stored, so that they work under `vmap`,
`scan`, rematerialisation and pipelining.
"""

from abc import abstractmethod
from importlib import import_module
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from reference.errors import ConfigError
from reference.routers.options import Hash, RouterOptions


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


def make_router(
    options: RouterOptions,
    shape: RouterShape,
    *,
    key: PRNGKeyArray,
    table: Int[Array, "vocabulary k"] | None = None,
) -> AbstractRouter:
    """The router of `options`, with weights initialised from `key`; HASH has its `table` instead.

    Raises `ConfigError` for HASH without a table.
    """
    file, _, name = options.module.partition(".")
    router = getattr(import_module(f"reference.routers.{file}"), name)
    if not isinstance(options, Hash):
        return router(options, shape, key=key)
    if table is None:
        raise ConfigError("HASH was given no table; make one with routers.hash.hash_table")
    return router(table, shape.num_experts)
