"""What routers start from, and what their options are where nobody chooses: written out, from the papers or as our choices."""

from dataclasses import asdict
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from reference.config import RouterConfig
from reference.routers import ROUTERS, RouterState, SinkhornBase
from reference.routers.balance import router_logits
from tests.reference.routers.router_cases import TECHNIQUES, a_router, some_ids, some_logits

DEFAULTS: dict[str, dict[str, Any]] = {
    # Our choices: no paper gives them.
    "s-base": {"iterations": 10, "init_scale": 1.0},
    "hash": {"table": "modulo", "seed": 0},
    "rl-r": {"policy_weight": 0.01, "baseline_weight": 0.01, "balance_weight": 0.01, "entropy_weight": 0.001},
    # Fedus et al. 2021, section 2.2: alpha = 10^-2. Zoph et al. 2022, section 3.3: c_z = 0.001.
    "switch": {"balance_weight": 0.01, "z_weight": 0.001},
    # Wang et al. 2024, section 4.3: u = 0.001.
    "loss-free": {"speed": 0.001},
}


@pytest.mark.parametrize("name", ROUTERS)
def test_options_are_those_of_the_sources_where_nobody_chooses(name: str) -> None:
    options: Any = TECHNIQUES[name]
    assert asdict(options) == DEFAULTS[name]


def test_a_routed_layer_is_the_papers_where_nobody_chooses() -> None:
    config = RouterConfig()
    assert (config.technique, config.num_experts, config.k) == (SinkhornBase(), 64, 1)
    # Fedus et al. 2021 train at 1.25; no token is dropped in evaluation.
    assert (config.capacity_factor, config.evaluation_capacity_factor) == (1.25, None)
    assert (config.granularity, config.shared_experts, config.drop_order, config.sequences_per_group) == (1, 0, "position", None)


# By router and array: the number that its standard deviation is one over the root of. D is 256, E 64, RL-R's hidden layer 32 wide.
FAN_IN: dict[str, dict[str, int]] = {
    "s-base": {"weight": 256},
    "hash": {},
    "rl-r": {"weight": 256, "baseline_in": 256, "baseline_out": 32},
    "switch": {"weight": 256},
    "loss-free": {"weight": 256},
}


@pytest.mark.parametrize("name", ROUTERS)
def test_weights_are_drawn_at_one_over_the_root_of_their_fan_in(name: str) -> None:
    router: Any = a_router(name, 256, 64)
    drawn = {path[0].name: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(router) if path[0].name in FAN_IN[name]}
    assert drawn.keys() == FAN_IN[name].keys()
    for array, fan_in in FAN_IN[name].items():
        # Five standard errors of the root mean square of n normal numbers: 5/sqrt(2n), 2.8 % of 16,384 and 62 % of 32.
        tolerance = 5 / (2 * drawn[array].size) ** 0.5
        assert float(jnp.sqrt(jnp.mean(drawn[array] ** 2))) == pytest.approx(fan_in**-0.5, rel=tolerance), array
        assert abs(float(jnp.mean(drawn[array]))) < 5 * (fan_in * drawn[array].size) ** -0.5, array
    states = [leaf for leaf in jax.tree.leaves(router, is_leaf=lambda node: isinstance(node, RouterState)) if isinstance(leaf, RouterState)]
    # Loss-free balancing begins without a bias.
    assert len(states) == (name == "loss-free")
    assert not any(jnp.any(array) for array in jax.tree.leaves(states))


def test_rl_rs_baseline_begins_at_the_scale_of_its_hidden_layer() -> None:
    # 32 numbers say little: of many routers, 3,200 do to 6 %.
    routers: list[Any] = [a_router("rl-r", 256, 2, seed=seed) for seed in range(100)]
    many = jnp.stack([router.baseline_out for router in routers])
    assert float(jnp.std(many)) == pytest.approx(32**-0.5, rel=0.06)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_s_bases_logits_begin_at_the_scale_that_is_asked_for(scale: float) -> None:
    router: Any = a_router("s-base", 256, 64, options=SinkhornBase(init_scale=scale))
    assert float(jnp.std(router.weight)) == pytest.approx(scale / 16, rel=0.03)


def _products(jaxpr: Any) -> list[Any]:
    """Precisions of all matrix products of a program, those inside its loops among them."""
    found = [equation.params["precision"] for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    for equation in jaxpr.eqns:
        inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
        found += [precision for one in inner for precision in _products(getattr(one, "jaxpr", one))]
    return found


@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "hash"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_products_that_choices_depend_on_ask_for_the_highest_precision_and_no_others(name: str, dtype: str) -> None:
    # On CPU the default is as precise; a TPU's is bfloat16, which would move choices. So it is read in the program.
    router, x = a_router(name, 16, 4), jnp.asarray(some_logits(8, 16), dtype)

    def _route(router: Any) -> Any:
        routing = router(x, some_ids(8), key=jax.random.key(1), inference=False)
        return jnp.sum(routing.gates) + sum(jnp.sum(value) for value in routing.losses.values())

    highest = (jax.lax.Precision.HIGHEST,) * 2
    # Forward and backward, one product is that of the logits. RL-R's baseline has two more, and each has gradients.
    for program, others in ((_route, 2 * (name == "rl-r")), (eqx.filter_grad(_route), None)):
        precisions = _products(jax.make_jaxpr(program)(router).jaxpr)
        assert precisions.count(highest) == 1
        assert set(precisions) <= {highest, None}
        assert others is None or len(precisions) == 1 + others


def test_router_logits_are_float32_products_of_bfloat16_activations() -> None:
    jaxpr: Any = jax.make_jaxpr(router_logits)(jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros((3, 4)))
    (call,) = jaxpr.jaxpr.eqns
    (product,) = (equation for equation in call.params["call_jaxpr"].jaxpr.eqns if equation.primitive.name == "dot_general")
    assert [of.aval.dtype for of in (*product.invars, *product.outvars)] == [jnp.float32] * 3
