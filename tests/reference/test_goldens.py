"""`reference` gives what the independent oracle wrote down, in float64 to 1e-10 and in float32 to its rounding.

Routers, dispatch and attention by themselves, then whole models in training and evaluation: logits, every loss, metric and choice, and the
gradient of the total by every weight. `test_goldens_broken.py` shows that these comparisons fail where they should.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden.cases import cases, load
from reference.routers.sinkhorn_base import sinkhorn
from tests.reference.golden_runs import (
    disagreements,
    expected_of_model,
    expected_of_router,
    model_step,
    outcome_of_attention,
    outcome_of_dispatch,
    outcome_of_model,
    outcome_of_router,
    three_steps,
)

# Both sides compute in float64; what is left is the order of sums: 1e-14 in the worst entry (measured).
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}
# Rounding to 6e-8 of numbers of size one to a hundred that are summed: 3e-6 in the worst entry, and 1.1e-5 where logits are 1e3 (measured).
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
DTYPES = {"float64": FLOAT64, "float32": FLOAT32}
# A step is 4e-3 long: in it the second order of things, like epsilon's, is 1e-8.
STEP = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("name", cases("router"))
def test_a_router_alone_agrees_with_the_oracle_in_float64(name: str) -> None:
    assert disagreements(outcome_of_router(name, "float64"), expected_of_router(load(name)), **FLOAT64) == []


@pytest.mark.parametrize(
    "name", [f"router_{which}" for which in ("s_base_k2", "s_base_large_logits", "s_base_equal_logits", "rl_r", "switch_k2")]
)
def test_a_router_alone_agrees_with_the_oracle_in_float32(name: str) -> None:
    assert disagreements(outcome_of_router(name, "float32"), expected_of_router(load(name)), **FLOAT32) == []


@pytest.mark.parametrize("name", [name for name in cases("router") if "training/log_plan" in load(name).outputs])
@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 4e-15), ("float32", 2e-6)])
def test_the_plan_agrees_with_the_oracles(name: str, dtype: Any, rounding: float) -> None:
    outputs = load(name).outputs
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(sinkhorn(jnp.asarray(outputs["training/logits"], dtype), 10))
    # Ten iterations round numbers of the size of the logits' spread, each to half an ulp: less than 20 ulps of it.
    spread = max(1.0, float(np.ptp(outputs["training/logits"])))
    np.testing.assert_allclose(found, outputs["training/log_plan"], rtol=0, atol=rounding * spread)


@pytest.mark.parametrize("name", cases("dispatch"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_dispatch_alone_agrees_with_the_oracle(name: str, dtype: str) -> None:
    assert disagreements(outcome_of_dispatch(name, dtype), load(name).outputs, **DTYPES[dtype]) == []


def test_blocks_that_drop_none_agree_with_the_oracle() -> None:
    found = outcome_of_dispatch("dispatch_roomy", "float64", in_blocks=True)
    assert disagreements(found, load("dispatch_roomy").outputs, **FLOAT64) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_alone_agrees_with_the_oracle(dtype: str) -> None:
    assert disagreements(outcome_of_attention("attention", dtype), load("attention").outputs, **DTYPES[dtype]) == []


@pytest.mark.parametrize("name", cases("model"))
def test_a_model_agrees_with_the_oracle_in_float64(name: str) -> None:
    assert disagreements(outcome_of_model(name, "float64"), expected_of_model(load(name)), **FLOAT64) == []


@pytest.mark.parametrize("name", ["model_s_base_k2_pairs", "model_rl_r", "model_switch_k2_pairs"])
def test_a_model_agrees_with_the_oracle_in_float32(name: str) -> None:
    assert disagreements(outcome_of_model(name, "float32"), expected_of_model(load(name)), **FLOAT32) == []


def test_three_steps_of_the_optimizer_agree_with_the_oracle() -> None:
    case = load("adamw")
    assert disagreements(three_steps(), case.outputs, **STEP) == []


def test_a_step_of_the_optimizer_on_a_models_weights_agrees_with_the_oracle() -> None:
    # In a model layers are stacked: what decays is told by the rank that a weight has in one layer.
    outputs = load("model_rl_r_pairs").outputs
    expected = {name.removeprefix("adamw/"): value for name, value in outputs.items() if name.startswith("adamw/")}
    assert disagreements(model_step(), expected, **STEP) == []
