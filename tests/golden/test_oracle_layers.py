"""The oracle's elementary functions, attention, dispatch and AdamW, held to matrices, limits, symmetries and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Float
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from scipy.stats import norm

from golden.cases import load
from golden.oracle.attention import PROJECTIONS, attention, sinusoid
from golden.oracle.dispatch import feed_forward, kept_choices, routed_feed_forward, shared_feed_forward
from golden.oracle.elementary import gelu, gelu_slope, layer_norm, sigmoid
from golden.oracle.setting import Arrays


def test_gelu_is_the_published_approximation_of_z_times_the_normal_distribution() -> None:
    z = np.linspace(-6, 6, 241)
    # Hendrycks and Gimpel's tanh form is within 5e-4 of z Phi(z); without its cubic term it would be 0.017 off.
    assert np.abs(gelu(z) - z * norm.cdf(z)).max() < 5e-4
    # A central difference of step 1e-5 is within 1e-10 of the slope; its rounding is 1e-11.
    np.testing.assert_allclose(gelu_slope(z), (gelu(z + 1e-5) - gelu(z - 1e-5)) / 2e-5, atol=1e-9)


def test_the_sigmoid_is_scipys_and_stands_large_numbers() -> None:
    z = np.array([-700.0, -30.0, -1.0, 0.0, 1.0, 30.0, 700.0])
    np.testing.assert_allclose(sigmoid(z), expit(z), rtol=1e-13)  # exp of 700, an ulp of which is 1e-13


def test_layer_norm_has_zero_mean_and_biased_unit_variance_less_epsilon() -> None:
    x = np.array([1.0, 2.0, 4.0, 9.0])  # mean 4, biased variance 9.5
    y = layer_norm(x, np.full(4, 2.0), np.full(4, 0.5))
    np.testing.assert_allclose(y, 0.5 + 2 * (x - 4) / np.sqrt(9.5 + 1e-5), rtol=1e-15)


@pytest.fixture(scope="module")
def attention_weights() -> Arrays:
    """Weights of the committed attention case: D 6, two heads of size 4."""
    return {name.removeprefix("attention/"): weight for name, weight in load("attention").weights.items()}


def test_attention_is_the_masked_softmax_of_content_and_distance(attention_weights: Arrays) -> None:
    x = load("attention").inputs["x"]
    places = np.arange(len(x))
    distance = places[:, None] - places[None, :]
    phases = np.maximum(distance, 0)[..., None] * 10000.0 ** (-np.arange(3) / 3)
    table = np.concatenate([np.sin(phases), np.cos(phases)], axis=-1)
    q, key, v = (np.einsum("td,dhk->htk", x, attention_weights[name]) for name in PROJECTIONS[:3])
    position = np.einsum("ijd,dhk->hijk", table, attention_weights["position"])
    scores = np.einsum("hik,hijk->hij", q, key[:, None] + position) / 2.0
    p = scipy_softmax(np.where(distance >= 0, scores, -np.inf), axis=-1)
    expected = np.einsum("hij,hjk,hkd->id", p, v, attention_weights["output"])
    np.testing.assert_allclose(attention(x, attention_weights), expected, rtol=1e-12, atol=1e-13)


def test_attention_never_reads_a_later_token(attention_weights: Arrays) -> None:
    x = load("attention").inputs["x"]
    for place in range(1, len(x)):
        changed = x.copy()
        changed[place:] += 1.0
        before, after = attention(x, attention_weights), attention(changed, attention_weights)
        np.testing.assert_array_equal(after[:place], before[:place])
        assert (after[place:] != before[place:]).all()


def test_the_first_sinusoid_is_zeros_then_ones() -> None:
    np.testing.assert_array_equal(sinusoid(0, 6), [0, 0, 0, 1, 1, 1])


def test_an_expert_keeps_the_first_of_its_choices_up_to_capacity() -> None:
    experts = np.random.default_rng(0).integers(0, 3, (20, 2))
    for capacity in (1, 4, 20):
        # An assignment's place in its expert's queue, from a running count over one-hot rows.
        one_hot = np.eye(3, dtype=int)[experts.ravel()]
        place = (np.cumsum(one_hot, axis=0) * one_hot).sum(axis=1) - 1
        np.testing.assert_array_equal(kept_choices(experts, 3, capacity), (place < capacity).reshape(20, 2))


def test_in_the_order_of_choices_every_first_choice_comes_before_a_second() -> None:
    # All of four tokens want experts 0 and 1, the last two in the other order: two places each.
    experts = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(kept_choices(experts, 2, 2, "choice"), [[True, False]] * 4)
    np.testing.assert_array_equal(kept_choices(experts, 2, 2), [[True, True], [True, True], [False, False], [False, False]])


def test_in_the_order_of_gates_an_expert_keeps_its_largest() -> None:
    rng = np.random.default_rng(0)
    experts, gates = np.argsort(rng.random((20, 3)), axis=1)[:, :2], rng.random((20, 2))
    kept = kept_choices(experts, 3, 4, "gate", gates)
    for expert in range(3):
        its = experts == expert
        assert kept[its].sum() == 4
        np.testing.assert_array_equal(kept[its], gates[its] >= np.sort(gates[its])[-4])


def test_choices_of_equal_gates_are_dropped_by_position() -> None:
    experts = np.array([[0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(kept_choices(experts, 2, 2, "gate", np.ones((3, 2))), kept_choices(experts, 2, 2))


def test_shared_experts_add_up_and_together_are_one_wide_feed_forward() -> None:
    rng = np.random.default_rng(0)
    h, w_in, w_out = rng.standard_normal(4), rng.standard_normal((4, 6)), rng.standard_normal((6, 4))
    apart = sum(feed_forward(h, w_in[:, 2 * s : 2 * s + 2], w_out[2 * s : 2 * s + 2]) for s in range(3))
    found = shared_feed_forward(h, w_in, w_out, 3)
    # Sums of six numbers of size one in other orders.
    np.testing.assert_allclose(found, apart, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found, feed_forward(h, w_in, w_out), rtol=0, atol=1e-14)


def routed(x: Float[np.ndarray, "tokens d_model"], order: list[int], capacity: int) -> Float[np.ndarray, "tokens d_model"]:
    """Output of the committed routed layer with its tokens in another order."""
    case = load("dispatch_drops_k2")
    experts, gates = case.inputs["experts"][order], case.inputs["gates"][order]
    kept = kept_choices(experts, 4, capacity)
    return routed_feed_forward(x[order], experts, gates, kept, case.weights["experts/w_in"], case.weights["experts/w_out"])


def test_where_none_is_dropped_permuted_tokens_give_permuted_outputs() -> None:
    x, order = load("dispatch_drops_k2").inputs["x"], [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    np.testing.assert_array_equal(routed(x, order, 20), routed(x, list(range(10)), 20)[order])


def test_where_tokens_are_dropped_it_is_the_later_ones() -> None:
    x, order = load("dispatch_drops_k2").inputs["x"], list(reversed(range(10)))
    assert (routed(x, order, 2) != routed(x, list(range(10)), 2)[order]).any()


def test_renamed_experts_give_the_same_outputs() -> None:
    case, new = load("dispatch_drops_k2"), np.array([2, 0, 3, 1])
    experts, w_in, w_out = new[case.inputs["experts"]], np.empty((4, 4, 8)), np.empty((4, 8, 4))
    w_in[new], w_out[new] = case.weights["experts/w_in"], case.weights["experts/w_out"]
    y = routed_feed_forward(case.inputs["x"], experts, case.inputs["gates"], kept_choices(experts, 4, 2), w_in, w_out)
    # The committed file may come from another machine: its last bits differ.
    np.testing.assert_allclose(y, case.outputs["y"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["dispatch_roomy", "dispatch_drops", "dispatch_drops_k2"])
def test_a_committed_dispatch_case_drops_as_its_name_says(name: str) -> None:
    assert (load(name).outputs["dropped_fraction"] > 0) == ("drops" in name)


def test_adamw_is_optaxs_behind_a_clip_by_the_global_norm() -> None:
    case = load("adamw")
    with jax.enable_x64(True):
        weights: optax.Params = {name: jnp.asarray(weight) for name, weight in case.weights.items()}
        decays = {name: weight.ndim >= 2 for name, weight in case.weights.items()}
        adamw = optax.adamw(2.0**-8, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=decays)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)
        state = optimizer.init(weights)
        for step in (1, 2, 3):
            gradients = {name: jnp.asarray(case.inputs[f"gradients/{step}/{name}"]) for name in case.weights}
            updates, state = optimizer.update(gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            for name, weight in zip(sorted(case.weights), jax.tree.leaves(weights), strict=True):
                # Both in float64, a dozen operations per step.
                np.testing.assert_allclose(case.outputs[f"{step}/{name}"], np.asarray(weight), rtol=1e-14, err_msg=f"{step}/{name}")


def test_the_committed_steps_of_adamw_are_clipped_once() -> None:
    inputs = load("adamw").inputs
    squares = {s: sum(float((g**2).sum()) for name, g in inputs.items() if name.startswith(f"gradients/{s}/")) for s in (1, 2, 3)}
    assert [squares[s] > 1 for s in (1, 2, 3)] == [False, True, False]
