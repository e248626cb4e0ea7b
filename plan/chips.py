"""TPUs and GPUs as documented: what a chip computes, reads and sends in a second, and how chips are
linked.

Peaks, memory and bandwidths are those of Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU
v6e" (cloud.google.com/tpu/docs, section "System architecture"), read in November 2026, and of
NVIDIA's data sheets; a comment says where a value is computed from them.
"""

import math
import re
from dataclasses import dataclass, replace

from reference.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of TPU or GPU."""

    hbm: int
    """Bytes that a program can use."""
    accelerator: str
    """libtpu's name for a slice of them; "" for a GPU."""
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
    """A side whose length is a multiple of this wraps around; 0 for a GPU, linked by switches."""
    network_bandwidth: float = 0.0
    """Of a GPU: bytes a second that it sends to those of other nodes."""
    kinds: tuple[str, ...] = ()
    """JAX's names for it, `jax.Device.device_kind`."""


CHIPS: dict[str, Chip] = {
    # "32 GiB, 1200 GBps". The page has no bandwidth for a chip's links; it is computed from the
    # pod's bisection, 24 TB/s over the 512 links that cut its 16x16x16 chips in two.
    "v4": Chip(32 * GIB, "v4", 2, 275e12, 1200e9, 24e12 / 512, 3, 4, kinds=("TPU v4",)),
    # "16 GB, 819 GBps", of which the compiler leaves 15.75 GiB; 400 GBps "bidirectional ... per
    # chip" over four links.
    "v5e": Chip(
        int(15.75 * GIB),
        "v5litepod",
        1,
        197e12,
        819e9,
        400e9 / 8,
        2,
        16,
        kinds=("TPU v5 lite", "TPU v5e"),
    ),
    # 95 GiB, 2765 GBps, 1200 GBps bidirectional over six links.
    "v5p": Chip(95 * GIB, "v5p", 2, 459e12, 2765e9, 1200e9 / 12, 3, 4, kinds=("TPU v5", "TPU v5p")),
    # "32 GB", taken as 32e9 bytes; 1638 GBps; 800 GBps bidirectional over four links.
    "v6e": Chip(
        int(32e9), "v6e", 1, 918e12, 1638e9, 800e9 / 8, 2, 16, kinds=("TPU v6 lite", "TPU v6e")
    ),
    # bfloat16 without sparsity; NVLink's and the network's bandwidths are both directions' sums,
    # halved. "NVIDIA H100 Tensor Core GPU", SXM: 1,979 teraFLOPS "with sparsity", 80 GB, 3.35 TB/s,
    # NVLink 900 GB/s. "NVIDIA DGX H100": eight 400 Gb/s adapters for eight GPUs.
    "h100": Chip(
        int(80e9),
        "",
        1,
        1979e12 / 2,
        3.35e12,
        900e9 / 2,
        2,
        0,
        400e9 / 8,
        ("NVIDIA H100 80GB HBM3",),
    ),
    # "NVIDIA H200 Tensor Core GPU", SXM: 1,979 teraFLOPS "with sparsity", 141 GB, 4.8 TB/s, NVLink
    # 900 GB/s. "NVIDIA DGX H200": eight 400 Gb/s adapters.
    "h200": Chip(
        int(141e9), "", 1, 1979e12 / 2, 4.8e12, 900e9 / 2, 2, 0, 400e9 / 8, ("NVIDIA H200",)
    ),
    # "NVIDIA A100 Tensor Core GPU", 80GB SXM: 312 teraFLOPS, 2,039 GB/s, NVLink 600 GB/s. "NVIDIA
    # DGX A100": eight 200 Gb/s adapters.
    "a100": Chip(
        int(80e9), "", 1, 312e12, 2039e9, 600e9 / 2, 2, 0, 200e9 / 8, ("NVIDIA A100-SXM4-80GB",)
    ),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if it is none of these."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)


@dataclass(frozen=True)
class Side:
    """Chips in a row."""

    length: int
    ring: bool
    """Whether the last is linked to the first chip."""
    switch: float = 0.0
    """Of GPUs: the bandwidth of each to a switch, over its `link_bandwidth`; 1 within a node."""

    @property
    def links(self) -> float:
        """By which every chip of the row can receive, the first and the last too."""
        if self.length == 1:
            return 0.0
        return self.switch or (2.0 if self.ring else 1.0)


@dataclass(frozen=True)
class Topology:
    """A slice of chips, such as v5e:4x4, or nodes of GPUs: h100:8, or h100:2x8 for two of eight."""

    name: str

    def __post_init__(self) -> None:
        kind, _, sides = self.name.partition(":")
        if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){0,2}", sides) or 0 in self.lengths:
            raise ConfigError(
                f"no topology is called {self.name!r}; there are slices of {', '.join(CHIPS)}, "
                "such as v5e:4x4, v5p:2x2x4, h100:8 or h100:2x8 (nodes x GPUs)"
            )
        if self.is_gpu and len(self.lengths) <= 2:
            return
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
    def is_gpu(self) -> bool:
        """Whether its chips are GPUs."""
        return self.chip.network_bandwidth > 0

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
        if self.is_gpu:
            network = self.chip.network_bandwidth / self.chip.link_bandwidth
            *nodes, gpus = self.lengths
            return (*(Side(length, False, network) for length in nodes), Side(gpus, False, 1.0))
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
                    whole = part == side.length
                    rows.append(replace(side, length=part, ring=side.ring and whole))
                    left[i], axis = (length // part, side), axis // part
            rest = replace(self.sides[0], length=axis, ring=False)
            found.append((*rows, rest) if axis > 1 else tuple(rows))
        model, expert, data = found
        return data, expert, model
