"""TPUs as documented: what a chip computes, reads and sends in a second, and how the chips of a
slice are linked.

Peaks, memory and bandwidths are those of Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU
v6e" (cloud.google.com/tpu/docs, section "System architecture"), read in November 2026; a comment
says where a value is computed from them.
"""

import math
import re
from dataclasses import dataclass

from reference.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of TPU."""

    hbm: int
    """Bytes that a program can use."""
    accelerator: str
    """libtpu's name for a slice of them."""
    cores: int
    """Per chip; slices are named by their number."""
    flops: float
    """Peak in bfloat16, a second."""
    hbm_bandwidth: float
    """Bytes a second."""
    link_bandwidth: float
    """Bytes a second over one link in one direction. A chip has two links along each dimension."""
    dimensions: int
    """Of the torus."""
    ring: int
    """A side whose length is a multiple of this wraps around."""


CHIPS: dict[str, Chip] = {
    # "32 GiB, 1200 GBps". The page has no bandwidth for a chip's links; it is computed from the
    # pod's bisection, 24 TB/s over the 512 links that cut its 16x16x16 chips in two.
    "v4": Chip(32 * GIB, "v4", 2, 275e12, 1200e9, 24e12 / 512, 3, 4),
    # "16 GB, 819 GBps", of which the compiler leaves 15.75 GiB; 400 GBps "bidirectional ... per
    # chip" over four links.
    "v5e": Chip(int(15.75 * GIB), "v5litepod", 1, 197e12, 819e9, 400e9 / 8, 2, 16),
    # 95 GiB, 2765 GBps, 1200 GBps bidirectional over six links.
    "v5p": Chip(95 * GIB, "v5p", 2, 459e12, 2765e9, 1200e9 / 12, 3, 4),
    # "32 GB", taken as 32e9 bytes; 1638 GBps; 800 GBps bidirectional over four links.
    "v6e": Chip(int(32e9), "v6e", 1, 918e12, 1638e9, 800e9 / 8, 2, 16),
}


@dataclass(frozen=True)
class Side:
    """Chips in a row."""

    length: int
    ring: bool
    """Whether the last is linked to the first chip."""

    @property
    def links(self) -> int:
        """By which every chip of the row can receive, the first and the last too."""
        return 0 if self.length == 1 else 2 if self.ring else 1


@dataclass(frozen=True)
class Topology:
    """A slice of chips, such as v5e:4x4."""

    name: str

    def __post_init__(self) -> None:
        kind, _, sides = self.name.partition(":")
        if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", sides) or 0 in self.lengths:
            raise ConfigError(
                f"no topology is called {self.name!r}; there are slices of {', '.join(CHIPS)}, "
                "such as v5e:4x4 or v5p:2x2x4"
            )
        if len(self.lengths) != self.chip.dimensions:
            example = "x".join(["4"] * self.chip.dimensions)
            raise ConfigError(
                f"{self.name}: {kind} chips are linked in {self.chip.dimensions} dimensions; "
                f"write one such as {kind}:{example}"
            )

    @property
    def chip(self) -> Chip:
        """Its kind of chip."""
        return CHIPS[self.name.partition(":")[0]]

    @property
    def devices(self) -> int:
        """How many chips; each is one device to JAX."""
        return math.prod(self.lengths)

    @property
    def accelerator_type(self) -> str:
        """libtpu's TPU_ACCELERATOR_TYPE."""
        return f"{self.chip.accelerator}-{self.devices * self.chip.cores}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Chips along each dimension."""
        return tuple(int(side) for side in self.name.partition(":")[2].split("x"))

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides, and which of them are rings.

        On v5e and v6e those of 16 chips, as long as the pod ("How to Scale Your Model", Austin et
        al. 2025, part 2); slices of v4 and v5p are tori from 4x4x4 up: "slices smaller than a full
        cube ... don't have wrap-around links" ("TPU v5p").
        """
        rings = [length % self.chip.ring == 0 for length in self.lengths]
        whole_cubes = self.chip.dimensions == 2 or all(rings)
        return tuple(
            Side(length, ring and whole_cubes)
            for length, ring in zip(self.lengths, rings, strict=True)
        )

    def split(
        self, axes: tuple[int, int, int]
    ) -> tuple[tuple[Side, ...], tuple[Side, ...], tuple[Side, ...]]:
        """The rows of chips along each axis of a mesh (data, expert, model): model on the last
        sides, data on the first.

        Our assumption, as the compiler chooses. A part of a side is no ring; an axis that the sides
        do not divide counts as one row.
        """
        left = [(side.length, side) for side in reversed(self.sides)]
        found: list[tuple[Side, ...]] = []
        for axis in reversed(axes):
            rows: list[Side] = []
            for i, (length, side) in enumerate(left):
                part = math.gcd(axis, length)
                if part > 1:
                    rows.append(Side(part, side.ring and part == side.length))
                    left[i], axis = (length // part, side), axis // part
            found.append((*rows, Side(axis, False)) if axis > 1 else tuple(rows))
        model, expert, data = found
        return data, expert, model
