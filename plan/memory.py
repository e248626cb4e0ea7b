"""What a training step keeps in memory, by closed form: weights, optimizer state, gradients,
activations, logits. Bytes on one device.

Nothing here imports JAX. State and what is kept for the backward pass are exact, by the modules'
shapes and by what the gradient reads:

- attention keeps its block's input `x` and the normed `x` once for each of the three projections
that read it, queries, keys, values,
  positions and the heads' output, and the softmax's output, in float32, whose gradient needs
  nothing else;
- norms and the GELU are computed again in the backward pass (`jax.checkpoint` in `norm.py` and
`feedforward.py`), which so keeps
  their inputs alone: a feed-forward its normed input and the product before the GELU;
- a routed feed-forward keeps its normed input, the router's log-probabilities, the experts' buffers
before and after the first product,
  and each choice's output, of which the gate's gradient is made;
- attention keeps its four reshaped matrices a second time: the scan over blocks stacks them with
the rest;
- with `ModelConfig.remat` a block keeps its input alone.

What XLA works with at the peak is not exact. It is one block's (with `remat`) or one group's arrays
once more, read out of the stack or computed again, with two more arrays of scores for the softmax's
gradient, and one layer's experts twice, read and as gradients. Where groups are not scanned
(`ModelConfig.unroll`) two groups' arrays are there instead, for the second's backward pass begins
before the first's has ended. This is our choice of form, after the buffers that XLA lists for small
models on CPU (`docs/LOG.md`); `benchmarks/memory.py` measures what it leaves out.

Symbols as in `count.py`; t tokens on the device, b bytes of an activation, S the experts' slots for
them.
"""

import math
from dataclasses import asdict, dataclass

from reference.config import ModelConfig
from reference.count import Parameters, expert_slots, held_parameters
from reference.routers import Hash

Axes = tuple[int, int, int]
"""Devices along the mesh's data, expert and model."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device."""

    parameters: int
    optimizer: int
    """AdamW's two moments, spread over devices that hold the same weight (ZeRO stage 1)."""
    inputs: int
    """The batch's tokens, and HASH's tables."""
    kept: int
    """Activations, from the forward pass for the backward pass, of all blocks."""
    cast: int
    """Weights in the activations' type, where that is narrower:
    they do not change in a step, and are converted once for all blocks."""
    gradients: int
    summed: int
    """Gradients once more:
    of several devices, their sum beside what each has found; of several parts, the parts' sum."""
    working: int
    """Arrays of the block, or group of blocks, whose backward pass is under way."""
    logits: int
    """Logits and their gradient, in float32: gone before the blocks' backward pass."""

    @property
    def state(self) -> int:
        """What there is between steps, which a step replaces in place."""
        return self.parameters + self.optimizer + self.inputs

    @property
    def temporary(self) -> int:
        """What there is besides at the peak, which is in the loss or in the backward pass."""
        return self.kept + self.cast + max(self.logits, self.gradients + self.summed + self.working)

    @property
    def peak(self) -> int:
        """All that there is at once."""
        return self.state + self.temporary

    def record(self) -> dict[str, int]:
        """Parts and sums, for JSON."""
        return {**asdict(self), "state": self.state, "temporary": self.temporary, "peak": self.peak}


def local_parameters(config: ModelConfig, axes: Axes = (1, 1, 1)) -> Parameters:
    """Weights on one device (`mesh.parameter_specs`):
    matrices over `model`, experts over `expert` and `model`, the rest whole."""
    held, (_, expert, model) = held_parameters(config), axes
    return Parameters(
        attention=held.attention // model,
        norms=held.norms,
        feed_forward=held.feed_forward // model,
        experts=held.experts // (expert * model),
        router=held.router,
        baseline=held.baseline,
        embedding=held.embedding // model,
        final_norm=held.final_norm,
    )


