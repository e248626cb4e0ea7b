"""What training minimises: the language-model loss, and each routed layer's own losses, with the
metrics to watch.

RL-R's reward is known only here, after the logits: the log-probability of each token's correct next
token. Every routed layer is handed its own `Routing` and that reward. Router losses are means over
tokens and groups, summed over layers.

A target that is `PADDING` counts for nothing, in the loss as in the terms that need a reward.
Routers see padding as token 0: what follows a text's end changes nothing before it, and only the
last sequence of an epoch has any.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from reference.mesh import BATCH, reshaped
from reference.routers import Routing
from reference.transformer import Transformer

PADDING = -1
"""Stands where a sequence has no token; as a target it counts for nothing."""


class Report(eqx.Module):
    """Losses of a batch, and the metrics of each routed layer."""

    loss: Float[Array, ""]
    """Cross-entropy in nats per token: what an evaluation reports."""
    router_losses: dict[str, Float[Array, ""]]
    """By name, weighted, summed over layers."""
    metrics: dict[str, Float[Array, "layers"]]
    """By name, means over groups; `dead_experts` counts the experts that no token of these
    sequences chose."""
    load: Float[Array, "layers experts"] | None
    """Fraction of the batch's choices that fell on each expert."""
    dropped: Float[Array, "layers tenths"] | None = None
    """Fraction of the choices that was dropped, by tenth of the context (or by token, in contexts
    of fewer)."""
    gradient_norm: Float[Array, ""] | None = None
    """Of all weights, before clipping; known after a training step."""


def objective(
    model: Transformer,
    tokens: Int[Array, "batch context_and_one"],
    *,
    key: PRNGKeyArray | None = None,
    inference: bool = False,
) -> tuple[Float[Array, ""], Report]:
    """Total loss of a batch of sequences, each with the token after it: language-model loss +
    router losses.

    `key` is needed in training by routers that sample. Without a single target that is not padding
    the loss is NaN.
    """
    inputs, targets = jnp.maximum(tokens[:, :-1], 0), tokens[:, 1:]
    real = targets != PADDING
    logits, routing = model(inputs, key=key, inference=inference)
    log_prob = target_log_prob(logits, targets)
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
    return total, jax.lax.stop_gradient(Report(loss, losses, metrics, load, dropped))


def target_log_prob(
    logits: Float[Array, "batch context vocabulary"], targets: Int[Array, "batch context"]
) -> Float[Array, "batch context"]:
    """Log-probability of each target, in nats: the reward of RL-R, and minus the loss.

    The target's logit is summed out, not indexed: that works on a vocabulary spread over devices,
    and its gradient is no scatter.
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
    """Mean along `axis`, of all by default, of the `values` that are `real`.

    It is the mean over all positions times their number for a real one: a factor of exactly 1 where
    there is no padding.
    """
    real = jnp.broadcast_to(real, values.shape)
    mean = jnp.mean(jnp.where(real, values, 0), axis=axis)
    count = jnp.sum(real, axis=axis, dtype=values.dtype)
    return mean * ((values.size // mean.size) / count)


def router_losses(
    routing: Routing, log_prob: Float[Array, "batch context"], real: Bool[Array, "batch context"]
) -> dict[str, Float[Array, ""]]:
    """Each of the routers' terms, with its weight: mean over groups (and `real` targets), summed
    over layers."""
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
    """Fraction of the choices that was dropped in each tenth of the sequences' positions."""
    if routing.kept is None:
        return None
    layers, groups, tokens, k = routing.kept.shape
    shape = (layers, groups * tokens // context, context, k)
    kept = reshaped(routing.kept, shape, (None, BATCH, None, None))
    dropped = 1 - jnp.mean(kept, axis=(1, 3), dtype=jnp.float32)
    tenths = min(10, context)
    tenth = jnp.arange(context) * tenths // context == jnp.arange(tenths)[:, None]
    return jnp.sum(jnp.where(tenth, dropped[:, None], 0), axis=-1) / jnp.sum(tenth, axis=-1)


def _by_group(
    per_token: Shaped[Array, "batch context"], like: Float[Array, "layers groups tokens"]
) -> Shaped[Array, "1 groups tokens"]:
    return reshaped(per_token, (1, *like.shape[1:]), (None, BATCH, None))
