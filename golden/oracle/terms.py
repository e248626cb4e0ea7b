"""What a router adds to the loss, the gradient by its weights, and what it reports. One group of tokens.

Gradients stop at: S-BASE's choice; loss-free balancing's choice, and so its bias; RL-R's input, so that its terms reach only the router's
own weights; the reward; and the baseline inside the policy term. Fractions of tokens per expert are counts and have no gradient.
"""

import numpy as np
from jaxtyping import Bool, Float

from golden.oracle.elementary import gelu, gelu_slope, log_softmax, sigmoid, softmax, softmax_backward
from golden.oracle.routers import Routing
from golden.oracle.setting import Arrays, RouterSetting


def load(routing: Routing, num_experts: int) -> Float[np.ndarray, " {num_experts}"]:
    """Fraction of a group's T * k choices that fell on each expert, kept or dropped."""
    counts = np.zeros(num_experts)
    for expert in routing.experts.ravel():
        counts[expert] += 1
    return counts / routing.experts.size


def entropy(probabilities: Float[np.ndarray, " n"]) -> float:
    """-sum p log p in nats, with 0 log 0 = 0."""
    return float(-sum(p * np.log(p) for p in probabilities if p > 0))


def term_weights(router: RouterSetting) -> dict[str, float]:
    """The technique's terms, and the weight of each in the loss; the entropy is a bonus."""
    if router.technique == "switch":
        return {"balance": router.balance_weight, "z": router.z_weight}
    if router.technique == "rl-r":
        return {
            "policy": router.policy_weight,
            "baseline": router.baseline_weight,
            "balance": router.balance_weight,
            "entropy": -router.entropy_weight,
        }
    return {}


def router_terms(router: RouterSetting, routing: Routing, reward: Float[np.ndarray, " tokens"]) -> dict[str, float]:
    """Each term before its weight. Only RL-R reads `reward`, a token's log-probability of its next token."""
    names = term_weights(router)
    if not names or routing.logits is None:
        return {}
    tokens = len(routing.experts)
    log_p = [log_softmax(row) for row in routing.logits]
    mean_p = sum(np.exp(row) for row in log_p) / tokens
    terms = {"balance": float(router.num_experts * (load(routing, router.num_experts) @ mean_p))}
    if routing.baseline is None:
        terms["z"] = float(sum(np.logaddexp.reduce(row) ** 2 for row in routing.logits) / tokens)
        return terms
    advantage = reward - routing.baseline
    terms["policy"] = float(-sum(advantage[i] * log_p[i][routing.experts[i, 0]] for i in range(tokens)) / tokens)
    terms["baseline"] = float(advantage @ advantage / tokens)
    terms["entropy"] = sum(entropy(np.exp(row)) for row in log_p) / tokens
    return terms


def router_backward(
    router: RouterSetting,
    weights: Arrays,
    h: Float[np.ndarray, "tokens d_model"],
    routing: Routing,
    d_gates: Float[np.ndarray, "tokens k"],
    reward: Float[np.ndarray, " tokens"],
    d_terms: float,
) -> tuple[Float[np.ndarray, "tokens d_model"], Arrays]:
    """Gradients by the input and by each weight, given those by the gates and by the weighted sum of the terms."""
    d_h = np.zeros_like(h)
    if routing.logits is None:
        return d_h, {}
    gradients: Arrays = {"weight": np.zeros_like(weights["weight"])}
    d_logits = _logits_backward(router, routing, d_gates, reward, d_terms)
    for i in range(len(h)):
        gradients["weight"] += np.outer(h[i], d_logits[i])
        if routing.baseline is None:  # RL-R's input has no gradient
            d_h[i] = weights["weight"] @ d_logits[i]
    if routing.baseline is not None:
        gradients["baseline_in"] = np.zeros_like(weights["baseline_in"])
        gradients["baseline_out"] = np.zeros_like(weights["baseline_out"])
        for i in range(len(h)):
            z = h[i] @ weights["baseline_in"]
            d_baseline = d_terms * router.baseline_weight * 2 * (routing.baseline[i] - reward[i]) / len(h)
            gradients["baseline_out"] += d_baseline * gelu(z)
            gradients["baseline_in"] += np.outer(h[i], d_baseline * weights["baseline_out"] * gelu_slope(z))
    return d_h, gradients


def _logits_backward(
    router: RouterSetting,
    routing: Routing,
    d_gates: Float[np.ndarray, "tokens k"],
    reward: Float[np.ndarray, " tokens"],
    d_terms: float,
) -> Float[np.ndarray, "tokens experts"]:
    assert routing.logits is not None
    d_logits = np.zeros_like(routing.logits)
    each = d_terms / len(d_logits)
    fractions = load(routing, router.num_experts)
    for i, row in enumerate(routing.logits):
        p = softmax(row)
        if router.technique in ("s-base", "switch"):
            d_p = np.zeros_like(p)
            for expert, d_gate in zip(routing.experts[i], d_gates[i], strict=True):
                d_p[expert] += d_gate
            d_logits[i] += softmax_backward(p, d_p)
        if router.technique == "loss-free":
            slopes = sigmoid(row) * (1 - sigmoid(row))
            for expert, d_gate in zip(routing.experts[i], d_gates[i], strict=True):
                d_logits[i, expert] += d_gate * slopes[expert]
        if router.technique in ("rl-r", "switch"):
            d_logits[i] += each * router.balance_weight * router.num_experts * softmax_backward(p, fractions)
        if router.technique == "switch":
            d_logits[i] += each * router.z_weight * 2 * np.logaddexp.reduce(row) * p
        if routing.baseline is not None:
            chosen = np.arange(p.size) == routing.experts[i, 0]
            d_logits[i] -= each * router.policy_weight * (reward[i] - routing.baseline[i]) * (chosen - p)
            d_logits[i] += each * router.entropy_weight * p * (log_softmax(row) + entropy(p))
    return d_logits


def group_metrics(
    router: RouterSetting,
    routing: Routing,
    kept: Bool[np.ndarray, "tokens k"],
    reward: Float[np.ndarray, " tokens"],
) -> dict[str, float]:
    """What a group reports: numbers that a layer averages over its groups."""
    tokens = len(routing.experts)
    fractions = load(routing, router.num_experts)
    metrics = {
        "load_max_over_mean": float(router.num_experts * fractions.max()),
        "dropped_fraction": 1 - int(kept.sum()) / kept.size,
        "gate": float(routing.gates.sum() / tokens),
        "entropy": entropy(fractions) if routing.logits is None else sum(entropy(softmax(row)) for row in routing.logits) / tokens,
    }
    if routing.log_plan is not None:
        metrics["marginal_error"] = float(sum(abs(np.exp(row).sum() - 1 / tokens) for row in routing.log_plan))
    if routing.baseline is not None:
        advantage = reward - routing.baseline
        metrics["advantage"] = float(advantage.sum() / tokens)
        metrics["baseline_error"] = float(advantage @ advantage / tokens)
    return metrics
