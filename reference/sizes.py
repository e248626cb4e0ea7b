"""The sizes of models: the paper's, as released, and small ones for a laptop."""

import re
from dataclasses import dataclass

from reference.errors import require, require_count


@dataclass(frozen=True)
class Size:
    """A dense architecture; `kqv_size` is the dimension of a head's queries, keys and values."""

    d_model: int
    num_blocks: int
    num_heads: int
    kqv_size: int

    def __post_init__(self) -> None:
        for name in ("d_model", "num_blocks", "num_heads", "kqv_size"):
            require_count(name, getattr(self, name))
        require(
            self.d_model % 2 == 0,
            f"d_model is {self.d_model}; sinusoidal positions come in pairs: make it even",
        )


SIZES: dict[str, Size] = {
    "15M": Size(512, 6, 8, 32),
    "25M": Size(512, 8, 8, 64),
    "55M": Size(640, 10, 12, 64),
    "130M": Size(896, 12, 16, 64),
    "370M": Size(1536, 12, 12, 128),
    "870M": Size(2048, 16, 16, 128),
    "1.3B": Size(2048, 24, 16, 128),
    "7B": Size(4096, 32, 32, 128),
}
"""The released sizes, and 870M and 7B, which are in the paper's ladder only."""

NANO: dict[str, Size] = {
    "7K": Size(16, 2, 4, 4),
    "15K": Size(24, 2, 4, 6),
    "27K": Size(32, 2, 4, 8),
    "60K": Size(48, 2, 4, 12),
    "107K": Size(64, 2, 4, 16),
    "240K": Size(96, 2, 4, 24),
    "427K": Size(128, 2, 4, 32),
    "1.9M": Size(192, 4, 4, 48),
    "5M": Size(256, 6, 4, 64),
}
"""Small sizes, by their N.

Our choice: four heads throughout, because the number of heads alone affects the loss, with a total
width of d_model, as in the paper's larger sizes.
"""

LADDER: dict[str, Size] = NANO | SIZES
"""Every size, smallest first."""

_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")


def size_named(name: str) -> Size:
    """A size of `LADDER`, or any other: d_model x num_blocks x num_heads x kqv_size, as 512x6x8x32.

    Raises `ConfigError` for what is neither.
    """
    if (shape := _SHAPE.fullmatch(name)) is not None:
        return Size(*map(int, shape.groups()))
    there_are = f"there are {', '.join(LADDER)} and shapes: 512x6x8x32"
    require(name in LADDER, f"no size is called {name!r}; {there_are}")
    return LADDER[name]
