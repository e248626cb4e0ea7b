"""The Transformer: tokens -> embeddings -> groups of blocks -> logits.

Pre-norm blocks (our choice). A group is 1/R blocks, the last of which is routed. Groups are
identical in shape, so their weights are stacked along a leading axis and scanned over: compile time
does not grow with depth. Embeddings are tied; they and the final norm are excluded from N (our
choice, consistent with the counts).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from reference.attention import HEAD_INPUTS, HEAD_OUTPUTS, Attention
from reference.config import ModelConfig, Remat
from reference.errors import ConfigError
from reference.fast import linear
from reference.feedforward import EXPERT_INPUTS, EXPERT_OUTPUTS, FeedForward
from reference.mesh import HIDDEN, TOKENS, gathered, is_array, laid_out, narrowed, rows
from reference.norm import LayerNorm
from reference.routed import RoutedFeedForward
from reference.routers import Hash, RouterState, Routing
from reference.routers.hash import check_table, hash_table

EMBEDDING_SCALE = 0.02
"""Standard deviation of the initial embeddings."""

ATTENDED = "attention's output"
KEPT = (HEAD_INPUTS, HEAD_OUTPUTS, ATTENDED, EXPERT_INPUTS, EXPERT_OUTPUTS)
"""Names of the arrays that selective rematerialisation keeps."""

UNUSED_LOGIT = -1e9
"""Logit of padding rows: probability 0 in every float dtype, without the NaNs of -infinity."""


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
        end = config.vocabulary - 1 if config.mask_documents else None
        self.attention = Attention(
            config.size, key=attention_key, document_end=end, form=config.attention
        )
        self.feedforward_norm = LayerNorm(config.size.d_model)
        if routed and config.router is not None:
            self.feedforward = RoutedFeedForward(config, key=feedforward_key, hash_table=hash_table)
        else:
            self.feedforward = FeedForward(config.size, config.hidden, key=feedforward_key)

    def __call__(
        self,
        x: Float[Array, "batch context d_model"],
        token_id: Int[Array, "batch context"],
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """The block's output, and its routing if it is routed."""
        whole = gathered(self, x.dtype)
        x += checkpoint_name(whole.attention(whole.attention_norm(x), token_id), ATTENDED)
        normal = whole.feedforward_norm(x)
        if isinstance(whole.feedforward, FeedForward):
            return x + whole.feedforward(normal), None
        y, routing = whole.feedforward(normal, token_id, key=key, inference=inference)
        return x + y, routing


class Group(eqx.Module):
    """1/R blocks, the last of which is routed; one block in a dense model."""

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
        remat: Remat = "none",
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """Applies the blocks in order; the routing is the last block's.

        `remat`: what each block computes again in the backward pass (`ModelConfig.remat`).
        """
        keep = jax.checkpoint_policies.save_only_these_names(*KEPT)
        routing = None
        for block in self.blocks:
            run = block
            if remat != "none":
                run = eqx.filter_checkpoint(block, policy=keep if remat == "selective" else None)
            x, routing = run(x, token_id, key, inference)
        return x, routing


