"""The Transformer: tokens -> embeddings -> groups of blocks -> logits.

Pre-norm blocks (our choice). A group is 1/R blocks, the last of which is routed; groups have the
same shape, so their weights are stacked along a first axis and one group is scanned over it:
tracing and compiling cost does not grow with depth. Embeddings are tied, the final norm and they
lie outside of N (our choice, which the counts allow).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.attention import Attention
from reference.config import Hash, ModelConfig
from reference.errors import ConfigError
from reference.feedforward import FeedForward
from reference.linear import linear
from reference.mesh import GROUPS, MODEL, shard, take
from reference.norm import LayerNorm
from reference.routed import RoutedFeedForward
from reference.routers import Routing
from reference.routers.hash import check_table, hash_table

EMBEDDING_SCALE = 0.02
"""Standard deviation of the embeddings as they are drawn."""


class Block(eqx.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    attention_norm: LayerNorm
    attention: Attention
    feedforward_norm: LayerNorm
    feedforward: FeedForward | RoutedFeedForward

    def __init__(
        self,
        config: ModelConfig,
        *,
        routed: bool,
        key: PRNGKeyArray,
        hash_table: Int[Array, "vocabulary k"] | None = None,
    ) -> None:
        attention_key, feedforward_key = jax.random.split(key)
        self.attention_norm = LayerNorm(config.size.d_model)
        self.attention = Attention(config.size, key=attention_key)
        self.feedforward_norm = LayerNorm(config.size.d_model)
        if routed and config.router is not None:
            self.feedforward = RoutedFeedForward(
                config.size, config.router, key=feedforward_key, hash_table=hash_table
            )
        else:
            self.feedforward = FeedForward(config.size, key=feedforward_key)

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"],
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """The block's output, and its routing if it is routed."""
        x += self.attention(self.attention_norm(x))
        normal = self.feedforward_norm(x)
        if isinstance(self.feedforward, FeedForward):
            return x + self.feedforward(normal), None
        y, routing = self.feedforward(normal, token_id, key=key, inference=inference)
        return x + y, routing


class Group(eqx.Module):
    """1/R blocks, the last of which is routed; of a dense model, one block."""

    blocks: tuple[Block, ...]

    def __init__(
        self,
        config: ModelConfig,
        *,
        key: PRNGKeyArray,
        hash_table: Int[Array, "vocabulary k"] | None,
    ) -> None:
        keys = jax.random.split(key, config.period)
        last = config.period - 1
        self.blocks = tuple(
            Block(
                config, routed=i == last, key=keys[i], hash_table=hash_table if i == last else None
            )
            for i in range(config.period)
        )

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"],
        key: PRNGKeyArray | None,
        inference: bool,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """The blocks in turn;
        the routing is the last one's. `remat`: a backward pass computes each block again."""
        routing = None
        for block in self.blocks:
            run = eqx.filter_checkpoint(block) if remat else block
            x, routing = run(x, token_id, key, inference)
        return x, routing


