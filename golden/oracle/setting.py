"""What a case is made of: plain dataclasses, written to the index of the golden outputs as they are."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

Arrays = dict[str, Shaped[np.ndarray, "..."]]
"""Weights, gradients or outputs by name: float64, or int64 where they are ids, or bool."""


@dataclass(frozen=True)
class RouterSetting:
    """A routed layer. Weights of terms that a technique does not have are not read."""

    technique: Literal["s-base", "hash", "rl-r", "switch", "loss-free"]
    num_experts: int
    k: int = 1
    iterations: int = 10
    policy_weight: float = 1e-2
    baseline_weight: float = 1e-2
    balance_weight: float = 1e-2
    entropy_weight: float = 1e-3
    z_weight: float = 1e-3
    capacity_factor: float | None = 1.25
    evaluation_capacity_factor: float | None = None
    sequences_per_group: int = 1
    drop_order: Literal["position", "choice", "gate"] = "position"
    granularity: int = 1
    shared_experts: int = 0


@dataclass(frozen=True)
class ModelSetting:
    """A Transformer; `router` is None for a dense one. The last block of every `period` is routed (R = 1 / period)."""

    d_model: int
    num_blocks: int
    num_heads: int
    kqv_size: int
    vocabulary: int
    context: int
    period: int = 1
    router: RouterSetting | None = None

    def routed(self, block: int) -> bool:
        """Whether the feed-forward of block number `block`, counted from 0, is routed."""
        return self.router is not None and block % self.period == self.period - 1

    def routed_blocks(self) -> list[int]:
        """Numbers of the routed blocks, from the bottom up."""
        return [block for block in range(self.num_blocks) if self.routed(block)]


def router_setting(plain: dict[str, Any]) -> RouterSetting:
    """A router's setting from its fields as the index has them."""
    return RouterSetting(**plain)


def model_setting(plain: dict[str, Any]) -> ModelSetting:
    """A model's setting from its fields as the index has them."""
    router = None if plain["router"] is None else router_setting(plain["router"])
    sizes = {name: value for name, value in plain.items() if name != "router"}
    return ModelSetting(**sizes, router=router)


def capacity(router: RouterSetting, tokens: int, training: bool) -> int:
    """C = ceil(capacity factor * k * T / E) tokens per expert of a group of `tokens`, at most T; T where none is dropped.

    Exact: 1.1 is eleven tenths.
    """
    factor = router.capacity_factor if training else router.evaluation_capacity_factor
    if factor is None:
        return tokens
    return min(tokens, math.ceil(Fraction(str(factor)) * router.k * tokens / router.num_experts))
