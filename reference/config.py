"""Model configuration: frozen dataclasses, validated on construction.

A dense model has no router. A routed model has a `RouterConfig`, whose `technique` is a dataclass
of its own: the router and its options. Every default that the paper does not state is marked "our
choice", with a reason.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal, get_args

from reference.errors import ConfigError, require, require_count
from reference.mesh import BATCH, DATA, EXPERT, MODEL
from reference.routers import ROUTERS, RouterOptions, SinkhornBase
from reference.sizes import SIZES, Size, size_named

Dtype = Literal["float32", "bfloat16", "float64"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

AttentionForm = Literal["plain", "chunked", "kernel"]
ATTENTION_FORMS: tuple[AttentionForm, ...] = get_args(AttentionForm)
QUERIES, RUNS = 256, 4
"""Queries per chunk of chunked attention, and the number of loops over chunks.

Our choices: enough for a TPU's matrix unit, and an eighth of the scores of T = 2048 at a time. The
chunks of a loop multiply with the same keys, so that with 4 loops 5/8 of all pairs are scored.
"""

Remat = Literal["none", "selective", "full"]
REMATS: tuple[Remat, ...] = get_args(Remat)

DropOrder = Literal["position", "choice", "gate", "random"]
DROP_ORDERS: tuple[DropOrder, ...] = get_args(DropOrder)

WIDENING = 4
"""Hidden width of a feed-forward over d_model (released counts)."""

BALANCED_TOKENS = 64
"""Minimum mean tokens per expert in a group, where `sequences_per_group` is None."""


@dataclass(frozen=True)
class RouterConfig:
    """A routed layer: the technique, the number of experts, and their capacity."""

    technique: RouterOptions = field(default_factory=SinkhornBase)
    """The router and its options, one of `routers.ROUTERS`."""
    num_experts: int = 64
    """E. With one expert, the paper's techniques and Switch are the dense model."""
    k: int = 1
    """Experts per token. RL-R's policy chooses one."""
    capacity_factor: float | None = 1.25
    """An expert takes at most ceil(capacity_factor * k * T / E) of a group's T tokens in training.

    A dropped token keeps its residual only. None: no token is dropped, at up to twice the compute.
    Our choice of default, as in Fedus et al. 2021.
    """
    evaluation_capacity_factor: float | None = None
    """The capacity factor in evaluation; None: no token is dropped.

    Our choice of default: a loss must not depend on the rest of the batch.
    """
    sequences_per_group: int | None = None
    """Sequences per group, the unit of balancing and capacity.

    None (our choice): as few of a device's sequences as give each expert a mean of 64 tokens, or
    all of them. With few tokens per expert, even a balanced plan drops many: S-BASE drops 9 % at
    T/E = 4 (docs/routers.md).
    """
    drop_order: DropOrder = "position"
    """Which choices a full expert drops.

    "position" (our choice of default): the last in the group. "choice": second choices before first
    ones, then by position (GShard). "gate": the smallest gates (Riquelme et al. 2021). "random": at
    random.
    """
    granularity: int = 1
    """G: an expert is 4 * d_model / G wide (Krajewski et al. 2024).

    With k = G, a token's experts cost as much as one dense feed-forward.
    """
    shared_experts: int = 0
    """Experts of the same width that every token uses, without a gate (Dai et al. 2024)."""

    def __post_init__(self) -> None:
        found = getattr(self.technique, "__name__", self.technique)
        known = ", ".join(f"{options.__name__}()" for options in ROUTERS.values())
        is_technique = type(self.technique) in ROUTERS.values()
        require(is_technique, f"technique is {found!r}; give one of {known}")
        for name in ("num_experts", "k", "granularity"):
            require_count(name, getattr(self, name))
        require_count("shared_experts", self.shared_experts, at_least=0)
        fix = f"with {self.num_experts} experts; k must be from 1 to num_experts"
        require(self.k <= self.num_experts, f"k is {self.k} {fix}")
        most = self.technique.max_k
        fix = f"a router of type {self.technique.release_name} chooses at most {most} experts"
        require(most is None or self.k <= most, f"k is {self.k}; {fix} for a token")
        for name in ("capacity_factor", "evaluation_capacity_factor"):
            factor: float | None = getattr(self, name)
            fix = "give a positive number, or None to drop no token"
            positive = factor is None or (math.isfinite(factor) and factor > 0)
            require(positive, f"{name} is {factor}; {fix}")
        if self.sequences_per_group is not None:
            require_count("sequences_per_group", self.sequences_per_group)
        known = ", ".join(DROP_ORDERS)
        found = self.drop_order in DROP_ORDERS
        require(found, f"no drop_order is called {self.drop_order!r}; there are {known}")

    def capacity(self, tokens: int, *, inference: bool) -> int | None:
        """Capacity of an expert in a group of `tokens`: ceil(factor * k * T / E), at most T.

        None if no token is dropped. Exact: the factor is read as the decimal it prints as.
        """
        factor = self.evaluation_capacity_factor if inference else self.capacity_factor
        if factor is None:
            return None
        mean = Fraction(self.k * tokens, self.num_experts)
        return min(tokens, math.ceil(Fraction(str(factor)) * mean))

    def group_of(self, sequences: int, context: int, inference: bool = False) -> int:
        """Sequences per group, when a device holds `sequences` of `context` tokens.

        Raises `ConfigError` where `sequences_per_group` does not divide them. In evaluation, which
        takes any batch size, groups are then smaller.
        """
        if self.sequences_per_group is None:
            enough = BALANCED_TOKENS * self.num_experts
            divisors = (n for n in range(1, sequences) if sequences % n == 0)
            return next((n for n in divisors if n * context >= enough), sequences)
        if inference:
            return math.gcd(sequences, self.sequences_per_group)
        if sequences % self.sequences_per_group:
            raise ConfigError(
                f"{sequences} sequences on a device are not divisible by sequences_per_group = "
                f"{self.sequences_per_group}; use a divisor, or None"
            )
        return self.sequences_per_group


