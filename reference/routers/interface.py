"""What every router is: a pure function of one group of tokens, which says who goes where and moves
nothing.

Axes, here and in the routers: `tokens` T of one group, `experts` E, `k` choices of a token,
`d_model` D, `vocabulary` V. Losses and metrics are returned, never stored, so that they add up
under `vmap`, `scan`, rematerialisation and pipelines.
"""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray


class PolicyTrace(eqx.Module):
    """What a policy's loss needs once the reward is known, which is after the logits (RL-R only)."""

    log_prob: Float[Array, "*batch tokens"]
    """log policy(chosen expert), with gradient to the policy."""
    baseline: Float[Array, "*batch tokens"]
    """The predicted reward, with gradient to the baseline."""


class Routing(eqx.Module):
    """Where the tokens of a group go.

    Under `vmap` and `scan` every array has leading axes for groups and layers.
    """

    experts: Int[Array, "*batch tokens k"]
    """The chosen experts, from 0 to E - 1, distinct for one token."""
    gates: Float[Array, "*batch tokens k"]
    """Factors on the experts' outputs."""
    load: Float[Array, "*batch experts"]
    """Fraction of the group's T*k choices that fell on each expert; sums to 1."""
    losses: dict[str, Float[Array, "*batch"]]
    """The router's own loss terms that are known now, each times its weight."""
    metrics: dict[str, Float[Array, "*batch"]]
    """What to watch, by name; `routers.balance` has those that all routers share."""
    policy: PolicyTrace | None = None


class AbstractRouter(eqx.Module):
    """The interface.

    Implementations are final; `routed.RoutedFeedForward` maps them over groups.
    """

    @abstractmethod
    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """Choose experts for one group of tokens with representations `x` (after the block's norm)
        and ids `token_id`.

        `key` is used by routers that sample, in training only. `inference`: evaluation, where no
        choice depends on other tokens.
        """

    @abstractmethod
    def policy_losses(
        self, trace: PolicyTrace, reward: Float[Array, "*batch tokens"]
    ) -> dict[str, Float[Array, "*batch tokens"]]:
        """Loss terms of each token that need its reward, times their weights;
        empty for routers that have no policy."""
