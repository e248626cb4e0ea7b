"""HASH: its three tables, the tables it refuses, and that the table is the model's own."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, Int

from reference.config import ModelConfig, RouterConfig, Size
from reference.errors import ConfigError
from reference.routers import Hash, HashRouter
from reference.routers.hash import balanced_table, check_table, hash_table, modulo_table, random_table
from reference.transformer import Transformer, checked_tables
from tests.reference.golden_models import routed
from tests.reference.routers.router_cases import ROUTE, some_ids, some_logits
from tests.reference.small_models import VOCABULARY, small

ZIPF: Int[np.ndarray, "vocabulary"] = np.round(1e8 / np.arange(1, 32_001)).astype(np.int64)
"""How often each of 32,000 token ids occurs, by Zipf's law: the commonest is 9 % of the corpus."""


def max_over_mean(table: Int[np.ndarray, "vocabulary k"], num_experts: int) -> float:
    """The fullest expert's share of the Zipf corpus, over the mean."""
    load: Float[np.ndarray, "experts"] = np.bincount(table[:, 0], weights=ZIPF, minlength=num_experts)
    return float(load.max() / load.mean())


def test_modulo_takes_the_token_id_and_those_after_it() -> None:
    np.testing.assert_array_equal(modulo_table(5, 3, 2), [[0, 1], [1, 2], [2, 0], [0, 1], [1, 2]])


def test_a_random_table_is_its_seeds_and_every_layer_has_its_own() -> None:
    def _table(seed: int, layer: int) -> Int[np.ndarray, "vocabulary k"]:
        return hash_table(Hash("random", seed), 100, 8, 1, layer=layer)

    np.testing.assert_array_equal(_table(3, 1), _table(3, 1))
    for other in (_table(3, 2), _table(4, 1)):
        assert np.mean(_table(3, 1) == other) < 0.35  # 1/8 expected, SD 0.033


def test_tables_that_are_not_random_are_the_same_in_every_layer() -> None:
    counts = np.arange(20)
    for kind in ("modulo", "balanced"):
        first, second = (hash_table(Hash(kind), 20, 4, 2, layer=layer, token_counts=counts) for layer in (0, 1))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("k", [1, 2])
def test_a_random_table_is_uniform_over_ordered_choices(k: int) -> None:
    # 12,000 draws of one of n outcomes: chi-square with n - 1 <= 5 degrees of freedom is above 40 once in ten million seeds.
    table = random_table(12_000, 3, k, seed=(0, 0))
    _, seen = np.unique(table, axis=0, return_counts=True)
    outcomes = 3 if k == 1 else 6
    assert seen.size == outcomes
    assert np.sum((seen - 12_000 / outcomes) ** 2) / (12_000 / outcomes) < 40


def test_a_balanced_table_balances_zipf_where_chance_does_not() -> None:
    # Commonest first, the gap at the end is at most the last few tokens': the rarest is 3e-6 of the corpus, E = 8 times that is 2.4e-5.
    assert max_over_mean(balanced_table(ZIPF, 8, 1), 8) < 1 + 3e-5
    by_chance = [max_over_mean(random_table(32_000, 8, 1, seed=(0, layer)), 8) for layer in range(4)]
    assert min(by_chance) > 1.4  # measured 1.51 to 1.61: the commonest token is 0.73 of a share by itself


def test_no_table_balances_a_token_that_alone_exceeds_a_share() -> None:
    most = 64 * ZIPF[0] / ZIPF.sum()
    assert most > 5
    np.testing.assert_allclose(max_over_mean(balanced_table(ZIPF, 64, 1), 64), most, rtol=1e-12)  # and this one does no worse


def test_a_model_has_a_random_table_of_its_own_in_each_routed_layer() -> None:
    config = small("hash")
    assert config.router is not None
    random = dataclasses.replace(config, router=dataclasses.replace(config.router, technique=Hash("random", seed=3)))
    expected = [hash_table(Hash("random", seed=3), VOCABULARY, 4, 1, layer=layer) for layer in range(config.routed_layers)]
    np.testing.assert_array_equal(checked_tables(random, None), np.stack(expected))


