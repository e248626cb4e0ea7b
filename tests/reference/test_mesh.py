"""Any mesh of 8 devices gives what one device gives. `sharded_worker.py` computes it, in a process that has 8 (simulated) devices."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from plan.traffic import Step, step_traffic
from reference.config import SIZES, ModelConfig, RouterConfig, Size, check_shape, model_config
from reference.errors import ConfigError
from reference.mesh import DATA, EXPERT, MODEL, make_mesh, parameter_specs
from reference.routers import ROUTERS
from reference.transformer import Transformer
from tests.checks import HANG_SECONDS, on_devices

pytestmark = pytest.mark.whole

TECHNIQUES = ("dense", *ROUTERS)
# Fine and shared experts, with the one router whose state moves by the load.
FINE: dict[str, Any] = {"granularity": 2, "shared_experts": 1}
# Every way to write 8 as data x expert x model.
MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (4, 1, 2), (2, 4, 1), (1, 4, 2), (2, 1, 4), (1, 2, 4), (2, 2, 2))
# On meshes only sums are taken in another order. In float64 that moves a number by some 1e-15 of the array's largest; AdamW divides
# by a gradient plus its epsilon of 1e-2 and no more than doubles it, and the marginal error, itself near 1e-6, is a difference of
# numbers near 1. A wrong scale, a missing device or a doubled sum changes the leading digits.
FLOAT64 = 1e-9
# In float32 it is some 1e-7 each, over sums of a few hundred numbers.
FLOAT32 = 1e-4


def compare(cases: list[dict[str, Any]], evaluations: list[dict[str, Any]] | None = None, *, x64: bool = True) -> list[dict[str, Any]]:
    """What the worker finds for each case, and then for each evaluation."""
    request = {"x64": x64, "cases": cases, "evaluations": evaluations or []}
    command = [sys.executable, str(Path(__file__).with_name("sharded_worker.py")), json.dumps(request)]
    done = subprocess.run(command, env=on_devices(8), capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def assert_equal(found: dict[str, Any], tolerance: float) -> None:
    """That gradient, state, training and evaluation reports are the single device's, and not all zero."""
    assert max(found["distances"].values()) < tolerance, found["distances"]
    assert found["gradient"] > 1e-3


CASES: dict[str, dict[str, Any]] = {
    "experts": {"technique": "s-base", "mesh": [1, 8, 1], "k": 2},
    "all axes": {"technique": "s-base", "mesh": [2, 2, 2], "k": 2},
    "dense": {"technique": "dense", "mesh": [2, 2, 2]},
    "switch, two sequences a group": {"technique": "switch", "mesh": [4, 1, 2], "sequences_per_group": 2},
    "loss-free, unrolled": {"technique": "loss-free", "mesh": [2, 4, 1], "k": 2, "unroll": 2, **FINE},
    "FSDP of experts on all devices": {"technique": "hash", "mesh": [1, 8, 1], "fsdp": True},
    "FSDP of all that saves memory": {
        "technique": "rl-r",
        "mesh": [2, 2, 2],
        "attention": "chunked",
        "remat": "selective",
        "microbatches": 2,
        "fsdp": True,
    },
}


