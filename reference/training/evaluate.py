"""Loss on held-out text, and text from a model."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.mesh import GROUPS, shard
from reference.objective import target_log_prob
from reference.training.batches import PADDING
from reference.transformer import Transformer

Batch = Int[np.ndarray, "batch context_and_one"]


def loss_and_targets(model: Transformer, tokens: Int[Array, "batch context_and_one"]) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Summed cross-entropy in nats and number of targets of a batch, in evaluation: padding counts for nothing."""
    logits, _ = model(jnp.maximum(tokens[:, :-1], 0), inference=True)
    real = tokens[:, 1:] != PADDING
    return -jnp.sum(jnp.where(real, target_log_prob(logits, tokens[:, 1:]), 0)), jnp.sum(real)


def evaluate(batches: Iterable[Batch], on_batch: Callable[[Batch], tuple[Float[Array, ""], Int[Array, ""]]]) -> float:
    """Mean cross-entropy in nats per token over `batches`, of which `on_batch` gives sums: `loss_and_targets`, compiled."""
    sums = [on_batch(batch) for batch in batches]
    # In float64 on the host, so that the order of the batches' sizes does not show.
    return sum(float(loss) for loss, _ in sums) / sum(int(targets) for _, targets in sums)


def sample(
    model: Transformer, prompt: Int[np.ndarray, "tokens"], length: int, key: PRNGKeyArray, *, temperature: float = 1.0
) -> Int[np.ndarray, "all_tokens"]:
    """`prompt` and `length` tokens more, each drawn from the model's distribution at `temperature` (0: the most probable).

    The last `context` tokens are read anew for each: plain, and fast enough for small models.
    """
    context, mesh = model.config.context, jax.sharding.get_abstract_mesh()
    rows = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in GROUPS)

    @jax.jit
    def _next(model: Transformer, window: Int[Array, "context"], last: Int[Array, ""], key: PRNGKeyArray) -> Int[Array, ""]:
        # On a mesh a batch is spread over devices, so all of its rows are the same text.
        batch = shard(jnp.tile(window, (rows, 1)), GROUPS, None)
        logits = shard(model(batch, inference=True)[0], None, None, None)[0, last]
        return jnp.argmax(logits) if temperature == 0 else jax.random.categorical(key, logits / temperature)

    tokens = prompt.tolist()
    for i in range(length):
        recent = tokens[-context:]
        window = np.array(recent + [0] * (context - len(recent)), np.int32)
        tokens.append(int(_next(model, jnp.asarray(window), jnp.asarray(len(recent) - 1), jax.random.fold_in(key, i))))
    return np.array(tokens, np.int32)
