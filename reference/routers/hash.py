"""HASH: a fixed table from token id to expert, the same in training and evaluation (paper, section
3; Roller et al. 2021).

There is nothing to learn and no gate. The table is an array of the model, so a checkpoint holds it.
The released counts charge HASH a D x E router (see `count`); the module has none, because it would
have no use for it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import ConfigError, require, require_count
from reference.mesh import rows
from reference.routers.balance import expert_load, load_metrics
from reference.routers.interface import (
    AbstractRouter,
    RouterOptions,
    RouterShape,
    RouterWeights,
    Routing,
    Table,
)

HashTable = Literal["modulo", "random", "balanced"]
HASH_TABLES: tuple[HashTable, ...] = get_args(HashTable)


@dataclass(frozen=True)
class Hash(RouterOptions):
    """HASH (paper, section 3; Roller et al. 2021): a fixed table from token id to expert."""

    name: ClassVar[str] = "hash"
    release_name: ClassVar[str] = "Hash"
    max_k: ClassVar[int | None] = None
    d_model_multiple: ClassVar[int] = 1

    table: HashTable = "modulo"
    """How the table is made: token id modulo E (our choice of default: it needs nothing else),
    uniformly at random, or balanced by how often each token occurs. A balanced table is made by
    `hash_table` with `token_counts` and given to `Transformer` as `hash_tables`."""
    seed: int = 0
    """Seed of the random table. Each routed layer draws its own from it; the other tables are the
    same in every layer."""

    def __post_init__(self) -> None:
        known = ", ".join(HASH_TABLES)
        found = self.table in HASH_TABLES
        require(found, f"no hash table is called {self.table!r}; there are {known}")
        require_count("the hash table's seed", self.seed, at_least=0)

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "HashRouter":
        """A HASH router. Raises `ConfigError` without a table."""
        if table is None:
            raise ConfigError("HASH was given no table; make one with routers.hash.hash_table")
        return HashRouter(table, shape.num_experts)

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """None, but the paper's counts charge a D x E matrix."""
        return RouterWeights(d_model * num_experts, 0, 0)


class HashRouter(AbstractRouter):
    """HASH.

    Gates are 1/k, so that k experts give their mean (our choice; the released runs have k = 1
    only).
    """

    table: Int[Array, "vocabulary k"]
    num_experts: int = eqx.field(static=True)

    def __init__(self, table: Int[Array, "vocabulary k"], num_experts: int) -> None:
        """`table` from `hash_table`, or one's own: `check_table` says whether it fits."""
        self.table = table
        self.num_experts = num_experts

    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """Look the tokens up; `x` gives nothing but its type."""
        experts = rows(self.table, token_id, (None, None))
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        load = expert_load(experts, self.num_experts, dtype)
        entropy = -jnp.sum(load * jnp.log(jnp.where(load > 0, load, 1)))
        gates = jnp.full(experts.shape, 1 / experts.shape[1], dtype)
        return Routing(
            experts=experts, gates=gates, load=load, losses={}, metrics=load_metrics(load, entropy)
        )


def hash_table(
    options: Hash,
    vocabulary: int,
    num_experts: int,
    k: int,
    *,
    layer: int,
    token_counts: Int[np.ndarray, "vocabulary"] | None = None,
) -> Int[np.ndarray, "vocabulary k"]:
    """The table that `options` ask for, of the `layer`-th routed layer; `token_counts` is needed by
    "balanced" alone.

    Raises `ConfigError` if the counts are missing or are not one for each id of the vocabulary.
    """
    match options.table:
        case "modulo":
            return modulo_table(vocabulary, num_experts, k)
        case "random":
            return random_table(vocabulary, num_experts, k, seed=(options.seed, layer))
        case "balanced":
            if token_counts is None:
                raise ConfigError(
                    'the hash table is "balanced" but no token_counts are given; '
                    'count the corpus, or use "modulo"'
                )
            if token_counts.shape[0] != vocabulary:
                found = token_counts.shape[0]
                raise ConfigError(
                    f"token_counts has {found} entries for a vocabulary of {vocabulary}; "
                    "give one count for each token id"
                )
            return balanced_table(token_counts, num_experts, k)


def check_table(
    table: Int[np.ndarray, "rows choices"], vocabulary: int, num_experts: int, k: int
) -> None:
    """Raise `ConfigError` unless `table` has a row for each token id, k distinct experts in each,
    from 0 to E - 1.
    """
    rows, choices = table.shape
    if rows < vocabulary:
        raise ConfigError(
            f"the hash table has {rows} rows for a vocabulary of {vocabulary}; "
            "give it one for each token id"
        )
    if choices != k:
        raise ConfigError(
            f"the hash table has {choices} experts for each token; k is {k}: "
            "give it that many columns"
        )
    if table.min() < 0 or table.max() >= num_experts:
        found = f"{table.min()} to {table.max()}"
        raise ConfigError(
            f"the hash table names experts {found}; "
            f"with {num_experts} experts they are 0 to {num_experts - 1}"
        )
    if k > 1 and np.any(np.diff(np.sort(table, axis=1), axis=1) == 0):
        raise ConfigError(
            "the hash table names an expert twice for one token; give each token k different ones"
        )


def modulo_table(vocabulary: int, num_experts: int, k: int) -> Int[np.ndarray, "vocabulary k"]:
    """Choice c of token id v is expert (v + c) mod E."""
    return (np.arange(vocabulary)[:, None] + np.arange(k)) % num_experts


def random_table(
    vocabulary: int, num_experts: int, k: int, *, seed: tuple[int, ...]
) -> Int[np.ndarray, "vocabulary k"]:
    """k distinct experts for each token id, uniformly at random;
    the same `seed` gives the same table."""
    generator = np.random.default_rng(seed)
    if k == 1:
        return generator.integers(num_experts, size=(vocabulary, 1))
    return np.stack([generator.permutation(num_experts)[:k] for _ in range(vocabulary)])


def balanced_table(
    token_counts: Int[np.ndarray, "vocabulary"], num_experts: int, k: int
) -> Int[np.ndarray, "vocabulary k"]:
    """Commonest token first, each to the k experts that have fewest tokens so far (Roller et al.
    2021, balanced assignment).

    `token_counts`: how often each id occurs in the corpus. No table can balance a token that alone
    exceeds T/E.
    """
    table = np.zeros((token_counts.shape[0], k), np.int64)
    filled = np.zeros(num_experts)
    for token in np.argsort(-token_counts, kind="stable"):
        table[token] = np.argsort(filled, kind="stable")[:k]
        filled[table[token]] += token_counts[token]
    return table
