"""What a training step and a whole run take: memory, FLOPs, bytes and times, from closed forms
alone or from a compiled step.

A compiled step gives memory, FLOPs and the collectives' bytes by kind. XLA counts a loop's body
once, so its FLOPs scale the closed form's by their ratio. Bytes of HBM are the closed form's either
way, and so is which axes of the mesh a kind of collective is over.
"""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from plan.chips import GIB, Chip, Side, Topology
from plan.compiled import Result, check_on_mesh
from plan.hlo import KINDS
from plan.memory import step_memory
from plan.request import Request
from plan.times import RunTotals, StepTime, collective_seconds, run_totals, step_time, utilisation
from plan.traffic import step_traffic
from reference.errors import ConfigError
from reference.mesh import BATCH, DATA, EXPERT, MODEL

SCHEMA = "routelaw.outlook/1"

_NO_BREAK = "\u00a0"
"""A blank at which no line ends."""


@dataclass(frozen=True)
class Outlook:
    """A training step on a slice, and a run of such steps. Of one chip, unless stated."""

    request: Request
    source: str
    """closed form, or compiled."""
    memory: dict[str, int]
    """Bytes: parts, and their `peak`."""
    flops: float
    """Of the products that are done."""
    model_flops: float
    hbm: int
    collectives: dict[str, int]
    """Bytes by kind."""
    time: StepTime
    run: RunTotals

    @property
    def chip(self) -> Chip:
        """The chip."""
        return Topology(self.request.topology).chip

    @property
    def fits(self) -> bool:
        """Whether the peak is within the chip's memory."""
        return self.memory["peak"] <= self.chip.hbm

    @property
    def tokens_per_second(self) -> float:
        """Upper bound for the whole slice."""
        return self.request.batch * self.request.context / self.time.overlapped

    @property
    def utilisation(self) -> tuple[float, float]:
        """Model FLOPs utilisation with everything overlapped, an upper bound, and with nothing."""
        overlapped, serial = self.time.overlapped, self.time.serial
        flops, chip = self.model_flops, self.chip
        return utilisation(flops, overlapped, chip), utilisation(flops, serial, chip)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        time, (most, least) = self.time, self.utilisation
        return {
            "schema": SCHEMA,
            "request": asdict(self.request),
            "source": self.source,
            "fits": self.fits,
            "memory": self.memory,
            "flops": self.flops,
            "model_flops": self.model_flops,
            "hbm_bytes": self.hbm,
            "collective_bytes": self.collectives,
            "seconds": {
                "products": time.products,
                "hbm": time.memory,
                "collectives": time.collectives,
                "overlapped": time.overlapped,
                "serial": time.serial,
            },
            "bottleneck": time.bottleneck,
            "tokens_per_second": self.tokens_per_second,
            "model_flops_utilisation": {"overlapped": most, "serial": least},
            "run": asdict(self.run),
        }


def by_closed_form(request: Request, steps: int) -> Outlook:
    """Without a compiler.

    Raises `ConfigError` for anything but a training step, or if the mesh does not divide the model.
    """
    if request.program != "step":
        raise ConfigError(
            f"closed forms are of a training step; leave --only {request.program} out"
        )
    check_on_mesh(request)
    traffic = step_traffic(request.step)
    seconds, sizes = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    for moved in traffic.collectives:
        seconds[moved.kind] += _seconds(request, moved.kind, moved.bytes, moved.axes)
        sizes[moved.kind] += moved.bytes
    sizes = {kind: size for kind, size in sizes.items() if size}
    seconds = {kind: seconds[kind] for kind in sizes}
    memory = step_memory(request.step).record()
    return _outlook(request, "closed form", memory, traffic.flops, sizes, seconds, steps)


def by_compiler(result: Result, steps: int) -> Outlook | None:
    """From a compiled step; None for other programs, and for a step that was refused as too large,
    of which only the memory is known."""
    request = result.request
    if request.program != "step" or result.collectives is None or result.ratio is None:
        return None
    traffic = step_traffic(request.step)
    moved = {kind: found.bytes for kind, found in result.collectives.items() if found.bytes}
    # The axes of a kind are those of its largest in closed form; all axes if it has none.
    by_size = sorted(traffic.collectives, key=lambda each: each.bytes)
    axes = {each.kind: each.axes for each in by_size}
    seconds = {
        kind: _seconds(request, kind, size, axes.get(kind, (*BATCH, MODEL)))
        for kind, size in moved.items()
    }
    memory = {**asdict(result.memory), "peak": result.memory.total}
    flops = traffic.flops * result.ratio
    return _outlook(request, "compiled", memory, flops, moved, seconds, steps)


