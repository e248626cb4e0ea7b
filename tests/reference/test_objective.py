"""The objective: cross-entropy against optax's, router losses by hand in NumPy, where gradients reach, and what is reported."""

from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from reference.config import Size
from reference.objective import Report, objective, router_losses, target_log_prob
from reference.routers import Reinforce
from reference.routers.interface import Routing
from reference.transformer import Transformer
from tests.reference.small_models import VOCABULARY, draw, small, some_normal, some_tokens

BATCH, CONTEXT, EXPERTS, LAYERS = 4, 6, 4, 2
SIZE = Size(d_model=8, num_blocks=LAYERS, num_heads=1, kqv_size=4)

COMMON = {"load_max_over_mean", "entropy", "dropped_fraction", "gate", "dead_experts"}
METRICS: dict[str, set[str]] = {
    "dense": set(),
    "s-base": COMMON | {"marginal_error"},
    "hash": COMMON,
    "rl-r": COMMON | {"advantage", "baseline_error"},
    "switch": COMMON,
}
LOSSES: dict[str, set[str]] = {
    "dense": set(),
    "s-base": set(),
    "hash": set(),
    "rl-r": {"policy", "baseline", "balance", "entropy"},
    "switch": {"balance", "z"},
}


class Outcome(NamedTuple):
    """One batch through the objective, with the logits and the routing that it saw."""

    tokens: Int[Array, "batch context_and_one"]
    logits: Float[Array, "batch context vocabulary"]
    routing: Routing | None
    total: Float[Array, ""]
    report: Report

    @property
    def log_prob(self) -> Float[np.ndarray, "batch context"]:
        """Of each target, in float64, by optax."""
        with jax.enable_x64(True):
            logits = jnp.asarray(np.asarray(self.logits, np.float64))
            return -np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(self.tokens[:, 1:])))


@cache
def _outcome(technique: str) -> Outcome:
    """In training; a group is two sequences, and both blocks are routed."""
    router = {"sequences_per_group": 2}
    model = draw(small(technique, num_experts=EXPERTS, router=router, size=SIZE, context=CONTEXT, routing_frequency=1.0))
    tokens = some_tokens(BATCH, CONTEXT + 1)

    @eqx.filter_jit
    def _run(model: Transformer, key: PRNGKeyArray) -> PyTree:
        return *model(tokens[:, :-1], key=key, inference=False), *objective(model, tokens, key=key)

    return Outcome(tokens, *_run(model, jax.random.key(0)))


def _mean_then_sum(per_layer: Any) -> float:
    """Mean over everything but layers, the first axis; sum over those."""
    return float(sum(np.mean(np.asarray(layer, np.float64)) for layer in per_layer))


@pytest.mark.parametrize("technique", ["dense", "switch"])
def test_the_loss_is_optaxs_mean_over_every_target(technique: str) -> None:
    outcome = _outcome(technique)
    assert outcome.log_prob.shape == (BATCH, CONTEXT)
    # One float32 log-softmax, and a mean of 24 of them: rounding of numbers of size three. A position left out would be 4 % off.
    assert float(outcome.report.loss) == pytest.approx(-outcome.log_prob.mean(), rel=1e-6)


@pytest.mark.parametrize("technique", LOSSES)
def test_the_total_is_the_loss_and_the_router_losses(technique: str) -> None:
    outcome = _outcome(technique)
    assert set(outcome.report.router_losses) == LOSSES[technique]
    expected = float(outcome.report.loss) + sum(float(loss) for loss in outcome.report.router_losses.values())
    # A sum of at most five float32 numbers.
    assert float(outcome.total) == pytest.approx(expected, rel=1e-6)
    assert (float(outcome.total) != float(outcome.report.loss)) == bool(LOSSES[technique])