# Evaluations of uneven text, and how many rounds the fullest expert needs: with k = 1 all of a group's tokens go to one of eight, and a
# round takes a quarter of them; with k = 2 half of the choices do.
EVALUATIONS: dict[str, tuple[dict[str, Any], int]] = {
    "uneven": ({"technique": "s-base", "mesh": [2, 2, 2], "fsdp": True}, 4),
    "uneven with two choices": ({"technique": "switch", "mesh": [1, 8, 1], "k": 2, **FINE}, 2),
}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What one run of the worker finds for `CASES` and `EVALUATIONS`."""
    results = compare(list(CASES.values()), [options for options, _ in EVALUATIONS.values()])
    return dict(zip([*CASES, *EVALUATIONS], results, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_mesh_gives_the_gradient_weights_and_losses_of_one_device(found: dict[str, dict[str, Any]], case: str) -> None:
    assert_equal(found[case], FLOAT64)


@pytest.mark.parametrize("case", EVALUATIONS)
def test_an_evaluation_in_several_rounds_is_that_of_one_device(found: dict[str, dict[str, Any]], case: str) -> None:
    # On one device there are no rounds: experts work on blocks of tokens.
    assert found[case]["rounds"] == EVALUATIONS[case][1]
    assert found[case]["dropped"] == 0
    # Logits of size three, and 1e-14 was measured: any token that misses its expert is off by a tenth and more.
    assert found[case]["logits"] < FLOAT64
    assert found[case]["loss"] < FLOAT64


@pytest.mark.parametrize("case", EVALUATIONS)
def test_on_a_mesh_texts_read_a_token_at_a_time_have_the_logits_of_one_devices_full_pass(
    found: dict[str, dict[str, Any]], case: str
) -> None:
    assert found[case]["decoded"] < FLOAT64


@pytest.mark.parametrize("case", EVALUATIONS)
def test_an_evaluation_sends_tokens_to_the_experts_and_gathers_no_expert(found: dict[str, dict[str, Any]], case: str) -> None:
    moved, layers, tokens, experts = found[case]["collectives"], 2, 16 * 8, 8
    # There and back in each of two layers; the loop over rounds is counted as one.
    assert moved["all-to-all"]["runs"] == 2 * layers
    # XLA on CPU takes the largest of the routers' float64 logits where all of them are; and the embedding is read whole. Nothing else.
    assert moved["all-gather"]["bytes"] <= layers * tokens * experts * 8 + 32 * 16 * 8
    # One layer's experts alone would be far more.
    assert moved["all-gather"]["bytes"] < found[case]["expert_bytes"] / layers / 2


@pytest.mark.parametrize("case", EVALUATIONS)
def test_on_a_mesh_an_id_that_is_not_in_the_vocabulary_makes_its_sequence_nan(found: dict[str, dict[str, Any]], case: str) -> None:
    assert found[case]["nan"] == found[case]["some_nan"] == [5]


@pytest.mark.parametrize("case", ["experts", "all axes"])
def test_each_device_keeps_its_share_of_the_optimizer_state_and_no_more(found: dict[str, dict[str, Any]], case: str) -> None:
    data, expert, model = CASES[case]["mesh"]
    d, layers, experts, vocabulary = 16, 2, 8, 32
    # D x A is 16 x 16: five matrices a block; E experts of 8 D^2; the tied embedding. All of these have a dimension for `model`.
    spread = layers * (5 * d * d + experts * 8 * d * d) + vocabulary * d
    # Two norms a block and the last one, of 2 D each; routers of D x E.
    rest = layers * (4 * d + d * experts) + 2 * d
    # Two moments of 8 bytes a weight.
    expected = 16 * (spread // (data * expert * model) + rest // (data * expert))
    assert found[case]["moment_bytes"] == [expected] * 8


def test_a_step_moves_tokens_to_their_experts_and_back_and_gathers_nothing_but_updated_weights(found: dict[str, dict[str, Any]]) -> None:
    moved = found["experts"]["collectives"]
    # There and back, forward and backward, in each of two blocks.
    assert moved["all-to-all"]["runs"] == 4 * 2
    # What a block's pass gathered would be in the loop over blocks, and so run more often than it is written.
    assert moved["all-gather"]["runs"] == moved["all-gather"]["instructions"]
    # The embedding and attention's five matrices are summed into shares; experts are on one device each, so their gradients need no sum.
    assert moved["reduce-scatter"]["bytes"] == 8 * (32 * 16 + 5 * 2 * 16 * 16)


@pytest.mark.parametrize("case", CASES)
def test_closed_forms_of_collectives_are_what_the_compiled_step_moves(found: dict[str, dict[str, Any]], case: str) -> None:
    options = CASES[case]
    router = None
    if options["technique"] != "dense":
        per_group = options.get("sequences_per_group", 1)
        router = RouterConfig(
            ROUTERS[options["technique"]](),
            8,
            options.get("k", 1),
            sequences_per_group=per_group,
            **{name: options[name] for name in FINE if name in options},
        )
    forms: Any = {name: options[name] for name in ("attention", "remat") if name in options}
    config = ModelConfig(Size(16, 2, 8, 2), router, 1.0, vocabulary=32, context=8, dtype="float64", **forms)
    data, expert, model = options["mesh"]
    step = Step(config, 16, options.get("microbatches", 1), (data, expert, model), options.get("fsdp", False))
    closed, moved = step_traffic(step), found[case]["collectives"]
    for kind in ("all-to-all", "all-gather", "reduce-scatter"):
        # XLA on CPU does not divide a top_k: the routers' logits of all 16 * 8 tokens are gathered for it, once in each layer.
        more = 2 * 16 * 8 * 8 * 8 if kind == "all-gather" and options["technique"] in ("switch", "loss-free") else 0
        assert moved[kind]["bytes"] == closed.total(kind) + more, kind
    # Left out: losses and metrics, a number each or one for an expert or a token of the context; with a model axis also the softmax's
    # sums for each of the 16 * 8 tokens.
    left_out = moved["all-reduce"]["bytes"] - closed.total("all-reduce")
    assert 0 <= left_out <= step.microbatches * 8 * (80 + (5 * 16 * 8 // (data * expert) if model > 1 else 0))


@pytest.mark.slow
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_mesh_of_eight_devices_gives_what_one_device_gives(technique: str) -> None:
    several = technique != "dense" and ROUTERS[technique].max_k is None
    cases: list[dict[str, Any]] = [{"technique": technique, "mesh": mesh, "k": 2 if several else 1} for mesh in MESHES]
    # Two sequences a group: no more devices along data x expert than the 8 groups.
    if technique != "dense":
        cases += [{**case, "sequences_per_group": 2} for case in cases[-2:]]
    for result in compare(cases):
        assert_equal(result, FLOAT64)


@pytest.mark.slow
def test_single_precision_differs_by_rounding_only() -> None:
    cases: list[dict[str, Any]] = [{"technique": name, "mesh": [2, 2, 2], "dtype": "float32"} for name in TECHNIQUES]
    for result in compare(cases, x64=False):
        # The marginal error is nothing but rounding in float32.
        assert_equal({**result, "distances": {k: v for k, v in result["distances"].items() if k != "training"}}, FLOAT32)


def test_a_matrix_that_no_layout_names_is_refused_in_a_line() -> None:
    class Unknown(eqx.Module):
        w_across: Float[Array, "d_model hidden"]
        scale: Float[Array, "d_model"]

    class Around(eqx.Module):
        inner: eqx.Module

    class Router(eqx.Module):
        router: eqx.Module

    unknown = Unknown(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(ConfigError, match=r"no layout is known for the array inner\.w_across; add it to reference/mesh.py") as error:
        parameter_specs(Around(unknown))
    assert "\n" not in str(error.value)
    # Vectors, and all that is a router's, are whole on every device.
    assert jax.tree.leaves(parameter_specs(Router(unknown)), is_leaf=lambda leaf: isinstance(leaf, P)) == [P(), P()]


def test_every_matrix_of_a_model_has_a_layout_of_its_own() -> None:
    config = ModelConfig(Size(16, 2, 8, 2), RouterConfig(ROUTERS["rl-r"](), 8, **FINE), vocabulary=32)
    model = eqx.filter_eval_shape(Transformer, config, key=jax.random.key(0))
    specs = parameter_specs(model)
    routed, dense = (specs.groups.blocks[which] for which in (1, 0))
    # The first axis is that of the groups of blocks.
    assert routed.feedforward.experts.w_in == P(None, EXPERT, None, MODEL)
    assert routed.feedforward.shared.w_in == dense.feedforward.w_in == P(None, None, MODEL)
    assert routed.feedforward.shared.w_out == dense.feedforward.w_out == P(None, MODEL, None)
    assert routed.feedforward.router.weight == routed.feedforward.router.baseline_in == P()
    assert specs.embedding == P(MODEL, None)


def mesh(data: int = 1, expert: int = 1, model: int = 1) -> AbstractMesh:
    """Its shape alone."""
    return AbstractMesh((data, expert, model), (DATA, EXPERT, MODEL))


SMALL = model_config("15M", "s-base", num_experts=8)


@pytest.mark.parametrize(
    ("config", "shape", "batch", "words"),
    [
        (SMALL, mesh(model=16), 16, "num_heads = 8 is not divisible by the model axis (16)"),
        (
            replace(SMALL, size=replace(SIZES["15M"], num_heads=3, d_model=514)),
            mesh(model=3),
            16,
            "the hidden width = 2056 is not divisible",
        ),
        (replace(SMALL, vocabulary=31_999), mesh(model=2), 16, "the embedding's rows = 31999 is not divisible"),
        (SMALL, mesh(expert=3), 15, "num_experts = 8 is not divisible by the expert axis (3)"),
        (SMALL, mesh(data=2, expert=4), 12, "sequences of a batch = 12 is not divisible by the data x expert axis (8)"),
        (
            replace(SMALL, router=RouterConfig(num_experts=8, sequences_per_group=4)),
            mesh(data=8),
            16,
            "2 sequences on a device are not divisible",
        ),
        (replace(SMALL, router=RouterConfig(num_experts=8, sequences_per_group=4)), mesh(), 6, "6 sequences on a device are not divisible"),
    ],
)
def test_a_mesh_that_does_not_fit_the_model_is_refused_in_one_line(
    config: ModelConfig, shape: AbstractMesh, batch: int, words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_shape(config, shape.shape, batch)
    assert words in str(error.value)
    assert "use a" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mesh_that_fits_the_model_is_accepted() -> None:
    check_shape(SMALL, mesh(2, 4, 2).shape, 8)
    check_shape(ModelConfig(), mesh(2, 3, 8).shape, 6)


def test_a_mesh_of_more_devices_than_there_are_is_refused_with_their_number() -> None:
    with pytest.raises(ConfigError, match=f"= {7 * 2}, but there are {len(jax.devices())} devices"):
        make_mesh(7, 2, 1)
