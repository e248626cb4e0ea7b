"""The golden cases as models of `reference`: configurations, weights put in and gradients taken out by the oracle's names."""

from typing import Any
from unittest.mock import patch

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from golden.cases import Case
from reference.config import ModelConfig, RouterConfig, Size
from reference.routed import RoutedFeedForward
from reference.routers import Hash, LossFree, Reinforce, SinkhornBase, Switch
from reference.routers.interface import AbstractRouter, Routing
from reference.transformer import Transformer

Arrays = dict[str, Shaped[np.ndarray, "..."]]


class Replay(AbstractRouter):
    """RL-R with the experts that the golden file says were drawn, found by the ids of the group's tokens."""

    inner: AbstractRouter
    token_id: Int[Array, "*layers groups tokens"]
    drawn: Int[Array, "*layers groups tokens 1"]

    def __call__(
        self, x: Float[Array, "tokens d_model"], token_id: Int[Array, "tokens"], *, key: PRNGKeyArray | None, inference: bool
    ) -> Routing:
        """The inner router's routing, with `sample` returning the group's experts."""
        if inference:
            return self.inner(x, token_id, key=key, inference=True)
        experts = self.drawn[jnp.argmax(jnp.all(self.token_id == token_id, axis=-1))]
        with patch("reference.routers.reinforce.draw", lambda log_policy, key: experts):
            return self.inner(x, token_id, key=key, inference=inference)


def router_config(plain: dict[str, Any]) -> RouterConfig:
    """`reference`'s configuration of a router that the index describes."""
    techniques = {
        "s-base": SinkhornBase(plain["iterations"]),
        "hash": Hash(),
        "rl-r": Reinforce(plain["policy_weight"], plain["baseline_weight"], plain["balance_weight"], plain["entropy_weight"]),
        "switch": Switch(plain["balance_weight"], plain["z_weight"]),
        "loss-free": LossFree(),
    }
    return RouterConfig(
        technique=techniques[plain["technique"]],
        num_experts=plain["num_experts"],
        k=plain["k"],
        capacity_factor=plain["capacity_factor"],
        evaluation_capacity_factor=plain["evaluation_capacity_factor"],
        sequences_per_group=plain["sequences_per_group"],
        drop_order=plain["drop_order"],
        granularity=plain["granularity"],
        shared_experts=plain["shared_experts"],
    )


def model_config(case: Case, dtype: Any) -> ModelConfig:
    """`reference`'s configuration of a model case, in "float32" or "float64"."""
    plain = case.config["model"]
    return ModelConfig(
        size=Size(plain["d_model"], plain["num_blocks"], plain["num_heads"], plain["kqv_size"]),
        router=None if plain["router"] is None else router_config(plain["router"]),
        routing_frequency=1 / plain["period"],
        vocabulary=plain["vocabulary"],
        context=plain["context"],
        dtype=dtype,
    )


def golden_model(case: Case, dtype: str) -> Transformer:
    """The case's model with its weights, and with its drawn experts if it has any."""
    config = model_config(case, dtype)
    tables = [case.weights[name] for name in case.weights if name.endswith("/table")]
    given = np.stack(tables) if tables else None
    empty = eqx.filter_eval_shape(lambda key: Transformer(config, key=key, hash_tables=given), jax.random.key(0))

    def _fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        stacked = [case.weights[name] for name in names_of(path, config)]
        return jnp.asarray(np.stack(stacked) if in_groups(path) else stacked[0], leaf.dtype)

    model = jax.tree_util.tree_map_with_path(_fill, empty)
    if "sampled_experts" not in case.inputs:
        return model
    assert config.router is not None
    drawn = jnp.asarray(case.inputs["sampled_experts"], jnp.int32)
    ids = jnp.asarray(case.inputs["tokens"][:, :-1].reshape(drawn.shape[1:3]), jnp.int32)
    replay = Replay(routed(model).router, jnp.broadcast_to(ids, drawn.shape[:3]), drawn)
    return eqx.tree_at(lambda model: routed(model).router, model, replay)


def routed(model: Transformer) -> RoutedFeedForward:
    """The routed feed-forwards of all layers in one."""
    feedforward = model.groups.blocks[-1].feedforward
    assert isinstance(feedforward, RoutedFeedForward)
    return feedforward


def in_groups(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of the model is one array for all groups of blocks."""
    return getattr(path[0], "name", None) == "groups"


def words_of(path: tuple[Any, ...]) -> list[str]:
    """The attributes that lead to a leaf; a router's bias is one array, whatever holds it."""
    words = [part.name for part in path if isinstance(part, jax.tree_util.GetAttrKey) and part.name != "inner"]
    return words[:-1] if words[-2:] == ["bias", "value"] else words


def names_of(path: tuple[Any, ...], config: ModelConfig) -> list[str]:
    """The oracle's names for a leaf of the model: one for each group of blocks that it is stacked from."""
    words = words_of(path)
    if not in_groups(path):
        return ["/".join(words)]
    words = words[2:]  # of groups.blocks[i].what
    if words[0] == "feedforward" and words[1] in ("router", "experts", "shared"):
        words = words[1:]
    local = next(part.idx for part in path if isinstance(part, jax.tree_util.SequenceKey))
    return [f"blocks/{block}/{'/'.join(words)}" for block in range(local, config.size.num_blocks, config.period)]


def by_name(weights: PyTree[Float[Array, "..."]], config: ModelConfig) -> Arrays:
    """Weights or gradients, as a model holds them, by the oracle's names."""
    flat: Arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        rows = leaf if in_groups(path) else leaf[None]
        flat |= {name: np.asarray(row) for name, row in zip(names_of(path, config), rows, strict=True)}
    return flat
