"""What a training step multiplies, reads and sends, by closed form: FLOPs, bytes of HBM, bytes of
each collective; and what an evaluation multiplies and sends. Per device.

Collectives follow the partition specs of `mesh.py` and `optimizer.zero_specs`:

- a routed layer's tokens go to their experts and back, forward and backward: four all-to-alls of
  its buffers over `expert`, and the forward pass's two again with full rematerialisation;
- the gradients of the matrices that `mesh.sum_gradients_later` marks are summed at the end of a
  microbatch, in float32, into the shares of ZeRO stage 1: a reduce-scatter over the axes that the
  gradient is a sum over. TPUs' compiler makes an all-reduce and a slice of it (`docs/plan.md`);
- all other gradients, of norms and routers, are summed in each microbatch where they arise, by an
  all-reduce;
- updated weights are gathered whole in float32, over the axes that their shares were spread over.
  With FSDP those of blocks are not, but in the activations' type wherever they are read: forward,
  and again with rematerialisation;
- with a `model` axis each attention and feed-forward ends with a sum over it, and its gradient
  begins with one, for queries, keys and values each; the embedding is gathered to be read;
- an evaluation has the two all-to-alls of each routed layer in each round, gathers the tokens'
  choices, and with a `model` axis has the sums of the forward pass.

Bytes of a collective are those of the larger of its input and its output on one device, over all
runs, as in `hlo.Collectives`.
"""

import math
from dataclasses import asdict, dataclass, fields, replace

from plan.memory import Step, all_activations, kept_activations
from reference.config import chunk_runs
from reference.count import Flops, flops_per_token, matmul_flops, scored_pairs
from reference.mesh import BATCH, DATA, EXPERT, MODEL
from reference.routers import Hash, Reinforce

AXES = (DATA, EXPERT, MODEL)


@dataclass(frozen=True)
class Moved:
    """One kind of collective over some axes of the mesh."""

    kind: str
    """As in `hlo.KINDS`."""
    axes: tuple[str, ...]
    """Those of the mesh that it is over."""
    bytes: int
    what: str
    """What moves, in words."""


@dataclass(frozen=True)
class Traffic:
    """Of one step, on one device."""

    flops: float
    """Of the matrix products that are done, for empty slots and rematerialisation too."""
    model_flops: float
    """Of the model's own: k experts a token, nothing twice, positions as the release charges them.
    Utilisation counts these."""
    hbm: int
    """Bytes read and written."""
    collectives: tuple[Moved, ...]

    def total(self, kind: str) -> int:
        """Bytes of all collectives of one kind."""
        return total(self.collectives, kind)


def total(collectives: tuple[Moved, ...], kind: str) -> int:
    """Bytes of all collectives of one kind."""
    return sum(moved.bytes for moved in collectives if moved.kind == kind)


def step_traffic(step: Step) -> Traffic:
    """Of a training step."""
    done = 3 * forward_flops(step, inference=False).total + again_flops(step).total
    per_token, tokens = flops_per_token(step.config), step.batch * step.config.context
    model_flops = per_token.total - per_token.softmax - per_token.norms
    return Traffic(
        flops=float(step.microbatches * done),
        model_flops=3 * model_flops * tokens / math.prod(step.axes),
        hbm=hbm_bytes(step),
        collectives=_some(_tokens(step), *_gradients(step), *_updates(step), *_model_axis(step)),
    )


def evaluation_collectives(step: Step) -> tuple[Moved, ...]:
    """Of the evaluation of a batch, with one round in each layer."""
    config, layers, d = step.config, step.config.routed_layers, step.config.size.d_model
    slots, k = step.evaluation_slots, config.router.k if config.router else 0
    split = (2 * config.size.num_blocks - layers) * step.tokens + layers * slots
    split += layers * step.tokens if step.shared_hidden else 0
    sums = step.activation * d * split
    choices = 4 * layers * step.batch * config.context * k
    local = step.parameters
    read, experts = (
        step.fsdp * step.activation * number
        for number in (local.attention + local.feed_forward, local.experts)
    )
    return _some(
        _moved(step, "all-to-all", (EXPERT,), 2 * layers * step.activation * d * slots, _THERE),
        _moved(step, "all-gather", BATCH, choices, "choices of experts"),
        _moved(step, "all-gather", BATCH, read, "weights of blocks, to be read"),
        _moved(step, "all-gather", (DATA,), experts, "experts, to be read"),
        _moved(step, "all-reduce", (MODEL,), sums, "outputs of split products"),
        _moved(step, "all-gather", (MODEL,), _table(step), "the embedding, to be read"),
    )


