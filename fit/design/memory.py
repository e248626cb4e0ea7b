"""Bytes of a training step by what a law says of a model, in closed form: what `plan/memory.py` counts, for real-valued sizes.

The leanest setting that `train` has: all matrices spread over the devices (`--fsdp`), experts over as many of them as there are, each
block computed again in the backward pass (`--remat full`), the batch at once or one sequence a device at a time, whichever takes less.
A model that keeps within these bytes can be trained within them; `tests/fit/design/test_memory.py` holds them to `plan` on real models.
"""

from dataclasses import dataclass

import numpy as np

from fit.design.architecture import WIDTH, Architecture, Each, Sizes

PAPER_FROM = 10e6
"""Active parameters from which a model is trained by the paper's recipe, below it by the small models' (the ladder has none between 5M
and 15M)."""

_WIDE = 4
"""Bytes of a weight, of each of AdamW's moments, of a summed gradient, of a score."""

QUERIES = 256
"""Of a chunk of attention (`reference.config.QUERIES`)."""

LOGITS = 2**26
"""At a time on a device (`reference.objective.LOGITS`)."""


@dataclass(frozen=True)
class Recipe:
    """What a step's memory depends on beside the model: `batch` sequences of `context` tokens, activations of `width` bytes a number.

    `slots` of the experts for each choice of a token.
    """

    vocabulary: int
    context: int
    batch: int
    width: int
    slots: float


PAPER = Recipe(vocabulary=32_000, context=2048, batch=256, width=2, slots=1.25)
SMALL = Recipe(vocabulary=264, context=128, batch=32, width=4, slots=2.0)
"""Where nothing is dropped, there is up to one part-filled block for each expert, in all as many slots as choices once more."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A model by real-valued sizes: `attention`, `experts` and `dense` parameters are of all blocks, `dense` with attention's.

    `e` and `k` in units of a dense feed-forward's width, of which `g` experts make one; `every` which block is routed.
    """

    d_model: Sizes
    blocks: Sizes
    attention: Sizes
    dense: Sizes
    experts: Sizes
    e: Each
    k: float
    g: Each
    every: int = 1


def step_bytes(shape: Shape, devices: int | float, recipe: Recipe) -> Sizes:
    """Bytes of a step on one of `devices`, in as many microbatches as take least."""
    at_once = np.maximum(1.0, recipe.batch / devices)
    whole = _at_peak(shape, devices, recipe, at_once, summing=False)
    return np.where(at_once > 1, np.minimum(whole, _at_peak(shape, devices, recipe, 1.0, summing=True)), whole)


def _at_peak(shape: Shape, devices: int | float, recipe: Recipe, sequences: float, summing: bool) -> Sizes:
    """With so many sequences at a time on a device, gradients of several microbatches being summed or not."""
    width, d = recipe.width, shape.d_model
    spread = np.minimum(float(devices), shape.e * shape.g)
    replicas = devices / spread
    routers = np.where(shape.e > 1, d * shape.e * shape.g * shape.blocks / shape.every, 0.0)
    rest = recipe.vocabulary * d + routers
    share = (rest + shape.dense + shape.experts) / devices
    held = rest + (shape.dense + shape.experts) / devices
    narrow = np.where(replicas > 1, 0.0, shape.experts / spread) + np.where(devices > 1, 0.0, shape.dense)
    gradients = _WIDE * held - (_WIDE - width) * narrow
    cast = width * held if width < _WIDE else 0.0
    if summing:
        summed = 2 * _WIDE * share
    else:
        dense = np.where(devices > 1, (rest + shape.dense) / devices, 0.0)
        summed = _WIDE * (dense + np.where(replicas > 1, shape.experts / devices, 0.0))
    tokens = sequences * recipe.context
    kept = width * shape.blocks * d * tokens
    logits = 2.0 * _WIDE * np.minimum(LOGITS, tokens * recipe.vocabulary)
    backward = gradients + summed + _working(shape, devices, recipe, sequences, spread)
    return _WIDE * held + 2 * _WIDE * share + kept + cast + np.maximum(logits, backward)


def _working(shape: Shape, devices: int | float, recipe: Recipe, sequences: float, spread: Each) -> Sizes:
    """Arrays of the block that is computed, its scores, and one layer's experts as they are read and as gradients."""
    width, d, tokens = recipe.width, shape.d_model, sequences * recipe.context
    scores = _WIDE * sequences * min(QUERIES, recipe.context) * recipe.context * np.maximum(d / 64, 4.0)
    attention = width * (8 * tokens * d + recipe.context * d + 4 * d**2)
    choices = shape.k * shape.g * tokens
    slots = recipe.slots * choices
    hidden = slots * (4 * d / shape.g)
    moved = width * (tokens * (2 + shape.k * shape.g) * d + slots * d + hidden)
    routed = moved + _WIDE * (tokens * shape.e * shape.g + slots + 4 * choices)
    arrays = attention + np.where(shape.e > 1, np.maximum(routed, width * 6 * tokens * d), width * 6 * tokens * d)
    layer = np.where(shape.e > 1, _WIDE * shape.experts / spread / (shape.blocks / shape.every), 0.0)
    gathered = np.where(devices > 1, (width + _WIDE) * shape.attention / shape.blocks, 0.0)
    return arrays + 2 * scores + 2 * layer + gathered


def shape_of(architecture: Architecture, n: Sizes, e: Each, k: float, g: Each) -> Shape:
    """The model of `n` active parameters, its widths those of `WIDTH`, its parameters those the law counts but for embeddings."""
    body, every = architecture.body(n), architecture.every
    # Of blocks x d_model^2: attention's with relative positions, feed-forwards that are not routed, and a token's experts.
    attention, unrouted, active = 5.0, 8 * (every - 1) / every, 8 * k / every
    each = attention + unrouted + active
    d = np.cbrt(WIDTH * body / each)
    parameters = architecture.total(n, e, k, g) - (n - body)
    dense = np.where(e > 1, (attention + unrouted) / each * body, parameters)
    return Shape(d, d / WIDTH, attention / each * body, dense, parameters - dense, e, k, g, every)


def training_bytes(architecture: Architecture, n: Sizes, e: Each, k: float, g: Each, devices: int | float) -> Sizes:
    """Bytes of a training step on all `devices` together, by the recipe of its size."""
    shape = shape_of(architecture, n, e, k, g)
    paper, small = (step_bytes(shape, devices, recipe) for recipe in (PAPER, SMALL))
    return devices * np.where(architecture.body(n) >= PAPER_FROM, paper, small)
