"""Every function of `reference.fast` equals the plain form that its docstring gives, in values and in gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from reference import fast
from reference.dispatch import plan_capacity
from reference.mesh import HIDDEN, SLOTS, TOKENS
from reference.ragged import ragged_feedforward
from tests.reference.small_models import some_normal

EPSILON = 1e-5

# Six tokens with two choices each of three experts, which have room for four: two choices of expert 0 are dropped, and the other two
# experts have a slot left empty each.
EXPERTS = np.array([[0, 1], [0, 2], [0, 1], [1, 0], [0, 2], [2, 0]], np.int32)


def _causal_softmax(scores: Array) -> Array:
    context = scores.shape[-1]
    seen = jnp.arange(context) <= jnp.arange(context)[:, None]
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)


def _layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    mean, variance = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + offset


def _zeros_past_the_end(x: Array, index: Array) -> Array:
    """`x[index]`, of `x` with a row of zeros more."""
    return jnp.concatenate([x, jnp.zeros_like(x[:1])])[index]


# One and two long blocks and short ones, an expert without rows, and blocks that reach into the next expert's rows.
COUNTS = np.array([330, 0, 522, 3], np.int32)


def _ragged_feedforward(x: Array, w_in: Array, w_out: Array, counts: Sequence[int] = tuple(COUNTS)) -> Array:
    expert = np.repeat(np.arange(len(counts)), counts)
    hidden = jax.nn.gelu(jnp.einsum("rd,rdh->rh", x, w_in[expert]), approximate=True)
    return jnp.einsum("rh,rhd->rd", hidden, w_out[expert])


def _gathers() -> dict[str, tuple[Callable[..., Array], Callable[..., Array], list[tuple[int, ...]]]]:
    plan = plan_capacity(jnp.asarray(EXPERTS), 3, 4)
    slots, choices, back = plan.token_of_slot, plan.slot_of_choice, plan.choice_of_slot[:, None]
    return {
        "gather to slots": (lambda x: fast.gather(x, slots, choices), lambda x: _zeros_past_the_end(x, slots), [(6, 4)]),
        "gather to choices": (lambda x: fast.gather(x, choices, back), lambda x: _zeros_past_the_end(x, choices), [(12, 4)]),
    }


# By name: the function, its plain form, and the shapes of what both take.
FORMS: dict[str, tuple[Callable[..., Array], Callable[..., Array], list[tuple[int, ...]]]] = {
    "linear": (
        lambda x, weight: fast.linear(x, weight, out=HIDDEN),
        lambda x, weight: jnp.einsum("bcf,fo->bco", x, weight),
        [(2, 3, 5), (5, 4)],
    ),
    "gelu_linear": (
        lambda x, weight: fast.gelu_linear(x, weight, TOKENS),
        lambda x, weight: jnp.einsum("bch,hd->bcd", jax.nn.gelu(x, approximate=True), weight),
        [(2, 3, 8), (8, 5)],
    ),
    "gelu_contract": (
        lambda x, weight: fast.gelu_contract(x, weight, SLOTS),
        lambda x, weight: jnp.einsum("esh,ehd->esd", jax.nn.gelu(x, approximate=True), weight),
        [(3, 4, 8), (3, 8, 5)],
    ),
    "products_with_keys": (fast.products_with_keys, lambda x, y: jnp.einsum("bhik,bhjk->bhij", x, y), [(2, 3, 7, 4), (2, 3, 6, 4)]),
    "sums_of_values": (fast.sums_of_values, lambda x, y: jnp.einsum("bhij,bhjk->bihk", x, y), [(2, 3, 7, 6), (2, 3, 6, 4)]),
    "transposed_product": (fast.transposed_product, lambda x, y: jnp.swapaxes(x, -1, -2) @ y, [(2, 7, 6), (2, 7, 4)]),
    "layer_norm": (lambda x, scale, offset: fast.layer_norm(x, scale, offset, EPSILON), _layer_norm, [(2, 3, 6), (6,), (6,)]),
    "causal_softmax": (fast.causal_softmax, _causal_softmax, [(2, 3, 5, 5)]),
    "weighted_sum": (fast.weighted_sum, lambda x, weights: jnp.sum(x * weights[..., None], axis=1), [(6, 3, 4), (6, 3)]),
    "ragged_feedforward": (
        lambda x, w_in, w_out: ragged_feedforward(x, jnp.asarray(COUNTS), w_in, w_out),
        _ragged_feedforward,
        [(855, 3), (4, 3, 5), (4, 5, 3)],
    ),
    "ragged_feedforward of few rows": (
        lambda x, w_in, w_out: ragged_feedforward(x, jnp.asarray([5, 1]), w_in, w_out),
        lambda x, w_in, w_out: _ragged_feedforward(x, w_in, w_out, [5, 1]),
        [(6, 3), (2, 3, 5), (2, 5, 3)],
    ),
    **_gathers(),
}

every_form = pytest.mark.parametrize("name", FORMS)
REVERSE_ONLY = (
    "ragged_feedforward",
    "ragged_feedforward of few rows",
    "linear",
    "gelu_linear",
    "products_with_keys",
    "sums_of_values",
    *_gathers(),
)
"""Forms with a `custom_vjp` on one CPU."""


def _case(name: str) -> tuple[Callable[..., Array], Callable[..., Array], list[Array]]:
    function, plain, shapes = FORMS[name]
    return function, plain, [some_normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def _weighted(function: Callable[..., Array]) -> Callable[..., Array]:
    """A number made of all that the function gives, each part weighted otherwise, and not linearly."""

    def _number(arguments: list[Array]) -> Array:
        out = function(*arguments)
        return jnp.sum(jnp.sin(out) * some_normal(*out.shape, seed=9))

    return _number


def _assert_close(found: Any, expected: Any) -> None:
    # float64: sums of at most a few hundred numbers of size one to ten in other orders, a few 1e-15 each.
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-12), found, expected)


def test_every_function_has_its_plain_form_here() -> None:
    public = {name for name, value in vars(fast).items() if getattr(value, "__module__", "") == fast.__name__ and not name.startswith("_")}
    assert public | {"ragged_feedforward"} == {name.split()[0] for name in FORMS} | {"draw", "on_one_cpu", "on_one_device"}


@pytest.mark.usefixtures("x64")
@every_form
def test_it_is_its_plain_form_in_values_and_gradients(name: str) -> None:
    function, plain, arguments = _case(name)
    _assert_close(function(*arguments), plain(*arguments))
    gradients = [jax.jit(jax.grad(_weighted(form)))(arguments) for form in (function, plain)]
    assert all(np.any(gradient) for gradient in gradients[1])
    _assert_close(*gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("ragged_feedforward")])
def test_reverse_over_reverse_is_that_of_its_plain_form(name: str) -> None:
    function, plain, arguments = _case(name)
    direction = [some_normal(*argument.shape, seed=20 + seed) for seed, argument in enumerate(arguments)]

    def _along(form: Callable[..., Array]) -> Any:
        slope = lambda at: sum(jnp.vdot(g, d) for g, d in zip(jax.grad(_weighted(form))(at), direction, strict=True))  # noqa: E731
        return jax.jit(jax.grad(slope))(arguments)

    expected = _along(plain)
    assert any(np.any(of_one) for of_one in expected)
    _assert_close(_along(function), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in FORMS if name not in REVERSE_ONLY])
def test_forward_mode_is_that_of_its_plain_form(name: str) -> None:
    function, plain, arguments = _case(name)
    tangents = [some_normal(*argument.shape, seed=20 + seed) for seed, argument in enumerate(arguments)]
    _assert_close(*(jax.jvp(form, arguments, tangents) for form in (function, plain)))


@pytest.mark.parametrize("name", REVERSE_ONLY)
def test_forward_mode_is_refused_by_jax(name: str) -> None:
    function, _, arguments = _case(name)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, arguments, arguments)


def test_an_empty_slot_and_a_dropped_choice_read_zeros() -> None:
    plan = plan_capacity(jnp.asarray(EXPERTS), 3, 4)
    assert int(jnp.sum(~plan.kept())) == 2
    x = 1 + jnp.arange(6.0)[:, None]
    slots = fast.gather(x, plan.token_of_slot, plan.slot_of_choice)
    np.testing.assert_array_equal(slots[:, 0], [1, 2, 3, 4, 1, 3, 4, 0, 2, 5, 6, 0])
    back = fast.gather(slots, plan.slot_of_choice, plan.choice_of_slot[:, None])[..., 0]
    np.testing.assert_array_equal(back, np.where(plan.kept(), x, 0))


@pytest.mark.parametrize("name", ["linear", "gelu_linear", "gelu_contract", "weighted_sum"])
def test_products_are_in_the_type_of_the_activations(name: str) -> None:
    function, _, (x, weight) = _case(name)
    assert function(x.astype(jnp.bfloat16), weight).dtype == jnp.bfloat16


def test_norm_and_softmax_of_bfloat16_are_those_of_float32_until_they_are_rounded() -> None:
    function, plain, (x, scale, offset) = _case("layer_norm")
    x = x.astype(jnp.bfloat16)
    # Half an ulp of bfloat16 is 2^-9 of a number, of which the largest here is 4.
    np.testing.assert_allclose(function(x, scale, offset), plain(x.astype(jnp.float32), scale, offset), rtol=2**-8.9, atol=2**-9)
    assert function(x, scale, offset).dtype == jnp.bfloat16
    function, plain, (scores,) = _case("causal_softmax")
    scores = scores.astype(jnp.bfloat16)
    # Float32 throughout: a few roundings of 6e-8.
    np.testing.assert_allclose(function(scores), plain(scores.astype(jnp.float32)), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_an_expert_is_drawn_where_one_uniform_number_falls_among_the_cumulated_probabilities() -> None:
    policy = jax.nn.softmax(2 * some_normal(400, 5))
    key = jax.random.key(0)
    uniform = np.asarray(jax.random.uniform(key, (400,), jnp.float64))
    expected = [np.searchsorted(np.cumsum(row), u, side="right") for row, u in zip(policy, uniform, strict=True)]
    drawn = np.asarray(fast.draw(jnp.log(policy), key))[:, 0]
    np.testing.assert_array_equal(drawn, expected)
    assert set(drawn.tolist()) == set(range(5))


def test_an_expert_without_probability_is_never_drawn() -> None:
    policy = jnp.array([0.0, 0.5, 0.0, 0.5, 0.0])
    drawn = np.asarray(fast.draw(jnp.tile(jnp.log(policy), (2000, 1)), jax.random.key(1)))
    assert set(drawn.ravel().tolist()) == {1, 3}