def test_reinforces_terms_are_those_of_its_formula() -> None:
    outcome, options = _outcome("rl-r"), Reinforce()
    assert outcome.routing is not None
    assert outcome.routing.policy is not None
    log_policy, baseline = (np.asarray(x, np.float64) for x in (outcome.routing.policy.log_prob, outcome.routing.policy.baseline))
    # Two sequences make a group: its tokens are those of the first, then of the second.
    reward = outcome.log_prob.reshape(BATCH // 2, 2 * CONTEXT)
    expected = {
        "policy": -options.policy_weight * _mean_then_sum((reward - baseline) * log_policy),
        "baseline": options.baseline_weight * _mean_then_sum((reward - baseline) ** 2),
        "entropy": -options.entropy_weight * _mean_then_sum(outcome.routing.metrics["entropy"]),
        "balance": _mean_then_sum(outcome.routing.losses["balance"]),
    }
    for name, value in expected.items():
        # Means of 24 products of float32 numbers, of both signs: a few roundings of the largest.
        assert float(outcome.report.router_losses[name]) == pytest.approx(value, rel=1e-5), name
    metrics = {name: np.asarray(outcome.report.metrics[name]) for name in ("advantage", "baseline_error")}
    np.testing.assert_allclose(metrics["advantage"], (reward - baseline).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(metrics["baseline_error"], ((reward - baseline) ** 2).mean((1, 2)), rtol=1e-5)


def test_switchs_terms_are_means_over_groups_summed_over_layers() -> None:
    outcome = _outcome("switch")
    assert outcome.routing is not None
    for name, term in outcome.routing.losses.items():
        assert term.shape == (LAYERS, BATCH // 2)
        assert float(outcome.report.router_losses[name]) == pytest.approx(_mean_then_sum(term), rel=1e-6)


@pytest.mark.parametrize("technique", METRICS)
def test_each_technique_reports_its_metrics_per_layer(technique: str) -> None:
    report = _outcome(technique).report
    assert set(report.metrics) == METRICS[technique]
    assert all(value.shape == (LAYERS,) and np.all(np.isfinite(value)) for value in report.metrics.values())
    if technique == "dense":
        assert report.load is None
    else:
        assert report.load is not None
        assert report.load.shape == (LAYERS, EXPERTS)
        # Fractions of 24 choices.
        np.testing.assert_allclose(report.load.sum(axis=1), 1, rtol=1e-6)


def test_dead_experts_are_those_that_no_token_of_the_batch_chose() -> None:
    # The default table sends token v to expert v mod 8. Each sequence is a group that leaves seven experts empty; the batch leaves five.
    model = draw(small("hash", num_experts=8, size=SIZE, routing_frequency=1.0))
    tokens = jnp.repeat(jnp.array([[0], [1], [9], [2]]), 4, axis=1)
    _, report = eqx.filter_jit(objective)(model, tokens)
    assert report.load is not None
    np.testing.assert_array_equal(report.metrics["dead_experts"], [5, 5])
    np.testing.assert_array_equal(report.load, [[0.25, 0.5, 0.25, 0, 0, 0, 0, 0]] * 2)


@cache
def _gradients_of_parts() -> list[PyTree]:
    """In a model with RL-R, by every weight: of the router's losses, of the cross-entropy, and of all that the report holds."""
    model = draw(small("rl-r", num_experts=EXPERTS, size=SIZE, context=CONTEXT, routing_frequency=1.0))
    tokens, key = some_tokens(BATCH, CONTEXT + 1), jax.random.key(0)

    def _parts(model: Transformer) -> Float[Array, "3"]:
        logits, routing = model(tokens[:, :-1], key=key, inference=False)
        log_prob = target_log_prob(logits, tokens[:, 1:])
        assert routing is not None
        of_router = sum(router_losses(routing, log_prob, jnp.ones_like(log_prob, bool)).values())
        reported = sum(jnp.sum(x) for x in jax.tree.leaves(objective(model, tokens, key=key)[1]))
        return jnp.stack([jnp.asarray(of_router), -jnp.mean(log_prob), jnp.asarray(reported)])

    @eqx.filter_jit
    def _by_part(model: Transformer) -> PyTree:
        weights, rest = eqx.partition(model, eqx.is_inexact_array)
        _, pull_back = jax.vjp(lambda weights: _parts(eqx.combine(weights, rest)), weights)
        return jax.vmap(lambda part: pull_back(part)[0])(jnp.eye(3))

    stacked = _by_part(model)
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(3)]


def _reached(gradient: PyTree) -> set[str]:
    """The weights whose gradient is not exactly zero, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {jax.tree_util.keystr(path, simple=True, separator=".").rpartition(".")[2] for path, leaf in leaves if np.any(leaf != 0)}


ROUTER = {"weight", "baseline_in", "baseline_out"}


def test_reinforces_losses_reach_its_own_weights_and_nothing_else() -> None:
    assert _reached(_gradients_of_parts()[0]) == ROUTER


def test_the_cross_entropy_reaches_all_weights_but_reinforces() -> None:
    everything = {"embedding", "scale", "offset", "query", "key", "value", "position", "output", "w_in", "w_out"}
    assert _reached(_gradients_of_parts()[1]) == everything


def test_the_report_has_no_gradient() -> None:
    assert _reached(_gradients_of_parts()[2]) == set()


def test_a_targets_log_probability_stands_large_logits() -> None:
    logits = 1e4 * some_normal(1, 3, VOCABULARY)
    targets = some_tokens(1, 3)
    expected = jax.nn.log_softmax(logits)[0, jnp.arange(3), targets[0]]
    # Differences of numbers of 1e4: half an ulp of that is 5e-4.
    np.testing.assert_allclose(target_log_prob(logits, targets)[0], expected, rtol=0, atol=1e-3)
