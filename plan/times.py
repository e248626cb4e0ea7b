"""Lower bounds on the time of a step, from the chips' documented rates: products at peak, memory
and links at their bandwidth. No latency, no imbalance, no failures.

Collectives of V bytes (the larger of the input and the output on one chip) over n chips in rows,
each with one or two links by which every chip can receive (`chips.Side`):

- all-gather, reduce-scatter: each chip receives, or sends, V (n-1)/n by all its links at once. A
  ring attains it (Chan et al. 2007, "Collective communication: theory, practice, and experience",
  section 4); on several rows, rings along each carry a share.
- all-reduce: a reduce-scatter and an all-gather, twice that (same source).
- all-to-all: the larger of V (n-1)/n by all links, and of what one half sends to the other across
  the middle of the longest row: the bisection bound (Dally and Towles 2004, "Principles and
  Practices of Interconnection Networks", section 3.3).
- GPUs: each has a link to its node's switch and another to the network's, and no middle to cross.
  Besides the above, the network's links of a node carry what its other chips do not hold.
- collective-permute: V over one link.

A compiled step lies between everything overlapped and everything serial.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plan.chips import Chip, Side


def collective_seconds(kind: str, size: int, rows: Sequence[Side], link_bandwidth: float) -> float:
    """Seconds of a collective of `size` bytes on a block of chips with these `rows`; 0 on one chip.
    `kind` is one of `hlo.KINDS`."""
    chips = math.prod(side.length for side in rows)
    if chips == 1:
        return 0.0
    if kind == "collective-permute":
        return size / link_bandwidth
    by_links = size * (chips - 1) / chips / (link_bandwidth * sum(side.links for side in rows))
    if kind == "all-to-all":
        return max(by_links, *(_across(size, side, link_bandwidth) for side in rows))
    network = max((_between(size, chips, side, link_bandwidth) for side in rows), default=0.0)
    return max(by_links, network) * (2 if kind == "all-reduce" else 1)


def _between(size: int, chips: int, side: Side, link_bandwidth: float) -> float:
    """Seconds for what every node of a network gathers from the others, by the links of all its
    chips; 0 for rows that are no network."""
    if not 0 < side.switch < 1 or side.length == 1:
        return 0.0
    others = size * (side.length - 1) / side.length
    return others / (chips / side.length * side.switch * link_bandwidth)


def _across(size: int, side: Side, link_bandwidth: float) -> float:
    """Seconds for what an all-to-all sends across the middle of rows like `side`, in one direction.

    A row of s chips has s V bytes to send, of which the part floor(s/2) ceil(s/2) / s^2 goes from
    one half to the other. Rows side by side have as many more chips as links. Through a switch, a
    chip's link carries what it sends to the others.
    """
    if side.switch:
        return size * (side.length - 1) / side.length / (link_bandwidth * side.switch)
    half, rest = side.length // 2, -(-side.length // 2)
    return size * half * rest / side.length / (link_bandwidth * side.links) if side.links else 0.0


@dataclass(frozen=True)
class StepTime:
    """Lower bounds on the seconds of one step."""

    products: float
    """Matrix products at the chip's peak."""
    memory: float
    """HBM's bytes at its bandwidth."""
    collectives: dict[str, float]
    """Each kind's bytes over the links it can use."""

    @property
    def links(self) -> float:
        """All collectives, serially: they share the links."""
        return sum(self.collectives.values(), start=0.0)

    @property
    def overlapped(self) -> float:
        """Everything at once: a lower bound."""
        return max(self.products, self.memory, self.links)

    @property
    def serial(self) -> float:
        """One after the other."""
        return self.products + self.memory + self.links

    @property
    def bottleneck(self) -> str:
        """What takes longest; of links, with the collective that does."""
        if self.links >= max(self.products, self.memory):
            slowest = max(self.collectives, key=lambda kind: self.collectives[kind])
            return f"links, most of all {slowest}"
        return "matrix products" if self.products >= self.memory else "HBM"


def step_time(chip: Chip, flops: float, hbm: int, collectives: dict[str, float]) -> StepTime:
    """From one chip's FLOPs, its bytes of HBM, and the seconds of its collectives."""
    return StepTime(flops / chip.flops, hbm / chip.hbm_bandwidth, collectives)


@dataclass(frozen=True)
class RunTotals:
    """A whole run of equal steps."""

    steps: int
    hours: float
    """With everything overlapped: a lower bound."""
    serial_hours: float
    chip_hours: float
    """Of all chips, overlapped."""
    flops: float
    """The model's own, on all chips, forward and backward."""
    done_flops: float
    """With empty slots and rematerialisation."""
    link_bytes: float
    """Of all collectives' arrays, on all chips."""
    tokens: float


def run_totals(
    time: StepTime,
    *,
    steps: int,
    chips: int,
    model_flops: float,
    flops: float,
    link_bytes: int,
    tokens: int,
) -> RunTotals:
    """Of `steps` steps. FLOPs and bytes are those of one chip in one step, `tokens` those of all
    chips."""
    hours = steps * time.overlapped / 3600
    return RunTotals(
        steps=steps,
        hours=hours,
        serial_hours=steps * time.serial / 3600,
        chip_hours=hours * chips,
        flops=steps * chips * model_flops,
        done_flops=steps * chips * flops,
        link_bytes=float(steps * chips * link_bytes),
        tokens=float(steps) * tokens,
    )


def utilisation(model_flops: float, seconds: float, chip: Chip) -> float:
    """Model FLOPs utilisation: one chip's model FLOPs over its peak in that time (Chowdhery et al.
    2022, appendix B)."""
    return model_flops / (seconds * chip.flops)
