"""The oracle's routers, held to what is known without it: transport plans, linear assignment, enumeration, limits."""

import itertools
import math

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from golden.oracle.routers import largest, largest_of_plan, route, sinkhorn, spread
from golden.oracle.setting import RouterSetting, capacity
from golden.oracle.terms import group_metrics, load, router_backward, router_terms


def some_logits(tokens: int, experts: int, scale: float, seed: int = 0) -> Float[np.ndarray, "tokens experts"]:
    return scale * np.random.default_rng(seed).standard_normal((tokens, experts))


@pytest.mark.parametrize(("tokens", "experts"), [(16, 4), (3, 8), (7, 1)])
def test_the_plan_has_balanced_rows_and_columns(tokens: int, experts: int) -> None:
    plan = np.exp(sinkhorn(some_logits(tokens, experts, 2.0), 400))
    # Converged: only the rounding of sums of at most 16 numbers is left.
    np.testing.assert_allclose(plan.sum(axis=1), np.full(tokens, 1 / tokens), rtol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), np.full(experts, 1 / experts), rtol=1e-12)


def test_the_plan_is_the_logits_up_to_a_factor_per_token_and_one_per_expert() -> None:
    # With the marginals, this makes it the one entropic plan (Sinkhorn's theorem). Sums of four numbers of size ten: 1e-14 each.
    logits = some_logits(16, 4, 3.0)
    rest = sinkhorn(logits, 10) - logits
    np.testing.assert_allclose(rest - rest[:1] - rest[:, :1] + rest[0, 0], np.zeros_like(rest), atol=1e-13)


def test_columns_are_balanced_after_any_number_of_iterations_at_temperature_one() -> None:
    plan = np.exp(sinkhorn(some_logits(16, 4, 2.0), 10))
    np.testing.assert_allclose(plan.sum(axis=0), np.full(4, 1 / 4), rtol=1e-13)
    assert np.abs(plan.sum(axis=1) - 1 / 16).max() > 1e-6  # while the rows are not there yet


