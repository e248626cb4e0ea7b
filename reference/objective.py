"""The training objective: language-model loss, router losses, and the metrics to log.

RL-R's reward, the log-probability of each token's correct next token, is known only after the
logits; every routed layer's `Routing` gets it here. Router losses are means over tokens and groups,
summed over layers.

Targets equal to `PADDING` are masked, in the loss and in the terms that need a reward. Routers see
padding as token 0: it follows the last token of an epoch's last sequence, so it changes nothing
before it.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from reference.mesh import BATCH, BUFFER, MODEL, TOKENS, devices_along, reshaped
from reference.routers import Routing
from reference.transformer import Transformer

T = TypeVar("T")

PADDING = -1
"""Padding token; masked as a target."""

LOGITS = 2**26
"""Maximum number of logits on a device at a time; our choice: 256 MiB in float32."""


class Report(eqx.Module):
    """Losses of a batch, and metrics per routed layer."""

    loss: Float[Array, ""]
    """Cross-entropy, nats per token; the loss that evaluations report."""
    router_losses: dict[str, Float[Array, ""]]
    """By name, weighted, summed over layers."""
    metrics: dict[str, Float[Array, "layers"]]
    """By name, means over groups.

    `dead_experts` is the number of experts that no token of the batch chose.
    """
    load: Float[Array, "layers experts"] | None
    """Fraction of the batch's choices on each expert."""
    gradient_norm: Float[Array, ""] | None = None
    """Global norm before clipping; set by a training step."""
    dropped: Float[Array, "layers tenths"] | None = None
    """Fraction of choices dropped, by tenth of the context (by token, if it has fewer than ten)."""


def objective(
    model: Transformer,
    tokens: Int[Array, "batch context_and_one"],
    *,
    key: PRNGKeyArray | None = None,
    inference: bool = False,
) -> tuple[Float[Array, ""], Report]:
    """Total loss of a batch of sequences, each with its next token: cross-entropy + router losses.

    `key` is required in training by routers that sample. If every target is padding, the loss is
    NaN.
    """
    inputs, targets = jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:]
    real = targets != PADDING
    x, routing = model.features(inputs, key=key, inference=inference)
    log_prob = log_prob_of(model, x, targets)
    loss = -mean_of(log_prob, real)
    if routing is None:
        return loss, Report(loss, {}, {}, None)
    losses = router_losses(routing, log_prob, real)
    load = jnp.mean(routing.load, axis=1)
    metrics = {name: jnp.mean(value, axis=1) for name, value in routing.metrics.items()}
    metrics["dead_experts"] = jnp.sum(load == 0, axis=1).astype(load.dtype)
    if routing.policy is not None:
        advantage = _by_group(log_prob, routing.policy.baseline) - routing.policy.baseline
        rewarded = _by_group(real, routing.policy.baseline)
        metrics |= {
            "advantage": mean_of(advantage, rewarded, axis=(1, 2)),
            "baseline_error": mean_of(advantage**2, rewarded, axis=(1, 2)),
        }
    total = loss + sum(losses.values(), start=jnp.zeros_like(loss))
    dropped = dropped_by_tenth(routing, tokens.shape[1] - 1)
    return total, jax.lax.stop_gradient(Report(loss, losses, metrics, load, dropped=dropped))


def log_prob_of(
    model: Transformer,
    x: Float[Array, "batch context d_model"],
    targets: Int[Array, "batch context"],
) -> Float[Array, "batch context"]:
    """`target_log_prob(model.logits(x), targets)`, with at most `LOGITS` logits at a time."""
    return of_logits(target_log_prob, model, x, targets)