@dataclass(frozen=True)
class ModelConfig:
    """A language model, dense or routed. Feed-forwards are 4 * d_model wide (released counts)."""

    size: Size = SIZES["15M"]
    router: RouterConfig | None = None
    """The routed layers' configuration; None for a dense model."""
    routing_frequency: float = 0.5
    """R, the fraction of blocks that are routed: 1/R must be an integer that divides num_blocks."""
    vocabulary: int = 32_000
    """Number of token ids."""
    context: int = 2048
    """Tokens per training sequence; shorter sequences are accepted."""
    dtype: Dtype = "float32"
    """Dtype of the activations.

    Parameters are float32 or wider; norms, softmaxes, routing and logits are computed in float32 or
    wider.
    """
    attention: AttentionForm = "plain"
    """How attention is computed (`attention.py`): the same numbers but for rounding."""
    remat: Remat = "none"
    """What a block computes again in the backward pass instead of keeping it.

    Everything but its input ("full"); or what costs little beside its memory ("selective"): kept
    are inputs and outputs of attention's heads and of the experts, so that no token is sent to its
    expert again and of a block's products only those into the feed-forwards are done again.
    """
    unroll: int = 1
    """Up to this many groups of blocks are unrolled; with more, all are scanned over.

    Our choice of default, 1: compile time does not grow with depth. On CPU, unrolling a shallow
    model saves a tenth of a step.
    """
    mask_documents: bool = False
    """Attention does not cross the ends of documents (our option; the paper's does).

    The last id of the vocabulary ends a document: read, it is the beginning of the next one.
    """
    vocabulary_multiple: int = 1
    """The embedding's rows are padded to a multiple of this, so that a mesh axis divides them.

    Padding rows are 0, and their logits are masked.
    """

    def __post_init__(self) -> None:
        for name in ("vocabulary", "vocabulary_multiple", "context", "unroll"):
            require_count(name, getattr(self, name))
        for name, known in (("dtype", DTYPES), ("attention", ATTENTION_FORMS), ("remat", REMATS)):
            value = getattr(self, name)
            there_are = ", ".join(known)
            require(value in known, f"no {name} is called {value!r}; there are {there_are}")
        if self.router is None:
            return
        _check_routing_frequency(self.routing_frequency, self.size.num_blocks)
        d_model, options = self.size.d_model, self.router.technique
        multiple, granularity = options.d_model_multiple, self.router.granularity
        fix = f"{options.release_name} needs a multiple of {multiple}"
        require(d_model % multiple == 0, f"d_model is {d_model}; {fix}")
        fix = f"it must divide the {WIDENING * d_model} columns of a feed-forward"
        divides = WIDENING * d_model % granularity == 0
        require(divides, f"granularity is {granularity}; {fix}")

    @property
    def period(self) -> int:
        """Blocks per group, 1/R, the last of which is routed (our choice); 1 for a dense model."""
        return 1 if self.router is None else round(1 / self.routing_frequency)

    @property
    def routed_layers(self) -> int:
        """Number of routed blocks."""
        return 0 if self.router is None else self.size.num_blocks // self.period

    @property
    def hidden(self) -> int:
        """Width of a dense feed-forward, 4 * d_model."""
        return WIDENING * self.size.d_model

    @property
    def expert_hidden(self) -> int:
        """Width of an expert, 4 * d_model / G."""
        return self.hidden // (self.router.granularity if self.router else 1)

    @property
    def embedding_rows(self) -> int:
        """`vocabulary`, rounded up to a multiple of `vocabulary_multiple`."""
        return -(-self.vocabulary // self.vocabulary_multiple) * self.vocabulary_multiple


def chunk_runs(context: int) -> tuple[int, list[tuple[int, int]]]:
    """The queries of a chunk, and the loops over chunks: the first chunk of each, and its end."""
    length = min(QUERIES, context)
    chunks = -(-context // length)
    edges = sorted({chunks * i // RUNS for i in range(RUNS + 1)})
    return length, list(pairwise(edges))


def routing_frequency(text: str) -> float:
    """R from a decimal or a fraction, such as 0.5 or 1/3. Raises `ConfigError`."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ConfigError(
            f"routing_frequency is {text!r}; use 1, 1/2, 1/3, ... or a decimal"
        ) from None


def model_config(
    size: str,
    router: str,
    num_experts: int = 64,
    k: int = 1,
    routing_frequency: float = 0.5,
    *,
    granularity: int = 1,
    shared_experts: int = 0,
    vocabulary: int = 32_000,
    context: int = 2048,
) -> ModelConfig:
    """A model by name: a size or a shape (`size_named`), and "dense" or a router of `ROUTERS`.

    Raises `ConfigError` for unknown names.
    """
    routed = None
    if router != "dense":
        routed = RouterConfig(
            technique(router)(),
            num_experts,
            k,
            granularity=granularity,
            shared_experts=shared_experts,
        )
    return ModelConfig(size_named(size), routed, routing_frequency, vocabulary, context)


def technique(name: str) -> type[RouterOptions]:
    """The options class of a router by name. Raises `ConfigError` for an unknown name."""
    known = ", ".join(ROUTERS)
    require(name in ROUTERS, f"no router is called {name!r}; there are dense, {known}")
    return ROUTERS[name]


def check_shape(config: ModelConfig, shape: Mapping[str, int], batch: int) -> None:
    """Raises `ConfigError` unless a mesh of `shape` divides the model's dimensions and the batch.

    `batch` is the number of sequences in one microbatch, which must also be divisible into groups
    on each device.
    """
    router = config.router
    for name, number, axes in (
        ("num_heads", config.size.num_heads, (MODEL,)),
        ("the hidden width", config.expert_hidden, (MODEL,)),
        ("the embedding's rows", config.embedding_rows, (MODEL,)),
        ("num_experts", router.num_experts if router else 0, (EXPERT,)),
        ("sequences of a batch", batch, BATCH),
    ):
        devices = math.prod(shape[axis] for axis in axes)
        fix = f"is not divisible by the {' x '.join(axes)} axis ({devices})"
        require(number % devices == 0, f"{name} = {number} {fix}; use a divisor of it")
    if router is not None:
        router.group_of(batch // (shape[DATA] * shape[EXPERT]), config.context)


def _check_routing_frequency(frequency: float, num_blocks: int) -> None:
    fix = "use 1, 1/2, 1/3, ..."
    require(0 < frequency <= 1, f"routing_frequency is {frequency}; {fix}")
    period = round(1 / frequency)
    # Fractions such as 1/3 arrive as decimals, in the release too (0.08333333333333333).
    whole = math.isclose(frequency * period, 1, rel_tol=1e-6)
    require(whole, f"routing_frequency is {frequency}, not 1/integer; {fix}")
    fix = f"not divisible into groups of {period}; use 1/(a divisor of {num_blocks})"
    require(
        num_blocks % period == 0,
        f"routing_frequency is 1/{period}, and num_blocks = {num_blocks} is {fix}",
    )
