"""Each test breaks one small thing in `reference` and sees the golden comparison fail, by name, and not fail where it should not.

What is broken is what goes wrong in practice: a sign, an index off by one, a gradient that flows or stops where it should not, a gate or a
factor left out. Float64 throughout, at the tolerance of `test_goldens.py`.
"""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, Int

from golden.cases import load
from reference import dispatch, objective
from reference.config import RouterConfig
from reference.routers import AbstractRouter, PolicyTrace, Routing, SinkhornBaseRouter, sinkhorn_base
from reference.routers.balance import router_logits
from tests.reference.golden_models import Arrays
from tests.reference.golden_runs import (
    FORWARD,
    disagreements,
    model_step,
    outcome_of_attention,
    three_steps,
    wrong_in_model,
    wrong_in_router,
)
from training import optimizer


class Changed(AbstractRouter):
    """A router whose routing is changed afterwards, or that is told another mode."""

    inner: AbstractRouter
    change: Callable[[Routing], Routing] = eqx.field(static=True)
    always: bool | None = eqx.field(static=True, default=None)

    def __call__(self, x: Float[Array, "tokens d_model"], token_id: Int[Array, "tokens"], *, key: Any, inference: bool) -> Routing:
        return self.change(self.inner(x, token_id, key=key, inference=inference if self.always is None else self.always))


def same(routing: Routing) -> Routing:
    return routing


class GatedByPlan(AbstractRouter):
    """S-BASE whose gates are the plan's entries, with the gradient through all of Sinkhorn's iterations."""

    inner: AbstractRouter

    def __call__(self, x: Float[Array, "tokens d_model"], token_id: Int[Array, "tokens"], *, key: Any, inference: bool) -> Routing:
        routing = self.inner(x, token_id, key=key, inference=inference)
        if inference:
            return routing
        assert isinstance(self.inner, SinkhornBaseRouter)
        plan = jnp.exp(sinkhorn_base.sinkhorn(router_logits(x, self.inner.weight), 10))
        return dataclasses.replace(routing, gates=x.shape[0] * jnp.take_along_axis(plan, routing.experts, axis=1))


# --- S-BASE


def test_a_wrong_sign_in_sinkhorns_update_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sinkhorn = sinkhorn_base.sinkhorn
    # f and g subtracted: l - (log Pi - l), up to a constant that the row's order does not feel.
    monkeypatch.setattr(sinkhorn_base, "sinkhorn", lambda logits, iterations: 2 * logits - sinkhorn(logits, iterations))
    wrong = wrong_in_router("router_s_base")
    assert {"training/experts", "training/load", "training/marginal_error"} <= set(wrong)
    assert not [name for name in wrong if name.startswith("evaluation")]


def test_one_iteration_of_sinkhorn_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sinkhorn = sinkhorn_base.sinkhorn
    monkeypatch.setattr(sinkhorn_base, "sinkhorn", lambda logits, iterations: sinkhorn(logits, iterations - 1))
    assert "training/marginal_error" in wrong_in_router("router_s_base")


def test_a_plan_without_its_warm_start_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn_base, "spread", lambda logits: jnp.ones((), logits.dtype))
    assert "training/experts" in wrong_in_router("router_s_base_large_logits")


def test_ties_that_all_go_to_the_first_expert_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn_base, "balanced_top_k", lambda log_plan, k, tolerance: jax.lax.top_k(log_plan.round(9), k)[1])
    wrong = wrong_in_router("router_s_base_equal_logits")
    assert {"training/experts", "training/load"} <= set(wrong)
    # Where nothing is tied it is the same.
    assert wrong_in_router("router_s_base") == []


@pytest.mark.parametrize(("always", "mode"), [(False, "evaluation"), (True, "training")])
def test_a_plan_in_evaluation_and_none_in_training_are_seen(always: bool, mode: str) -> None:
    wrong = wrong_in_router("router_s_base", lambda router: Changed(router, same, always))
    assert f"{mode}/experts" in wrong
    assert {name.split("/")[0] for name in wrong} == {mode}


def test_gates_of_the_plan_are_seen() -> None:
    wrong = wrong_in_router("router_s_base", GatedByPlan)
    assert set(wrong) == {"training/gates", "training/gradients/x", "training/gradients/router/weight"}


def test_the_choice_by_plan_has_no_gradient_that_could_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one thing that no comparison can see broken: indices are whole numbers, so stopping the plan's gradient only saves work.
    flowing = SimpleNamespace(stop_gradient=lambda x: x, top_k=jax.lax.top_k, scan=jax.lax.scan)
    monkeypatch.setattr(sinkhorn_base, "jax", SimpleNamespace(lax=flowing, nn=jax.nn, random=jax.random))
    assert wrong_in_router("router_s_base") == []