def test_the_descent_of_the_temperature_does_not_change_the_fixed_point() -> None:
    # The plan at temperature one of logits of spread 12, by the textbook's iteration on the kernel itself.
    logits = some_logits(12, 3, 2.5, seed=1)
    kernel, u, v = np.exp(logits), np.ones(12), np.ones(3)
    for _ in range(2000):
        v = (1 / 3) / (kernel.T @ u)
        u = (1 / 12) / (kernel @ v)
    np.testing.assert_allclose(np.exp(sinkhorn(logits, 2000)), u[:, None] * kernel * v, rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_with_large_logits_the_plan_is_the_best_balanced_assignment(seed: int) -> None:
    # BASE layers: T/E tokens for each expert. At logits of 500 entropy is worth 2 log 12 = 5 at most, less than most swaps.
    logits = some_logits(12, 3, 500.0, seed)
    _, slot = linear_sum_assignment(-np.repeat(logits, 4, axis=1))
    chosen = largest_of_plan(sinkhorn(logits, 4000), spread(logits), 1)[:, 0]
    np.testing.assert_array_equal(chosen, slot // 4)


def test_equal_logits_spread_tokens_over_experts_in_turn() -> None:
    experts = largest_of_plan(sinkhorn(np.zeros((6, 3)), 10), 1.0, 2)
    np.testing.assert_array_equal(experts, [[0, 1], [1, 2], [2, 0], [0, 1], [1, 2], [2, 0]])


def test_the_largest_logits_are_taken_in_order_and_the_first_of_equal_ones() -> None:
    np.testing.assert_array_equal(largest(np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 3), [[1, 2, 3], [0, 1, 2]])


def test_s_base_follows_its_plan_in_training_and_its_logits_in_evaluation() -> None:
    # Three of four tokens prefer expert 0, the second by the least: the plan moves that one, and two go to each.
    router, weights = RouterSetting("s-base", 2, iterations=200), {"weight": np.eye(2)}
    h = np.array([[3.0, 0.0], [0.5, 0.0], [4.0, 0.0], [0.0, 3.0]])
    training, evaluation = (route(router, weights, h, np.arange(4), mode) for mode in (True, False))
    assert training.experts[:, 0].tolist() == [0, 1, 0, 1]
    assert evaluation.experts[:, 0].tolist() == [0, 0, 0, 1]
    # Gates are the chosen expert's softmax entry: with two experts, a logistic function of the difference.
    assert training.gates[1, 0] == pytest.approx(1 / (1 + math.exp(0.5)), rel=1e-14)
    assert evaluation.gates[1, 0] == pytest.approx(1 / (1 + math.exp(-0.5)), rel=1e-14)


def test_hash_reads_nothing_but_the_table() -> None:
    router, table = RouterSetting("hash", 5, k=2), np.array([[0, 1], [4, 2], [3, 0]])
    routing = route(router, {"table": table}, np.full((4, 2), np.nan), np.array([2, 0, 2, 1]), True)
    np.testing.assert_array_equal(routing.experts, table[[2, 0, 2, 1]])
    assert (routing.gates == 0.5).all()


def test_uniform_switch_has_balance_one_and_z_log_e_squared() -> None:
    router = RouterSetting("switch", 4, k=2)
    routing = route(router, {"weight": np.zeros((3, 4))}, np.ones((5, 3)), np.arange(5), True)
    terms = router_terms(router, routing, np.zeros(5))
    assert terms["balance"] == pytest.approx(1.0, rel=1e-14)
    assert terms["z"] == pytest.approx(math.log(4) ** 2, rel=1e-14)
    assert load(routing, 4).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_collapsed_switch_has_balance_e() -> None:
    router = RouterSetting("switch", 4)
    routing = route(router, {"weight": np.array([[0.0, 60.0, 0.0, 0.0]])}, np.ones((5, 1)), np.arange(5), True)
    assert router_terms(router, routing, np.zeros(5))["balance"] == pytest.approx(4.0, rel=1e-14)  # e^-60 is nothing
    assert group_metrics(router, routing, np.ones((5, 1), bool), np.zeros(5))["load_max_over_mean"] == 4.0


def test_the_bias_of_loss_free_balancing_decides_who_is_chosen_and_is_in_no_gate() -> None:
    router, h = RouterSetting("loss-free", 3), np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    fresh, biased = (
        route(router, {"weight": np.eye(3), "bias": np.array(b)}, h, np.arange(2), True) for b in ([0.0] * 3, [-0.2, 0.0, 0.0])
    )
    assert fresh.experts[:, 0].tolist() == [0, 2]
    # sigmoid(2) - sigmoid(1) = 0.15: less than the bias takes away.
    assert biased.experts[:, 0].tolist() == [1, 2]
    assert fresh.gates[0, 0] == pytest.approx(1 / (1 + math.exp(-2.0)), rel=1e-14)
    assert biased.gates[0, 0] == pytest.approx(1 / (1 + math.exp(-1.0)), rel=1e-14)
    # And no loss.
    assert router_terms(router, biased, np.zeros(2)) == {}


def test_capacity_takes_a_factor_for_the_decimal_that_is_written() -> None:
    # 1.1 * 100 / 10 is 11, and in floats a little more.
    assert capacity(RouterSetting("switch", 10, capacity_factor=1.1), 100, True) == 11


def test_the_policy_gradient_is_that_of_the_expected_reward_whatever_the_baseline() -> None:
    # Two tokens, three experts: all nine joint choices, weighted by their probability, against the gradient of the mean expected reward.
    rng = np.random.default_rng(0)
    router = RouterSetting("rl-r", 3, policy_weight=1.0, baseline_weight=0.0, balance_weight=0.0, entropy_weight=0.0)
    h, reward_of = rng.standard_normal((2, 8)), rng.standard_normal((2, 3))
    weights = {"weight": rng.standard_normal((8, 3)), "baseline_in": rng.standard_normal((8, 1)), "baseline_out": rng.standard_normal(1)}
    policy = np.exp(h @ weights["weight"])
    policy /= policy.sum(axis=1, keepdims=True)
    expected = np.zeros((8, 3))
    for choice in itertools.product(range(3), repeat=2):
        drawn = np.array(choice)[:, None]
        reward = reward_of[np.arange(2), choice]
        routing = route(router, weights, h, np.arange(2), True, drawn)
        d_h, gradients = router_backward(router, weights, h, routing, np.zeros((2, 1)), reward, 1.0)
        assert not d_h.any()
        expected += policy[0, choice[0]] * policy[1, choice[1]] * gradients["weight"]
    centred = policy * (reward_of - (policy * reward_of).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(expected, -h.T @ centred / 2, rtol=1e-12, atol=1e-14)


def test_capacity_is_the_rounded_up_share_and_never_more_than_the_group() -> None:
    assert capacity(RouterSetting("switch", 4, capacity_factor=1.25), 6, True) == 2  # 1.875
    assert capacity(RouterSetting("switch", 4, k=2, capacity_factor=1.0), 6, True) == 3
    assert capacity(RouterSetting("switch", 4, capacity_factor=9.0), 6, True) == 6
    assert capacity(RouterSetting("switch", 4, capacity_factor=1.25), 6, False) == 6  # none is dropped in evaluation
