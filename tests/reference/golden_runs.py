"""Runs `reference` on the golden cases: answers under the names that the files have them under, and which of them disagree."""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, Shaped

from golden.cases import Case, load
from golden.oracle.setting import RouterSetting
from golden.oracle.terms import term_weights
from reference.attention import Attention
from reference.config import Size
from reference.dispatch import combine, plan_blocks, plan_capacity, to_slots
from reference.feedforward import Experts
from reference.objective import Report, objective
from reference.routers import AbstractRouter, Routing
from reference.routers.interface import RouterShape
from reference.transformer import Transformer, partition_weights
from tests.reference.golden_models import Arrays, Replay, by_name, golden_model, router_config, words_of
from training.optimizer import OptimizerConfig, make_optimizer


def disagreements(found: Arrays, expected: Arrays, *, rtol: float, atol: float) -> list[str]:
    """Names of what `found` lacks, or has other than `expected`. Whole numbers must be equal; nothing may be found that is not expected."""
    names = sorted(found.keys() ^ expected.keys())
    for name in sorted(found.keys() & expected.keys()):
        a, b = found[name], expected[name]
        if b.dtype.kind != "f":
            rtol_of, atol_of = 0.0, 0.0
        else:
            # Fractions of dropped choices are kept in float32, whatever the model's type.
            rtol_of, atol_of = (max(rtol, 1e-6), atol) if name.endswith("dropped_fraction") else (rtol, atol)
        same = a.shape == b.shape and np.allclose(a, b, rtol=rtol_of, atol=atol_of)
        names += [] if same else [name]
    return names


def compiled(function: Callable[..., Any], *arguments: PyTree) -> Any:
    """`function(*arguments)`, compiled for this one call."""
    return jax.jit(function)(*arguments)


# --- models


def expected_of_model(case: Case, *, gradients: bool = True, modes: tuple[str, ...] = ("training", "evaluation")) -> Arrays:
    """What `outcome_of_model` must give: the file's outputs, its terms weighted and summed over layers as `reference` reports them."""
    plain = case.config["model"]["router"]
    weights = {} if plain is None else term_weights(RouterSetting(**plain))
    expected = {
        name: value
        for name, value in case.outputs.items()
        if name.startswith(modes) and "/losses/" not in name and not name.endswith("/kept") and (gradients or "/gradients/" not in name)
    }
    for mode in modes:
        expected |= {f"{mode}/losses/{part}": case.outputs[f"{mode}/losses/{part}"] for part in ("lm", "total")}
        for term, weight in weights.items():
            of_layers = [value for name, value in case.outputs.items() if name.startswith(f"{mode}/losses/terms/{term}/")]
            expected[f"{mode}/losses/{term}"] = np.array(weight * sum(of_layers))
    return expected


def outcome_of_model(name: str, dtype: str, *, gradients: bool = True, modes: tuple[str, ...] = ("training", "evaluation")) -> Arrays:
    """The model of case `name` on its tokens; without `gradients`, the forward pass alone."""
    case = load(name)
    with jax.enable_x64(dtype == "float64"):
        model = golden_model(case, dtype)
        tokens = jnp.asarray(case.inputs["tokens"], jnp.int32)
        weights, fixed = partition_weights(model)

        def _run(weights: Transformer, inference: bool) -> tuple[Float[Array, ""], tuple[Report, Array, Any]]:
            features, logits_of = Transformer.features, Transformer.logits
            answers, all_logits = list[tuple[Array, Routing | None]](), list[Array]()
            # The routing and the logits on their way to the losses: a second call would double what is compiled.
            with (
                patch.object(Transformer, "features", lambda *given, **named: answers.append(features(*given, **named)) or answers[-1]),
                patch.object(Transformer, "logits", lambda *given: all_logits.append(logits_of(*given)) or all_logits[-1]),
            ):
                total, report = objective(eqx.combine(weights, fixed), tokens, key=jax.random.key(0), inference=inference)
            routing, (logits,) = answers[-1][1], all_logits
            return total, (report, logits, None if routing is None else routing.experts)

        def _all(weights: Transformer) -> dict[str, Any]:
            results: dict[str, Any] = {}
            for mode in modes:
                if gradients and mode == "training":
                    (total, others), gradient = jax.value_and_grad(_run, has_aux=True)(weights, False)
                else:
                    (total, others), gradient = _run(weights, mode == "evaluation"), None
                results[mode] = total, others, gradient
            return results

        results = compiled(_all, weights)
        found: Arrays = {}
        for mode, (total, (report, logits, experts), gradient) in results.items():
            found |= {f"{mode}/{part}": value for part, value in _of_report(total, report).items()}
            found[f"{mode}/logits"] = np.asarray(logits)
            if experts is not None:
                found[f"{mode}/experts"] = np.asarray(experts)
            if gradient is not None:
                found |= {f"{mode}/gradients/{part}": value for part, value in by_name(gradient, model.config).items()}
    return found


