"""As `test_goldens_broken.py`: loss-free balancing, shared experts and drop orders, broken one small thing at a time."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, Int

from reference import dispatch
from reference.feedforward import FeedForward
from reference.routers.interface import AbstractRouter, Routing
from reference.routers.loss_free import LossFreeRouter
from tests.reference.golden_runs import FORWARD, wrong_in_model, wrong_in_router


class ByScoresAndBias(AbstractRouter):
    """Loss-free balancing with `bias` put into its gates, whatever becomes of it there."""

    inner: AbstractRouter
    put: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "tokens d_model"], token_id: Int[Array, "tokens"], *, key: Any, inference: bool) -> Routing:
        assert isinstance(self.inner, LossFreeRouter)
        routing = self.inner(x, token_id, key=key, inference=inference)
        return dataclasses.replace(routing, gates=routing.gates + self.put(self.inner.bias.value)[routing.experts])


def test_a_gate_with_the_bias_in_it_is_seen() -> None:
    wrong = wrong_in_router("router_loss_free_k2", lambda router: ByScoresAndBias(router, jax.lax.stop_gradient))
    # Nothing but the gates: the sum of gates times cotangents has the same slopes.
    assert set(wrong) == {"training/gates", "evaluation/gates"}


def test_a_bias_with_a_gradient_is_seen() -> None:
    wrong = wrong_in_router("router_loss_free_k2", lambda router: ByScoresAndBias(router, lambda bias: bias - jax.lax.stop_gradient(bias)))
    assert set(wrong) == {"training/gradients/router/bias", "evaluation/gradients/router/bias"}


@pytest.mark.parametrize("name", ["router_loss_free", "router_loss_free_k2"])
def test_a_bias_that_is_left_out_of_the_choice_is_seen(name: str) -> None:
    wrong = wrong_in_router(name, lambda router: eqx.tree_at(lambda r: r.bias.value, router, replace_fn=jnp.zeros_like))
    assert {"training/experts", "evaluation/experts", "training/load"} <= set(wrong)


def test_gates_of_a_softmax_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    nn = SimpleNamespace(sigmoid=jax.nn.softmax, log_softmax=jax.nn.log_softmax)
    monkeypatch.setattr("reference.routers.loss_free.jax", SimpleNamespace(lax=jax.lax, nn=nn, random=jax.random))
    assert {"training/gates", "training/gradients/router/weight"} <= set(wrong_in_router("router_loss_free"))


class LeftOut(FeedForward):
    """A feed-forward that adds nothing."""

    def __call__(self, x: Float[Array, "batch context d_model"]) -> Float[Array, "batch context d_model"]:
        return jnp.zeros_like(x)


def test_a_shared_expert_that_is_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference.routed.FeedForward", LeftOut)
    assert {"training/logits", "evaluation/logits"} <= set(wrong_in_model("model_loss_free_k2_fine_shared", gradients=False))


def by_position(priority: Array) -> None:
    """No priority."""


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model_switch_drops_by_gate", by_position),
        ("model_switch_drops_by_gate", jnp.negative),
        ("model_switch_k2_drops_by_choice", by_position),
        ("model_switch_k2_drops_by_choice", jnp.negative),
    ],
)
def test_choices_dropped_in_another_order_are_seen(name: str, change: Callable[[Array], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(experts: Int[Array, "tokens k"], num_experts: int, capacity: int, priority: Array) -> dispatch.Plan:
        return dispatch.plan_capacity(experts, num_experts, capacity, change(priority))

    monkeypatch.setattr("reference.routed.plan_capacity", in_order)
    wrong = wrong_in_model(name, **FORWARD)
    assert "training/logits" in wrong
    assert "training/metrics/dropped_fraction" not in wrong  # as many, but others
