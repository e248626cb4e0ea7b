"""RL-R: its estimator against the enumeration of every choice, what it ignores, and what it must not touch."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

from reference import fast
from reference.config import ModelConfig, RouterConfig, Size
from reference.errors import ConfigError
from reference.routed import RoutedFeedForward
from reference.routers import PolicyTrace, Reinforce, ReinforceRouter, reinforce
from tests.reference.routers.router_cases import ROUTE, a_router, load_of, some_ids, some_logits

TOKENS, EXPERTS, D_MODEL = 3, 3, 32
ONLY_POLICY = Reinforce(policy_weight=1.0)

CHOICES: Int[np.ndarray, "choices tokens"] = np.array(list(itertools.product(range(EXPERTS), repeat=TOKENS)))
"""Every way to give three tokens one of three experts: 27."""

Weight = Float[Array, "d_model experts"]
Reward = Callable[[Int[Array, "tokens"]], Float[Array, "tokens"]]
"""The reward of each token, given the experts of all."""


@pytest.fixture
def router(x64: None) -> ReinforceRouter:
    made = a_router("rl-r", D_MODEL, EXPERTS, options=ONLY_POLICY)
    assert isinstance(made, ReinforceRouter)
    return made


def some_x() -> Float[Array, "tokens d_model"]:
    return jnp.asarray(some_logits(TOKENS, D_MODEL, 0.5, seed=3))


def own_reward(experts: Int[Array, "tokens"]) -> Float[Array, "tokens"]:
    """A log-probability that depends on the token's own expert only."""
    table = jnp.asarray(-4.0 + some_logits(TOKENS, EXPERTS, seed=5))
    return table[jnp.arange(TOKENS), experts]


def coupled_reward(experts: Int[Array, "tokens"]) -> Float[Array, "tokens"]:
    """One that depends on the experts of the tokens before it too, which attention brings about."""
    table = jnp.asarray(some_logits(TOKENS, EXPERTS, seed=6))
    of_own = table[jnp.arange(TOKENS), experts]
    return own_reward(experts) + jnp.cumsum(of_own) - of_own


def estimates(router: ReinforceRouter, reward: Reward) -> tuple[Float[Array, "choices"], Float[Array, "choices d_model experts"]]:
    """The probability of each choice, and minus the gradient of the policy loss, summed over tokens, when it was drawn."""

    def _one(experts: Int[Array, "tokens"]) -> tuple[Float[Array, ""], Weight]:
        def _loss(weight: Weight) -> tuple[Float[Array, ""], Float[Array, ""]]:
            trace = drawn(eqx.tree_at(lambda router: router.weight, router, weight), experts)
            return jnp.sum(trace.losses(reward(experts))["policy"]), jnp.sum(trace.log_prob)

        gradient, log_prob = jax.grad(_loss, has_aux=True)(router.weight)
        return jnp.exp(log_prob), -gradient

    return jax.jit(jax.vmap(_one))(jnp.asarray(CHOICES))


def drawn(router: ReinforceRouter, experts: Int[Array, "tokens"]) -> PolicyTrace:
    """What the router passes on if these are the experts it draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce, "draw", lambda log_policy, key: experts[:, None])
        trace = router(some_x(), some_ids(TOKENS), key=jax.random.key(0), inference=False).policy
    assert trace is not None
    return trace


def exact_gradient(router: ReinforceRouter, reward: Reward, *, others_held: bool = False) -> Weight:
    """Gradient, by the weight, of the sum over tokens of the expected reward, every choice enumerated.

    `others_held`: with each token's reward differentiated by that token's own policy only.
    """
    choices, token = jnp.asarray(CHOICES), jnp.arange(TOKENS)

    def _expected(weight: Weight) -> Float[Array, ""]:
        log_policy = jax.nn.log_softmax(some_x() @ weight)
        log_prob = log_policy[token, choices]
        probability = jnp.exp(jnp.sum(log_prob, axis=1))[:, None]
        if others_held:
            own = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))  # 1, with the gradient of the token's own log-probability
            probability = jax.lax.stop_gradient(probability) * own
        return jnp.sum(probability * jax.vmap(reward)(choices))

    return jax.jit(jax.grad(_expected))(router.weight)


def mean_and_variance(router: ReinforceRouter, reward: Reward) -> tuple[Float[np.ndarray, "d_model experts"], float]:
    """Mean of the estimator, and the sum of its components' variances, exactly."""
    probability, estimate = (np.asarray(a) for a in estimates(router, reward))
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-12)
    mean = np.einsum("c,cde->de", probability, estimate)
    return mean, float(np.einsum("c,cde->", probability, (estimate - mean) ** 2))


