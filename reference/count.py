"""Parameters and FLOPs in closed form: the paper's N, P and F, exactly as in its release.

Python integers only, of three kinds:

- the release's columns: `parameters`, `dense_parameter_count` (N), `total_parameter_count` (P),
  `flops_per_step` (F);
- the parameters that the modules of `reference/` hold: `held_parameters`;
- the matrix products of their forward pass, with capacity factor and padding: `matmul_flops`.

Symbols: D d_model, L blocks, H heads, A = H * kqv_size, T context, V vocabulary, E experts, k of
them per token, `ModelConfig.routed_layers` routed blocks. Source: the release's table, reproduced
exactly for all 223 runs; the paper gives no formulas.
"""

from dataclasses import dataclass, fields, replace

from reference.config import ModelConfig, RouterConfig, chunk_runs
from reference.errors import ConfigError
from reference.routers import Switch
from reference.routers.interface import RouterWeights

SEQUENCES_PER_STEP = 256
"""Sequences of 2048 tokens per training step of the release (paper, section 4)."""


@dataclass(frozen=True)
class Parameters:
    """Parameter counts, summed over layers. The paper's N and P exclude the last two."""

    attention: int
    """Queries, keys, values, output, and the projection of relative positions."""
    norms: int
    """Scale and offset of the two LayerNorms of each block."""
    feed_forward: int
    """The dense blocks."""
    experts: int
    """All E experts of every routed layer, and the shared ones."""
    router: int
    baseline: int
    """RL-R's baseline network D -> D/8 -> 1 in each routed layer."""
    embedding: int
    """Also the output projection: they are tied (our choice)."""
    final_norm: int

    @property
    def total(self) -> int:
        """P: excludes the embedding and the final norm."""
        return self.everything - self.embedding - self.final_norm

    @property
    def everything(self) -> int:
        """P plus the embedding and the final norm."""
        return _sum(self)


@dataclass(frozen=True)
class Flops:
    """FLOPs of a forward pass, summed over layers; a multiply-add is two."""

    attention: int
    """Products with attention's five D x A matrices.

    The release charges the projection of relative positions to every token.
    """
    scores: int
    """Products with keys, relative positions and values, over all T positions, masked or not."""
    softmax: int
    norms: int
    feed_forward: int
    """The dense blocks."""
    experts: int
    router: int
    baseline: int
    logits: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return _sum(self)


def parameters(config: ModelConfig) -> Parameters:
    """The components of P as the release counts them.

    HASH is charged a router of E * D parameters, although hashing needs none.
    """
    size, layers, router = config.size, config.routed_layers, _router_weights(config)
    attention, feed_forward = _attention_matrices(config), _feed_forward_matrices(config)
    return Parameters(
        attention=size.num_blocks * attention,
        norms=size.num_blocks * 4 * size.d_model,
        feed_forward=(size.num_blocks - layers) * feed_forward,
        experts=layers * (_num_experts(config) + _shared(config)) * _expert_matrices(config),
        router=layers * router.matrix,
        baseline=layers * router.baseline,
        embedding=config.vocabulary * size.d_model,
        final_norm=2 * size.d_model,
    )


def held_parameters(config: ModelConfig) -> Parameters:
    """The parameters that the modules hold.

    They differ from `parameters` in HASH's router, which has none, and in the embedding's padding
    rows.
    """
    held = config.routed_layers * _router_weights(config).held
    embedding = config.embedding_rows * config.size.d_model
    return replace(parameters(config), router=held, embedding=embedding)


def dense_parameter_count(config: ModelConfig) -> int:
    """N: the parameters of the dense model of this size.

    These are the parameters a token uses at k = 1, router and embedding excluded.
    """
    size = config.size
    return size.num_blocks * (
        _attention_matrices(config) + _feed_forward_matrices(config) + 4 * size.d_model
    )


def total_parameter_count(config: ModelConfig) -> int:
    """P: all parameters, embedding and final norm excluded. With E = 1, it is N and the router."""
    return parameters(config).total


def flops_per_token(config: ModelConfig) -> Flops:
    """FLOPs of one token's forward pass as the release counts them.

    No capacity factor, and nothing dropped; HASH is charged a router here too. Besides the matrix
    products, the softmax costs 3 operations per score and a LayerNorm 5 per element; embedding,
    activation, gates, residuals and final norm cost none.
    """
    size, layers, router = config.size, config.routed_layers, _router_weights(config)
    feed_forward, active = 2 * _feed_forward_matrices(config), _choices(config)
    return Flops(
        attention=size.num_blocks * 2 * _attention_matrices(config),
        scores=size.num_blocks * 3 * 2 * config.context * size.num_heads * size.kqv_size,
        softmax=size.num_blocks * 3 * config.context * size.num_heads,
        norms=size.num_blocks * 2 * 5 * size.d_model,
        feed_forward=(size.num_blocks - layers) * feed_forward,
        experts=layers * (active + _shared(config)) * 2 * _expert_matrices(config),
        router=layers * 2 * router.matrix,
        baseline=layers * 2 * router.baseline,
        logits=2 * config.vocabulary * size.d_model,
    )


