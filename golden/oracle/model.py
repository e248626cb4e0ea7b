"""The whole Transformer, one token at a time: logits, losses and metrics. The gradient of the total is in `gradient.py`.

x = table[token]; per block x += attention(norm(x)), x += feed-forward(norm(x)); logits = norm(x) table^T. A group is
`sequences_per_group` consecutive sequences of the batch, one after the other; in evaluation, where nothing is dropped, all sequences.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from golden.oracle.attention import attention
from golden.oracle.dispatch import feed_forward, kept_choices, routed_feed_forward, shared_feed_forward
from golden.oracle.elementary import layer_norm, log_softmax
from golden.oracle.routers import Routing, route
from golden.oracle.setting import Arrays, ModelSetting, RouterSetting, capacity
from golden.oracle.terms import group_metrics, load, router_terms, term_weights


@dataclass(frozen=True)
class Group:
    """How one group went through one routed layer; `sequences` are its places in the batch."""

    sequences: list[int]
    routing: Routing
    kept: Bool[np.ndarray, "tokens k"]


@dataclass(frozen=True)
class Pass:
    """A forward pass: what it gives, and what the backward pass needs (each block's input, and its state after attention)."""

    logits: Float[np.ndarray, "batch context vocabulary"]
    reward: Float[np.ndarray, "batch context"]
    into_block: list[Float[np.ndarray, "batch context d_model"]]
    attended: list[Float[np.ndarray, "batch context d_model"]]
    final: Float[np.ndarray, "batch context d_model"]
    groups: dict[int, list[Group]]


def weight_shapes(model: ModelSetting) -> dict[str, tuple[int, ...]]:
    """Every trained weight by name, and its shape."""
    d, heads, kqv = model.d_model, model.num_heads, model.kqv_size
    shapes: dict[str, tuple[int, ...]] = {"embedding": (model.vocabulary, d)}
    for block in range(model.num_blocks):
        at = f"blocks/{block}"
        shapes |= {f"{at}/{norm}/{part}": (d,) for norm in ("attention_norm", "feedforward_norm") for part in ("scale", "offset")}
        shapes |= {f"{at}/attention/{name}": (d, heads, kqv) for name in ("query", "key", "value", "position")}
        shapes |= {f"{at}/attention/output": (heads, kqv, d)}
        if not model.routed(block) or model.router is None:
            shapes |= {f"{at}/feedforward/w_in": (d, 4 * d), f"{at}/feedforward/w_out": (4 * d, d)}
            continue
        e, hidden = model.router.num_experts, 4 * d // model.router.granularity
        shapes |= {f"{at}/experts/w_in": (e, d, hidden), f"{at}/experts/w_out": (e, hidden, d)}
        if model.router.shared_experts:
            of_all = model.router.shared_experts * hidden
            shapes |= {f"{at}/shared/w_in": (d, of_all), f"{at}/shared/w_out": (of_all, d)}
        if model.router.technique != "hash":
            shapes |= {f"{at}/router/weight": (d, e)}
        if model.router.technique == "rl-r":
            shapes |= {f"{at}/router/baseline_in": (d, d // 8), f"{at}/router/baseline_out": (d // 8,)}
    return shapes | {"final_norm/scale": (d,), "final_norm/offset": (d,)}


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with `prefix` and a slash, by the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def norm_all(x: Float[np.ndarray, "batch context d_model"], norm: Arrays) -> Float[np.ndarray, "batch context d_model"]:
    """Layer norm of every token; `norm` holds scale and offset."""
    return np.array([[layer_norm(token, norm["scale"], norm["offset"]) for token in sequence] for sequence in x])


def forward(
    model: ModelSetting,
    weights: Arrays,
    tokens: Int[np.ndarray, "batch context_and_next"],
    training: bool,
    sampled: Int[np.ndarray, "layers groups tokens 1"] | None = None,
) -> Pass:
    """Run the model on all but the last token of each sequence; `sampled` are the experts that RL-R's policies drew in training."""
    inputs = tokens[:, :-1]
    x = np.array([[weights["embedding"][token] for token in sequence] for sequence in inputs])
    into_block: list[Float[np.ndarray, "batch context d_model"]] = []
    attended: list[Float[np.ndarray, "batch context d_model"]] = []
    groups: dict[int, list[Group]] = {}
    for block in range(model.num_blocks):
        own = part(weights, f"blocks/{block}")
        into_block.append(x)
        h = norm_all(x, part(own, "attention_norm"))
        x = x + np.array([attention(sequence, part(own, "attention")) for sequence in h])
        attended.append(x)
        h = norm_all(x, part(own, "feedforward_norm"))
        if model.routed(block) and model.router is not None:
            layer = model.routed_blocks().index(block)
            drawn = sampled[layer] if training and sampled is not None else None
            groups[block] = _route_groups(model.router, part(own, "router"), h, inputs, training, drawn)
            x = x + _through_experts(groups[block], part(own, "experts"), h)
            x = x + _through_shared(model.router.shared_experts, part(own, "shared"), h)
        else:
            w_in, w_out = own["feedforward/w_in"], own["feedforward/w_out"]
            x = x + np.array([[feed_forward(token, w_in, w_out) for token in sequence] for sequence in h])
    normal = norm_all(x, part(weights, "final_norm"))
    logits = np.array([[[token @ row for row in weights["embedding"]] for token in sequence] for sequence in normal])
    targets = tokens[:, 1:]
    reward = np.array([[log_softmax(logits[b, t])[targets[b, t]] for t in range(len(targets[b]))] for b in range(len(targets))])
    return Pass(logits, reward, into_block, attended, x, groups)


def _route_groups(
    router: RouterSetting,
    weights: Arrays,
    h: Float[np.ndarray, "batch context d_model"],
    inputs: Int[np.ndarray, "batch context"],
    training: bool,
    sampled: Int[np.ndarray, "groups tokens 1"] | None,
) -> list[Group]:
    groups: list[Group] = []
    size = router.sequences_per_group if training or router.evaluation_capacity_factor is not None else len(h)
    for first in range(0, len(h), size):
        sequences = list(range(first, first + size))
        flat = np.concatenate([h[b] for b in sequences])
        ids = np.concatenate([inputs[b] for b in sequences])
        routing = route(router, weights, flat, ids, training, None if sampled is None else sampled[len(groups)])
        room = capacity(router, len(flat), training)
        kept = kept_choices(routing.experts, router.num_experts, room, router.drop_order, routing.gates)
        groups.append(Group(sequences, routing, kept))
    return groups


def _through_experts(
    groups: list[Group], experts: Arrays, h: Float[np.ndarray, "batch context d_model"]
) -> Float[np.ndarray, "batch context d_model"]:
    y = np.zeros_like(h)
    for group in groups:
        flat = np.concatenate([h[b] for b in group.sequences])
        out = routed_feed_forward(flat, group.routing.experts, group.routing.gates, group.kept, experts["w_in"], experts["w_out"])
        for place, b in enumerate(group.sequences):
            y[b] = out[place * h.shape[1] : (place + 1) * h.shape[1]]
    return y


def _through_shared(
    number: int, shared: Arrays, h: Float[np.ndarray, "batch context d_model"]
) -> Float[np.ndarray, "batch context d_model"]:
    if not number:
        return np.zeros_like(h)
    return np.array([[shared_feed_forward(token, shared["w_in"], shared["w_out"], number) for token in sequence] for sequence in h])


def of_group(values: Float[np.ndarray, "batch context"], group: Group) -> Float[np.ndarray, " tokens"]:
    """One value per token of the batch, for a group's tokens in order."""
    return np.concatenate([values[b] for b in group.sequences])


def losses(model: ModelSetting, run: Pass) -> dict[str, float]:
    """lm, the mean of -log p(target); `terms/NAME/LAYER`, each router term before its weight, a mean over groups; router, their weighted
    sum over terms and layers; and total = lm + router."""
    values = {"lm": float(-run.reward.sum() / run.reward.size), "router": 0.0}
    if model.router is not None:
        for layer, block in enumerate(model.routed_blocks()):
            of_groups = [router_terms(model.router, group.routing, of_group(run.reward, group)) for group in run.groups[block]]
            for name, weight in term_weights(model.router).items():
                mean = sum(terms[name] for terms in of_groups) / len(of_groups)
                values[f"terms/{name}/{layer}"] = mean
                values["router"] += weight * mean
    return values | {"total": values["lm"] + values["router"]}


def metrics(model: ModelSetting, run: Pass) -> Arrays:
    """What each routed layer reports, stacked over layers: means over groups, and the experts that no token of the batch chose."""
    if model.router is None:
        return {}
    layers: list[Arrays] = []
    for block in model.routed_blocks():
        groups = run.groups[block]
        reports = [group_metrics(model.router, group.routing, group.kept, of_group(run.reward, group)) for group in groups]
        layer: Arrays = {name: np.array(sum(report[name] for report in reports) / len(groups)) for name in reports[0]}
        layer["load"] = np.array(sum(load(group.routing, model.router.num_experts) for group in groups) / len(groups))
        layer["dead_experts"] = np.array(sum(1 for share in layer["load"] if share == 0))
        layers.append(layer)
    return {name: np.array([layer[name] for layer in layers]) for name in layers[0]}
