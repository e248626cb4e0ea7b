"""What a model is made of: frozen dataclasses, checked once, when they are made. Sizes are the
paper's (the release's, exact).

A dense model has no router. A routed one has a `RouterConfig`, whose `technique` is a dataclass of
its own: which router, and the options that only it has. Every default that the paper does not state
is marked "our choice" with its reason.
"""

import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, get_args

from reference.errors import ConfigError

HashTable = Literal["modulo", "random", "balanced"]
HASH_TABLES: tuple[HashTable, ...] = get_args(HashTable)

Dtype = Literal["float32", "bfloat16", "float64"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(otherwise)


def _require_count(name: str, value: object, *, at_least: int = 1) -> None:
    fix = f"make it a whole number, at least {at_least}"
    _require(isinstance(value, Integral) and int(value) >= at_least, f"{name} is {value!r}; {fix}")


def _require_weight(name: str, value: float) -> None:
    _require(
        math.isfinite(value) and value >= 0,
        f"{name} is {value}; make it a finite number, at least 0",
    )


@dataclass(frozen=True)
class SinkhornBase:
    """S-BASE (paper, section 3): balanced assignment by entropic optimal transport."""

    iterations: int = 10
    """Sinkhorn iterations, fixed so that the program has one shape.

    Our choice: 10 bring the marginals of ordinary logits within 2e-7, and `routers.sinkhorn_base`
    says how large ones are reached.
    """
    init_scale: float = 1.0
    """Standard deviation of the logits at the start.

    Our choice, the usual one; 4 made small models worse (docs/small_runs.md).
    """

    def __post_init__(self) -> None:
        _require_count("Sinkhorn iterations", self.iterations, at_least=2)
        _require(
            0 < self.init_scale < math.inf,
            f"S-BASE's init_scale is {self.init_scale}; make it a positive number",
        )


@dataclass(frozen=True)
class Hash:
    """HASH (paper, section 3; Roller et al. 2021): a fixed table from token id to expert."""

    table: HashTable = "modulo"
    """How the table is made:
    token id modulo E (our choice of default: it needs nothing else), uniformly at random, or
    balanced by token counts, which `Transformer` then has to be given."""
    seed: int = 0
    """Seed of the random table.

    Each routed layer draws its own from it; the other tables are the same in every layer.
    """

    def __post_init__(self) -> None:
        _require(
            self.table in HASH_TABLES,
            f"no hash table is called {self.table!r}; there are {', '.join(HASH_TABLES)}",
        )
        _require_count("the hash table's seed", self.seed, at_least=0)


@dataclass(frozen=True)
class Reinforce:
    """RL-R (paper, section 3): a policy over experts, trained by REINFORCE with a learned baseline.

    The weights of the four terms are our choice: the paper gives no figures. Only their ratios
    matter much, because no term reaches anything but the router's own weights and AdamW rescales
    the gradient of each of those.
    """

    policy_weight: float = 1e-2
    """Weight of -(reward - baseline) log policy(chosen)."""
    baseline_weight: float = 1e-2
    """Weight of the baseline's squared error."""
    balance_weight: float = 1e-2
    """Weight of the balancing loss, as in Switch."""
    entropy_weight: float = 1e-3
    """Weight of the policy's entropy, as a bonus:
    it is subtracted from the loss. Negative sharpens the policy."""

    def __post_init__(self) -> None:
        for name in ("policy_weight", "baseline_weight", "balance_weight"):
            _require_weight(f"RL-R's {name}", getattr(self, name))
        _require(
            math.isfinite(self.entropy_weight),
            f"RL-R's entropy_weight is {self.entropy_weight}; make it a finite number",
        )


@dataclass(frozen=True)
class Switch:
    """Top-k softmax routing (SMOE):
    Shazeer et al. 2017, with the losses of Fedus et al. 2021 and Zoph et al. 2022."""

    balance_weight: float = 1e-2
    """Weight alpha of the balancing loss (Fedus et al. 2021, Eq. 4)."""
    z_weight: float = 1e-3
    """Weight of the squared log-partition (Zoph et al. 2022, Eq. 5)."""

    def __post_init__(self) -> None:
        for name in ("balance_weight", "z_weight"):
            _require_weight(f"Switch's {name}", getattr(self, name))


Technique = SinkhornBase | Hash | Reinforce | Switch

TECHNIQUES: dict[str, type[Technique]] = {
    "s-base": SinkhornBase,
    "hash": Hash,
    "rl-r": Reinforce,
    "switch": Switch,
}
"""The techniques by the names that commands and tables use."""

_INSTANCES = ", ".join(f"{technique.__name__}()" for technique in TECHNIQUES.values())


@dataclass(frozen=True)
class RouterConfig:
    """A routed layer: which technique, how many experts, and how many tokens each takes."""

    technique: Technique = field(default_factory=SinkhornBase)
    num_experts: int = 64
    """E. With one expert every technique is the dense model."""
    k: int = 1
    """Experts per token. RL-R's policy chooses one."""
    capacity_factor: float | None = 1.25
    """An expert takes ceil(capacity_factor * k * T / E) of a group's T tokens in training;
    those past it keep their residual only. None: none is dropped, at up to twice the work. Our
    choice of default: Fedus et al. 2021 train at 1.25."""
    evaluation_capacity_factor: float | None = None
    """The same in evaluation.

    Our choice of default, none dropped: a loss must not depend on what else is in the batch.
    """
    sequences_per_group: int = 1
    """Sequences that make up a group, the unit of balancing, capacity and sharding.

    Our choice: one.
    """

    def __post_init__(self) -> None:
        kind = getattr(self.technique, "__name__", self.technique)
        _require(
            type(self.technique) in TECHNIQUES.values(),
            f"technique is {kind!r}; give one of {_INSTANCES}",
        )
        _require_count("num_experts", self.num_experts)
        _require_count("k", self.k)
        _require(
            self.k <= self.num_experts,
            f"k is {self.k} with {self.num_experts} experts; k must be from 1 to num_experts",
        )
        _require(
            self.k == 1 or not isinstance(self.technique, Reinforce),
            f"k is {self.k}; RL-R chooses one expert per token: set k to 1",
        )
        for name in ("capacity_factor", "evaluation_capacity_factor"):
            factor: float | None = getattr(self, name)
            fix = "give a positive number, or None to drop no token"
            _require(
                factor is None or (math.isfinite(factor) and factor > 0),
                f"{name} is {factor}; {fix}",
            )
        _require_count("sequences_per_group", self.sequences_per_group)

    def capacity(self, tokens: int, *, inference: bool) -> int | None:
        """Tokens that one expert takes of a group of `tokens`:
        ceil(factor * k * T / E), at most T; None if none is dropped."""
        factor = self.evaluation_capacity_factor if inference else self.capacity_factor
        if factor is None:
            return None
        return math.ceil(min(tokens, factor * self.k * tokens / self.num_experts))


@dataclass(frozen=True)
class Size:
    """One dense architecture:
    width, depth, heads. `kqv_size` is the size of one head's keys, queries and values."""

    d_model: int
    num_blocks: int
    num_heads: int
    kqv_size: int

    def __post_init__(self) -> None:
        for name in ("d_model", "num_blocks", "num_heads", "kqv_size"):
            _require_count(name, getattr(self, name))
        _require(
            self.d_model % 2 == 0,
            f"d_model is {self.d_model}; the sinusoids of positions come in pairs: make it even",
        )


SIZES: dict[str, Size] = {
    "15M": Size(512, 6, 8, 32),
    "25M": Size(512, 8, 8, 64),
    "55M": Size(640, 10, 12, 64),
    "130M": Size(896, 12, 16, 64),
    "370M": Size(1536, 12, 12, 128),
    "870M": Size(2048, 16, 16, 128),
    "1.3B": Size(2048, 24, 16, 128),
    "7B": Size(4096, 32, 32, 128),
}
"""The sizes of the release, with 870M and 7B, which the paper's ladder has and the release trained
no run of.
"""


@dataclass(frozen=True)
class ModelConfig:
    """A language model, dense or routed. Feed-forwards are 4 * d_model wide (released counts)."""

    size: Size = SIZES["15M"]
    router: RouterConfig | None = None
    """The routed layers; None for a dense model."""
    routing_frequency: float = 0.5
    """R, the fraction of blocks that are routed: 1/R must be an integer that divides num_blocks."""
    vocabulary: int = 32_000
    context: int = 2048
    """Tokens of a training sequence; shorter ones may be run."""
    dtype: Dtype = "float32"
    """Type of the activations.

    Weights are kept in float32 at least; norms, softmaxes, routers and logits are computed so.
    """
    remat: bool = False
    """Compute each block again in the backward pass instead of keeping its activations."""
    debug: bool = False
    """Stop, saying in which, at the first routed layer whose router's logits are not finite.

    Off by default: each layer of each step then waits for the answer. HASH has no logits.
    """
    unroll: int = 1
    """Groups of blocks that one turn of the scan over them works on.

    Our choice of default, one: compiling then costs the same at any depth. On CPU all of a shallow
    model's groups save a tenth of a step, which goes into stacking what the backward pass needs.
    """

    def __post_init__(self) -> None:
        _require_count("vocabulary", self.vocabulary)
        _require_count("context", self.context)
        _require_count("unroll", self.unroll)
        _require(
            self.dtype in DTYPES,
            f"no type of activations is called {self.dtype!r}; there are {', '.join(DTYPES)}",
        )
        if self.router is None:
            return
        _check_routing_frequency(self.routing_frequency, self.size.num_blocks)
        if isinstance(self.router.technique, Reinforce):
            d_model = self.size.d_model
            _require(
                d_model % 8 == 0,
                f"d_model is {d_model}; RL-R's baseline is d_model/8 wide: use a multiple of 8",
            )

    @property
    def period(self) -> int:
        """Blocks per group, 1/R:
        the last of each is routed (our choice of place). A dense model's groups are one block."""
        return 1 if self.router is None else round(1 / self.routing_frequency)

    @property
    def routed_layers(self) -> int:
        """How many blocks are routed."""
        return 0 if self.router is None else self.size.num_blocks // self.period


def model_config(
    size: str, technique: str, num_experts: int = 64, k: int = 1, routing_frequency: float = 0.5
) -> ModelConfig:
    """A model by name:
    a size of `SIZES`, and "dense" or a technique of `TECHNIQUES`. Raises `ConfigError` for unknown
    names."""
    _require(size in SIZES, f"no size is called {size!r}; there are {', '.join(SIZES)}")
    if technique == "dense":
        return ModelConfig(SIZES[size])
    _require(
        technique in TECHNIQUES,
        f"no router is called {technique!r}; there are dense, {', '.join(TECHNIQUES)}",
    )
    router = RouterConfig(TECHNIQUES[technique](), num_experts, k)
    return ModelConfig(SIZES[size], router, routing_frequency)


def _check_routing_frequency(frequency: float, num_blocks: int) -> None:
    fix = "use 1, 1/2, 1/3, ..."
    _require(0 < frequency <= 1, f"routing_frequency is {frequency}; {fix}")
    period = round(1 / frequency)
    # 1/3 and the like come as decimals, the release's 0.08333333333333333 among them.
    _require(
        math.isclose(frequency * period, 1, rel_tol=1e-6),
        f"routing_frequency is {frequency}, not 1/integer; {fix}",
    )
    _require(
        num_blocks % period == 0,
        f"routing_frequency is 1/{period} with {num_blocks} blocks, so groups of {period} blocks do not come out even; "
        f"use a divisor of {num_blocks}",
    )
