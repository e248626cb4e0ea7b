"""Gradient of the total loss by every weight of the Transformer, by hand: `model.forward` read backwards, one token at a time."""

import numpy as np
from jaxtyping import Float, Int

from golden.oracle.attention import attention_backward
from golden.oracle.dispatch import feed_forward_backward, routed_feed_forward_backward, shared_feed_forward_backward
from golden.oracle.elementary import layer_norm, layer_norm_backward, softmax
from golden.oracle.model import Group, Pass, norm_all, of_group, part
from golden.oracle.setting import Arrays, ModelSetting, RouterSetting
from golden.oracle.terms import router_backward

UNTRAINED = ("/table", "/bias")
"""Ends of the names of what has no gradient: HASH's tables, and the biases of loss-free balancing."""


def gradient(model: ModelSetting, weights: Arrays, tokens: Int[np.ndarray, "batch context_and_next"], run: Pass) -> Arrays:
    """Gradient of the total loss by every trained weight, under the same names; `run` is `forward` on the same arguments."""
    gradients: Arrays = {name: np.zeros_like(weight) for name, weight in weights.items() if not name.endswith(UNTRAINED)}
    d_x = _head_backward(weights, tokens, run, gradients)
    for block in reversed(range(model.num_blocks)):
        own = part(weights, f"blocks/{block}")
        h = norm_all(run.attended[block], part(own, "feedforward_norm"))
        if model.routed(block) and model.router is not None:
            d_h, by_weight = _routed_backward(model.router, own, run.groups[block], run, h, d_x)
            if model.router.shared_experts:
                by_input, by_shared = _shared_backward(model.router.shared_experts, own, h, d_x)
                d_h, by_weight = d_h + by_input, by_weight | by_shared
        else:
            d_h, by_weight = _dense_backward(own, h, d_x)
        d_norm, by_norm = _norm_backward(part(own, "feedforward_norm"), run.attended[block], d_h)
        by_weight |= {f"feedforward_norm/{name}": value for name, value in by_norm.items()}
        d_x = d_x + d_norm
        h = norm_all(run.into_block[block], part(own, "attention_norm"))
        d_h = np.zeros_like(h)
        for b in range(len(h)):
            d_h[b], by_attention = attention_backward(h[b], part(own, "attention"), d_x[b])
            for name, value in by_attention.items():
                by_weight[f"attention/{name}"] = by_weight.get(f"attention/{name}", np.zeros_like(value)) + value
        d_norm, by_norm = _norm_backward(part(own, "attention_norm"), run.into_block[block], d_h)
        by_weight |= {f"attention_norm/{name}": value for name, value in by_norm.items()}
        d_x = d_x + d_norm
        for name, value in by_weight.items():
            gradients[f"blocks/{block}/{name}"] += value
    for b, sequence in enumerate(tokens[:, :-1]):
        for t, token in enumerate(sequence):
            gradients["embedding"][token] += d_x[b, t]
    return gradients


def _head_backward(
    weights: Arrays, tokens: Int[np.ndarray, "batch context_and_next"], run: Pass, gradients: Arrays
) -> Float[np.ndarray, "batch context d_model"]:
    """From the mean of -log p(target) to the last block's output; the embedding and the final norm get their gradients here."""
    norm = part(weights, "final_norm")
    d_x = np.zeros_like(run.final)
    for b in range(run.logits.shape[0]):
        for t in range(run.logits.shape[1]):
            d_logits = softmax(run.logits[b, t])
            d_logits[tokens[b, t + 1]] -= 1
            d_logits /= run.reward.size
            x = run.final[b, t]
            gradients["embedding"] += np.outer(d_logits, layer_norm(x, norm["scale"], norm["offset"]))
            d_x[b, t], d_scale, d_offset = layer_norm_backward(x, norm["scale"], d_logits @ weights["embedding"])
            gradients["final_norm/scale"] += d_scale
            gradients["final_norm/offset"] += d_offset
    return d_x


def _norm_backward(
    norm: Arrays, x: Float[np.ndarray, "batch context d_model"], d_h: Float[np.ndarray, "batch context d_model"]
) -> tuple[Float[np.ndarray, "batch context d_model"], Arrays]:
    d_x = np.zeros_like(x)
    by_weight: Arrays = {name: np.zeros_like(weight) for name, weight in norm.items()}
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            d_x[b, t], d_scale, d_offset = layer_norm_backward(x[b, t], norm["scale"], d_h[b, t])
            by_weight["scale"] += d_scale
            by_weight["offset"] += d_offset
    return d_x, by_weight


def _dense_backward(
    own: Arrays, h: Float[np.ndarray, "batch context d_model"], d_y: Float[np.ndarray, "batch context d_model"]
) -> tuple[Float[np.ndarray, "batch context d_model"], Arrays]:
    w_in, w_out = own["feedforward/w_in"], own["feedforward/w_out"]
    d_h = np.zeros_like(h)
    by_weight: Arrays = {"feedforward/w_in": np.zeros_like(w_in), "feedforward/w_out": np.zeros_like(w_out)}
    for b in range(h.shape[0]):
        for t in range(h.shape[1]):
            d_h[b, t], d_w_in, d_w_out = feed_forward_backward(h[b, t], w_in, w_out, d_y[b, t])
            by_weight["feedforward/w_in"] += d_w_in
            by_weight["feedforward/w_out"] += d_w_out
    return d_h, by_weight


def _routed_backward(
    router: RouterSetting,
    own: Arrays,
    groups: list[Group],
    run: Pass,
    h: Float[np.ndarray, "batch context d_model"],
    d_y: Float[np.ndarray, "batch context d_model"],
) -> tuple[Float[np.ndarray, "batch context d_model"], Arrays]:
    d_h = np.zeros_like(h)
    by_weight: Arrays = {}
    for group in groups:
        routing, flat = group.routing, np.concatenate([h[b] for b in group.sequences])
        d_out = np.concatenate([d_y[b] for b in group.sequences])
        d_flat, d_gates, d_w_in, d_w_out = routed_feed_forward_backward(
            flat, routing.experts, routing.gates, group.kept, own["experts/w_in"], own["experts/w_out"], d_out
        )
        by_router_input, by_router = router_backward(
            router, part(own, "router"), flat, routing, d_gates, of_group(run.reward, group), 1 / len(groups)
        )
        d_flat = d_flat + by_router_input
        for place, b in enumerate(group.sequences):
            d_h[b] = d_flat[place * h.shape[1] : (place + 1) * h.shape[1]]
        of_all = {"experts/w_in": d_w_in, "experts/w_out": d_w_out} | {f"router/{name}": g for name, g in by_router.items()}
        for name, value in of_all.items():
            by_weight[name] = by_weight.get(name, np.zeros_like(value)) + value
    return d_h, by_weight


def _shared_backward(
    number: int, own: Arrays, h: Float[np.ndarray, "batch context d_model"], d_y: Float[np.ndarray, "batch context d_model"]
) -> tuple[Float[np.ndarray, "batch context d_model"], Arrays]:
    w_in, w_out = own["shared/w_in"], own["shared/w_out"]
    d_h = np.zeros_like(h)
    by_weight: Arrays = {"shared/w_in": np.zeros_like(w_in), "shared/w_out": np.zeros_like(w_out)}
    for b in range(h.shape[0]):
        for t in range(h.shape[1]):
            d_h[b, t], d_w_in, d_w_out = shared_feed_forward_backward(h[b, t], w_in, w_out, number, d_y[b, t])
            by_weight["shared/w_in"] += d_w_in
            by_weight["shared/w_out"] += d_w_out
    return d_h, by_weight
