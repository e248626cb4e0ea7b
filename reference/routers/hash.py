"""HASH: a fixed table from token id to expert (paper, section 3; Roller et al. 2021).

The same in training and evaluation, with no parameters and no gate. The table is an array of the
model, so it is saved in checkpoints. The released counts charge HASH a D x E router (see `count`),
which the module does not have.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import SEED, ConfigError, check_ranges, require
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

    table: HashTable = "modulo"
    """How the table is made: "modulo" (token id mod E), "random" or "balanced".

    Our choice of default is "modulo", which needs no other input. "random" is uniform. "balanced"
    depends on token frequencies: make it with `hash_table(..., token_counts=...)` and pass it to
    `Transformer` as `hash_tables`.
    """
    seed: Annotated[int, SEED] = 0
    """Seed of the random table.

    Each routed layer draws its own table; the other kinds are the same in every layer.
    """

    def __post_init__(self) -> None:
        known = ", ".join(HASH_TABLES)
        found = self.table in HASH_TABLES
        require(found, f"no hash table is called {self.table!r}; there are {known}")
        check_ranges(self, "the hash table's ")

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "HashRouter":
        """A HASH router. Raises `ConfigError` without a table."""
        if table is None:
            raise ConfigError("HASH was given no table; make one with routers.hash.hash_table")
        return HashRouter(table, shape.num_experts)

    def weights(self, d_model: int, num_experts: int) -> RouterWeights:
        """The module has none; the paper's counts charge a D x E matrix."""
        return RouterWeights(d_model * num_experts, 0, 0)


class HashRouter(AbstractRouter):
    """Gates are 1/k, so that k experts are averaged (our choice; the released runs have k = 1)."""

    table: Int[Array, "vocabulary k"]
    num_experts: int = eqx.field(static=True)

    def __init__(self, table: Int[Array, "vocabulary k"], num_experts: int) -> None:
        """`table`: from `hash_table`, or custom (validate it with `check_table`)."""
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
        """Look up the experts of `token_id`; only the dtype of `x` is used."""
        # An id outside the vocabulary makes its token NaN; expert 0 keeps the others' places.
        experts = jnp.maximum(rows(self.table, token_id, (None, None)), 0)
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
    """The table of the `layer`-th routed layer; only "balanced" needs `token_counts`.

    Raises `ConfigError` if the counts are missing, or are not one per token id.
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
                    "give one count per token id"
                )
            return balanced_table(token_counts, num_experts, k)


def check_table(
    table: Int[np.ndarray, "rows choices"], vocabulary: int, num_experts: int, k: int
) -> None:
    """Raises `ConfigError` unless `table` has k distinct experts, 0 to E - 1, for each token id."""
    rows, choices = table.shape
    if rows < vocabulary:
        raise ConfigError(
            f"the hash table has {rows} rows for a vocabulary of {vocabulary}; "
            "give it one row per token id"
        )
    if choices != k:
        raise ConfigError(
            f"the hash table has {choices} experts per token, but k is {k}; give it k columns"
        )
    if table.min() < 0 or table.max() >= num_experts:
        found = f"{table.min()} to {table.max()}"
        raise ConfigError(
            f"the hash table has experts {found}; "
            f"with {num_experts} experts, they are 0 to {num_experts - 1}"
        )
    if k > 1 and np.any(np.diff(np.sort(table, axis=1), axis=1) == 0):
        raise ConfigError(
            "the hash table lists an expert twice for one token; give each token k distinct ones"
        )


def modulo_table(vocabulary: int, num_experts: int, k: int) -> Int[np.ndarray, "vocabulary k"]:
    """Choice c of token id v is expert (v + c) mod E."""
    return (np.arange(vocabulary)[:, None] + np.arange(k)) % num_experts


def random_table(
    vocabulary: int, num_experts: int, k: int, *, seed: tuple[int, ...]
) -> Int[np.ndarray, "vocabulary k"]:
    """k distinct experts per token id, uniformly at random; deterministic in `seed`."""
    generator = np.random.default_rng(seed)
    if k == 1:
        return generator.integers(num_experts, size=(vocabulary, 1))
    return np.stack([generator.permutation(num_experts)[:k] for _ in range(vocabulary)])


def balanced_table(
    token_counts: Int[np.ndarray, "vocabulary"], num_experts: int, k: int
) -> Int[np.ndarray, "vocabulary k"]:
    """Most frequent token first, each to the k least loaded experts (Roller et al. 2021).

    `token_counts`: occurrences of each id in the corpus. No table can balance a token whose own
    count exceeds T/E.
    """
    table = np.zeros((token_counts.shape[0], k), np.int64)
    filled = np.zeros(num_experts)
    for token in np.argsort(-token_counts, kind="stable"):
        table[token] = np.argsort(filled, kind="stable")[:k]
        filled[table[token]] += token_counts[token]
    return table
