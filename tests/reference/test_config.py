"""A configuration that describes no model fails where it is made, in one line that says the fix; capacity by its definition."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.config import SIZES, ModelConfig, RouterConfig, Size, model_config
from reference.errors import ConfigError
from reference.routed import RoutedFeedForward
from reference.routers import ROUTERS, Hash, LossFree, Reinforce, SinkhornBase, Switch
from reference.transformer import Transformer
from tests.reference.small_models import small

SIZE = Size(16, 6, 2, 8)
NAN = math.nan


def _with_table(rows: int, choices: int, layers: int = 2) -> Transformer:
    return Transformer(small("hash"), key=jax.random.key(0), hash_tables=np.zeros((layers, rows, choices), np.int64))


def _balanced_without_counts() -> Transformer:
    return Transformer(ModelConfig(SIZE, RouterConfig(Hash("balanced"))), key=jax.random.key(0))


def _routed_without_table() -> RoutedFeedForward:
    return RoutedFeedForward(ModelConfig(SIZE, RouterConfig(Hash())), key=jax.random.key(0))


def _checked_with(config: Any, **fields: object) -> None:
    """The check of `config` with fields of types that the tests' own check of types does not let through."""
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    config.__post_init__()


BAD: list[tuple[str, str, Callable[[], object]]] = [
    # What is wrong, what the line says of the fix, how it is made.
    ("num_experts is 0", "at least 1", lambda: RouterConfig(num_experts=0)),
    ("num_experts is -1", "at least 1", lambda: RouterConfig(num_experts=-1)),
    ("num_experts is 2.5", "whole number", lambda: _checked_with(RouterConfig(), num_experts=2.5)),
    ("k is 0", "at least 1", lambda: RouterConfig(k=0)),
    ("k is 3 with 2 experts", "from 1 to num_experts", lambda: RouterConfig(num_experts=2, k=3)),
    ("k is 2", "at most 1 experts for a token", lambda: RouterConfig(Reinforce(), k=2)),
    ("capacity_factor is 0", "positive number, or None", lambda: RouterConfig(capacity_factor=0.0)),
    ("capacity_factor is -1", "positive number, or None", lambda: RouterConfig(capacity_factor=-1.0)),
    ("capacity_factor is nan", "positive number, or None", lambda: RouterConfig(capacity_factor=NAN)),
    ("evaluation_capacity_factor is inf", "positive number, or None", lambda: RouterConfig(evaluation_capacity_factor=math.inf)),
    ("sequences_per_group is 0", "at least 1", lambda: RouterConfig(sequences_per_group=0)),
    ("technique is 'Switch'", "Switch()", lambda: _checked_with(RouterConfig(), technique=Switch)),
    ("S-BASE's iterations is 1", "at least 2", lambda: SinkhornBase(iterations=1)),
    ("S-BASE's init_scale is 0", "more than 0", lambda: SinkhornBase(init_scale=0.0)),
    ("no hash table is called 'mod'", "modulo, random, balanced", lambda: _checked_with(Hash(), table="mod")),
    ("the hash table's seed is -1", "at least 0", lambda: Hash(seed=-1)),
    ("RL-R's policy_weight is nan", "finite", lambda: Reinforce(policy_weight=NAN)),
    ("RL-R's baseline_weight is -0.1", "at least 0", lambda: Reinforce(baseline_weight=-0.1)),
    ("RL-R's balance_weight is inf", "finite", lambda: Reinforce(balance_weight=math.inf)),
    ("RL-R's entropy_weight is nan", "finite", lambda: Reinforce(entropy_weight=NAN)),
    ("Switch's balance_weight is -1.0", "at least 0", lambda: Switch(balance_weight=-1.0)),
    ("Switch's z_weight is nan", "finite", lambda: Switch(z_weight=NAN)),
    ("d_model is 0", "at least 1", lambda: replace(SIZE, d_model=0)),
    ("d_model is 15", "make it even", lambda: replace(SIZE, d_model=15)),
    ("num_blocks is 0", "at least 1", lambda: replace(SIZE, num_blocks=0)),
    ("num_heads is 0", "at least 1", lambda: replace(SIZE, num_heads=0)),
    ("kqv_size is -4", "at least 1", lambda: replace(SIZE, kqv_size=-4)),
    ("vocabulary is 0", "at least 1", lambda: ModelConfig(vocabulary=0)),
    ("context is 0", "at least 1", lambda: ModelConfig(context=0)),
    ("'float16'", "float32, bfloat16, float64", lambda: _checked_with(ModelConfig(), dtype="float16")),
    ("d_model is 20", "multiple of 8", lambda: ModelConfig(replace(SIZE, d_model=20), RouterConfig(Reinforce()))),
    ("routing_frequency is 0.0", "use 1, 1/2, 1/3", lambda: ModelConfig(SIZE, RouterConfig(), 0.0)),
    ("routing_frequency is 1.5", "use 1, 1/2, 1/3", lambda: ModelConfig(SIZE, RouterConfig(), 1.5)),
    ("routing_frequency is nan", "use 1, 1/2, 1/3", lambda: ModelConfig(SIZE, RouterConfig(), NAN)),
    ("routing_frequency is 0.4, not 1/integer", "use 1, 1/2, 1/3", lambda: ModelConfig(SIZE, RouterConfig(), 0.4)),
    ("routing_frequency is 1/4, and num_blocks = 6 is not divisible", "a divisor of 6", lambda: ModelConfig(SIZE, RouterConfig(), 0.25)),
    ("routing_frequency is 1/12, and num_blocks = 6 is not divisible", "a divisor of 6", lambda: ModelConfig(SIZE, RouterConfig(), 1 / 12)),
    ("granularity is 3", "must divide the 64 columns", lambda: ModelConfig(SIZE, RouterConfig(granularity=3))),
    ("shared_experts is -1", "at least 0", lambda: RouterConfig(shared_experts=-1)),
    ("no drop_order is called 'last'", "position, choice, gate, random", lambda: _checked_with(RouterConfig(), drop_order="last")),
    ("loss-free's speed is 0", "more than 0", lambda: LossFree(speed=0.0)),
    ("no size is called '15m'", "15M, 25M", lambda: model_config("15m", "dense")),
    ("no router is called 'base'", "dense, s-base, hash, rl-r, switch, loss-free", lambda: model_config("15M", "base")),
    ("22 rows for a vocabulary of 23", "one row per token id", lambda: _with_table(rows=22, choices=1)),
    ("2 experts per token, but k is 1", "give it k columns", lambda: _with_table(rows=23, choices=2)),
    ("3 hash tables for 2 routed layers", "one for each", lambda: _with_table(rows=23, choices=1, layers=3)),
    ("no token_counts", 'use "modulo"', _balanced_without_counts),
    ("given no table", "routers.hash.hash_table", _routed_without_table),
]


