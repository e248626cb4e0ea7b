"""The catalogue of laws, a file per family. Adding one is a short file and a line in `CATALOGUE`."""

from collections.abc import Mapping

from common.errors import InputError
from fit.laws.floor import BOUNDED_FLOOR, BOUNDED_FLOOR_INTERACTION, DENSE_FLOOR, FLOOR, FLOOR_INTERACTION, FRONTIER
from fit.laws.granularity import GRANULARITY
from fit.laws.interface import FloorLink, IdentityLink, Law, Link, Log10Link, Published, Roles, Shape, stack_features
from fit.laws.joint import JOINT
from fit.laws.leverage import LEVERAGE
from fit.laws.paper import BILINEAR, BOUNDED, DENSE, SEPARABLE, UTILISATION, per_size
from fit.laws.repeats import DATA_CONSTRAINED
from fit.laws.saturating_tokens import SATURATING_TOKENS
from fit.laws.sparsity import SPARSITY, SPARSITY_DENSE
from fit.laws.tokens import TOKENS
from fit.laws.tokens_experts import BOUNDED_TOKENS, BOUNDED_TOKENS_INTERACTION, TOKENS_EXPERTS

_LAWS = (
    DENSE, DENSE_FLOOR, TOKENS, DATA_CONSTRAINED, FRONTIER, SEPARABLE, BILINEAR, BOUNDED, UTILISATION, FLOOR, BOUNDED_FLOOR,
    FLOOR_INTERACTION, BOUNDED_FLOOR_INTERACTION, TOKENS_EXPERTS, BOUNDED_TOKENS, BOUNDED_TOKENS_INTERACTION,
    GRANULARITY, SPARSITY, SPARSITY_DENSE, JOINT, SATURATING_TOKENS, LEVERAGE,
)  # fmt: skip
CATALOGUE: Mapping[str, Law] = {law.name: law for law in _LAWS}
"""Laws by name. `per-size` is made for the sizes at hand by `per_size`."""


def law_named(name: str) -> Law:
    """The catalogue's law of this name; raises `InputError` listing the names there are."""
    if name not in CATALOGUE:
        raise InputError(f"no law is called {name!r}; there are: {', '.join(CATALOGUE)}, per-size")
    return CATALOGUE[name]


__all__ = [
    "BILINEAR", "BOUNDED", "BOUNDED_FLOOR", "BOUNDED_FLOOR_INTERACTION", "BOUNDED_TOKENS", "BOUNDED_TOKENS_INTERACTION", "CATALOGUE",
    "DATA_CONSTRAINED", "DENSE", "DENSE_FLOOR", "FLOOR", "FLOOR_INTERACTION", "FRONTIER", "GRANULARITY", "JOINT", "LEVERAGE",
    "SATURATING_TOKENS", "SEPARABLE", "SPARSITY", "SPARSITY_DENSE", "TOKENS", "TOKENS_EXPERTS", "UTILISATION", "FloorLink",
    "IdentityLink", "Law", "Link", "Log10Link", "Published", "Roles", "Shape", "law_named", "per_size", "stack_features",
]  # fmt: skip