class Transformer(eqx.Module):
    """A language model, dense or routed.

    Embeddings are normal with standard deviation 0.02 and not scaled when read (our choice, as in
    GPT-2): the initial loss is log V at any width, which tied embeddings of unit variance do not
    give (docs/LOG.md).
    """

    embedding: Float[Array, "rows d_model"]
    """One row per token id, and padding rows of 0 (`ModelConfig.vocabulary_multiple`)."""
    groups: Group
    """All groups, stacked along a leading axis of every array."""
    final_norm: LayerNorm
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        key: PRNGKeyArray,
        hash_tables: Int[np.ndarray, "layers rows choices"] | None = None,
    ) -> None:
        """Initialise the weights from `key`.

        `hash_tables`: one per routed layer, instead of those of HASH's options. Raises
        `ConfigError` for tables of the wrong shape or with invalid experts.
        """
        if jax.dtypes.canonicalize_dtype(config.dtype) != config.dtype:
            raise ConfigError(
                "dtype is float64, which JAX disables by default; "
                "set the environment variable JAX_ENABLE_X64=1"
            )
        embedding_key, groups_key = jax.random.split(key)
        d_model = config.size.d_model
        drawn = jax.random.normal(embedding_key, (config.vocabulary, d_model))
        unused = config.embedding_rows - config.vocabulary
        embedding = jnp.pad(EMBEDDING_SCALE * drawn, ((0, unused), (0, 0)))
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
        inference: bool,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch context rows"], Routing | None]:
        """Next-token logits in float32 or wider; and the routing, by layer and group.

        `inference` has no default because training and evaluation route differently: in training
        S-BASE's choices depend on the whole group, and tokens are dropped. `key` is used in
        training by routers that sample. A token id outside the vocabulary makes its sequence NaN.
        """
        x, routing = self.features(tokens, inference=inference, key=key)
        return self.logits(x), routing

    def features(
        self,
        tokens: Int[Array, "batch context"],
        *,
        inference: bool,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """What `logits` makes logits of: the output of the last block; and the routing."""
        _check_one_config(self)
        return self.run_groups(self.embed(tokens), tokens, key=key, inference=inference)

    def embed(self, tokens: Int[Array, "batch context"]) -> Float[Array, "batch context d_model"]:
        """Token embeddings, in the dtype of the activations."""
        table = laid_out(self.embedding.astype(self.config.dtype), (None, None))
        return rows(table[: self.config.vocabulary], tokens, TOKENS)

    def run_groups(
        self,
        x: Float[Array, "batch context d_model"],
        tokens: Int[Array, "batch context"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
        """Applies all blocks, by a scan over groups."""
        groups = self.groups if inference else narrowed(self.groups, x.dtype)
        arrays, static = eqx.partition(groups, eqx.is_array)
        number = self.config.size.num_blocks // self.config.period
        keys = None if key is None else jax.random.split(key, number)

        def _group(
            x: Float[Array, "batch context d_model"], xs: tuple[Group, PRNGKeyArray | None]
        ) -> tuple[Float[Array, "batch context d_model"], Routing | None]:
            weights, key = xs
            return eqx.combine(weights, static)(x, tokens, key, inference, self.config.remat)

        if self.config.unroll < number:
            return jax.lax.scan(_group, x, (arrays, keys))
        # A loop of our own: where weights are marked `reduced`, JAX's unrolled scan fails.
        routings: list[Routing | None] = []
        for i in range(number):
            x, routing = _group(x, jax.tree.map(lambda array, i=i: array[i], (arrays, keys)))
            routings.append(routing)
        return x, jax.tree.map(lambda *each: jnp.stack(each), *routings)

    def logits(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch context rows"]:
        """Final norm and tied embedding; products in the dtype of `x`, sums in float32 or wider."""
        logits = linear(self.final_norm(x), self.embedding.T, out=HIDDEN, wide=True)
        if self.config.embedding_rows == self.config.vocabulary:
            return logits
        is_id = jnp.arange(self.config.embedding_rows) < self.config.vocabulary
        return jnp.where(is_id, logits, UNUSED_LOGIT)


def partition_weights(model: PyTree) -> tuple[PyTree, PyTree]:
    """The trainable arrays, and everything else: integers and router states.

    `eqx.combine` merges the two again.
    """
    spec = jax.tree.map(
        lambda node: (
            not isinstance(node, RouterState)
            and is_array(node)
            and jnp.issubdtype(node.dtype, jnp.inexact)
        ),
        model,
        is_leaf=lambda node: isinstance(node, RouterState),
    )
    return eqx.partition(model, spec, is_leaf=lambda node: isinstance(node, RouterState))


def move_states(model: Transformer, load: Float[Array, "layers experts"] | None) -> Transformer:
    """The model after a step with this load: router states are updated, nothing else."""
    if load is None:
        return model
    return jax.tree.map(
        lambda node: node.moved(load) if isinstance(node, RouterState) else node,
        model,
        is_leaf=lambda node: isinstance(node, RouterState),
    )


def _check_one_config(model: Transformer) -> None:
    routed = model.groups.blocks[-1].feedforward
    own = routed.config if isinstance(routed, RoutedFeedForward) else None
    if own != model.config.router:
        raise ConfigError(
            "the routed layers were built with another RouterConfig than model.config.router; "
            "build a Transformer with the new configuration and copy the weights"
        )


def checked_tables(
    config: ModelConfig, given: Int[np.ndarray, "layers rows choices"] | None
) -> Int[Array, "layers vocabulary k"] | None:
    """HASH's tables, validated: the given ones, or by its options; None for other techniques."""
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
            f"{given.shape[0]} hash tables for {config.routed_layers} routed layers; "
            "give one for each"
        )
    for table in given:
        check_table(table, config.vocabulary, router.num_experts, router.k)
    return jnp.asarray(given, jnp.int32)