def of_logits(
    function: Callable[..., T],
    model: Transformer,
    x: Float[Array, "batch context d_model"],
    targets: Int[Array, "batch context"],
) -> T:
    """`function(model.logits(x), targets)`, with at most `LOGITS` logits at a time.

    `function` maps logits and targets of some positions to arrays [batch, positions]. Where there
    would be more logits on a device, they are made for a chunk of positions at a time, and again in
    the backward pass.
    """
    batch, context, d_model = x.shape
    per_position = batch // devices_along(*BATCH) * model.config.embedding_rows
    length = max(1, min(context, LOGITS * devices_along(MODEL) // per_position))
    chunks = math.ceil(context / length)
    if chunks == 1:
        return function(model.logits(x), targets)

    def _chunk(
        x: Float[Array, "batch length d_model"], targets: Int[Array, "batch length"]
    ) -> PyTree[Shaped[Array, "batch length"]]:
        return function(model.logits(x), targets)

    def _joined(found: Shaped[Array, "chunks batch length"]) -> Shaped[Array, "batch context"]:
        side_by_side = jnp.moveaxis(found, 0, 1)
        return reshaped(side_by_side, (batch, chunks * length), TOKENS[:2])[:, :context]

    rest = ((0, 0), (0, chunks * length - context))
    split = reshaped(jnp.pad(x, (*rest, (0, 0))), (batch, chunks, length, d_model), BUFFER)
    own = reshaped(jnp.pad(targets, rest), (batch, chunks, length), TOKENS)
    each = jnp.moveaxis(split, 1, 0), jnp.moveaxis(own, 1, 0)
    chunk = jax.checkpoint(_chunk, prevent_cse=False)
    return jax.tree.map(_joined, jax.lax.map(lambda xs: chunk(*xs), each))


def target_log_prob(
    logits: Float[Array, "batch context vocabulary"], targets: Int[Array, "batch context"]
) -> Float[Array, "batch context"]:
    """Log-probability of each target, in nats: the negative loss, and RL-R's reward.

    The target's logit is a masked sum instead of an index: this works with a sharded vocabulary,
    and its gradient needs no scatter.
    """
    is_target: Bool[Array, "batch context vocabulary"] = targets[..., None] == jnp.arange(
        logits.shape[-1], dtype=targets.dtype
    )
    of_target = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
    return of_target - jax.nn.logsumexp(logits, axis=-1)


def mean_of(
    values: Float[Array, "*all"],
    real: Bool[Array, "*all_or_1"],
    axis: tuple[int, ...] | None = None,
) -> Float[Array, "*other"]:
    """Mean over `axis` (default: all) of the `values` where `real`.

    Computed as the mean over all positions times (positions / real positions), which is exactly 1
    without padding.
    """
    real = jnp.broadcast_to(real, values.shape)
    mean = jnp.mean(jnp.where(real, values, 0), axis=axis)
    count = jnp.sum(real, axis=axis, dtype=values.dtype)
    return mean * ((values.size // mean.size) / count)


def router_losses(
    routing: Routing, log_prob: Float[Array, "batch context"], real: Bool[Array, "batch context"]
) -> dict[str, Float[Array, ""]]:
    """Weighted router losses: mean over groups (and `real` targets), summed over layers."""
    terms = {name: jnp.sum(jnp.mean(value, axis=1)) for name, value in routing.losses.items()}
    if routing.policy is not None:
        reward = _by_group(log_prob, routing.policy.baseline)
        per_token = routing.policy.losses(jnp.broadcast_to(reward, routing.policy.baseline.shape))
        rewarded = _by_group(real, routing.policy.baseline)
        terms |= {
            name: jnp.sum(mean_of(value, rewarded, axis=(1, 2)))
            for name, value in per_token.items()
        }
    return terms


def dropped_by_tenth(routing: Routing, context: int) -> Float[Array, "layers tenths"] | None:
    """Fraction of choices dropped in each tenth of the context."""
    if routing.kept is None:
        return None
    layers, groups, tokens, k = routing.kept.shape
    shape = (layers, groups * tokens // context, context, k)
    kept = reshaped(routing.kept, shape, (None, BATCH, None, None))
    dropped = jnp.mean(~kept, axis=(1, 3), dtype=jnp.float32)
    tenths = min(10, context)
    tenth = jnp.arange(context) * tenths // context == jnp.arange(tenths)[:, None]
    return jnp.sum(jnp.where(tenth, dropped[:, None], 0), axis=-1) / jnp.sum(tenth, axis=-1)


def _by_group(
    per_token: Shaped[Array, "batch context"], like: Float[Array, "layers groups tokens"]
) -> Shaped[Array, "1 groups tokens"]:
    return reshaped(per_token, (1, *like.shape[1:]), (None, BATCH, None))
