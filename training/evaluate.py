"""Evaluation on held-out text."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from reference.mesh import BATCH, laid_out, reshaped
from reference.objective import PADDING, log_prob_of
from reference.routers import Routing
from reference.transformer import Transformer
from training.text.batches import Batch


class Sums(eqx.Module):
    """Sums of an evaluation, over batches."""

    loss: Float[Array, ""]
    """Cross-entropy in nats."""
    targets: Int[Array, ""]
    counts: Int[Array, "layers experts"] | None
    """Number of choices on each expert."""
    choices: Int[Array, "layers tokens k"] | None
    """Each token's choices, -1 at padding; replicated."""
    dropped: Int[Array, "layers"] | None
    """Number of dropped choices; 0 unless there is an `evaluation_capacity_factor`."""


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation."""

    loss: float
    """Mean cross-entropy, nats per token."""
    targets: int
    load: Float[np.ndarray, "layers experts"] | None
    """Fraction of choices on each expert, by routed layer; None for a dense model."""
    choices: Int[np.ndarray, "layers tokens k"] | None = None
    """Each token's choices, if they were kept; -1 at padding."""
    dropped: Float[np.ndarray, "layers"] | None = None
    """Fraction of choices dropped, by routed layer."""
    others: dict[str, float] = field(default_factory=dict)
    """Loss on other texts, by name."""


def sums_of(model: Transformer, tokens: Int[Array, "batch context_and_one"]) -> Sums:
    """The sums of one batch, in inference mode; padding is masked."""
    x, routing = model.features(jnp.maximum(tokens[:, :-1], 0), inference=True)
    real = tokens[:, 1:] != PADDING
    loss = -jnp.sum(jnp.where(real, log_prob_of(model, x, tokens[:, 1:]), 0))
    if routing is None:
        return Sums(loss, jnp.sum(real), None, None, None)
    return Sums(loss, jnp.sum(real), *_choices(routing, real))


def evaluate(
    batches: Iterable[Batch], on_batch: Callable[[Batch], Sums], *, keep_choices: bool = False
) -> Evaluation:
    """Means over `batches`; `on_batch` is `sums_of`, compiled. NaN if every target is padding.

    `keep_choices`: return every token's choices, in host memory.
    """
    # Two batches are in flight, so that neither the device waits nor the host holds all batches.
    # Python floats: sums are in float64.
    loss, targets, counts, dropped = 0.0, 0, None, None
    kept: list[Int[np.ndarray, "layers tokens k"]] = []
    under_way: deque[Sums] = deque()

    def _collect() -> None:
        nonlocal loss, targets, counts, dropped
        sums = under_way.popleft()
        loss, targets = loss + float(sums.loss), targets + int(sums.targets)
        if sums.counts is not None:
            counts = np.asarray(sums.counts, np.int64) + (0 if counts is None else counts)
        if sums.dropped is not None:
            dropped = np.asarray(sums.dropped, np.int64) + (0 if dropped is None else dropped)
        if keep_choices and sums.choices is not None:
            kept.append(np.asarray(sums.choices).astype(np.int16))

    for batch in batches:
        under_way.append(on_batch(batch))
        if len(under_way) > 2:
            _collect()
    while under_way:
        _collect()
    mean = loss / targets if targets else math.nan
    all_choices = np.concatenate(kept, axis=1) if kept else None
    if counts is None or dropped is None:
        return Evaluation(mean, targets, None)
    total = counts.sum(axis=1)
    return Evaluation(mean, targets, counts / total[:, None], all_choices, dropped / total)


def _choices(
    routing: Routing, real: Bool[Array, "batch context"]
) -> tuple[
    Int[Array, "layers experts"], Int[Array, "layers all_tokens k"], Int[Array, "layers"] | None
]:
    """Tokens per expert, each token's choices (-1 at padding), and the number of dropped choices.

    Over non-padding targets.
    """
    layers, groups, tokens, k = routing.experts.shape
    counted = reshaped(real, (1, groups, tokens, 1), (None, BATCH, None, None))
    choices = jnp.where(counted, routing.experts, -1)
    experts = jnp.arange(routing.load.shape[-1], dtype=choices.dtype)
    counts = jnp.sum(choices[..., None] == experts, axis=(1, 2, 3), dtype=jnp.int32)
    whole = laid_out(choices, (None, None, None, None))
    dropped = (
        None
        if routing.kept is None
        else jnp.sum(counted & ~routing.kept, axis=(1, 2, 3), dtype=jnp.int32)
    )
    return counts, reshaped(whole, (layers, groups * tokens, k), (None, None, None)), dropped
