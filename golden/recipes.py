"""What the golden cases are: settings, seeds, and which of the oracle's answers are kept. `golden.make` writes them.

Keys of a case by kind, with T tokens in a group and MODE one of `training`, `evaluation`:

- router: inputs x [T, D], token_id [T], reward [T], gate_cotangent [T, k], and RL-R's sampled_experts [T, 1]; outputs MODE/experts,
  gates, logits, log_plan, marginal_error, load, entropy, terms/NAME (before their weights), loss (their weighted sum) and gradients/...
  of sum(gates * gate_cotangent) + loss by x and by each weight. A router has only those of them that exist for it.
- dispatch: inputs x, experts and gates [T, k], cotangent [T, D]; outputs kept [T, k], y, and gradients/... of sum(y * cotangent).
- attention: inputs x and cotangent [context, D]; outputs y and gradients/... of sum(y * cotangent).
- optimizer: inputs gradients/STEP/NAME; outputs STEP/NAME, the weights after that step.
- model: inputs tokens [batch, context + 1] and RL-R's sampled_experts [layers, groups, T, 1]; outputs MODE/logits, MODE/losses/NAME,
  MODE/metrics/NAME [layers, ...], MODE/experts and kept [layers, groups, T, k], training/gradients/NAME of the total loss, and adamw/NAME,
  the weights after one step (in one case).

Choices are decided clearly: where a router picks the largest of several numbers, `margin` in the index is the least distance between one
that is picked and the next below, wide enough for float32 to pick the same. Each seed was tried until that held, and, where it matters,
until some token is dropped and the plan of S-BASE sends some token elsewhere than its largest logit.
"""

from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from golden.cases import Case
from golden.oracle.adamw import adamw_step, start
from golden.oracle.attention import PROJECTIONS, attention, attention_backward
from golden.oracle.dispatch import kept_choices, routed_feed_forward, routed_feed_forward_backward
from golden.oracle.gradient import gradient
from golden.oracle.model import Group, Pass, forward, losses, metrics, weight_shapes
from golden.oracle.routers import Routing, route, spread
from golden.oracle.setting import Arrays, ModelSetting, RouterSetting, capacity
from golden.oracle.terms import entropy, group_metrics, load, router_backward, router_terms, term_weights

MODES = ("training", "evaluation")
LEARNING_RATE = 2.0**-8