def test_experts_without_tokens_add_nothing_to_the_entropy() -> None:
    router = HashRouter(jnp.zeros((32, 1), jnp.int32), 5)
    routing = ROUTE(router, jnp.ones((12, 4)), some_ids(12), inference=True)
    assert float(routing.metrics["entropy"]) == 0


def test_equally_frequent_tokens_take_the_experts_in_order() -> None:
    table = balanced_table(np.ones(400, np.int64), 200, 1)
    np.testing.assert_array_equal(table[:, 0], np.tile(np.arange(200), 2))


def test_a_balanced_table_gives_a_token_k_different_experts() -> None:
    check_table(balanced_table(ZIPF[:500], 6, 3), 500, 6, 3)


def test_tokens_go_where_the_table_says_in_training_and_in_evaluation() -> None:
    table, ids = random_table(32, 5, 2, seed=(0, 0)), some_ids(12)
    router = HashRouter(jnp.asarray(table, jnp.int32), 5)
    x = jnp.asarray(some_logits(12, 4), jnp.float32)
    for inference in (False, True):
        routing = ROUTE(router, x, ids, inference=inference)
        np.testing.assert_array_equal(routing.experts, table[np.asarray(ids)])
        np.testing.assert_array_equal(routing.gates, np.full((12, 2), 0.5, np.float32))
        load = np.bincount(table[np.asarray(ids)].reshape(-1), minlength=5) / 24
        expected = -np.sum(load[load > 0] * np.log(load[load > 0]))
        np.testing.assert_allclose(routing.metrics["entropy"], expected, rtol=1e-6)  # float32


def test_a_checkpoint_holds_the_table(tmp_path: Path) -> None:
    config = ModelConfig(Size(8, 2, 1, 8), RouterConfig(Hash("random"), 4), routing_frequency=1.0, vocabulary=16, context=4)
    tables = np.stack([random_table(16, 4, 1, seed=(7, layer)) for layer in range(2)])
    saved, other = (Transformer(config, key=jax.random.key(0), hash_tables=given) for given in (tables, None))
    assert not np.array_equal(table_of(other), tables)
    assert any(leaf is table_of(saved) for leaf in jax.tree.leaves(eqx.filter(saved, eqx.is_array)))
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", saved)
    restored = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", other)
    np.testing.assert_array_equal(table_of(restored), tables)


def table_of(model: Transformer) -> Int[jax.Array, "layers vocabulary k"]:
    """The tables of all layers."""
    router = routed(model).router
    assert isinstance(router, HashRouter)
    return router.table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0], [1], [2]], "3 rows for a vocabulary of 4"),
        ([[0, 1], [1, 2], [2, 0], [0, 1]], "2 experts per token, but k is 1"),
        ([[0], [1], [2], [3]], "experts 0 to 3; with 3 experts, they are 0 to 2"),
        ([[0], [-1], [2], [1]], "experts -1 to 2; with 3 experts"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_a_line(table: list[list[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_table(np.array(table), 4, 3, 1)
    assert "\n" not in str(error.value)


def test_a_table_that_names_an_expert_twice_for_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice for one token"):
        check_table(np.array([[0, 1], [2, 2]]), 2, 3, 2)


def test_a_model_refuses_a_table_that_does_not_fit() -> None:
    config = ModelConfig(Size(8, 2, 1, 8), RouterConfig(Hash(), 4), routing_frequency=1.0, vocabulary=16, context=4)
    for tables, message in ((np.zeros((2, 15, 1), int), "15 rows"), (np.zeros((1, 16, 1), int), "1 hash tables for 2 routed layers")):
        with pytest.raises(ConfigError, match=message):
            Transformer(config, key=jax.random.key(0), hash_tables=tables)


def test_a_balanced_table_needs_a_count_for_every_token_id() -> None:
    for counts, message in ((None, "no token_counts"), (np.ones(5, int), "5 entries for a vocabulary of 6")):
        with pytest.raises(ConfigError, match=message) as error:
            hash_table(Hash("balanced"), 6, 2, 1, layer=0, token_counts=counts)
        assert "\n" not in str(error.value)
