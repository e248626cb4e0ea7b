"""The routers' options: frozen dataclasses, checked when they are made, and their registry.

They name their module instead of importing it: counting and planning need no JAX.
"""

import math
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from reference.errors import require, require_count, require_weight


class RouterWeights(NamedTuple):
    """Parameter counts of one layer's router."""

    matrix: int
    """The router's D * E parameters, as the paper counts every technique."""
    baseline: int
    """Further parameters that the paper counts (RL-R's baseline)."""
    held: int
    """What the module holds instead of `matrix`."""


class RouterOptions(ABC):
    """Options of one technique."""

    name: ClassVar[str]
    """Name in commands and tables."""
    release_name: ClassVar[str]
    """Name in the curves' column `router_type`."""
    module: ClassVar[str]
    """File and class of its `AbstractRouter` in `reference.routers`."""
    max_k: ClassVar[int | None] = None
    """Maximum experts per token; None: no limit."""
    d_model_multiple: ClassVar[int] = 1
    """`d_model` must be a multiple of this."""

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """Parameter counts of its router: by default one D x E matrix."""
        return RouterWeights(d_model * num_experts, 0, d_model * num_experts)


@dataclass(frozen=True)
class SinkhornBase(RouterOptions):
    """S-BASE (paper, section 3): balanced assignment by entropic optimal transport."""

    name: ClassVar[str] = "s-base"
    release_name: ClassVar[str] = "S-Base"
    module: ClassVar[str] = "sinkhorn_base.SinkhornBaseRouter"

    iterations: int = 10
    """Number of Sinkhorn iterations, fixed so that shapes are static.

    Our choice: for ordinary logits, 10 bring the marginals within 2e-7; for large ones see the
    module's docstring.
    """
    init_scale: float = 1.0
    """Standard deviation of the initial logits.

    Our choice, the usual value; 4 made small models worse (docs/small_runs.md).
    """

    def __post_init__(self) -> None:
        require_count("Sinkhorn iterations", self.iterations, at_least=2)
        positive = 0 < self.init_scale < math.inf
        require(positive, f"S-BASE's init_scale is {self.init_scale}; make it a positive number")


HashTable = Literal["modulo", "random", "balanced"]
HASH_TABLES: tuple[HashTable, ...] = get_args(HashTable)


@dataclass(frozen=True)
class Hash(RouterOptions):
    """HASH (paper, section 3; Roller et al. 2021): a fixed table from token id to expert."""

    name: ClassVar[str] = "hash"
    release_name: ClassVar[str] = "Hash"
    module: ClassVar[str] = "hash.HashRouter"

    table: HashTable = "modulo"
    """How the table is made: "modulo" (token id mod E), "random" or "balanced".

    Our choice of default is "modulo", which needs no other input. "random" is uniform. "balanced"
    depends on token frequencies: make it with `hash_table(..., token_counts=...)` and pass it to
    `Transformer` as `hash_tables`.
    """
    seed: int = 0
    """Seed of the random table.

    Each routed layer draws its own table; the other kinds are the same in every layer.
    """

    def __post_init__(self) -> None:
        known = ", ".join(HASH_TABLES)
        found = self.table in HASH_TABLES
        require(found, f"no hash table is called {self.table!r}; there are {known}")
        require_count("the hash table's seed", self.seed, at_least=0)

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """The module has none; the paper's counts charge a D x E matrix."""
        return RouterWeights(d_model * num_experts, 0, 0)


@dataclass(frozen=True)
class Reinforce(RouterOptions):
    """RL-R (paper, section 3): a policy over experts, trained by REINFORCE with a learned baseline.

    The weights of the four terms are our choice: the paper gives no values. They affect the
    router's own parameters only, whose gradients AdamW rescales, so mostly their ratios matter; but
    they also enter the global norm for clipping.
    """

    name: ClassVar[str] = "rl-r"
    release_name: ClassVar[str] = "RL-R"
    module: ClassVar[str] = "reinforce.ReinforceRouter"
    max_k: ClassVar[int | None] = 1
    d_model_multiple: ClassVar[int] = 8

    policy_weight: float = 1e-2
    """Weight of -(reward - baseline) log policy(chosen)."""
    baseline_weight: float = 1e-2
    """Weight of the baseline's squared error."""
    balance_weight: float = 1e-2
    """Weight of the balancing loss, as in Switch."""
    entropy_weight: float = 1e-3
    """Weight of the policy's entropy as a bonus, subtracted from the loss.

    A negative weight is an entropy penalty.
    """

    def __post_init__(self) -> None:
        for name in ("policy_weight", "baseline_weight", "balance_weight"):
            require_weight(f"RL-R's {name}", getattr(self, name))
        weight = self.entropy_weight
        fix = "make it a finite number"
        require(math.isfinite(weight), f"RL-R's entropy_weight is {weight}; {fix}")

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """The policy's D x E matrix, and the baseline's D -> D/8 -> 1."""
        hidden = d_model // 8
        matrix = d_model * num_experts
        return RouterWeights(matrix, d_model * hidden + hidden, matrix)


@dataclass(frozen=True)
class Switch(RouterOptions):
    """Top-k softmax routing (SMOE; Shazeer et al. 2017).

    With the losses of Fedus et al. 2021 and Zoph et al. 2022.
    """

    name: ClassVar[str] = "switch"
    release_name: ClassVar[str] = "Switch"
    module: ClassVar[str] = "switch.SwitchRouter"

    balance_weight: float = 1e-2
    """Weight alpha of the balancing loss (Fedus et al. 2021, Eq. 4)."""
    z_weight: float = 1e-3
    """Weight of the squared log-partition (Zoph et al. 2022, Eq. 5)."""

    def __post_init__(self) -> None:
        for name in ("balance_weight", "z_weight"):
            require_weight(f"Switch's {name}", getattr(self, name))


@dataclass(frozen=True)
class LossFree(RouterOptions):
    """Sigmoid gates and a load-dependent bias (Wang et al. 2024)."""

    name: ClassVar[str] = "loss-free"
    release_name: ClassVar[str] = "Loss-Free"
    module: ClassVar[str] = "loss_free.LossFreeRouter"

    speed: float = 1e-3
    """Size of a bias update (Wang et al. 2024, section 4.3)."""

    def __post_init__(self) -> None:
        positive = 0 < self.speed < math.inf
        require(positive, f"loss-free's speed is {self.speed}; make it a positive number")

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """One D x E matrix; biases are not counted as parameters."""
        return RouterWeights(d_model * num_experts, 0, d_model * num_experts)


ROUTERS: dict[str, type[RouterOptions]] = {
    options.name: options for options in (SinkhornBase, Hash, Reinforce, Switch, LossFree)
}
"""Options class by the name used in commands and tables."""