def test_the_estimator_is_unbiased_where_a_reward_depends_on_its_own_tokens_expert(router: ReinforceRouter) -> None:
    # Sums of 27 numbers of size 10.
    mean, _ = mean_and_variance(router, own_reward)
    np.testing.assert_allclose(mean, exact_gradient(router, own_reward), rtol=0, atol=1e-12)
    assert np.abs(mean).max() > 0.1


def test_the_estimator_ignores_what_a_tokens_expert_does_to_the_rewards_of_others(router: ReinforceRouter) -> None:
    # It is the gradient with the policies of the other tokens held, not that of the whole expectation.
    mean, _ = mean_and_variance(router, coupled_reward)
    np.testing.assert_allclose(mean, exact_gradient(router, coupled_reward, others_held=True), rtol=0, atol=1e-12)
    assert np.abs(mean - exact_gradient(router, coupled_reward)).max() > 0.1


def test_no_baseline_biases_the_estimator_and_a_trained_one_lowers_its_variance(router: ReinforceRouter) -> None:
    none = with_baseline(router, 0.0)
    trained = train_baseline(router)
    (mean, variance), (mean_trained, variance_trained) = mean_and_variance(none, own_reward), mean_and_variance(trained, own_reward)
    np.testing.assert_allclose(mean_trained, mean, rtol=0, atol=1e-12)
    assert variance_trained < 0.05 * variance  # measured 2.6 against 312: rewards are about -4, and vary by about 1


def with_baseline(router: ReinforceRouter, factor: float) -> ReinforceRouter:
    return eqx.tree_at(lambda router: router.baseline_out, router, factor * router.baseline_out)


def train_baseline(router: ReinforceRouter) -> ReinforceRouter:
    """Gradient descent on the expectation of the baseline's own loss."""
    choices = jnp.asarray(CHOICES)
    probability, _ = estimates(router, own_reward)
    rewards = jax.vmap(own_reward)(choices)

    def _loss(weights: tuple[Float[Array, "d_model hidden"], Float[Array, "hidden"]]) -> Float[Array, ""]:
        moved = eqx.tree_at(lambda router: (router.baseline_in, router.baseline_out), router, weights)
        losses = jax.vmap(lambda reward: drawn(moved, choices[0]).losses(reward)["baseline"])(rewards)
        return jnp.sum(probability[:, None] * losses) / router.options.baseline_weight

    def _step(weights: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda w, g: w - 0.01 * g, weights, jax.grad(_loss)(weights)), None

    descend = jax.jit(lambda weights: jax.lax.scan(_step, weights, length=500)[0])
    return eqx.tree_at(lambda router: (router.baseline_in, router.baseline_out), router, descend((router.baseline_in, router.baseline_out)))


def test_experts_are_drawn_from_the_policy() -> None:
    # Chi-square with 4 degrees of freedom: above 40 once in twenty million keys.
    policy = np.array([0.5, 0.25, 0.15, 0.08, 0.02])
    number = 20_000
    drawn = fast.draw(jnp.tile(jnp.log(jnp.asarray(policy, jnp.float32)), (number, 1)), jax.random.key(0))
    seen = np.bincount(np.asarray(drawn)[:, 0], minlength=5)
    assert np.sum((seen - number * policy) ** 2 / (number * policy)) < 40


def test_training_draws_by_its_key_and_evaluation_takes_the_most_probable() -> None:
    router, x = a_router("rl-r", 16, 4), jnp.asarray(some_logits(64, 16), jnp.float32)
    assert isinstance(router, ReinforceRouter)
    first, again, other = (
        np.asarray(ROUTE(router, x, some_ids(64), inference=False, key=jax.random.key(seed)).experts) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    evaluated = ROUTE(router, x, some_ids(64), inference=True)
    np.testing.assert_array_equal(evaluated.experts[:, 0], np.argmax(np.asarray(x) @ np.asarray(router.weight), axis=1))
    np.testing.assert_array_equal(evaluated.gates, np.ones((64, 1)))


def test_training_without_a_key_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match="was given no key; pass key=") as error:
        a_router("rl-r", 8, 2)(jnp.zeros((3, 8)), some_ids(3), key=None, inference=False)
    assert "\n" not in str(error.value)