def forward_flops(step: Step, *, inference: bool) -> Flops:
    """Matrix products of a microbatch's forward pass on one device; in evaluation with one round
    in each layer. Only routers are not split over `model`."""
    config, model = step.config, step.axes[2]
    found = asdict(matmul_flops(config, step.sequences, inference=inference))
    if inference:
        columns = step.evaluation_slots * config.expert_hidden + step.tokens * step.shared_hidden
        found["experts"] = config.routed_layers * 4 * config.size.d_model * columns
    whole = ("router", "baseline")
    return Flops(**{name: n if name in whole else n // model for name, n in found.items()})


def again_flops(step: Step) -> Flops:
    """Products of a microbatch's forward pass that the backward pass does again, on one device.

    Full rematerialisation does again all products but those out of a feed-forward, whose result no
    gradient reads; out of the experts it is read for the gates, but for HASH's and RL-R's, which
    have no gradient.
    Selective rematerialisation does again those into the feed-forwards and the experts, those with
    keys and positions, two thirds of the scores', the projection of positions, and the routers'.
    Attention in chunks does its scores' again for each chunk, as the kernels do for each block, and
    the loss in chunks its logits.
    """
    config, forward = step.config, forward_flops(step, inference=False)
    # Of RL-R's baseline, all but the last product, of D/8 numbers.
    baseline = forward.baseline - forward.baseline // (config.size.d_model + 1)
    scored, nothing = 2 * forward.scores // 3, Flops(*(0,) * len(fields(Flops)))
    logits = forward.logits if step.logit_chunks > 1 else 0
    chunks = 0 if config.attention == "plain" else scored
    if config.remat == "none":
        return replace(nothing, scores=chunks, logits=logits)
    if config.remat == "full":
        columns = step.tokens * step.shared_hidden // step.axes[2]
        unread = 2 * config.routed_layers * config.size.d_model * columns
        if config.router and isinstance(config.router.technique, Hash | Reinforce):
            unread = forward.experts // 2
        return replace(
            forward,
            scores=forward.scores + chunks,
            feed_forward=forward.feed_forward // 2,
            experts=forward.experts - unread,
            baseline=baseline,
            logits=logits,
        )
    inner = config.size.num_heads * config.size.kqv_size // step.axes[2]
    return replace(
        forward,
        attention=config.size.num_blocks * 2 * config.context * config.size.d_model * inner,
        scores=scored,
        feed_forward=forward.feed_forward // 2,
        experts=forward.experts // 2,
        baseline=baseline,
        logits=logits,
    )


def counted_once(program: str, step: Step) -> float | None:
    """FLOPs of a program's matrix products on one device as XLA counts them: a loop's body once.

    The loops are those over groups of blocks, over microbatches, over chunks of the loss and of
    attention, and over an evaluation's rounds. A gradient is two products of a product's size.
    Experts work on whole buffers, empty slots too. None for an evaluation where every device has
    all experts, which go through a loop over blocks of tokens.
    """
    config, groups = step.config, step.config.size.num_blocks // step.config.period
    forward = forward_flops(step, inference=program == "evaluation")
    if program == "layer":
        return 3 * (forward.experts + forward.router + forward.baseline) / config.routed_layers
    of_scores = 1.0
    if config.attention == "chunked":
        _, runs = chunk_runs(config.context)
        of_scores = sum(end for _, end in runs) / sum((end - begin) * end for begin, end in runs)

    def _in_group(flops: Flops) -> float:
        return (flops.total - flops.logits - (1 - of_scores) * flops.scores) / groups

    logits = forward.logits / step.logit_chunks
    if program == "evaluation":
        by_block = config.router is not None and step.axes[1] == 1
        return None if by_block else _in_group(forward) + logits
    again = again_flops(step)
    in_groups = 3 * _in_group(forward) + _in_group(again)
    return in_groups + 3 * logits + again.logits / step.logit_chunks


def hbm_bytes(step: Step) -> int:
    """Bytes that a step reads and writes. Our estimate: each array that the model's code names,
    once for each pass that needs it.

    Weights are read in every pass, and their gradients written and read: matrices of blocks in the
    activations' type, to which each microbatch converts them, the rest in float32. AdamW reads and
    writes two moments and the weight of its share, and each microbatch the sum of gradients. A
    block's arrays are written and read forward, those not kept again, and with their gradients
    backward; what is kept once more. So are the scores, which are read and written again by each
    form of attention and of rematerialisation that computes them again, and the logits.
    """
    config, local, micro = step.config, step.parameters, step.microbatches
    passes = 2 if config.remat == "none" else 3
    sums = 2 * micro if micro > 1 else 0
    narrow = step.narrowed if step.activation < step.wide else 0
    converted = narrow * (step.wide + step.activation)
    read = step.wide * (local.everything - narrow) + step.activation * narrow
    weights = micro * ((passes + 2) * read + converted) + step.wide * (6 + sums) * step.share
    arrays, kept = all_activations(step), kept_activations(step)
    again = 0 if config.remat == "none" else arrays - kept
    scores = config.size.num_blocks * step.score_bytes(pairs=scored_pairs(config))
    if config.attention == "kernel":
        scores = 0
    in_chunks = config.attention == "chunked"
    by_remat = config.remat == "full" or (config.remat == "selective" and not in_chunks)
    times = 6 + 2 * (in_chunks + by_remat)
    logits = step.wide * step.tokens * config.embedding_rows // step.axes[2]
    activations = 6 * arrays + 2 * again + 2 * kept + times * scores
    return weights + micro * (activations + (4 + 2 * (step.logit_chunks > 1)) * logits)


_THERE = "tokens to their experts and back"


def _moved(step: Step, kind: str, axes: tuple[str, ...], size: int, what: str) -> Moved:
    """Over those of `axes` that have several devices; nothing if there are none."""
    over = tuple(axis for axis in axes if step.axes[AXES.index(axis)] > 1)
    return Moved(kind, over, size if over else 0, what)


def _some(*moved: Moved) -> tuple[Moved, ...]:
    return tuple(each for each in moved if each.bytes)


def _tokens(step: Step) -> Moved:
    once = step.microbatches * step.slots * step.config.size.d_model * step.activation
    runs = step.config.routed_layers * (6 if step.config.remat == "full" else 4)
    return _moved(step, "all-to-all", (EXPERT,), runs * once, _THERE)


def _gradients(step: Step) -> tuple[Moved, ...]:
    local = step.parameters
    once = step.microbatches * step.wide
    matrices = once * (local.attention + local.feed_forward + local.embedding)
    others = once * (local.norms + local.router + local.baseline + local.final_norm)
    return (
        _moved(step, "reduce-scatter", BATCH, matrices, "gradients of matrices"),
        _moved(step, "all-reduce", BATCH, others, "other gradients"),
        _moved(step, "reduce-scatter", (DATA,), once * local.experts, "gradients of experts"),
    )


def _updates(step: Step) -> tuple[Moved, ...]:
    local = step.parameters
    spread, dense = local.everything - local.experts, local.attention + local.feed_forward
    updated, experts = step.wide * spread, step.wide * local.experts
    read = experts_read = 0
    if step.fsdp:
        times = step.microbatches * step.activation * (1 if step.config.remat == "none" else 2)
        updated, experts = step.wide * (spread - dense), 0
        read, experts_read = times * dense, times * local.experts
    return (
        _moved(step, "all-gather", BATCH, updated, "updated weights"),
        _moved(step, "all-gather", (DATA,), experts, "updated experts"),
        _moved(step, "all-gather", BATCH, read, "weights of blocks, to be read"),
        _moved(step, "all-gather", (DATA,), experts_read, "experts, to be read"),
    )


def _model_axis(step: Step) -> tuple[Moved, ...]:
    """Sums over `model`: of each block's two outputs forward, of the gradients of what its products
    read backward.

    With full rematerialisation outputs are summed again, but for those of a feed-forward that is
    not routed or of shared experts, which no gradient reads.
    """
    size, layers = step.config.size, step.config.routed_layers
    forward = 2 if step.config.remat == "full" else 1
    attention = size.num_blocks * (forward + 3) * step.tokens
    plain = size.num_blocks - layers + (layers if step.shared_hidden else 0)
    feed_forward = 2 * plain * step.tokens + (forward + 1) * layers * step.slots
    sums = step.activation * (attention + feed_forward) + step.wide * step.tokens
    products = step.microbatches * size.d_model * sums
    return (
        _moved(step, "all-reduce", (MODEL,), products, "outputs and gradients of split products"),
        _moved(step, "all-gather", (MODEL,), _table(step), "the embedding, to be read"),
    )


def _table(step: Step) -> int:
    """Bytes of the whole embedding in the activations' type; all microbatches read one copy."""
    return step.activation * step.config.embedding_rows * step.config.size.d_model
