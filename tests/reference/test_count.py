"""N, P and F: the release's integers."""

import csv
import gzip
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.config import SIZES, ModelConfig, RouterConfig, Size, model_config
from reference.count import (
    dense_parameter_count,
    expert_slots,
    flops_per_step,
    flops_per_token,
    held_parameters,
    matmul_flops,
    parameters,
    total_parameter_count,
    widened,
)
from reference.errors import ConfigError
from reference.routers import ROUTERS, Reinforce

ROOT = Path(__file__).parents[2]

TABLE = Path(__file__).parent / "released_counts.csv"

SOURCE = "# github.com/google-deepmind/scaling_laws_for_routing, data/curves.csv.gz, (c) 2022 DeepMind Technologies Limited, CC-BY 4.0"
SETTINGS = (
    "hyper_id",
    "router_type",
    "num_experts",
    "k",
    "routing_frequency",
    "flop_increase",
    "d_model",
    "num_blocks",
    "num_heads",
    "kqv_size",
)
COUNTS = ("dense_parameter_count", "total_parameter_count", "flops_per_step")


def table_of(release: Path) -> str:
    """The committed table, made from the released curves: a row per run, whole numbers without a decimal point."""
    with gzip.open(release, "rt") as file:
        rows = {row["hyper_id"]: row for row in csv.DictReader(file)}
    columns = (*SETTINGS, *COUNTS)
    lines = (",".join(row[column].removesuffix(".0") for column in columns) for row in rows.values())
    return "\n".join((SOURCE, ",".join(columns), *lines)) + "\n"


def configured(run: dict[str, str]) -> ModelConfig:
    """The model of a released run, from its settings."""
    size = Size(*(int(run[name]) for name in ("d_model", "num_blocks", "num_heads", "kqv_size")))
    frequency = float(run["routing_frequency"])
    if run["router_type"] == "Dense":
        return widened(ModelConfig(size, routing_frequency=frequency), int(run["flop_increase"]))
    technique = ROUTERS[run["router_type"].lower()]()
    return ModelConfig(size, RouterConfig(technique, int(run["num_experts"]), int(run["k"])), frequency)


@st.composite
def configurations(draw: st.DrawFn) -> ModelConfig:
    """Routed models of every technique and shape."""
    technique = draw(st.sampled_from(sorted(ROUTERS)))
    period, groups = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    size = Size(8 * draw(st.integers(1, 300)), period * groups, draw(st.integers(1, 64)), draw(st.integers(1, 256)))
    experts = draw(st.integers(1, 1024))
    k = 1 if technique == "rl-r" else draw(st.integers(1, min(experts, 8)))
    vocabulary, context = draw(st.integers(1, 10**6)), draw(st.integers(1, 10**5))
    return ModelConfig(size, RouterConfig(ROUTERS[technique](), experts, k), 1 / period, vocabulary, context)


def with_router(config: ModelConfig, num_experts: int, k: int) -> ModelConfig:
    """The same with other experts."""
    assert config.router is not None
    return replace(config, router=replace(config.router, num_experts=num_experts, k=k))


def released_runs() -> list[dict[str, str]]:
    """The rows of the committed table."""
    return list(csv.DictReader(TABLE.read_text().splitlines()[1:]))


def test_the_counts_of_all_223_released_runs_are_reproduced_to_the_last_integer() -> None:
    runs = released_runs()
    assert len(runs) == 223
    for run in runs:
        config = configured(run)
        found = (dense_parameter_count(config), total_parameter_count(config), flops_per_step(config))
        assert found == tuple(int(run[name]) for name in COUNTS), f"hyper_id {run['hyper_id']}"


def test_the_committed_table_is_the_releases(release: Path) -> None:
    assert TABLE.read_text() == table_of(release)


def test_the_named_sizes_have_the_papers_parameter_counts() -> None:
    # The paper's labels, which round to two or three digits; 15M and 25M are within a tenth.
    for label, size in SIZES.items():
        named = float(label[:-1]) * {"M": 1e6, "B": 1e9}[label[-1]]
        assert dense_parameter_count(ModelConfig(size)) == pytest.approx(named, rel=0.105)


@given(configurations())
def test_one_expert_costs_the_dense_model_and_its_router(config: ModelConfig) -> None:
    one, dense = with_router(config, 1, 1), replace(config, router=None)
    assert dense_parameter_count(one) == dense_parameter_count(dense) == total_parameter_count(dense)
    extra = parameters(one).router + parameters(one).baseline
    assert total_parameter_count(one) - total_parameter_count(dense) == extra
    assert flops_per_token(one).total - flops_per_token(dense).total == 2 * extra


@given(configurations(), st.integers(1, 100))
def test_an_expert_more_adds_its_weights_and_no_work_but_the_routers(config: ModelConfig, more: int) -> None:
    assert config.router is not None
    larger = with_router(config, config.router.num_experts + more, config.router.k)
    expert = config.routed_layers * 8 * config.size.d_model**2
    router = config.routed_layers * config.size.d_model
    assert dense_parameter_count(larger) == dense_parameter_count(config)
    assert total_parameter_count(larger) - total_parameter_count(config) == more * (expert + router)
    assert flops_per_token(larger).total - flops_per_token(config).total == more * 2 * router


@given(configurations())
def test_a_choice_more_adds_the_work_of_an_expert_and_no_weights(config: ModelConfig) -> None:
    assert config.router is not None
    experts, k = config.router.num_experts, config.router.k
    if isinstance(config.router.technique, Reinforce):  # chooses one
        return
    less = with_router(config, experts + 1, k)
    more = with_router(config, experts + 1, k + 1)
    assert total_parameter_count(more) == total_parameter_count(less)
    assert flops_per_token(more).total - flops_per_token(less).total == config.routed_layers * 16 * config.size.d_model**2


@given(configurations())
def test_every_part_is_an_integer_and_none_is_negative(config: ModelConfig) -> None:
    # A float would lose the last digits of F, which passes 2^53 for the largest models.
    for parts in (parameters(config), held_parameters(config), flops_per_token(config)):
        for value in (*asdict(parts).values(), parts.total):
            assert type(value) is int
            assert value >= 0


@given(configurations())
def test_all_weights_are_p_and_the_embedding_and_the_final_norm(config: ModelConfig) -> None:
    outside = config.vocabulary * config.size.d_model + 2 * config.size.d_model
    assert parameters(config).everything == total_parameter_count(config) + outside


def test_products_are_integers_and_a_dense_model_has_no_slots() -> None:
    for technique in ("dense", "s-base"):
        counted = matmul_flops(model_config("15M", technique), 4, inference=False)
        assert {type(value) for value in asdict(counted).values()} == {int}
    assert expert_slots(model_config("15M", "dense"), 4, inference=False) == 0


def test_hash_is_charged_a_router_that_it_does_not_hold() -> None:
    counted, held = (count(model_config("15M", "hash", 64)) for count in (parameters, held_parameters))
    assert counted.router == 3 * 64 * 512
    assert held == replace(counted, router=0)
    for technique in ("dense", "s-base", "rl-r", "switch"):
        config = model_config("15M", technique)
        assert held_parameters(config) == parameters(config)


@pytest.mark.parametrize(("technique", "flop_increase"), [("s-base", 2), ("dense", 0)])
def test_only_dense_models_are_widened_and_by_one_at_least(technique: str, flop_increase: int) -> None:
    with pytest.raises(ConfigError, match=f"flop_increase is {flop_increase}; it is at least 1, and more than 1 for dense models only"):
        widened(model_config("15M", technique), flop_increase)