def step_memory(
    config: ModelConfig, sequences: int, *, axes: Axes = (1, 1, 1), parts: int = 1
) -> StepMemory:
    """Memory of a training step on `sequences` sequences of `config.context` tokens, on each device
    of a mesh; its gradient in `parts`.
    """
    data, expert, model = axes
    local, wide = local_parameters(config, axes), weight_bytes(config)
    weights = wide * local.everything
    spread = local.everything - local.experts
    tokens = sequences // parts * config.context // (data * expert)
    narrower = activation_bytes(config) < wide
    copies = (math.prod(axes) > 1) + (parts > 1)
    return StepMemory(
        parameters=weights,
        optimizer=2 * wide * (spread // (data * expert) + local.experts // data),
        inputs=_inputs(config, sequences // (data * expert)),
        kept=kept_activations(config, sequences // parts, axes),
        cast=activation_bytes(config) * local.everything if narrower else 0,
        gradients=weights,
        summed=copies * weights,
        working=_working(config, sequences // parts, axes),
        logits=2 * wide * tokens * config.vocabulary // model,
    )


def activation_bytes(config: ModelConfig) -> int:
    """Of one number in the activations' type."""
    return {"bfloat16": 2, "float32": 4, "float64": 8}[config.dtype]


def weight_bytes(config: ModelConfig) -> int:
    """Of one weight, of its gradient, of each of AdamW's two moments, of a logit:
    float32 at least."""
    return max(4, activation_bytes(config))


def kept_activations(config: ModelConfig, sequences: int, axes: Axes = (1, 1, 1)) -> int:
    """Bytes kept for the backward pass, all blocks together."""
    if config.remat:
        tokens = sequences * config.context // (axes[0] * axes[1])
        return config.size.num_blocks * activation_bytes(config) * tokens * config.size.d_model
    dense, routed = block_activations(config, sequences, axes)
    return (config.size.num_blocks - config.routed_layers) * dense + config.routed_layers * routed


def block_activations(
    config: ModelConfig, sequences: int, axes: Axes = (1, 1, 1)
) -> tuple[int, int]:
    """Bytes of what a block's gradient reads, of a block that is not routed and of one that is (0
    in a dense model).
    """
    size, width, (data, expert, model) = config.size, activation_bytes(config), axes
    tokens = sequences * config.context // (data * expert)
    d, inner = size.d_model, size.num_heads * size.kqv_size // model
    matrices = 4 * d * inner
    attention = width * (tokens * (4 * d + 5 * inner) + matrices) + _scores(config, sequences, axes)
    dense = attention + width * tokens * (2 * d + 4 * d // model)
    router = config.router
    if router is None:
        return dense, 0
    slots = expert_slots(config, sequences, inference=False) // (data * expert)
    moved = width * (tokens * (2 + router.k) * d + slots * (d + 4 * d // model))
    log_probabilities = (
        0
        if isinstance(router.technique, Hash)
        else weight_bytes(config) * tokens * router.num_experts
    )
    indices = 4 * (slots + 4 * router.k * tokens)
    return dense, attention + moved + log_probabilities + indices


def _scores(config: ModelConfig, sequences: int, axes: Axes) -> int:
    """The softmax's output in float32 at least, and once more in the activations' type if that is
    narrower.
    """
    data, expert, model = axes
    width, wide = activation_bytes(config), weight_bytes(config)
    number = sequences * config.size.num_heads * config.context**2 // (data * expert * model)
    return number * (wide + (width if width < wide else 0))


def _working(config: ModelConfig, sequences: int, axes: Axes) -> int:
    data, expert, model = axes
    dense, routed = block_activations(config, sequences, axes)
    group = (config.period - 1) * dense + routed if routed else dense
    arrays = max(dense, routed) if config.remat else group
    wide = weight_bytes(config)
    scores = wide * sequences * config.size.num_heads * config.context**2 // (data * expert * model)
    if config.unroll >= config.size.num_blocks // config.period > 1:
        return 2 * (arrays + scores)
    experts = (
        2 * wide * local_parameters(config, axes).experts // config.routed_layers if routed else 0
    )
    return arrays + 2 * scores + experts


def _inputs(config: ModelConfig, sequences: int) -> int:
    router = config.router
    table = (
        4 * config.routed_layers * config.vocabulary * router.k
        if router and isinstance(router.technique, Hash)
        else 0
    )
    return 4 * sequences * (config.context + 1) + table