def test_it_has_the_weights_that_the_released_counts_show() -> None:
    d, e = 32, 6
    assert sum(leaf.size for leaf in jax.tree.leaves(a_router("rl-r", d, e))) == d * e + d * (d // 8) + d // 8


def all_losses(router: Any, x: Float[Array, "tokens d_model"]) -> dict[str, Float[Array, ""]]:
    """Its four terms, for some rewards that depend on x too."""
    routing = router(x, some_ids(x.shape[0]), key=jax.random.key(0), inference=False)
    per_token = routing.policy.losses(jnp.sum(jnp.sin(x), axis=1))
    return routing.losses | {name: jnp.mean(value) for name, value in per_token.items()}


@pytest.mark.parametrize("term", ["policy", "baseline", "balance", "entropy"])
def test_no_term_reaches_the_trunk_and_each_reaches_its_own_weights(router: ReinforceRouter, term: str) -> None:
    gradient = jax.jit(jax.grad(lambda router, x: all_losses(router, x)[term], (0, 1)))
    of_router, of_x = gradient(router, some_x())
    np.testing.assert_array_equal(of_x, np.zeros_like(of_x))
    reached = {name for name in ("weight", "baseline_in", "baseline_out") if np.any(getattr(of_router, name))}
    assert reached == ({"baseline_in", "baseline_out"} if term == "baseline" else {"weight"})


def test_the_language_model_loss_does_not_reach_the_policy() -> None:
    layer = RoutedFeedForward(ModelConfig(Size(8, 1, 1, 8), RouterConfig(Reinforce(), 2), 1.0), key=jax.random.key(0))
    x, ids = jnp.asarray(some_logits(6, 8), jnp.float32)[None], some_ids(1, 6)

    def _output(layer: RoutedFeedForward) -> Float[Array, ""]:
        return jnp.sum(layer(x, ids, key=jax.random.key(1), inference=False)[0] ** 2)

    gradient = jax.jit(jax.grad(_output))(layer)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.router))
    assert np.any(gradient.experts.w_in)


@pytest.mark.parametrize("weight", [1e-3, -1e-3])
def test_a_step_down_the_entropy_term_raises_the_entropy_if_its_weight_is_positive(weight: float) -> None:
    router = a_router("rl-r", D_MODEL, EXPERTS, options=Reinforce(entropy_weight=weight))
    x = jnp.asarray(some_logits(20, D_MODEL), jnp.float32)

    def _term(router: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        routing = router(x, some_ids(20), key=jax.random.key(0), inference=False)
        return routing.losses["entropy"], routing.metrics["entropy"]

    differentiate = jax.jit(jax.grad(_term, has_aux=True))
    gradient, before = differentiate(router)
    _, after = differentiate(jax.tree.map(lambda w, g: w - g / abs(weight), router, gradient))
    assert np.sign(after - before) == np.sign(weight)


@pytest.mark.usefixtures("x64")
def test_its_terms_are_those_of_the_formulas() -> None:
    options = Reinforce(policy_weight=0.3, baseline_weight=0.5, balance_weight=0.7, entropy_weight=0.9)
    router: Any = a_router("rl-r", D_MODEL, EXPERTS, options=options)
    x, reward = np.asarray(some_logits(10, D_MODEL)), some_logits(1, 10, seed=2)[0]
    routing = router(jnp.asarray(x), some_ids(10), key=jax.random.key(0), inference=False)
    losses = routing.losses | routing.policy.losses(jnp.asarray(reward))
    policy = np.exp(x @ router.weight)
    policy /= policy.sum(axis=1, keepdims=True)
    log_prob = np.log(policy[np.arange(10), routing.experts[:, 0]])
    hidden = np.asarray(x @ router.baseline_in)
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    baseline = gelu @ np.asarray(router.baseline_out)
    expected = {
        "policy": -0.3 * (reward - baseline) * log_prob,
        "baseline": 0.5 * (baseline - reward) ** 2,
        "balance": 0.7 * EXPERTS * np.sum(load_of(routing.experts, EXPERTS) * policy.mean(axis=0)),
        "entropy": 0.9 * np.mean(np.sum(policy * np.log(policy), axis=1)),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-12, err_msg=name)  # sums of 16 and of 30 numbers
