"""Whether a model and its batch come out even on a mesh.

Nothing here imports JAX; `mesh.py` has the mesh itself.
"""

import math
from collections.abc import Mapping

from reference.config import ModelConfig
from reference.errors import ConfigError

DATA, EXPERT, MODEL = "data", "expert", "model"
GROUPS = (DATA, EXPERT)
"""What a batch, and so its groups of tokens, is spread over."""


def check_shape(config: ModelConfig, shape: Mapping[str, int], batch: int) -> None:
    """Raises `ConfigError` unless the model's dimensions, and a batch of so many sequences, come
    out even on a mesh of `shape`.
    """
    router = config.router
    per_group = router.sequences_per_group if router else 1
    for what, number, axes in (
        ("heads", config.size.num_heads, (MODEL,)),
        ("columns in the feed-forward", 4 * config.size.d_model, (MODEL,)),
        ("vocabulary entries", config.vocabulary, (MODEL,)),
        ("experts", router.num_experts if router else 0, (EXPERT,)),
    ):
        _require_even(what, number, shape, axes)
    if batch % per_group:
        raise ConfigError(
            f"{batch} sequences in a batch are not whole groups of {per_group} sequences; use a multiple of {per_group}"
        )
    _require_even(
        "sequences in a batch" if per_group == 1 else "groups of sequences in a batch",
        batch // per_group,
        shape,
        GROUPS,
    )


def _require_even(what: str, number: int, shape: Mapping[str, int], axes: tuple[str, ...]) -> None:
    devices = math.prod(shape[axis] for axis in axes)
    if number % devices:
        names = " x ".join(axes)
        raise ConfigError(
            f"{number} {what} do not come out even on {devices} devices of the mesh's {names}; use a divisor of {number} there"
        )