def flops_per_step(config: ModelConfig, sequences: int = SEQUENCES_PER_STEP) -> int:
    """F: forward FLOPs of one step over `sequences` of `config.context` tokens, as released."""
    return flops_per_token(config).total * config.context * sequences


def matmul_flops(config: ModelConfig, sequences: int, *, inference: bool) -> Flops:
    """FLOPs of the matrix products in one forward pass of `Transformer`.

    The batch is `sequences` of `config.context` tokens. This differs from the release's count in
    five ways:

    - Positions are projected once for all sequences.
    - Experts compute on whole buffers, filled or not: E * C slots per group at capacity C; where
      nothing is dropped, as many blocks as any routing can need.
    - HASH has no router.
    - Softmax and norms are not matrix products.
    - Attention in chunks does not multiply with most keys after a chunk's last query.

    Raises `ConfigError` if groups do not divide the sequences.
    """
    counted, tokens = flops_per_token(config), sequences * config.context
    once = config.size.num_blocks * 2 * (_attention_matrices(config) // 5)
    slots = expert_slots(config, sequences, inference=inference) + _shared(config) * tokens
    return Flops(
        attention=(counted.attention - once) * tokens + once * config.context,
        scores=counted.scores * sequences * scored_pairs(config) // config.context,
        softmax=0,
        norms=0,
        feed_forward=counted.feed_forward * tokens,
        experts=config.routed_layers * 2 * _expert_matrices(config) * slots,
        router=config.routed_layers * 2 * _router_weights(config).held * tokens,
        baseline=counted.baseline * tokens,
        logits=2 * config.embedding_rows * config.size.d_model * tokens,
    )


def scored_pairs(config: ModelConfig) -> int:
    """Pairs of a query and a key of which one head of one sequence computes scores.

    Of the kernels, those of TPUs.
    """
    context = config.context
    if config.attention == "plain":
        return context**2
    if config.attention == "kernel":
        from reference.kernels.tpu import block_rows

        block = block_rows(context, config.dtype)
        blocks = -(-context // block)
        return block**2 * blocks * (blocks + 1) // 2
    length, runs = chunk_runs(context)
    return sum((end - begin) * end for begin, end in runs) * length**2


def training_flops(config: ModelConfig, sequences: int) -> int:
    """FLOPs of a training step: three times the matrix products of the forward pass.

    A product's gradient is two products of the same size. The program does slightly less, because
    some inputs need no gradient (the sinusoids, the input of RL-R's router), and with `remat` one
    more forward pass through the blocks, which by convention does not count.
    """
    return 3 * matmul_flops(config, sequences, inference=False).total


def expert_slots(config: ModelConfig, sequences: int, *, inference: bool) -> int:
    """Slots that the routed experts of one layer compute on in a device's forward pass.

    Empty slots are included (`dispatch`); 0 for a dense model.
    """
    router = config.router
    if router is None:
        return 0
    free = inference and router.evaluation_capacity_factor is None
    size = sequences if free else router.group_of(sequences, config.context, inference)
    groups, tokens = sequences // size, size * config.context
    capacity = router.capacity(tokens, inference=inference)
    if capacity is not None:
        return groups * router.num_experts * capacity
    choices = router.k * tokens
    length, started = -(-choices // router.num_experts), min(choices, router.num_experts)
    return groups * length * ((choices - started) // length + started)


def widened(config: ModelConfig, flop_increase: int) -> ModelConfig:
    """The routed model as which the release counts a dense run with this `flop_increase`.

    At R of its blocks, a token has `flop_increase` feed-forwards and a router over them; N is
    unchanged. Raises `ConfigError` for a routed model or an increase below 1.
    """
    if config.router is not None or flop_increase < 1:
        fix = "it is at least 1, and more than 1 for dense models only"
        raise ConfigError(f"flop_increase is {flop_increase}; {fix}")
    if flop_increase == 1:
        return config
    # Any technique whose router is one D x E matrix gives the same counts.
    router = RouterConfig(Switch(), num_experts=flop_increase, k=flop_increase)
    return replace(config, router=router)


def _attention_matrices(config: ModelConfig) -> int:
    return 5 * config.size.d_model * config.size.num_heads * config.size.kqv_size


def _feed_forward_matrices(config: ModelConfig) -> int:
    return 2 * config.size.d_model * config.hidden


def _expert_matrices(config: ModelConfig) -> int:
    return 2 * config.size.d_model * config.expert_hidden


def _router_weights(config: ModelConfig) -> RouterWeights:
    router = config.router
    if router is None:
        return RouterWeights(0, 0, 0)
    return router.technique.weights(config.size.d_model, router.num_experts)


def _num_experts(config: ModelConfig) -> int:
    return config.router.num_experts if config.router else 0


def _choices(config: ModelConfig) -> int:
    return config.router.k if config.router else 0


def _shared(config: ModelConfig) -> int:
    return config.router.shared_experts if config.router else 0


def _sum(counts: Parameters | Flops) -> int:
    return sum(getattr(counts, field.name) for field in fields(counts))
