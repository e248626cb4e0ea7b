"""The closed forms of `reference.count` against the modules: every weight and every matrix product, as shapes; nothing is computed."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from benchmarks.products import product_flops
from plan.memory import Step
from plan.traffic import again_flops
from reference.config import SIZES, ModelConfig, RouterConfig, Size, model_config
from reference.count import expert_slots, held_parameters, matmul_flops, parameters, training_flops
from reference.dispatch import block_length, num_blocks
from reference.errors import ConfigError
from reference.objective import objective
from reference.routers import ROUTERS, Hash, Reinforce, SinkhornBase, Switch
from reference.transformer import Transformer, partition_weights

ROOT = Path(__file__).parents[2]

SMALL = Size(d_model=16, num_blocks=6, num_heads=3, kqv_size=4)
SEQUENCES, CONTEXT, VOCABULARY = 4, 10, 37

GROUPS = {
    "attention": ("attention.",),
    "norms": ("attention_norm.", "feedforward_norm."),
    "experts": ("feedforward.experts.", "feedforward.shared."),
    "baseline": ("feedforward.router.baseline_in", "feedforward.router.baseline_out"),
    "router": ("feedforward.router.weight",),
    "feed_forward": ("feedforward.w_in", "feedforward.w_out"),
    "final_norm": ("final_norm.",),
    "embedding": ("embedding",),
}
"""How the names of the modules' arrays begin, in each group of the count; within a block, its path aside."""