def _of_report(total: Float[Array, ""], report: Report) -> dict[str, np.ndarray]:
    found = {"losses/total": total, "losses/lm": report.loss}
    found |= {f"losses/{name}": value for name, value in report.router_losses.items()}
    found |= {f"metrics/{name}": value for name, value in report.metrics.items()}
    if report.load is not None:
        found["metrics/load"] = report.load
    return {name: np.asarray(value) for name, value in found.items()}


# --- routers


def expected_of_router(case: Case) -> Arrays:
    """What `outcome_of_router` must give."""
    weights = term_weights(RouterSetting(**case.config["router"]))
    # Routings keep neither; the plan is compared by itself.
    inner = ("/log_plan", "/logits")
    expected = {name: value for name, value in case.outputs.items() if "/terms/" not in name and not name.endswith(inner)}
    for mode in ("training", "evaluation"):
        # The choice by the bias has no gradient: that by the bias is zero.
        expected |= {f"{mode}/gradients/{name}": np.zeros_like(bias) for name, bias in case.weights.items() if name.endswith("/bias")}
        expected |= {f"{mode}/terms/{term}": weight * case.outputs[f"{mode}/terms/{term}"] for term, weight in weights.items()}
    return expected


def golden_router(case: Case, dtype: Any) -> AbstractRouter:
    """The case's router with its weights, and with its drawn experts if it has any."""
    config = router_config(case.config["router"])
    arrays = {name.removeprefix("router/"): weight for name, weight in case.weights.items()}
    table = jnp.asarray(arrays["table"], jnp.int32) if "table" in arrays else None
    size = case.inputs["x"].shape[1]
    empty = eqx.filter_eval_shape(
        lambda key: config.technique.build(RouterShape(size, config.num_experts, config.k), key, table), jax.random.key(0)
    )
    router = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(arrays[words_of(path)[0]], dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype), empty
    )
    if "sampled_experts" not in case.inputs:
        return router
    ids, drawn = (jnp.asarray(case.inputs[part], jnp.int32)[None] for part in ("token_id", "sampled_experts"))
    return Replay(router, ids, drawn)


