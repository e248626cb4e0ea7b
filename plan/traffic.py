"""What a training step multiplies, reads and sends, by closed form: FLOPs, bytes of HBM, bytes of
each collective. Per device; no JAX.

Collectives follow the partition specs of `mesh.py` and `optimizer.zero_specs`:

- a routed layer's tokens go to their experts and back, forward and backward: four all-to-alls of
its buffers over `expert`, and the forward
  pass's two again with rematerialisation;
- what `mesh.sum_gradients_later` names is summed at the end of a step, in float32, into the shares
of ZeRO stage 1: a reduce-scatter over
  the axes that its gradient is a sum over. TPUs' compiler makes an all-reduce of it, with a slice
  (`docs/plan.md`);
- the gradients of all other weights are summed for each part of a batch where they arise, an
all-reduce: the embedding's twice, as
  the table that is read, whole and in the activations' type, and as the output's matrix, in
  float32. Of the positions' matrix it is the gradient of the projected positions that is summed, T
  x A in the activations' type, once for a block;
- updated weights are gathered whole again in float32, over the axes that their shares were spread
over;
- with a `model` axis: each attention and feed-forward ends with a sum over it, and its gradient
begins with one, for queries, keys
  and values each; the embedding is gathered to be read.

Bytes of a collective are those of the larger of what goes in and what comes out on one device, over
all runs, as in `hlo.Collectives`.
"""

import math
from dataclasses import dataclass

from plan.hlo import KINDS
from plan.memory import (
    Axes,
    activation_bytes,
    block_activations,
    kept_activations,
    local_parameters,
    weight_bytes,
)
from reference.config import ModelConfig
from reference.count import Flops, expert_slots, flops_per_token, matmul_flops
from reference.mesh import BATCH, DATA, EXPERT, MODEL

AXES = (DATA, EXPERT, MODEL)


