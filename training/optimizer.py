"""AdamW with warm-up, decay and clipping, and ZeRO stage 1 sharding of its state.

The paper states AdamW, ZeRO stage 1, and the learning rates below with their steps; betas, weight
decay and clipping are our choice (GPT-3's).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import jax
import optax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree, Shaped

from reference.errors import ConfigError, Range, check_ranges
from reference.mesh import BATCH, DATA, Axes, parameter_specs, summed_later

Schedule = Literal["cosine", "stable"]
Moment = Literal["float32", "bfloat16"]
"""Dtype of AdamW's first moment."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Learning-rate schedule and AdamW's constants; the same for all sizes, as in the paper."""

    schedule: Schedule = "cosine"
    """Shape of the learning rate after warm-up.

    "cosine" is the paper's. "stable" is constant, then linear over the last `decay_steps` (our
    choice of form), so that runs of different lengths share their stable phase:
    `RunOptions.begin_from`.
    """
    decay_steps: Annotated[int, Range(0)] = 0
    """Length of the stable schedule's decay."""
    initial_learning_rate: Annotated[float, Range(0)] = 1e-7
    peak_learning_rate: Annotated[float, Range(0, more=True)] = 2e-4
    final_learning_rate: Annotated[float, Range(0)] = 2e-5
    warmup_steps: Annotated[int, Range(0)] = 1500
    steps: Annotated[int, Range(1)] = 250_000
    """The last step of the decay."""
    beta1: Annotated[float, Range(0, 1, less=True)] = 0.9
    beta2: Annotated[float, Range(0, 1, less=True)] = 0.95
    epsilon: Annotated[float, Range(0, more=True)] = 1e-8
    weight_decay: Annotated[float, Range(0)] = 0.1
    """Applied to matrices only, not to norms and vectors."""
    clip: Annotated[float, Range(0, more=True)] = 1.0
    """Maximum global gradient norm."""
    first_moment: Moment = "float32"
    """Dtype in which the first moment is kept: half the memory, for a rounding of 2^-9 a step."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.warmup_steps >= self.steps:
            raise ConfigError(
                f"warmup_steps is {self.warmup_steps} of {self.steps} steps; "
                "warm-up must end before the last step"
            )
        room = self.steps - self.warmup_steps
        if self.schedule == "stable" and not 1 <= self.decay_steps <= room:
            raise ConfigError(
                f"decay_steps is {self.decay_steps}; "
                f"the stable schedule's decay is 1 to {room} steps, those after warm-up"
            )

    @property
    def decay_begins(self) -> int:
        """The step at which the stable schedule's decay begins."""
        return self.steps - self.decay_steps


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate by the number of completed steps."""
    initial, peak, final = (
        config.initial_learning_rate,
        config.peak_learning_rate,
        config.final_learning_rate,
    )
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            initial, peak, config.warmup_steps, config.steps, final
        )
    phases = [
        optax.linear_schedule(initial, peak, config.warmup_steps),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, final, config.decay_steps),
    ]
    return optax.join_schedules(phases, [config.warmup_steps, config.decay_begins])


@cache
def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW with decoupled weight decay (Loshchilov & Hutter 2019).

    The same object for the same options, so that a step is compiled once for all runs that have
    them.
    """
    adamw = optax.adamw(
        make_schedule(config),
        config.beta1,
        config.beta2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=decayed,
        mu_dtype=None if config.first_moment == "float32" else config.first_moment,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def decayed(weights: PyTree[Float[Array, "..."]]) -> PyTree[bool]:
    """Which weights decay: matrices, not counting the leading axis of stacked layers."""

    def _is_matrix(path: tuple[Any, ...], weight: Float[Array, "..."]) -> bool:
        return weight.ndim - _is_stacked(path) >= 2

    return jax.tree_util.tree_map_with_path(_is_matrix, weights)


def zero_specs(weights: PyTree, mesh: Mesh | AbstractMesh) -> PyTree[P]:
    """Partition specs of optimizer state: the weight's own, sharded further over the batch axes.

    The batch axes that a weight is not sharded over are `data`, and `expert` for all but the
    experts. They go to the first unsharded dimension that both divide, or else that `data` alone
    divides; not to the axis of stacked groups, which are computed one after the other. A small or
    odd weight may have none; its state is then replicated over them.
    """

    def _spread(
        path: tuple[Any, ...], weight: Shaped[Array, "..."] | jax.ShapeDtypeStruct, spec: P
    ) -> P:
        axes: list[Axes] = [*spec, *(None,) * (weight.ndim - len(spec))]
        both = tuple(axis for axis in BATCH if axis not in axes)
        for share in (both, (DATA,)):
            for dimension in range(_is_stacked(path), weight.ndim):
                length = weight.shape[dimension]
                if (
                    axes[dimension] is None
                    and length > 1
                    and length % math.prod(mesh.shape[name] for name in share) == 0
                ):
                    axes[dimension] = share
                    return P(*axes)
        return P(*axes)

    return jax.tree_util.tree_map_with_path(_spread, weights, parameter_specs(weights))


def weight_specs(model: PyTree, mesh: Mesh | AbstractMesh, *, fsdp: bool) -> PyTree[P]:
    """Partition specs of a model's weights: `parameter_specs`.

    With `fsdp`, the blocks' matrices are spread as their optimizer state is, and gathered when they
    are read (`mesh.gathered`). The embedding, of which each device reads all rows, is not.
    """

    def _choose(path: tuple[Any, ...], own: P, share: P) -> P:
        return share if fsdp and _is_stacked(path) and summed_later(path) else own

    own, shares = parameter_specs(model), zero_specs(model, mesh)
    return jax.tree_util.tree_map_with_path(
        _choose, own, shares, is_leaf=lambda leaf: isinstance(leaf, P)
    )


def _is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether a weight's first axis is that of stacked groups of blocks."""
    return any(
        isinstance(part, jax.tree_util.GetAttrKey) and part.name == "groups" for part in path
    )