def draw(rng: np.random.Generator, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Float[np.ndarray, "..."]:
    """Normal numbers that float16 holds exactly."""
    return (mean + scale * rng.standard_normal(shape)).astype(np.float16).astype(np.float64)


def margin(routing: Routing) -> float:
    """Least distance between a choice and the next below it, in what the router takes the largest of."""
    if routing.logits is None:
        return float("inf")
    scores = next(of for of in (routing.log_plan, routing.biased, routing.logits) if of is not None)
    k = routing.experts.shape[1]
    ordered = -np.sort(-scores, axis=1)[:, : k + 1]
    return float(np.diff(-ordered, axis=1).min()) if ordered.shape[1] > 1 else float("inf")


def clear(routing: Routing) -> bool:
    """Whether float32 chooses alike: S-BASE's ties reach 32 eps s, and its plan is off by about as much."""
    return routing.logits is None or margin(routing) > 5e-3 + 128 * float(np.finfo(np.float32).eps) * spread(routing.logits)


def elsewhere(routings: list[Routing]) -> bool:
    """Whether some token goes elsewhere than to its largest logits; always where nothing could send it there."""
    moved = [r for r in routings if r.logits is not None and (r.log_plan is not None or r.biased is not None)]
    return not moved or any((r.experts != np.argsort(-r.logits)[:, : r.experts.shape[1]]).any() for r in moved if r.logits is not None)


def drop_margin(routing: Routing, kept: Bool[np.ndarray, "tokens k"]) -> float:
    """Least distance, over the experts that drop, between the gates of the last choice that is kept and the first that is not."""
    gaps = [float("inf")]
    for expert in np.unique(routing.experts):
        its = routing.experts == expert
        if (its & ~kept).any():
            gaps.append(float(routing.gates[its & kept].min() - routing.gates[its & ~kept].max()))
    return min(gaps)


# --- routers

Logits = Literal["drawn", "large", "equal", "dominant"]


def router_case(name: str, router: RouterSetting, tokens: int, seed: int, logits: Logits = "drawn", d_model: int = 8) -> Case:
    """One router over one group. `large`: logits of about 1e3; `equal`: all the same; `dominant`: one expert 8 above the others."""
    rng = np.random.default_rng(seed)
    e, k, vocabulary = router.num_experts, router.k, 13
    x = draw(rng, tokens, d_model)
    x[:, 0] = 1.0
    weights: Arrays = {}
    if router.technique == "hash":
        weights["router/table"] = np.argsort(rng.random((vocabulary, e)), axis=1)[:, :k]
    else:
        weights["router/weight"] = draw(rng, d_model, e, scale={"large": 400.0, "equal": 0.0}.get(logits, 0.75))
        if logits == "dominant":
            weights["router/weight"][0, 0] = 8.0
    if router.technique == "loss-free":
        weights["router/bias"] = draw(rng, e, scale=0.25)
    inputs: Arrays = {"x": x, "token_id": rng.integers(0, vocabulary, tokens), "gate_cotangent": draw(rng, tokens, k)}
    inputs["reward"] = draw(rng, tokens, mean=-2.5, scale=0.5)
    if router.technique == "rl-r":
        weights["router/baseline_in"] = draw(rng, d_model, d_model // 8, scale=0.5)
        weights["router/baseline_out"] = draw(rng, d_model // 8)
        inputs["sampled_experts"] = rng.integers(0, e, (tokens, 1))
    own = {key.removeprefix("router/"): weight for key, weight in weights.items()}
    outputs: Arrays = {}
    margins: list[float] = []
    for mode in MODES:
        routing = route(router, own, x, inputs["token_id"], mode == "training", inputs.get("sampled_experts"))
        outputs |= {f"{mode}/{key}": value for key, value in _of_router(router, own, inputs, routing).items()}
        decided = mode == "evaluation" or router.technique != "rl-r"
        if decided and logits != "equal":
            assert clear(routing), f"{name}: choices of {mode} are near ties, {margin(routing)}: take another seed"
            assert elsewhere([routing]) or routing.biased is None, f"{name}: the bias moves no choice: take another seed"
            margins.append(margin(routing))
    return Case(name, "router", {"router": asdict(router), "seed": seed, "margin": _least(margins)}, inputs, weights, outputs)


def _of_router(router: RouterSetting, weights: Arrays, inputs: Arrays, routing: Routing) -> Arrays:
    terms = router_terms(router, routing, inputs["reward"])
    fractions = load(routing, router.num_experts)
    outputs: Arrays = {"experts": routing.experts, "gates": routing.gates, "load": fractions}
    report = group_metrics(router, routing, np.ones(routing.experts.shape, bool), inputs["reward"])
    outputs["entropy"] = np.array(entropy(fractions) if routing.logits is None else report["entropy"])
    if routing.logits is not None:
        outputs["logits"] = routing.logits
    if routing.log_plan is not None:
        outputs |= {"log_plan": routing.log_plan, "marginal_error": np.array(report["marginal_error"])}
    outputs |= {f"terms/{term}": np.array(value) for term, value in terms.items()}
    outputs["loss"] = np.array(sum(weight * terms[term] for term, weight in term_weights(router).items()), np.float64)
    d_x, by_weight = router_backward(router, weights, inputs["x"], routing, inputs["gate_cotangent"], inputs["reward"], 1.0)
    return outputs | {"gradients/x": d_x} | {f"gradients/router/{key}": value for key, value in by_weight.items()}


def router_cases() -> list[Case]:
    """Each router, and the hard cases of S-BASE."""
    base = RouterSetting("s-base", 4)
    return [
        router_case("router_s_base", base, 16, 0),
        router_case("router_s_base_k2", replace(base, k=2), 16, 31),
        router_case("router_s_base_large_logits", base, 16, 2, "large"),
        router_case("router_s_base_equal_logits", replace(base, k=2, num_experts=3), 8, 3, "equal"),
        router_case("router_s_base_dominant_expert", base, 16, 4, "dominant"),
        router_case("router_s_base_fewer_tokens_than_experts", replace(base, num_experts=8), 3, 5),
        router_case("router_s_base_one_expert", replace(base, num_experts=1), 4, 6),
        router_case("router_hash", RouterSetting("hash", 4), 12, 7),
        router_case("router_hash_k2", RouterSetting("hash", 4, k=2), 12, 8),
        router_case("router_rl_r", RouterSetting("rl-r", 4), 12, 9, d_model=16),
        router_case("router_rl_r_one_expert", RouterSetting("rl-r", 1), 4, 10, d_model=16),
        router_case("router_switch", RouterSetting("switch", 4), 12, 11),
        router_case("router_switch_k2", RouterSetting("switch", 4, k=2), 12, 12),
        router_case("router_switch_k4", RouterSetting("switch", 4, k=4), 12, 13),
        router_case("router_switch_large_logits", RouterSetting("switch", 4, k=2), 12, 14, "large"),
        router_case("router_loss_free", RouterSetting("loss-free", 4), 12, 51),
        router_case("router_loss_free_k2", RouterSetting("loss-free", 4, k=2), 12, 52),
    ]


# --- dispatch and attention


def dispatch_case(name: str, tokens: int, num_experts: int, k: int, capacity: int, seed: int) -> Case:
    """Tokens to experts that are uneven on purpose, at a given capacity."""
    rng = np.random.default_rng(seed)
    d_model, hidden = 4, 8
    preference = rng.random((tokens, num_experts)) * np.arange(1, num_experts + 1)
    experts = np.argsort(-preference, axis=1)[:, :k]
    inputs: Arrays = {"x": draw(rng, tokens, d_model), "experts": experts, "gates": draw(rng, tokens, k, mean=0.5, scale=0.25)}
    inputs["cotangent"] = draw(rng, tokens, d_model)
    w_in, w_out = draw(rng, num_experts, d_model, hidden), draw(rng, num_experts, hidden, d_model)
    kept = kept_choices(experts, num_experts, capacity)
    given = (inputs["x"], experts, inputs["gates"], kept, w_in, w_out)
    by = ("x", "gates", "experts/w_in", "experts/w_out")
    outputs: Arrays = {"kept": kept, "y": routed_feed_forward(*given), "dropped_fraction": np.array(1 - kept.sum() / kept.size)}
    gradients = routed_feed_forward_backward(*given, inputs["cotangent"])
    outputs |= {f"gradients/{key}": value for key, value in zip(by, gradients, strict=True)}
    config: dict[str, Any] = {"num_experts": num_experts, "k": k, "capacity": capacity, "seed": seed}
    return Case(name, "dispatch", config, inputs, {"experts/w_in": w_in, "experts/w_out": w_out}, outputs)


def attention_case(name: str, context: int, d_model: int, heads: int, kqv_size: int, seed: int) -> Case:
    """Attention over one sequence."""
    rng = np.random.default_rng(seed)
    projections: Arrays = {key: draw(rng, d_model, heads, kqv_size, scale=0.5) for key in PROJECTIONS}
    weights = projections | {"output": draw(rng, heads, kqv_size, d_model, scale=0.5)}
    inputs: Arrays = {"x": draw(rng, context, d_model), "cotangent": draw(rng, context, d_model)}
    d_x, by_weight = attention_backward(inputs["x"], weights, inputs["cotangent"])
    outputs: Arrays = {"y": attention(inputs["x"], weights), "gradients/x": d_x}
    outputs |= {f"gradients/attention/{key}": value for key, value in by_weight.items()}
    named = {f"attention/{key}": weight for key, weight in weights.items()}
    return Case(name, "attention", {"seed": seed}, inputs, named, outputs)


# --- the optimizer


def optimizer_case(name: str, seed: int) -> Case:
    """Three steps on given gradients of global norm 1/2, 4 and 1/2: the second is clipped. Rank 1 does not decay, 2 and 3 do."""
    rng = np.random.default_rng(seed)
    weights: Arrays = {f"rank_{rank}": draw(rng, *((3, 2, 4)[:rank])) for rank in (1, 2, 3)}
    inputs: Arrays = {}
    outputs: Arrays = {}
    state, now = start(weights), weights
    for step, norm in enumerate((0.5, 4.0, 0.5), start=1):
        raw = {key: draw(rng, *weight.shape) for key, weight in weights.items()}
        scale = norm / float(np.sqrt(sum((g**2).sum() for g in raw.values())))
        gradients: Arrays = {key: (scale * g).astype(np.float16).astype(np.float64) for key, g in raw.items()}
        now, state = adamw_step(now, gradients, state, LEARNING_RATE)
        inputs |= {f"gradients/{step}/{key}": value for key, value in gradients.items()}
        outputs |= {f"{step}/{key}": value for key, value in now.items()}
    return Case(name, "optimizer", {"learning_rate": LEARNING_RATE, "seed": seed}, inputs, weights, outputs)


# --- whole models


def model_weights(model: ModelSetting, rng: np.random.Generator) -> Arrays:
    """Weights large enough that routing and attention are far from uniform."""
    weights: Arrays = {}
    for name, shape in weight_shapes(model).items():
        if name.endswith(("scale", "offset")):
            weights[name] = draw(rng, *shape, mean=float(name.endswith("scale")), scale=0.25)
        elif "/router/" in name:
            weights[name] = draw(rng, *shape)
        else:
            # Numbers that are summed for one output: heads and their keys, the hidden layer's 4D, or else D.
            summed = shape[0] * shape[1] if name.endswith("attention/output") else shape[-2] if name.endswith("w_out") else model.d_model
            weights[name] = draw(rng, *shape, scale=1.25 / summed**0.5)
    if model.router is not None and model.router.technique == "hash":
        e, k = model.router.num_experts, model.router.k
        for block in model.routed_blocks():
            weights[f"blocks/{block}/router/table"] = np.argsort(rng.random((model.vocabulary, e)), axis=1)[:, :k]
    if model.router is not None and model.router.technique == "loss-free":
        weights |= {f"blocks/{block}/router/bias": draw(rng, model.router.num_experts, scale=0.25) for block in model.routed_blocks()}
    return weights


def model_case(name: str, model: ModelSetting, batch: int, seed: int, with_adamw: bool = False) -> Case:
    """A whole model on a batch of random tokens."""
    rng = np.random.default_rng(seed)
    weights = model_weights(model, rng)
    inputs: Arrays = {"tokens": rng.integers(0, model.vocabulary, (batch, model.context + 1))}
    margins: list[float] = []
    if model.router is not None and model.router.technique == "rl-r":
        per_group = model.router.sequences_per_group
        shape = (len(model.routed_blocks()), batch // per_group, model.context * per_group, 1)
        inputs["sampled_experts"] = rng.integers(0, model.router.num_experts, shape)
    outputs: Arrays = {}
    for mode in MODES:
        run = forward(model, weights, inputs["tokens"], mode == "training", inputs.get("sampled_experts"))
        outputs |= {f"{mode}/logits": run.logits}
        outputs |= {f"{mode}/losses/{key}": np.array(value) for key, value in losses(model, run).items()}
        outputs |= {f"{mode}/metrics/{key}": value for key, value in metrics(model, run).items()}
        outputs |= {f"{mode}/{key}": value for key, value in _choices(run).items()}
        if mode == "training":
            gradients = gradient(model, weights, inputs["tokens"], run)
            outputs |= {f"training/gradients/{key}": value for key, value in gradients.items()}
        margins += _checked_margins(name, model, run, mode == "training")
    if with_adamw:
        gradients = {key.removeprefix("training/gradients/"): value for key, value in outputs.items() if "/gradients/" in key}
        trained = {key: weights[key] for key in gradients}
        outputs |= {f"adamw/{key}": value for key, value in adamw_step(trained, gradients, start(trained), LEARNING_RATE)[0].items()}
    config: dict[str, Any] = {"model": asdict(model), "seed": seed, "margin": _least(margins), "learning_rate": LEARNING_RATE}
    return Case(name, "model", config, inputs, weights, outputs)


def _choices(run: Pass) -> Arrays:
    if not run.groups:
        return {}
    layers = run.groups.values()
    experts: Int[np.ndarray, "..."] = np.array([[group.routing.experts for group in groups] for groups in layers])
    return {"experts": experts, "kept": np.array([[group.kept for group in groups] for groups in layers])}


def _checked_margins(name: str, model: ModelSetting, run: Pass, training: bool) -> list[float]:
    if model.router is None or (training and model.router.technique == "rl-r"):
        return []
    groups = [group for layer in run.groups.values() for group in layer]
    assert all(clear(group.routing) for group in groups), f"{name}: choices are near ties: take another seed"
    if training:
        # With k = E nothing is ever over a capacity factor of 1.
        dropped = sum(int((~group.kept).sum()) for group in groups)
        assert dropped > 0 or model.router.k == model.router.num_experts, f"{name}: no token is dropped: take another seed"
        assert elsewhere([group.routing for group in groups]), f"{name}: all go to their largest logits: take another seed"
        if model.router.drop_order != "position":
            assert any((group.kept != first_come(model.router, group)).any() for group in groups), f"{name}: dropped as by position"
        if model.router.drop_order == "gate":
            assert all(drop_margin(group.routing, group.kept) > 1e-3 for group in groups), f"{name}: gates are near ties"
    return [margin(group.routing) for group in groups]


def first_come(router: RouterSetting, group: Group) -> Bool[np.ndarray, "tokens k"]:
    """What the group would keep by position."""
    return kept_choices(group.routing.experts, router.num_experts, capacity(router, len(group.routing.experts), True))


def _least(margins: list[float]) -> float | None:
    """None where nothing was decided by size. Rounded down: the index says how wide, not more."""
    finite = [m for m in margins if np.isfinite(m)]
    return float(f"{0.99 * min(finite):.1e}") if finite else None


def model_cases() -> list[Case]:
    """A dense model, and each router in a model; groups of one and of two sequences, R = 1 and 1/2, with drops in training."""
    narrow = ModelSetting(d_model=8, num_blocks=2, num_heads=2, kqv_size=4, vocabulary=13, context=6)
    wide, half = replace(narrow, d_model=16, num_blocks=1), replace(narrow, period=2)
    base, switch = RouterSetting("s-base", 4), RouterSetting("switch", 4)
    fine = RouterSetting("loss-free", 4, k=2, granularity=2, shared_experts=1)
    one = replace(narrow, num_blocks=1)
    pairs: dict[str, Any] = {"sequences_per_group": 2}
    return [
        model_case("model_dense", narrow, 3, 20),
        model_case("model_s_base", replace(half, router=base), 3, 41),
        model_case("model_s_base_k2_pairs", replace(narrow, router=replace(base, k=2, **pairs)), 4, 47),
        model_case("model_hash", replace(half, router=RouterSetting("hash", 4)), 3, 23),
        model_case("model_hash_k2_pairs", replace(narrow, router=RouterSetting("hash", 3, k=2, **pairs)), 4, 24),
        model_case("model_rl_r", replace(wide, router=RouterSetting("rl-r", 3)), 3, 25),
        model_case("model_rl_r_pairs", replace(narrow, router=RouterSetting("rl-r", 3, **pairs)), 4, 33, with_adamw=True),
        model_case("model_switch", replace(narrow, router=switch), 3, 27),
        model_case("model_switch_k2_pairs", replace(half, router=replace(switch, k=2, evaluation_capacity_factor=0.75, **pairs)), 4, 28),
        model_case("model_switch_k4", replace(half, num_blocks=4, router=replace(switch, k=4)), 3, 50),
        model_case("model_loss_free_k2_fine_shared", replace(half, router=fine), 3, 61),
        model_case("model_switch_drops_by_gate", replace(one, router=replace(switch, drop_order="gate", **pairs)), 4, 64),
        model_case("model_switch_k2_drops_by_choice", replace(one, router=replace(switch, k=2, drop_order="choice", **pairs)), 4, 62),
    ]


def all_cases() -> list[Case]:
    """Every golden case, in the order of the index."""
    small = [
        dispatch_case("dispatch_roomy", tokens=10, num_experts=3, k=1, capacity=10, seed=15),
        dispatch_case("dispatch_drops", tokens=10, num_experts=3, k=1, capacity=2, seed=16),
        dispatch_case("dispatch_drops_k2", tokens=10, num_experts=4, k=2, capacity=2, seed=17),
        attention_case("attention", context=7, d_model=6, heads=2, kqv_size=4, seed=18),
        optimizer_case("adamw", seed=19),
    ]
    return router_cases() + small + model_cases()
