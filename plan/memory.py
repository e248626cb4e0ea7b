"""What a training step or an evaluation keeps in memory, by closed form. Bytes on one device.

State and what is kept for the backward pass are exact, by the modules' shapes and by what the
gradient reads:

- attention keeps its block's input `x`; the normed `x` once for each of the three projections that
  read it; queries, keys, values, positions and the heads' output; and the softmax's output, in
  float32, whose gradient needs nothing else;
- norms and the GELU are computed again in the backward pass (`reference.fast`), which keeps their
  inputs alone: of a feed-forward the normed input and the product before the GELU;
- a routed feed-forward keeps its normed input, the router's log-probabilities, the experts' buffers
  before and after the first product, that product of the shared experts, and each choice's output,
  of which the gate's gradient is made;
- attention keeps its four reshaped matrices a second time: the scan over blocks stacks them with
  the rest;
- attention in chunks keeps no scores, and positions once for all sequences;
- with full rematerialisation a block keeps its input alone, with selective one what
  `transformer.KEPT` names besides.

XLA's working set at the peak is not exact. It is one block's (with `remat`) or one group's arrays
once more, read out of the stack or computed again, two more arrays of scores for the softmax's
gradient, and one layer's experts twice, as they are read and as gradients. With selective
rematerialisation it is more than five times these, as TPUs' compiler takes where there is memory.
Where groups are not scanned (`ModelConfig.unroll`) it is two groups' arrays, for the second's
backward pass begins before the first's has ended. This is our choice of form, after the buffers
that XLA lists for small models on CPU (`docs/LOG.md`); `benchmarks/memory.py` measures what it
leaves out.

Symbols as in `count.py`.
"""

import math
from dataclasses import asdict, dataclass, replace

from reference.config import QUERIES, ModelConfig
from reference.count import Parameters, expert_slots, held_parameters
from reference.dispatch import block_length
from reference.objective import LOGITS
from reference.routers import Hash
from training.optimizer import Moment

Axes = tuple[int, int, int]
"""Devices along the mesh's data, expert and model."""


