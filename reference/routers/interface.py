"""What every router is: a pure function of one group of tokens, which says who goes where and moves
nothing.

Axes, here and in the routers: `tokens` T of one group, `experts` E, `k` choices of a token,
`d_model` D, `vocabulary` V. Losses and metrics are returned, never stored, so that they add up
under `vmap`, `scan`, rematerialisation and pipelines.

A router is one file: its options (a subclass of `RouterOptions`, with the names it goes by), its
module (an `AbstractRouter`), and a line in the registry, `routers.ROUTERS`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class PolicyTrace(eqx.Module):
    """What a policy's loss needs once the reward is known: after the logits (RL-R only)."""

    log_prob: Float[Array, "*batch tokens"]
    """log policy(chosen expert), with gradient to the policy."""
    baseline: Float[Array, "*batch tokens"]
    """The predicted reward, with gradient to the baseline."""
    policy_weight: float = eqx.field(static=True)
    baseline_weight: float = eqx.field(static=True)

    def losses(
        self, reward: Float[Array, "*batch tokens"]
    ) -> dict[str, Float[Array, "*batch tokens"]]:
        """REINFORCE with a baseline, each term of each token times its weight:

            policy:    -stop_gradient(reward - baseline) * log policy(chosen)
            baseline:  (baseline - reward)^2

        No term has a gradient to `reward`.
        """
        reward = jax.lax.stop_gradient(reward)
        advantage = jax.lax.stop_gradient(reward - self.baseline)
        return {
            "policy": -self.policy_weight * advantage * self.log_prob,
            "baseline": self.baseline_weight * (self.baseline - reward) ** 2,
        }


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
    kept: Bool[Array, "*batch tokens k"] | None = None
    """Which choices found room at their expert; the routed feed-forward sets it."""


class AbstractRouter(eqx.Module):
    """The interface. Implementations are final; `RoutedFeedForward` maps them over groups."""

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


class RouterState(eqx.Module):
    """A part of a router that training moves by the load and not by a gradient.

    It is no weight: AdamW has no moments of it, the gradient's norm does not count it
    (`transformer.partition_weights`). Implementations are final.
    """

    @abstractmethod
    def moved(self, load: Float[Array, "*layers experts"]) -> "RouterState":
        """The state after a step in which the whole batch's choices fell so on the experts."""


class RouterShape(NamedTuple):
    """What a router is built for."""

    d_model: int
    num_experts: int
    k: int


Table = Int[Array, "vocabulary k"] | None
"""HASH's table; None for all other routers."""


class RouterWeights(NamedTuple):
    """Numbers of weights of one layer's router."""

    matrix: int
    """What the paper's counts charge as the router, D * E for each of its techniques."""
    baseline: int
    """What they charge beside it (RL-R)."""
    held: int
    """What the module holds in place of `matrix`."""


class RouterOptions(ABC):
    """Options of one technique: frozen dataclasses, checked when they are made."""

    name: ClassVar[str]
    """What commands and tables call it."""
    release_name: ClassVar[str]
    """What the column `router_type` of curves calls it."""
    max_k: ClassVar[int | None]
    """The most experts a token can have; None: as many as there are."""
    d_model_multiple: ClassVar[int]
    """What the width must be a multiple of."""

    @abstractmethod
    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> AbstractRouter:
        """A router with weights drawn from `key`."""

    @abstractmethod
    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """How many weights its router has."""
