"""The oracle's gradients against differences of its own losses, which know nothing of how a gradient is taken.

A difference sees through a `stop_gradient`, so RL-R is compared term by term: the language-model loss for what is below the router, and
for the router's own weights each term with what it must not see held fixed.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from golden.cases import Case, cases, load
from golden.oracle.attention import attention
from golden.oracle.dispatch import routed_feed_forward
from golden.oracle.gradient import UNTRAINED, gradient
from golden.oracle.model import forward, losses, of_group
from golden.oracle.setting import Arrays, ModelSetting, model_setting
from golden.oracle.terms import router_terms

STEP = 2.5e-4
# The fifth derivative times STEP^4 / 30 is below 1e-12 for losses that bend over distances of a tenth or more, and the rounding of a loss
# of 4 over STEP 1e-11.
TOLERANCE = 1e-9


def slope(value: Callable[[float], float]) -> float:
    """Derivative at 0, by the five-point difference."""
    return (8 * (value(STEP) - value(-STEP)) - (value(2 * STEP) - value(-2 * STEP))) / (12 * STEP)


def direction_of(array: np.ndarray, seed: int) -> np.ndarray:
    """A random direction in the space of `array`, of length one."""
    direction = np.random.default_rng(seed).standard_normal(array.shape)
    return direction / np.sqrt((direction**2).sum())


def setting(case: Case) -> ModelSetting:
    """The model of a case."""
    return model_setting(case.config["model"])


def of_technique(*techniques: str) -> list[str]:
    """Names of the model cases with these routers; "dense" has none."""
    routers = {name: setting(load(name)).router for name in cases("model")}
    return [name for name, router in routers.items() if ("dense" if router is None else router.technique) in techniques]


def moved(weights: Arrays, name: str, direction: np.ndarray, by: float) -> Arrays:
    return weights | {name: weights[name] + by * direction}


def directional(case: Case, name: str, seed: int) -> tuple[float, np.ndarray]:
    """The committed gradient by weight `name` along a random direction, and that direction."""
    direction = direction_of(case.weights[name], seed)
    return float((case.outputs[f"training/gradients/{name}"] * direction).sum()), direction


@pytest.mark.parametrize("name", of_technique("dense", "s-base", "hash", "switch", "loss-free"))
def test_the_gradient_by_every_weight_is_the_slope_of_the_total_loss(name: str) -> None:
    case, model = load(name), setting(load(name))
    for seed, weight in enumerate(w for w in case.weights if not w.endswith(UNTRAINED)):
        committed, direction = directional(case, weight, seed)

        def total(by: float, weight: str = weight, direction: np.ndarray = direction) -> float:
            return losses(model, forward(model, moved(case.weights, weight, direction, by), case.inputs["tokens"], True))["total"]

        assert committed == pytest.approx(slope(total), abs=TOLERANCE), weight


@pytest.mark.parametrize("name", of_technique("rl-r"))
def test_below_rl_r_the_gradient_is_the_slope_of_the_language_model_loss_alone(name: str) -> None:
    case, model = load(name), setting(load(name))
    for seed, weight in enumerate(w for w in case.weights if "/router/" not in w):
        committed, direction = directional(case, weight, seed)

        def lm(by: float, weight: str = weight, direction: np.ndarray = direction) -> float:
            weights = moved(case.weights, weight, direction, by)
            return losses(model, forward(model, weights, case.inputs["tokens"], True, case.inputs["sampled_experts"]))["lm"]

        assert committed == pytest.approx(slope(lm), abs=TOLERANCE), weight


@pytest.mark.parametrize("name", of_technique("rl-r"))
def test_rl_rs_own_gradient_is_the_slope_of_its_terms_with_reward_and_advantage_held_fixed(name: str) -> None:
    case, model = load(name), setting(load(name))
    assert model.router is not None
    router, at = model.router, forward(model, case.weights, case.inputs["tokens"], True, case.inputs["sampled_experts"])
    for seed, weight in enumerate(w for w in case.weights if "/router/" in w):
        committed, direction = directional(case, weight, seed)
        block = int(weight.split("/")[1])

        def own_terms(by: float, weight: str = weight, direction: np.ndarray = direction, block: int = block) -> float:
            weights = moved(case.weights, weight, direction, by)
            run = forward(model, weights, case.inputs["tokens"], True, case.inputs["sampled_experts"])
            value = 0.0
            for group, frozen in zip(run.groups[block], at.groups[block], strict=True):
                reward = of_group(at.reward, frozen)
                terms = router_terms(router, group.routing, reward)
                # The policy's term sees the baseline as it was.
                policy = router_terms(router, replace(group.routing, baseline=frozen.routing.baseline), reward)["policy"]
                value += router.policy_weight * policy + router.baseline_weight * terms["baseline"]
                value += router.balance_weight * terms["balance"] - router.entropy_weight * terms["entropy"]
            return value / len(at.groups[block])

        assert committed == pytest.approx(slope(own_terms), abs=TOLERANCE), weight


def test_heavier_router_terms_change_nothing_below_rl_r() -> None:
    case, model = load("model_rl_r_pairs"), setting(load("model_rl_r_pairs"))
    assert model.router is not None
    heavy = replace(model, router=replace(model.router, policy_weight=5.0, baseline_weight=5.0, balance_weight=5.0, entropy_weight=5.0))
    run = forward(heavy, case.weights, case.inputs["tokens"], True, case.inputs["sampled_experts"])
    for weight, value in gradient(heavy, case.weights, case.inputs["tokens"], run).items():
        # The committed file may come from another machine: its last bits differ.
        same = np.allclose(value, case.outputs[f"training/gradients/{weight}"], rtol=1e-12, atol=1e-12)
        assert same == ("/router/" not in weight), weight


def test_gradients_of_attention_alone_are_slopes() -> None:
    case = load("attention")
    own = {name.removeprefix("attention/"): weight for name, weight in case.weights.items()} | {"x": case.inputs["x"]}
    for seed, name in enumerate(own):
        direction = direction_of(own[name], seed)

        def value(by: float, name: str = name, direction: np.ndarray = direction) -> float:
            at = moved(own, name, direction, by)
            return float((attention(at["x"], at) * case.inputs["cotangent"]).sum())

        key = "x" if name == "x" else f"attention/{name}"
        # Outputs of size ten rather than a loss of four.
        assert (case.outputs[f"gradients/{key}"] * direction).sum() == pytest.approx(slope(value), abs=10 * TOLERANCE), name


@pytest.mark.parametrize("name", cases("dispatch"))
def test_gradients_of_the_routed_layer_alone_are_slopes(name: str) -> None:
    case = load(name)
    own = case.weights | {"x": case.inputs["x"], "gates": case.inputs["gates"]}
    for seed, key in enumerate(own):
        direction = direction_of(own[key], seed)

        def value(by: float, key: str = key, direction: np.ndarray = direction) -> float:
            at = moved(own, key, direction, by)
            y = routed_feed_forward(
                at["x"], case.inputs["experts"], at["gates"], case.outputs["kept"], at["experts/w_in"], at["experts/w_out"]
            )
            return float((y * case.inputs["cotangent"]).sum())

        # Outputs of size a hundred rather than a loss of four.
        assert (case.outputs[f"gradients/{key}"] * direction).sum() == pytest.approx(slope(value), abs=100 * TOLERANCE), key