def outcome_of_router(name: str, dtype: str, *, change: Callable[[AbstractRouter], AbstractRouter] = lambda router: router) -> Arrays:
    """The router of case `name` on its group, in training and evaluation; `change` it first, if you like."""
    case = load(name)
    with jax.enable_x64(dtype == "float64"):
        router = change(golden_router(case, dtype))
        x, cotangent, reward = (jnp.asarray(case.inputs[part], dtype) for part in ("x", "gate_cotangent", "reward"))
        ids = jnp.asarray(case.inputs["token_id"], jnp.int32)
        weights, fixed = eqx.partition(router, eqx.is_inexact_array)

        def _run(of: tuple[AbstractRouter, Array], inference: bool) -> tuple[Array, tuple[Routing, dict[str, Array]]]:
            router = eqx.combine(of[0], fixed)
            routing = router(of[1], ids, key=jax.random.key(0), inference=inference)
            terms = dict(routing.losses)
            if routing.policy is not None:
                terms |= {term: jnp.mean(value) for term, value in routing.policy.losses(reward).items()}
            loss = sum(terms.values(), start=jnp.zeros((), dtype))
            return jnp.sum(routing.gates * cotangent) + loss, (routing, terms | {"loss": loss})

        def _all(of: tuple[AbstractRouter, Array]) -> list[Any]:
            return [jax.grad(_run, has_aux=True)(of, inference) for inference in (False, True)]

        found: Arrays = {}
        for mode, ((by_weight, by_x), (routing, terms)) in zip(("training", "evaluation"), compiled(_all, (weights, x)), strict=True):
            loss = terms.pop("loss")
            answers: dict[str, Shaped[Array, "..."]] = {
                "experts": routing.experts,
                "gates": routing.gates,
                "load": routing.load,
                "loss": loss,
            }
            answers |= {metric: value for metric, value in routing.metrics.items() if metric in ("entropy", "marginal_error")}
            answers |= {f"terms/{term}": value for term, value in terms.items()}
            answers |= {"gradients/x": by_x}
            answers |= {f"gradients/router/{words_of(path)[-1]}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(by_weight)}
            found |= {f"{mode}/{answer}": np.asarray(value) for answer, value in answers.items()}
    return found


# --- dispatch and attention


def outcome_of_dispatch(name: str, dtype: str, *, in_blocks: bool = False) -> Arrays:
    """Buffers of the case's capacity, experts, and back; or the layout that drops none."""
    case = load(name)
    num_experts, capacity = case.config["num_experts"], case.config["capacity"]
    with jax.enable_x64(dtype == "float64"):
        choice = jnp.asarray(case.inputs["experts"], jnp.int32)
        x, gates, cotangent = (jnp.asarray(case.inputs[part], dtype) for part in ("x", "gates", "cotangent"))
        w_in, w_out = (jnp.asarray(case.weights[f"experts/{part}"], dtype) for part in ("w_in", "w_out"))
        empty = eqx.filter_eval_shape(Experts, Size(x.shape[1], 1, 1, 1), 4 * x.shape[1], num_experts, key=jax.random.key(0))

        def _run(x: Array, gates: Array, w_in: Array, w_out: Array) -> tuple[Array, dict[str, Array]]:
            experts = eqx.tree_at(lambda e: (e.w_in, e.w_out), empty, (w_in, w_out))
            if in_blocks:
                blocks = plan_blocks(choice, num_experts)
                plan, rows = blocks.plan, blocks.expert_of_block.shape[0]
                out = experts.by_block(to_slots(x, plan).reshape(1, rows, -1, x.shape[1]), blocks.expert_of_block[None])
            else:
                plan = plan_capacity(choice, num_experts, capacity)
                out = experts(to_slots(x, plan).reshape(1, num_experts, capacity, x.shape[1]))
            y = combine(out.reshape(-1, x.shape[1]), gates, plan)
            kept = plan.kept()
            return jnp.sum(y * cotangent), {"y": y, "kept": kept, "dropped_fraction": 1 - jnp.mean(kept, dtype=jnp.float32)}

        gradients, found = compiled(jax.grad(_run, argnums=(0, 1, 2, 3), has_aux=True), x, gates, w_in, w_out)
        by = ("x", "gates", "experts/w_in", "experts/w_out")
        found |= {f"gradients/{part}": value for part, value in zip(by, gradients, strict=True)}
    return {part: np.asarray(value) for part, value in found.items()}


def outcome_of_attention(name: str, dtype: str) -> Arrays:
    """The case's one sequence, as a batch of one."""
    case = load(name)
    heads, kqv_size, d_model = case.weights["attention/output"].shape
    with jax.enable_x64(dtype == "float64"):
        empty = eqx.filter_eval_shape(Attention, Size(d_model, 1, heads, kqv_size), key=jax.random.key(0))
        parts = [field.name for field in dataclasses.fields(Attention) if not field.metadata.get("static", False)]
        weights = {part: jnp.asarray(case.weights[f"attention/{part}"], dtype) for part in parts}
        x, cotangent = (jnp.asarray(case.inputs[part], dtype) for part in ("x", "cotangent"))

        def _run(x: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
            attention = eqx.tree_at(lambda a: [getattr(a, part) for part in parts], empty, [weights[part] for part in parts])
            y = attention(x[None])[0]
            return jnp.sum(y * cotangent), y

        (by_x, by_weight), y = compiled(jax.grad(_run, argnums=(0, 1), has_aux=True), x, weights)
    found = {"y": y, "gradients/x": by_x} | {f"gradients/attention/{part}": value for part, value in by_weight.items()}
    return {part: np.asarray(value) for part, value in found.items()}


# --- the optimizer


def golden_optimizer(learning_rate: float) -> optax.GradientTransformation:
    """`reference`'s optimizer with its default constants, at one learning rate throughout."""
    rate = learning_rate
    rates = OptimizerConfig(initial_learning_rate=rate, peak_learning_rate=rate, final_learning_rate=rate, warmup_steps=1, steps=10)
    return make_optimizer(rates)


def three_steps() -> Arrays:
    """The weights of case `adamw` after each of its three steps."""
    case = load("adamw")
    found: Arrays = {}
    with jax.enable_x64(True):
        weights: Any = {name: jnp.asarray(weight) for name, weight in case.weights.items()}
        optimizer = golden_optimizer(case.config["learning_rate"])
        state = optimizer.init(weights)
        for step in (1, 2, 3):
            gradients = {name: jnp.asarray(case.inputs[f"gradients/{step}/{name}"]) for name in case.weights}
            updates, state = compiled(optimizer.update, gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            found |= {f"{step}/{name}": np.asarray(weight) for name, weight in weights.items()}
    return found


def model_step() -> Arrays:
    """The weights of `model_rl_r_pairs` after one step on the oracle's gradients."""
    case = load("model_rl_r_pairs")
    of_gradients = {name.removeprefix("training/gradients/"): value for name, value in case.outputs.items() if "/gradients/" in name}
    with jax.enable_x64(True):
        model = golden_model(case, "float64")
        weights = eqx.filter(model, eqx.is_inexact_array)
        gradients = eqx.filter(golden_model(dataclasses.replace(case, weights=of_gradients), "float64"), eqx.is_inexact_array)
        optimizer = golden_optimizer(case.config["learning_rate"])
        updates, _ = compiled(lambda: optimizer.update(gradients, optimizer.init(weights), weights))
        return by_name(optax.apply_updates(weights, updates), model.config)


# --- what disagrees

FORWARD: dict[str, Any] = {"gradients": False, "modes": ("training",)}
"""The part of a model case that shows a fault of the forward pass, compiled in a fifth of the time."""


def wrong_in_router(name: str, change: Callable[[AbstractRouter], AbstractRouter] = lambda router: router) -> list[str]:
    """What of a router case disagrees."""
    return disagreements(outcome_of_router(name, "float64", change=change), expected_of_router(load(name)), rtol=1e-10, atol=1e-10)


def wrong_in_model(name: str, **parts: Any) -> list[str]:
    """What of a model case disagrees, of all or of the `parts` that are run."""
    found, expected = outcome_of_model(name, "float64", **parts), expected_of_model(load(name), **parts)
    return disagreements(found, expected, rtol=1e-10, atol=1e-10)