class Transformer(eqx.Module):
    """A language model, dense or routed.

    Embeddings are normal with standard deviation 0.02 and read as they are (our choice, GPT-2's): a
    fresh model's loss is log V at any width, which tied embeddings of unit variance do not give
    (docs/LOG.md).
    """

    embedding: Float[Array, "vocabulary d_model"]
    groups: Group
    """All groups in one: every array has a first axis for them."""
    final_norm: LayerNorm
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        key: PRNGKeyArray,
        hash_tables: Int[np.ndarray, "layers rows choices"] | None = None,
    ) -> None:
        """Draw the weights from `key`. `hash_tables`: HASH's tables if not those the configuration
        asks for, one per routed layer.

        Raises `ConfigError` for tables that do not fit.
        """
        if jax.dtypes.canonicalize_dtype(config.dtype) != config.dtype:
            raise ConfigError(
                'dtype is float64, which JAX keeps off; jax.config.update("jax_enable_x64", True) turns it on'
            )
        embedding_key, groups_key = jax.random.split(key)
        d_model = config.size.d_model
        embedding = EMBEDDING_SCALE * jax.random.normal(embedding_key, (config.vocabulary, d_model))
        tables = checked_tables(config, hash_tables)
        keys = jax.random.split(groups_key, config.size.num_blocks // config.period)
        groups = eqx.filter_vmap(lambda key, table: Group(config, key=key, hash_table=table))(
            keys, tables
        )
        dtype = jnp.float64 if config.dtype == "float64" else jnp.float32
        self.embedding, self.groups, self.final_norm = jax.tree.map(
            lambda w: w.astype(dtype) if eqx.is_inexact_array(w) else w,
            (embedding, groups, LayerNorm(d_model)),
        )
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "batch context"],
        *,
        key: PRNGKeyArray | None = None,
        inference: bool = False,
    ) -> tuple[Float[Array, "batch context vocabulary"], Routing | None]:
        """Logits for the token after each, in float32 at least; and the routing, with leading axes
        layers and groups, if routed.

        `key` is used by routers that sample, in training. `inference`: evaluation.
        """
        x, routing = self.run_groups(self.embed(tokens), tokens, key=key, inference=inference)
        return self.logits(x), routing

    def embed(self, tokens: Int[Array, "batch context"]) -> Float[Array, "batch context d_model"]:
        """Rows of the table, in the type of the activations."""
        table = shard(self.embedding.astype(self.config.dtype), None, None)
        return take(table, tokens, out=(GROUPS, None, None))

    def run_groups(
        self,
        x: Float[Array, "batch context d_model"],
        tokens: Int[Array, "batch context"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """All blocks, by a scan over the groups."""
        arrays, static = eqx.partition(self.groups, eqx.is_array)
        number = self.config.size.num_blocks // self.config.period
        keys = None if key is None else jax.random.split(key, number)

        def _group(
            x: Float[Array, "batch context d_model"],
            xs: tuple[Group, PRNGKeyArray | None, Int[Array, ""]],
        ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
            weights, key, layer = xs
            x, routing = eqx.combine(weights, static)(x, tokens, key, inference, self.config.remat)
            if self.config.debug and routing is not None:
                x = stop_if_not_finite(x, routing, layer, number)
            return x, routing

        return jax.lax.scan(
            _group, x, (arrays, keys, jnp.arange(number)), unroll=min(self.config.unroll, number)
        )

    def logits(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch context vocabulary"]:
        """Final norm and tied embedding; the product accumulates in float32 at least."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return linear(self.final_norm(x).astype(dtype), self.embedding.astype(dtype).T, out=MODEL)


def stop_if_not_finite(
    x: Float[Array, "batch context d_model"], routing: Routing, layer: Int[Array, ""], layers: int
) -> Float[Array, "batch context d_model"]:
    """`x`;
    but the program stops, naming the routed layer, if the entropy of a choice, and so a logit, is
    not finite."""
    why = "its weights or its input hold NaN or infinity; look at the step before, and try a lower learning rate"
    messages = [
        f"routed layer {i} (of 0 to {layers - 1}): the router's logits are not finite: {why}"
        for i in range(layers)
    ]
    return eqx.branched_error_if(x, ~jnp.isfinite(routing.metrics["entropy"]), layer, messages)


def checked_tables(
    config: ModelConfig, given: Int[np.ndarray, "layers rows choices"] | None
) -> Int[Array, "layers vocabulary k"] | None:
    """HASH's tables, the given ones or those that the configuration asks for;
    None for other techniques."""
    router = config.router
    if router is None or not isinstance(router.technique, Hash):
        return None
    if given is None:
        make = partial(
            hash_table, router.technique, config.vocabulary, router.num_experts, router.k
        )
        given = np.stack([make(layer=layer) for layer in range(config.routed_layers)])
    if given.shape[0] != config.routed_layers:
        raise ConfigError(
            f"there are {given.shape[0]} hash tables for {config.routed_layers} routed layers; give one for each"
        )
    for table in given:
        check_table(table, config.vocabulary, router.num_experts, router.k)
    return jnp.asarray(given, jnp.int32)