def shapes(config: ModelConfig) -> tuple[Transformer, PRNGKeyArray]:
    """A model's arrays and a key, as shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return eqx.filter_eval_shape(Transformer, config, key=key), key


def held(model: Transformer) -> dict[str, int]:
    """Sizes of the model's weights, by the count's groups."""
    sizes: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(partition_weights(model)[0]):
        name = ".".join(part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey)).removeprefix("groups.blocks.")
        (group,) = (group for group, starts in GROUPS.items() if name.startswith(starts))
        sizes[group] += leaf.size
    return {group: sizes[group] for group in GROUPS}


def small(router: RouterConfig | None, frequency: float = 1 / 3, sequences: int | None = 1) -> ModelConfig:
    """A small model; sizes have no common factors to speak of, so that no two counts agree by accident."""
    router = replace(router, sequences_per_group=sequences) if router else None
    return ModelConfig(SMALL, router, frequency, VOCABULARY, CONTEXT)


CONFIGS = {
    "dense": small(None),
    **{name: small(RouterConfig(technique(), 5)) for name, technique in ROUTERS.items()},
    "s-base, k=2": small(RouterConfig(SinkhornBase(), 7, 2), 1 / 2),
    "switch, R=1, two sequences to a group": small(RouterConfig(Switch(), 3, 3), 1.0, 2),
    "hash, more experts than tokens": small(RouterConfig(Hash(), 11, 1)),
    "rl-r, capacity 0.5": small(RouterConfig(Reinforce(), 2, 1, 0.5, 0.5)),
    "switch, fine experts, three shared": small(RouterConfig(Switch(), 5, 4, granularity=4, shared_experts=3)),
    "switch, groups by the batch": small(RouterConfig(Switch(), 2), sequences=None),
    "padded vocabulary": replace(small(RouterConfig(Switch(), 2)), vocabulary_multiple=8),
}


each_router = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("technique", ["dense", *ROUTERS])
def test_the_modules_of_every_size_hold_the_counted_weights_group_by_group(size: str, technique: str) -> None:
    config = model_config(size, technique, 64)
    assert held(shapes(config)[0]) == asdict(held_parameters(config))


@each_router
def test_the_modules_hold_the_counted_weights_at_every_k_and_frequency(config: ModelConfig) -> None:
    assert held(shapes(config)[0]) == asdict(held_parameters(config))


@each_router
@pytest.mark.parametrize("inference", [False, True])
def test_a_forward_pass_multiplies_what_the_closed_form_says(config: ModelConfig, inference: bool) -> None:
    def _forward(model: Transformer, tokens: Int[Array, "batch context"], key: PRNGKeyArray) -> PyTree:
        return model(tokens, key=key, inference=inference)

    model, key = shapes(config)
    tokens = jax.ShapeDtypeStruct((SEQUENCES, CONTEXT), jnp.int32)
    assert product_flops(_forward, model, tokens, key) == matmul_flops(config, SEQUENCES, inference=inference).total


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"attention": "chunked"},
    "selective": {"remat": "selective"},
    "selective, chunks": {"remat": "selective", "attention": "chunked"},
    "full": {"remat": "full"},
}


@each_router
@pytest.mark.parametrize("form", FORMS)
def test_a_training_step_multiplies_what_the_closed_form_says_but_where_no_gradient_is_wanted(config: ModelConfig, form: str) -> None:
    config = replace(config, **FORMS[form])

    def _step(model: Transformer, tokens: Int[Array, "batch context_and_one"], key: PRNGKeyArray) -> PyTree:
        weights, rest = partition_weights(model)

        def _loss(weights: Transformer) -> tuple[Float[Array, ""], PyTree]:
            return objective(eqx.combine(weights, rest), tokens, key=key)

        return jax.value_and_grad(_loss, has_aux=True)(weights)

    model, key = shapes(config)
    multiplied = product_flops(_step, model, jax.ShapeDtypeStruct((SEQUENCES, CONTEXT + 1), jnp.int32), key)
    # The sinusoids are constant, and RL-R stops the gradient to what its policy and its baseline's first matrix read.
    sinusoids = SMALL.num_blocks * 2 * CONTEXT * SMALL.d_model * SMALL.num_heads * SMALL.kqv_size
    stopped = 0
    if config.router and isinstance(config.router.technique, Reinforce):
        read = config.router.num_experts + SMALL.d_model // 8
        stopped = config.routed_layers * 2 * SEQUENCES * CONTEXT * SMALL.d_model * read
    assert multiplied == training_flops(config, SEQUENCES) + again_flops(Step(config, SEQUENCES)).total - sinusoids - stopped


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
def test_slots_without_dropping_are_the_blocks_of_the_dispatch(context: int, num_experts: int, k: int, per_group: int) -> None:
    router = RouterConfig(Switch(), num_experts, min(k, num_experts), sequences_per_group=per_group)
    # All sequences of a device are one group where nothing is dropped.
    choices = router.k * 2 * per_group * context
    blocks = num_blocks(choices, num_experts) * block_length(choices, num_experts)
    config = ModelConfig(SMALL, router, context=context)
    assert expert_slots(config, 2 * per_group, inference=True) == blocks


def test_sequences_that_do_not_come_out_even_in_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 sequences"):
        matmul_flops(CONFIGS["switch, R=1, two sequences to a group"], 3, inference=False)


def test_hash_is_the_only_router_whose_count_and_modules_differ() -> None:
    for name, config in CONFIGS.items():
        padded = name == "padded vocabulary"
        assert (held(shapes(config)[0]) == asdict(parameters(config))) == (not name.startswith("hash") and not padded)


def test_products_in_a_scan_count_as_often_as_it_runs_and_in_a_while_loop_are_refused() -> None:
    x, y = jax.ShapeDtypeStruct((3, 3), jnp.float32), jax.ShapeDtypeStruct((7, 3, 3), jnp.float32)

    def _scan(x: Float[Array, "3 3"], ys: Float[Array, "7 3 3"]) -> Float[Array, "3 3"]:
        return jax.lax.scan(lambda carry, y: (jax.jit(jnp.dot)(carry, y), None), x, ys)[0]

    def _while(x: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

    assert product_flops(_scan, x, y) == 7 * 2 * 3**3
    with pytest.raises(ValueError, match="while"):
        product_flops(_while, x)


def test_xla_counts_the_products_and_little_more(tmp_path: Path) -> None:
    options = (
        "--router",
        "dense",
        "s-base",
        "--context",
        "32",
        "--vocabulary",
        "64",
        "--experts",
        "4",
        "--json",
        str(tmp_path / "flops.json"),
    )
    subprocess.run([sys.executable, "-m", "benchmarks.flops", *options], cwd=ROOT, capture_output=True, check=True)
    counts = json.loads((tmp_path / "flops.json").read_text())["counts"]
    assert list(counts) == ["dense", "s-base, training", "s-base, evaluation"]
    for count in counts.values():
        assert count["walked"] == count["products"]
        # An operation per element comes to a few per cent even at width 64; a part left out or counted twice, to tens of them.
        assert count["products"] < count["unrolled"] < 1.1 * count["products"]