@pytest.mark.parametrize(("wrong", "fix", "make"), BAD, ids=[wrong for wrong, _, _ in BAD])
def test_a_bad_configuration_fails_in_one_line_with_the_fix(wrong: str, fix: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    line = str(raised.value)
    assert wrong in line
    assert fix in line
    assert "\n" not in line
    assert len(line) <= 160


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("technique", ["dense", *ROUTERS])
def test_every_size_and_technique_makes_a_configuration_by_name(size: str, technique: str) -> None:
    config = model_config(size, technique, num_experts=128)
    assert config.size == SIZES[size]
    assert (config.router is None) == (technique == "dense")
    assert config.routed_layers == (0 if technique == "dense" else config.size.num_blocks // 2)


def test_a_model_by_name_has_what_was_asked_for() -> None:
    found = model_config("15M", "switch", 8, 2, 1 / 3, granularity=2, shared_experts=1, vocabulary=50, context=64)
    router = RouterConfig(Switch(), 8, 2, granularity=2, shared_experts=1)
    assert found == ModelConfig(SIZES["15M"], router, 1 / 3, vocabulary=50, context=64)


def test_a_weight_of_zero_turns_a_loss_off() -> None:
    assert Switch(balance_weight=0.0, z_weight=0.0).z_weight == 0


@pytest.mark.parametrize("period", range(1, 13))
def test_a_routing_frequency_written_as_a_decimal_is_its_fraction(period: int) -> None:
    config = ModelConfig(replace(SIZE, num_blocks=2 * period), RouterConfig(), routing_frequency=float(f"{1 / period:.8g}"))
    assert (config.period, config.routed_layers) == (period, 2)


def test_numpy_integers_are_whole_numbers() -> None:
    _checked_with(Size(16, 6, 2, 8), num_blocks=np.int64(6))


FACTORS = st.floats(1e-6, 1e300)
COUNTS = st.integers(1, 4096)


@given(factor=FACTORS, tokens=COUNTS, num_experts=st.integers(1, 1024), data=st.data())
def test_capacity_is_the_mean_load_times_the_factor_rounded_up_and_at_most_the_group(
    factor: float, tokens: int, num_experts: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, num_experts))
    router = RouterConfig(Switch(), num_experts, k, capacity_factor=factor)
    capacity = router.capacity(tokens, inference=False)
    assert capacity is not None
    assert 1 <= capacity <= tokens
    share = Fraction(repr(factor)) * k * tokens / num_experts
    assert share <= capacity < share + 1 or capacity == tokens <= share


def test_capacity_is_exact_where_floats_round() -> None:
    # 1.1 * 100 / 10 is 11.000000000000002 in floats.
    assert RouterConfig(num_experts=10, capacity_factor=1.1).capacity(100, inference=False) == 11


def test_a_group_left_to_the_batch_has_64_tokens_an_expert_and_divides_what_a_device_holds() -> None:
    router = RouterConfig(num_experts=512)
    assert [router.group_of(sequences, 2048) for sequences in (4, 16, 24, 32)] == [4, 16, 24, 16]
    assert [RouterConfig(num_experts=8).group_of(32, context) for context in (128, 512)] == [4, 1]
    assert RouterConfig(num_experts=8, sequences_per_group=1).group_of(32, 128) == 1
    assert RouterConfig(num_experts=8, sequences_per_group=4).group_of(6, 128, inference=True) == 2


@given(tokens=COUNTS, num_experts=st.integers(1, 1024))
def test_a_capacity_factor_of_one_gives_room_for_every_choice(tokens: int, num_experts: int) -> None:
    capacity = RouterConfig(Switch(), num_experts, capacity_factor=1.0).capacity(tokens, inference=False)
    assert capacity is not None
    assert capacity * num_experts >= tokens


@given(smaller=FACTORS, larger=FACTORS, tokens=COUNTS)
def test_capacity_grows_with_its_factor(smaller: float, larger: float, tokens: int) -> None:
    smaller, larger = sorted((smaller, larger))
    capacities = [RouterConfig(capacity_factor=factor).capacity(tokens, inference=False) for factor in (smaller, larger)]
    assert capacities[0] is not None
    assert capacities[1] is not None
    assert capacities[0] <= capacities[1]


def test_training_and_evaluation_have_capacities_of_their_own() -> None:
    router = RouterConfig(Switch(), num_experts=4, k=2, capacity_factor=1.25, evaluation_capacity_factor=2.0)
    assert (router.capacity(10, inference=False), router.capacity(10, inference=True)) == (7, 10)
    defaults = RouterConfig(Switch(), num_experts=4)
    assert (defaults.capacity(10, inference=False), defaults.capacity(10, inference=True)) == (4, None)