@dataclass(frozen=True)
class Step:
    """A training step on a mesh."""

    config: ModelConfig
    batch: int
    """Sequences."""
    parts: int
    """Parts that the gradient is computed in, one after the other."""
    axes: Axes


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
    """Of matrix products that are done:
    those of capacity's empty slots and of rematerialisation too."""
    model_flops: float
    """Of those that the model asks for:
    no empty slots, nothing computed again. What utilisation is a fraction of."""
    hbm: int
    """Bytes read and written."""
    collectives: tuple[Moved, ...]

    def total(self, kind: str) -> int:
        """Bytes of all collectives of one kind."""
        return sum(moved.bytes for moved in self.collectives if moved.kind == kind)

    @property
    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind there is."""
        return {kind: self.total(kind) for kind in KINDS if self.total(kind)}


def step_traffic(step: Step) -> Traffic:
    """Of one step."""
    config, devices = step.config, math.prod(step.axes)
    forward = matmul_flops(config, step.batch, inference=False)
    passes = 4 if config.remat else 3
    done = passes * (forward.total - forward.logits) + 3 * forward.logits
    return Traffic(
        flops=done / devices,
        model_flops=3 * _model_flops(config) * step.batch * config.context / devices,
        hbm=hbm_bytes(step),
        collectives=tuple(moved for moved in _collectives(step) if moved.bytes),
    )


def _model_flops(config: ModelConfig) -> int:
    """Of a token's forward pass:
    the products alone, k experts, positions as charged by the release."""
    flops: Flops = flops_per_token(config)
    return flops.total - flops.softmax - flops.norms


def hbm_bytes(step: Step) -> int:
    """Bytes that a step reads and writes. Ours: each array that the model's code names, once for
    each pass that needs it.

    Weights are read in every pass, in float32, and their gradients written and read; AdamW reads
    and writes two moments and the weight of its share. A block's arrays are written and read
    forward, again and backward, where their gradients are too; what is kept once more. Logits are
    written and read, and their gradient.
    """
    config, axes = step.config, step.axes
    data, expert, model = axes
    local, sequences = local_parameters(config, axes), step.batch // step.parts
    share = (local.everything - local.experts) // (data * expert) + local.experts // data
    passes = 3 if config.remat else 2
    wide = weight_bytes(config)
    weights = wide * (step.parts * (passes + 2) * local.everything + 6 * share)
    dense, routed = block_activations(config, sequences, axes)
    blocks = (config.size.num_blocks - config.routed_layers) * dense + config.routed_layers * routed
    tokens = sequences * config.context // (data * expert)
    logits = wide * tokens * config.vocabulary // model
    return weights + step.parts * (
        2 * (passes + 1) * blocks + 2 * kept_activations(config, sequences, axes) + 4 * logits
    )


def _collectives(step: Step) -> list[Moved]:
    return [*_tokens(step), *_gradients(step), *_updates(step), *_model_axis(step)]


def _over(step: Step, *axes: str) -> tuple[str, ...]:
    """Those of `axes` that the mesh spreads anything over."""
    return tuple(axis for axis in axes if step.axes[AXES.index(axis)] > 1)


def _tokens(step: Step) -> list[Moved]:
    config, axes = step.config, _over(step, EXPERT)
    if config.router is None or not axes:
        return []
    slots = expert_slots(config, step.batch, inference=False) // (step.axes[0] * step.axes[1])
    once = slots * config.size.d_model * activation_bytes(config)
    runs = config.routed_layers * (6 if config.remat else 4)
    return [Moved("all-to-all", axes, runs * once, "tokens to their experts and back")]


def _gradients(step: Step) -> list[Moved]:
    config, local = step.config, local_parameters(step.config, step.axes)
    width, wide, positions = activation_bytes(config), weight_bytes(config), local.attention // 5
    over, data = _over(step, *BATCH), _over(step, DATA)
    later = wide * (local.attention - positions + local.feed_forward)
    whole = wide * (
        local.norms + local.router + local.baseline + local.final_norm + local.embedding
    )
    projected = (
        config.size.num_blocks
        * config.context
        * config.size.num_heads
        * config.size.kqv_size
        // step.axes[2]
    )
    at_once = step.parts * (whole + width * (config.vocabulary * config.size.d_model + projected))
    return [
        *(
            [
                Moved("reduce-scatter", over, later, "gradients of matrices"),
                Moved("all-reduce", over, at_once, "other gradients"),
            ]
            if over
            else []
        ),
        *(
            [Moved("reduce-scatter", data, wide * local.experts, "gradients of experts")]
            if data
            else []
        ),
    ]


def _updates(step: Step) -> list[Moved]:
    local, wide = local_parameters(step.config, step.axes), weight_bytes(step.config)
    over, data = _over(step, *BATCH), _over(step, DATA)
    return [
        *(
            [
                Moved(
                    "all-gather", over, wide * (local.everything - local.experts), "updated weights"
                )
            ]
            if over
            else []
        ),
        *([Moved("all-gather", data, wide * local.experts, "updated experts")] if data else []),
    ]


def _model_axis(step: Step) -> list[Moved]:
    """Sums over `model`: of each block's two outputs forward, of the gradients of what its products
    read backward.

    With rematerialisation outputs are summed again, but for that of a feed-forward that is not
    routed, which no gradient reads.
    """
    config, axes = step.config, _over(step, MODEL)
    if not axes:
        return []
    devices, width, d = step.axes[0] * step.axes[1], activation_bytes(config), config.size.d_model
    tokens = step.batch * config.context // devices
    slots = expert_slots(config, step.batch, inference=False) // devices
    forward, layers = 2 if config.remat else 1, config.routed_layers
    attention = config.size.num_blocks * tokens * (forward + 3)
    feed_forward = 2 * (config.size.num_blocks - layers) * tokens + (forward + 1) * layers * slots
    table = step.parts * width * config.vocabulary * d
    return [
        Moved(
            "all-reduce",
            axes,
            width * d * (attention + feed_forward) + weight_bytes(config) * tokens * d,
            "outputs and gradients of split products",
        ),
        Moved("all-gather", axes, table, "the embedding, to be read"),
    ]
