"""What a training step multiplies, reads and sends, by closed form: FLOPs, bytes of HBM, bytes of
each collective; and what an evaluation multiplies and sends. Per device.

Collectives follow the partition specs of `mesh.py` and `optimizer.zero_specs`:

- a routed layer's tokens go to their experts and back, forward and backward: four all-to-alls of
  its buffers over `expert`, and the forward pass's two again with rematerialisation;
- the gradients of the matrices that `mesh.sum_gradients_later` marks are summed at the end of a
  step, in float32, into the shares of ZeRO stage 1: a reduce-scatter over the axes that the
  gradient is a sum over. TPUs' compiler makes an all-reduce and a slice of it (`docs/plan.md`);
- all other gradients are summed in each microbatch where they arise, by an all-reduce. The
  embedding has two: as the table that is read, whole and in the activations' type, and as the
  output's matrix, in float32. For the positions' matrix it is the gradient of the projected
  positions that is summed, T x A in the activations' type, once for each block;
- updated weights are gathered whole in float32, over the axes that their shares were spread over;
- with a `model` axis each attention and feed-forward ends with a sum over it, and its gradient
  begins with one, for queries, keys and values each; the embedding is gathered to be read;
- an evaluation has the two all-to-alls of each routed layer in each round, gathers the tokens'
  choices, and with a `model` axis has the sums of the forward pass.

Bytes of a collective are those of the larger of its input and its output on one device, over all
runs, as in `hlo.Collectives`.
"""

import math
from dataclasses import asdict, dataclass

from plan.memory import Step, block_activations, kept_activations
from reference.config import BATCH, DATA, EXPERT, MODEL
from reference.count import Flops, flops_per_token, matmul_flops

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
    forward, passes = forward_flops(step, inference=False), 4 if step.config.remat else 3
    done = passes * (forward.total - forward.logits) + 3 * forward.logits
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
    return _some(
        _moved(step, "all-to-all", (EXPERT,), 2 * layers * step.activation * d * slots, _THERE),
        _moved(step, "all-gather", BATCH, choices, "choices of experts"),
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


def counted_once(program: str, step: Step) -> float | None:
    """FLOPs of a program's matrix products on one device as XLA counts them: a loop's body once.

    The loops are those over groups of blocks, over the microbatches after the first, and over an
    evaluation's rounds. A gradient is two products of a product's size; with `remat` a group's
    forward pass runs once more. Experts work on whole buffers, empty slots too. None for an
    evaluation where every device has all experts, which go through a loop over blocks of tokens.
    """
    config, groups = step.config, step.config.size.num_blocks // step.config.period
    forward = forward_flops(step, inference=program == "evaluation")
    if program == "layer":
        return 3 * (forward.experts + forward.router + forward.baseline) / config.routed_layers
    in_group = (forward.total - forward.logits) / groups
    if program == "evaluation":
        by_block = config.router is not None and step.axes[1] == 1
        return None if by_block else in_group + forward.logits
    passes = 4 if config.remat else 3
    return min(step.microbatches, 2) * (passes * in_group + 3 * forward.logits)


def hbm_bytes(step: Step) -> int:
    """Bytes that a step reads and writes. Our estimate: each array that the model's code names,
    once for each pass that needs it.

    Weights are read in every pass, in float32, and their gradients written and read; AdamW reads
    and writes two moments and the weight of its share. A block's arrays are written and read
    forward, again and backward, and their gradients backward; what is kept once more. Logits are
    written and read, and their gradient.
    """
    config, (data, expert, model), local = step.config, step.axes, step.parameters
    layers, passes = config.routed_layers, 3 if config.remat else 2
    share = (local.everything - local.experts) // (data * expert) + local.experts // data
    weights = step.wide * (step.microbatches * (passes + 2) * local.everything + 6 * share)
    dense, routed = block_activations(step)
    blocks = (config.size.num_blocks - layers) * dense + layers * routed
    logits = step.wide * step.tokens * config.embedding_rows // model
    activations = 2 * (passes + 1) * blocks + 2 * kept_activations(step) + 4 * logits
    return weights + step.microbatches * activations


_THERE = "tokens to their experts and back"


def _moved(step: Step, kind: str, axes: tuple[str, ...], size: int, what: str) -> Moved:
    """Over those of `axes` that have several devices; nothing if there are none."""
    over = tuple(axis for axis in axes if step.axes[AXES.index(axis)] > 1)
    return Moved(kind, over, size if over else 0, what)


def _some(*moved: Moved) -> tuple[Moved, ...]:
    return tuple(each for each in moved if each.bytes)


def _tokens(step: Step) -> Moved:
    once = step.microbatches * step.slots * step.config.size.d_model * step.activation
    runs = step.config.routed_layers * (6 if step.config.remat else 4)
    return _moved(step, "all-to-all", (EXPERT,), runs * once, _THERE)


def _gradients(step: Step) -> tuple[Moved, ...]:
    config, size, local = step.config, step.config.size, step.parameters
    positions = local.attention // 5
    later = step.wide * (local.attention - positions + local.feed_forward)
    whole = local.norms + local.router + local.baseline + local.final_norm + local.embedding
    inner = size.num_heads * size.kqv_size // step.axes[2]
    projected = step.activation * size.num_blocks * config.context * inner
    at_once = step.microbatches * step.wide * whole + _table(step) + step.microbatches * projected
    return (
        _moved(step, "reduce-scatter", BATCH, later, "gradients of matrices"),
        _moved(step, "all-reduce", BATCH, at_once, "other gradients"),
        _moved(step, "reduce-scatter", (DATA,), step.wide * local.experts, "gradients of experts"),
    )


def _updates(step: Step) -> tuple[Moved, ...]:
    local = step.parameters
    spread = local.everything - local.experts
    return (
        _moved(step, "all-gather", BATCH, step.wide * spread, "updated weights"),
        _moved(step, "all-gather", (DATA,), step.wide * local.experts, "updated experts"),
    )


def _model_axis(step: Step) -> tuple[Moved, ...]:
    """Sums over `model`: of each block's two outputs forward, of the gradients of what its products
    read backward.

    With rematerialisation outputs are summed again, but for those of a feed-forward that is not
    routed or of shared experts, which no gradient reads.
    """
    size, layers, forward = step.config.size, step.config.routed_layers, 1 + step.config.remat
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
    """Bytes of the whole embedding in the activations' type, in each microbatch."""
    rows = step.config.embedding_rows * step.config.size.d_model
    return step.microbatches * step.activation * rows
