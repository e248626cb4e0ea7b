"""The routers over one group of tokens: S-BASE, HASH, RL-R and Switch (paper, section 3), and loss-free balancing (Wang et al. 2024).
Who goes where, with which gate.

What each adds to the loss is in `terms.py`, and so is the gradient by a router's weights.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from golden.oracle.elementary import gelu, sigmoid, softmax
from golden.oracle.setting import Arrays, RouterSetting


@dataclass(frozen=True)
class Routing:
    """Experts and gates of a group's tokens, and what terms and metrics are made from; None where a router has no such thing."""

    experts: Int[np.ndarray, "tokens k"]
    gates: Float[np.ndarray, "tokens k"]
    logits: Float[np.ndarray, "tokens experts"] | None = None
    log_plan: Float[np.ndarray, "tokens experts"] | None = None
    baseline: Float[np.ndarray, " tokens"] | None = None
    biased: Float[np.ndarray, "tokens experts"] | None = None


def route(
    router: RouterSetting,
    weights: Arrays,
    h: Float[np.ndarray, "tokens d_model"],
    token_id: Int[np.ndarray, " tokens"],
    training: bool,
    sampled: Int[np.ndarray, "tokens 1"] | None = None,
) -> Routing:
    """Route a group. `weights`: weight [D, E], baseline_in [D, D/8], baseline_out [D/8], table [V, k], bias [E], as the technique
    has them.

    `sampled`: the experts that RL-R's policy drew, which only its training reads.
    """
    if router.technique == "hash":
        experts = np.array([weights["table"][token] for token in token_id])
        return Routing(experts, np.full(experts.shape, 1 / router.k))
    logits = np.array([row @ weights["weight"] for row in h])
    if router.technique == "rl-r":
        baseline = np.array([gelu(row @ weights["baseline_in"]) @ weights["baseline_out"] for row in h])
        experts = sampled if training and sampled is not None else largest(logits, 1)
        return Routing(experts, np.ones(experts.shape), logits, None, baseline)
    if router.technique == "loss-free":
        scores = np.array([sigmoid(row) for row in logits])
        biased = np.array([row + weights["bias"] for row in scores])
        experts = largest(biased, router.k)
        gates = np.array([row[chosen] for row, chosen in zip(scores, experts, strict=True)])
        return Routing(experts, gates, logits, biased=biased)
    log_plan = sinkhorn(logits, router.iterations) if training and router.technique == "s-base" else None
    experts = largest(logits, router.k) if log_plan is None else largest_of_plan(log_plan, spread(logits), router.k)
    gates = np.array([softmax(row)[chosen] for row, chosen in zip(logits, experts, strict=True)])
    return Routing(experts, gates, logits, log_plan)


def spread(logits: Float[np.ndarray, "tokens experts"]) -> float:
    """s = max(1, max l - min l) over the whole group."""
    return max(1.0, float(logits.max() - logits.min()))


def sinkhorn(logits: Float[np.ndarray, "tokens experts"], iterations: int) -> Float[np.ndarray, "tokens experts"]:
    """log Pi, the balanced entropic plan: rows near 1/T, columns 1/E, after a descent of the temperature from `spread` to 1.

    f_i = -tau log mean_j exp((l_ij + g_j) / tau), g_j = -tau log mean_i exp((l_ij + f_i) / tau), log Pi_ij = l_ij + f_i + g_j - log(E T).
    """
    tokens, experts = logits.shape
    f, g = np.zeros(tokens), np.zeros(experts)
    for m in range(iterations):
        tau = max(1.0, spread(logits) ** (1 - 2 * m / iterations))
        for i in range(tokens):
            f[i] = -tau * (np.logaddexp.reduce((logits[i] + g) / tau) - math.log(experts))
        for j in range(experts):
            g[j] = -tau * (np.logaddexp.reduce((logits[:, j] + f) / tau) - math.log(tokens))
    return np.array([logits[i] + f[i] + g - math.log(experts * tokens) for i in range(tokens)])


def largest_of_plan(log_plan: Float[np.ndarray, "tokens experts"], scale: float, k: int) -> Int[np.ndarray, "tokens {k}"]:
    """The k largest of each row. Those within 32 eps `scale` of the largest are ties: token i takes the first from expert i mod E on."""
    tokens, num_experts = log_plan.shape
    tolerance = 32 * float(np.finfo(np.float64).eps) * scale
    experts = np.zeros((tokens, k), np.int64)
    for i in range(tokens):
        left = log_plan[i].copy()
        for c in range(k):
            in_turn = [(i + step) % num_experts for step in range(num_experts)]
            experts[i, c] = next(e for e in in_turn if left[e] >= left.max() - tolerance)
            left[experts[i, c]] = -np.inf
    return experts


def largest(logits: Float[np.ndarray, "tokens experts"], k: int) -> Int[np.ndarray, "tokens {k}"]:
    """The k largest of each row, the largest first; of equal ones the lowest index."""
    return np.array([sorted(range(row.size), key=lambda e: (-row[e], e))[:k] for row in logits], np.int64)