def test_a_gate_that_is_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.routed.combine", lambda buffer, gates, plan: dispatch.combine(buffer, jnp.ones_like(gates), plan))
    assert {"training/logits", "training/losses/lm"} <= set(wrong_in_model("model_s_base", **FORWARD))


def test_a_gate_without_gradient_is_seen_in_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = jax.lax.stop_gradient
    monkeypatch.setattr("reference.routed.combine", lambda buffer, gates, plan: dispatch.combine(buffer, stopped(gates), plan))
    wrong = wrong_in_model("model_s_base", modes=("training",))
    assert "training/gradients/blocks/1/router/weight" in wrong
    assert all(name.startswith("training/gradients/") for name in wrong)


# --- capacity and order


def test_a_capacity_off_by_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = RouterConfig.capacity
    monkeypatch.setattr(RouterConfig, "capacity", lambda self, tokens, *, inference: (capacity(self, tokens, inference=inference) or 0) + 1)
    assert {"training/logits", "training/metrics/dropped_fraction"} <= set(wrong_in_model("model_hash", **FORWARD))


def test_the_first_tokens_dropped_instead_of_the_last_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(experts: Int[Array, "tokens 1"], num_experts: int, capacity: int, priority: None) -> dispatch.Plan:
        plan, tokens = dispatch.plan_capacity(experts[::-1], num_experts, capacity), experts.shape[0]
        turned = jnp.where(plan.token_of_slot < tokens, tokens - 1 - plan.token_of_slot, tokens)
        return dispatch.Plan(turned, turned, plan.slot_of_choice[::-1])

    monkeypatch.setattr("reference.routed.plan_capacity", backwards)
    wrong = wrong_in_model("model_hash", **FORWARD)
    assert "training/logits" in wrong
    assert "training/metrics/dropped_fraction" not in wrong  # as many, but others


# --- RL-R


def with_gradients(self: PolicyTrace, reward: Float[Array, "*batch tokens"]) -> dict[str, Array]:
    """RL-R's terms as they are, with no gradient stopped."""
    return {
        "policy": -self.policy_weight * (reward - self.baseline) * self.log_prob,
        "baseline": self.baseline_weight * (self.baseline - reward) ** 2,
    }


def test_an_advantage_that_is_not_stopped_is_seen_in_the_baselines_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyTrace, "losses", with_gradients)
    by_baseline = {f"{mode}/gradients/router/baseline_{end}" for mode in ("training", "evaluation") for end in ("in", "out")}
    assert set(wrong_in_router("router_rl_r")) == by_baseline


def test_a_reward_that_is_not_stopped_is_seen_in_the_models_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PolicyTrace, "losses", with_gradients)
    wrong = wrong_in_model("model_rl_r", modes=("training",))
    assert {"training/gradients/embedding", "training/gradients/blocks/0/experts/w_in"} <= set(wrong)
    assert all(name.startswith("training/gradients/") for name in wrong)


def test_router_terms_that_reach_the_trunk_are_seen_in_its_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside RL-R's module alone: elsewhere JAX's own functions stop gradients too.
    through = SimpleNamespace(stop_gradient=lambda x: x if x.ndim == 2 else jax.lax.stop_gradient(x))
    monkeypatch.setattr("reference.routers.reinforce.jax", SimpleNamespace(lax=through, nn=jax.nn, random=jax.random))
    assert set(wrong_in_router("router_rl_r")) == {"training/gradients/x", "evaluation/gradients/x"}


def test_an_entropy_penalty_for_a_bonus_is_seen() -> None:
    def penalised(routing: Routing) -> Routing:
        return dataclasses.replace(routing, losses=routing.losses | {"entropy": -routing.losses["entropy"]})

    wrong = wrong_in_router("router_rl_r", lambda router: Changed(router, penalised))
    assert {"training/terms/entropy", "training/loss", "training/gradients/router/weight"} <= set(wrong)
    assert "training/terms/balance" not in wrong


def test_an_expert_scaled_by_the_policy_is_seen() -> None:
    def scaled(routing: Routing) -> Routing:
        assert routing.policy is not None
        return dataclasses.replace(routing, gates=jnp.exp(routing.policy.log_prob)[:, None])

    wrong = wrong_in_router("router_rl_r", lambda router: Changed(router, scaled))
    assert {"training/gates", "training/gradients/router/weight"} <= set(wrong)