@dataclass(frozen=True)
class Step:
    """A training step, or the evaluation of a batch, on a mesh."""

    config: ModelConfig
    batch: int
    """Sequences."""
    microbatches: int = 1
    axes: Axes = (1, 1, 1)
    fsdp: bool = False
    """Whether the blocks' matrices are spread over data and expert (`optimizer.weight_specs`)."""
    first_moment: Moment = "float32"

    @property
    def sequences(self) -> int:
        """Of a microbatch, on one device."""
        return self.batch // self.microbatches // (self.axes[0] * self.axes[1])

    @property
    def tokens(self) -> int:
        """Of a microbatch, on one device."""
        return self.sequences * self.config.context

    @property
    def slots(self) -> int:
        """Of a layer's routed experts for the tokens of one device, in training."""
        return expert_slots(self.config, self.sequences, inference=False)

    @property
    def evaluation_slots(self) -> int:
        """The same in evaluation; those of one round where nothing is dropped and experts are
        spread (`routed`)."""
        router = self.config.router
        if router is None or router.evaluation_capacity_factor or self.axes[1] == 1:
            return expert_slots(self.config, self.sequences, inference=True)
        return router.num_experts * 2 * block_length(router.k * self.tokens, router.num_experts)

    @property
    def scores(self) -> int:
        """Numbers of one block's attention scores that there are at a time on one device."""
        context = self.config.context
        queries = {"plain": context, "chunked": min(QUERIES, context), "kernel": 0}[
            self.config.attention
        ]
        return self.sequences * queries * context * self.config.size.num_heads // self.axes[2]

    def score_bytes(self, pairs: int) -> int:
        """Bytes of a softmax's output over `pairs` of a query and a key, heads and sequences
        together, and once more in the activations' type if that is narrower."""
        narrow = self.activation if self.activation < self.wide else 0
        heads = self.config.size.num_heads // self.axes[2]
        return self.sequences * heads * pairs * (self.wide + narrow)

    @property
    def logit_chunks(self) -> int:
        """In how many parts the loss is computed (`objective.log_prob_of`)."""
        per_position = self.sequences * self.config.embedding_rows // self.axes[2]
        length = max(1, min(self.config.context, LOGITS // per_position))
        return math.ceil(self.config.context / length)

    @property
    def held(self) -> int:
        """Weights that this device keeps."""
        local, (data, expert, _) = self.parameters, self.axes
        if not self.fsdp:
            return local.everything
        dense = local.attention + local.feed_forward
        whole = local.everything - dense - local.experts
        return whole + dense // (data * expert) + local.experts // data

    @property
    def share(self) -> int:
        """Weights of which this device has the moments (ZeRO stage 1)."""
        local, (data, expert, _) = self.parameters, self.axes
        return (local.everything - local.experts) // (data * expert) + local.experts // data

    @property
    def narrowed(self) -> int:
        """Weights that this device keeps whose gradient is in the activations' type until it is
        summed (`mesh.narrowed`): matrices of blocks, unless they are spread."""
        local, (data, expert, _) = self.parameters, self.axes
        dense = 0 if self.fsdp and data * expert > 1 else local.attention + local.feed_forward
        return dense + (0 if self.fsdp and data > 1 else local.experts)

    @property
    def activation(self) -> int:
        """Bytes of a number in the activations' type."""
        return {"bfloat16": 2, "float32": 4, "float64": 8}[self.config.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a weight, a sum of its gradients, each of AdamW's moments, a score, a logit:
        float32 at least."""
        return max(4, self.activation)

    @property
    def parameters(self) -> Parameters:
        """Weights on one device (`mesh.parameter_specs`): matrices over `model`, routed experts
        over `expert` and `model`, the rest whole. Shared experts are among the feed-forwards, whose
        layout they have."""
        held, (_, expert, model) = held_parameters(self.config), self.axes
        shared = 2 * self.config.size.d_model * self.config.routed_layers * self.shared_hidden
        return replace(
            held,
            attention=held.attention // model,
            feed_forward=(held.feed_forward + shared) // model,
            experts=(held.experts - shared) // (expert * model),
            embedding=held.embedding // model,
        )

    @property
    def shared_hidden(self) -> int:
        """Width of a layer's shared experts side by side."""
        router = self.config.router
        return router.shared_experts * self.config.expert_hidden if router else 0


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device."""

    parameters: int
    optimizer: int
    """AdamW's two moments, spread over the devices that compute with the same weight (ZeRO)."""
    inputs: int
    """The batch's tokens, and HASH's tables."""
    kept: int
    """Activations of all blocks, from the forward pass for the backward pass."""
    cast: int
    """Weights in the activations' type, where that is narrower: converted once for all blocks."""
    gradients: int
    summed: int
    """The shares that gradients are summed into, with several devices or microbatches."""
    working: int
    """Arrays of the block, or group of blocks, that is computed."""
    logits: int
    """Logits and their gradient, in float32, and the masked logits of a padded vocabulary: freed
    before the blocks' backward pass."""

    @property
    def state(self) -> int:
        """What stays between steps, and is replaced in place."""
        return self.parameters + self.optimizer + self.inputs

    @property
    def temporary(self) -> int:
        """The rest at the peak, which is in the loss or in the backward pass."""
        return self.kept + self.cast + max(self.logits, self.gradients + self.summed + self.working)

    @property
    def peak(self) -> int:
        """All at once."""
        return self.state + self.temporary

    def record(self) -> dict[str, int]:
        """Parts and sums, for JSON."""
        return {**asdict(self), "state": self.state, "temporary": self.temporary, "peak": self.peak}


def step_memory(step: Step) -> StepMemory:
    """Memory of a training step."""
    weights = step.wide * step.held
    first = 2 if step.first_moment == "bfloat16" else step.wide
    return StepMemory(
        parameters=weights,
        optimizer=(first + step.wide) * step.share,
        inputs=_inputs(step),
        kept=kept_activations(step),
        cast=_cast(step),
        gradients=weights - (step.wide - step.activation) * step.narrowed,
        summed=_summed(step),
        working=_working(step),
        logits=_logits(step),
    )


def evaluation_memory(step: Step) -> StepMemory:
    """Memory of the evaluation of a batch in a run, where the optimizer's state stays.

    Our choice of form for the working set, after what TPUs' compiler says (`docs/plan.md`): the
    arrays of one attention and four of scores, with keys and distances, their sum, the softmax; or
    the buffers of the routed experts, if they are larger.
    """
    config, d, model = step.config, step.config.size.d_model, step.axes[2]
    inner = config.size.num_heads * config.size.kqv_size // model
    attention = step.activation * step.tokens * (4 * d + 5 * inner) + 4 * step.wide * step.scores
    experts = step.evaluation_slots * (2 * d + config.expert_hidden // model)
    routed = step.activation * (experts + 2 * step.tokens * d)
    return replace(
        step_memory(step),
        kept=0,
        gradients=0,
        summed=0,
        working=max(attention, routed),
        logits=_logits(step) // 2,
    )


def kept_activations(step: Step) -> int:
    """Bytes kept for the backward pass, all blocks together."""
    size, layers = step.config.size, step.config.routed_layers
    if step.config.remat == "none":
        dense, routed = block_activations(step)
        return (size.num_blocks - layers) * dense + layers * routed
    kept = size.d_model * step.tokens
    if step.config.remat == "selective":
        inner = size.num_heads * size.kqv_size // step.axes[2]
        kept += step.tokens * (4 * inner + size.d_model)
    both_ways = 2 * layers * step.slots * size.d_model if step.config.remat == "selective" else 0
    return step.activation * (size.num_blocks * kept + both_ways)


def all_activations(step: Step) -> int:
    """Bytes of what the gradients of all blocks read, but for scores."""
    size, layers = step.config.size, step.config.routed_layers
    in_chunks = replace(step, config=replace(step.config, attention="chunked"))
    dense, routed = block_activations(in_chunks)
    return (size.num_blocks - layers) * dense + layers * routed


def block_activations(step: Step) -> tuple[int, int]:
    """Bytes of what the gradient of a block reads: of one that is not routed, and of one that is (0
    in a dense model). Scores in chunks are not kept for it."""
    config, size, width, model = step.config, step.config.size, step.activation, step.axes[2]
    tokens, slots, d = step.tokens, step.slots, size.d_model
    inner = size.num_heads * size.kqv_size // model
    plain = config.attention == "plain"
    scores = step.score_bytes(config.context**2) if plain else 0
    positions = tokens if plain else config.context
    attention = width * (tokens * (4 * d + 4 * inner) + positions * inner + 4 * d * inner) + scores
    dense = attention + width * tokens * (2 * d + config.hidden // model)
    router = config.router
    if router is None:
        return dense, 0
    hidden = slots * config.expert_hidden + tokens * step.shared_hidden
    moved = width * (tokens * (2 + router.k) * d + slots * d + hidden // model)
    has_weights = router.technique.weights(d, router.num_experts).held > 0
    log_probabilities = step.wide * tokens * router.num_experts if has_weights else 0
    indices = 4 * (slots + 4 * router.k * tokens)
    return dense, attention + moved + log_probabilities + indices


def _working(step: Step) -> int:
    config, size = step.config, step.config.size
    dense, routed = block_activations(step)
    group = (config.period - 1) * dense + routed if routed else dense
    arrays = group if config.remat == "none" else max(dense, routed)
    scores = step.wide * step.scores
    experts = step.wide * step.parameters.experts // config.routed_layers if routed else 0
    if config.unroll >= size.num_blocks // config.period > 1:
        return 2 * (arrays + scores)
    gathered = 0
    if step.fsdp:
        # Of one block, in the activations' type, and its gradient.
        gathered = (step.activation + step.wide) * step.parameters.attention // size.num_blocks
    if config.remat == "selective":
        # After what TPUs' compiler takes, whose schedule is for speed as long as there is memory.
        return 11 * arrays // 2 + 2 * scores + 5 * experts + gathered
    return arrays + 2 * scores + 2 * experts + gathered


def _summed(step: Step) -> int:
    """Bytes of the shares that gradients are summed into, of microbatches the sums so far and the
    next; those of experts that one device has are not summed but over microbatches."""
    if step.microbatches > 1:
        return 2 * step.wide * step.share
    local, (data, expert, _) = step.parameters, step.axes
    dense = (local.everything - local.experts) // (data * expert) if data * expert > 1 else 0
    return step.wide * (dense + (local.experts // data if data > 1 else 0))


def _cast(step: Step) -> int:
    return step.activation * step.held if step.activation < step.wide else 0


def _logits(step: Step) -> int:
    rows, padded = step.config.embedding_rows, step.config.vocabulary < step.config.embedding_rows
    return (2 + padded) * step.wide * step.tokens * rows // step.axes[2] // step.logit_chunks


def _inputs(step: Step) -> int:
    config, router = step.config, step.config.router
    table = 0
    if router and isinstance(router.technique, Hash):
        table = 4 * config.routed_layers * config.vocabulary * router.k
    return 4 * step.microbatches * step.sequences * (config.context + 1) + table