def _outlook(
    request: Request,
    source: str,
    memory: dict[str, int],
    flops: float,
    moved: dict[str, int],
    seconds: dict[str, float],
    steps: int,
) -> Outlook:
    if steps < 1:
        raise ConfigError(f"--steps {steps}: a run has at least 1 step")
    topology, traffic = Topology(request.topology), step_traffic(request.step)
    time = step_time(topology.chip, flops, traffic.hbm, seconds)
    run = run_totals(
        time,
        steps=steps,
        chips=topology.devices,
        model_flops=traffic.model_flops,
        flops=flops,
        link_bytes=sum(moved.values()),
        tokens=request.batch * request.context,
    )
    return Outlook(
        request, source, memory, flops, traffic.model_flops, traffic.hbm, moved, time, run
    )


def _seconds(request: Request, kind: str, size: int, axes: tuple[str, ...]) -> float:
    topology = Topology(request.topology)
    return collective_seconds(kind, size, rows_of(request, axes), topology.chip.link_bandwidth)


def rows_of(request: Request, axes: tuple[str, ...]) -> tuple[Side, ...]:
    """The rows of chips that these axes of the mesh span together; the slice's sides if all do."""
    topology, (data, expert, model) = Topology(request.topology), request.axes
    sizes = {DATA: data, EXPERT: expert, MODEL: model}
    if all(sizes[axis] == 1 or axis in axes for axis in sizes):
        return topology.sides
    if DATA in axes and EXPERT in axes:
        return topology.split((data * expert, 1, model))[0]
    by_axis = dict(zip(sizes, topology.split(request.axes), strict=True))
    return tuple(side for axis in axes for side in by_axis[axis])


def text(outlook: Outlook) -> str:
    """For a terminal, a line for each figure."""
    request, time, run, memory = outlook.request, outlook.time, outlook.run, outlook.memory
    chip, (most, least) = outlook.chip, outlook.utilisation
    number = request.microbatches
    split = f" in {number} microbatches" if number > 1 else ""
    sums = ("peak", "state", "temporary")
    held = {name: size for name, size in memory.items() if size and name not in sums}
    rows = {
        "model": f"{request.model}, {request.batch} sequences a step{split}",
        "slice": f"{request.topology}, data x expert x model = {request.mesh_text}; "
        f"by {outlook.source}",
        "memory": f"{memory['peak'] / GIB:.2f} of {chip.hbm / GIB:.2f} GiB a chip: "
        + ("fits" if outlook.fits else "does not fit"),
        "": ", ".join(f"{name}{_NO_BREAK}{size / GIB:.2f}" for name, size in held.items()),
        "products": f"{_time(time.products)}  {outlook.flops:.3g} FLOPs "
        f"at {chip.flops:.3g} a second",
        "HBM": f"{_time(time.memory)}  {outlook.hbm / GIB:,.1f} GiB "
        f"at {chip.hbm_bandwidth:.3g} bytes a second",
        **{
            kind: f"{_time(seconds)}  {outlook.collectives[kind] / GIB:,.2f} GiB"
            for kind, seconds in time.collectives.items()
        },
        "step": f"{_time(time.overlapped)} at least, with everything overlapped; "
        f"{_time(time.serial).strip()} with nothing",
        "first bottleneck": time.bottleneck,
        "model FLOPs": f"at most {most:.0%} of the peak; {least:.0%} with nothing overlapped",
        "tokens a second": f"at most {outlook.tokens_per_second:,.0f}",
        f"{run.steps:,} steps": f"{run.hours:,.1f} hours at least "
        f"({run.serial_hours:,.1f} with nothing overlapped)",
        "chip-hours": f"{run.chip_hours:,.0f} at least",
        "in total": f"{run.tokens:.3g} tokens, {run.flops:.3g} model FLOPs "
        f"({run.done_flops:.3g} done)",
        "moved": f"{run.link_bytes / 1e15:,.1f} PB in collectives, on all chips",
    }
    width = max(map(len, rows))
    return "\n".join(_row(name, value, width) for name, value in rows.items())


def _row(name: str, value: str, width: int) -> str:
    """A row of the text, in lines of at most 80 columns."""
    lines = textwrap.wrap(value, 78 - width, drop_whitespace=False) or [""]
    indent = "\n" + " " * (width + 2)
    joined = indent.join(line.rstrip() for line in lines)
    return f"{name:>{width}}  {joined}".replace(_NO_BREAK, " ")


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:8.2f} ms"