def test_a_reward_that_is_the_next_tokens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(per_token: Float[Array, "batch context"], like: Array) -> Array:
        return jnp.roll(per_token, 1, axis=1).reshape(1, *like.shape[1:])

    monkeypatch.setattr("reference.objective._by_group", shifted)
    wrong = set(wrong_in_model("model_rl_r", **FORWARD))
    assert {"training/losses/policy", "training/losses/baseline", "training/metrics/baseline_error"} <= wrong
    # A roll within a sequence leaves the mean reward, and what is made of neither.
    assert not wrong & {"training/logits", "training/losses/lm", "training/losses/balance", "training/metrics/advantage"}


# --- Switch


def test_gates_normalised_again_are_seen() -> None:
    def normalised(routing: Routing) -> Routing:
        return dataclasses.replace(routing, gates=routing.gates / jnp.sum(routing.gates, axis=-1, keepdims=True))

    wrong = wrong_in_router("router_switch_k2", lambda router: Changed(router, normalised))
    assert {"training/gates", "training/gradients/router/weight"} <= set(wrong)
    assert "training/loss" not in wrong


def test_a_balancing_loss_without_its_factor_e_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.routers.switch.balancing_loss", lambda load, p: jnp.sum(load * jnp.mean(p, axis=0)))
    assert "training/terms/balance" in wrong_in_router("router_switch")


def test_the_z_loss_of_the_largest_logit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.routers.switch.z_loss", lambda logits: jnp.mean(jnp.max(logits, axis=-1) ** 2))
    assert "training/terms/z" in wrong_in_router("router_switch")


# --- attention, norm, loss, optimizer


def wrong_in_attention() -> list[str]:
    return disagreements(outcome_of_attention("attention", "float64"), load("attention").outputs, rtol=1e-10, atol=1e-10)


def test_relative_positions_that_are_not_shifted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.attention.shift", lambda scores: scores)
    assert {"y", "gradients/attention/position"} <= set(wrong_in_attention())


def test_a_softmax_that_sees_one_token_ahead_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(scores: Array, first: int) -> Array:
        return jax.nn.softmax(jnp.where(jnp.tri(scores.shape[-1], k=1, dtype=bool), scores, -jnp.inf), axis=-1)

    monkeypatch.setattr("reference.attention.causal_softmax", ahead)
    assert "y" in wrong_in_attention()


def test_another_epsilon_of_the_norms_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.norm.EPSILON", 1e-6)
    # The norm is traced once for each shape and kept, with the constant that it then had.
    jax.clear_caches()
    wrong = wrong_in_model("model_dense", **FORWARD)
    monkeypatch.undo()
    jax.clear_caches()
    assert "training/logits" in wrong


def test_a_loss_averaged_over_one_target_too_few_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = objective.mean_of
    monkeypatch.setattr(objective, "mean_of", lambda values, real, axis=None: mean(values[:, :-1], real[:, :-1], axis))
    wrong = wrong_in_model("model_dense", **FORWARD)
    assert wrong == ["training/losses/lm", "training/losses/total"]


def wrong_steps(found: Arrays, expected: Arrays) -> set[str]:
    return set(disagreements(found, expected, rtol=1e-12, atol=1e-12))


@pytest.mark.usefixtures("fresh_optimizers")
def test_a_decay_of_vectors_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "decayed", lambda weights: jax.tree.map(lambda _: True, weights))
    assert wrong_steps(three_steps(), load("adamw").outputs) == {"1/rank_1", "2/rank_1", "3/rank_1"}


@pytest.mark.usefixtures("fresh_optimizers")
def test_a_decay_of_stacked_vectors_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "decayed", lambda weights: jax.tree.map(lambda weight: weight.ndim >= 2, weights))
    outputs = load("model_rl_r_pairs").outputs
    expected = {name.removeprefix("adamw/"): value for name, value in outputs.items() if name.startswith("adamw/")}
    vectors = {name for name, value in expected.items() if value.ndim == 1 and name.startswith("blocks/")}
    assert wrong_steps(model_step(), expected) == vectors
    assert any(name.endswith("baseline_out") for name in vectors)


@pytest.mark.usefixtures("fresh_optimizers")
def test_gradients_that_are_not_clipped_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer.optax, "clip_by_global_norm", lambda norm: optimizer.optax.identity())
    wrong = wrong_steps(three_steps(), load("adamw").outputs)
    # The first of the three gradients is shorter than 1.
    assert wrong == {f"{step}/rank_{rank}" for step in (2, 3) for rank in (1, 2, 3)}
