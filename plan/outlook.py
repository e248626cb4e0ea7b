"""What a step and a whole run would take, on paper: memory, FLOPs, bytes and times, from closed
forms alone or from a compiled step.

From a compiled step come memory, FLOPs and the collectives' bytes, by kind; XLA counts a loop's
body once, so its FLOPs scale the closed form's by their ratio. Bytes of HBM are the closed form's
in both ways, and so is which axes of the mesh a kind of collective is over.
"""

from dataclasses import asdict, dataclass
from typing import Any

from plan.chips import GIB, Side, Topology
from plan.compiled import Result, check_on_mesh
from plan.memory import step_memory
from plan.request import Request
from plan.times import RunTotals, StepTime, collective_seconds, run_totals, step_time, utilisation
from plan.traffic import Step, Traffic, step_traffic
from reference.errors import ConfigError
from reference.mesh import BATCH, DATA, EXPERT, MODEL

SCHEMA = "routelaw.outlook/1"


@dataclass(frozen=True)
class Outlook:
    """One training step on one slice, and a run of such steps. Per chip unless said otherwise."""

    request: Request
    source: str
    """closed form, or compiled."""
    memory: dict[str, int]
    """Bytes: parts, and `peak`, all there is at once."""
    flops: float
    """Of the products that are done."""
    model_flops: float
    hbm: int
    collectives: dict[str, int]
    """Bytes by kind."""
    time: StepTime
    run: RunTotals

    @property
    def fits(self) -> bool:
        """Whether the peak is within the chip's memory."""
        return self.memory["peak"] <= Topology(self.request.topology).chip.hbm

    @property
    def tokens_per_second(self) -> float:
        """Of the whole slice, at most."""
        return self.request.batch * self.request.config().context / self.time.overlapped

    @property
    def utilisation(self) -> tuple[float, float]:
        """Model FLOPs utilisation, with everything overlapped and with nothing:
        no more than the first can be had."""
        chip = Topology(self.request.topology).chip
        return utilisation(self.model_flops, self.time.overlapped, chip), utilisation(
            self.model_flops, self.time.serial, chip
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        time, (most, least) = self.time, self.utilisation
        return {
            "schema": SCHEMA, "request": asdict(self.request), "source": self.source, "fits": self.fits, "memory": self.memory,
            "flops": self.flops, "model_flops": self.model_flops, "hbm_bytes": self.hbm, "collective_bytes": self.collectives,
            "seconds": {
                "products": time.products, "hbm": time.memory, "collectives": time.collectives,
                "overlapped": time.overlapped, "serial": time.serial,
            },
            "bottleneck": time.bottleneck, "tokens_per_second": self.tokens_per_second,
            "model_flops_utilisation": {"overlapped": most, "serial": least}, "run": asdict(self.run),
        }  # fmt: skip


def by_closed_form(request: Request, steps: int) -> Outlook:
    """Without a compiler.

    Raises `ConfigError` for a routed layer, or a model that does not come out even on the mesh.
    """
    if request.program != "step":
        raise ConfigError("closed forms are of a training step; leave --only layer out")
    check_on_mesh(request)
    traffic = _traffic(request)
    seconds: dict[str, float] = {}
    for moved in traffic.collectives:
        seconds[moved.kind] = seconds.get(moved.kind, 0.0) + _seconds(
            request, moved.kind, moved.bytes, moved.axes
        )
    memory = step_memory(request.config(), request.batch, axes=request.axes, parts=request.parts)
    return _outlook(
        request, "closed form", memory.record(), traffic.flops, traffic.by_kind, seconds, steps
    )


def by_compiler(result: Result, steps: int) -> Outlook | None:
    """From a compiled step;
    None for one that does not fit, of which there is nothing but its memory, and for a routed
    layer."""
    request = result.request
    if request.program != "step" or result.collectives is None or result.ratio is None:
        return None
    traffic = _traffic(request)
    moved = {kind: found.bytes for kind, found in result.collectives.items() if found.bytes}
    # The largest of a kind says which axes it is over; what closed forms do not have is over all
    # chips.
    axes = {
        each.kind: each.axes for each in sorted(traffic.collectives, key=lambda each: each.bytes)
    }
    seconds = {
        kind: _seconds(request, kind, size, axes.get(kind, (*BATCH, MODEL)))
        for kind, size in moved.items()
    }
    memory = {**asdict(result.memory), "peak": result.memory.total}
    return _outlook(
        request, "compiled", memory, traffic.flops * result.ratio, moved, seconds, steps
    )


def _traffic(request: Request) -> Traffic:
    return step_traffic(Step(request.config(), request.batch, request.parts, request.axes))


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
    topology, traffic = Topology(request.topology), _traffic(request)
    time = step_time(topology.chip, flops, traffic.hbm, seconds)
    run = run_totals(
        time, steps=steps, chips=topology.devices, model_flops=traffic.model_flops, flops=flops,
        link_bytes=sum(moved.values()), tokens=request.batch * request.config().context,
    )  # fmt: skip
    return Outlook(
        request, source, memory, flops, traffic.model_flops, traffic.hbm, moved, time, run
    )


def _seconds(request: Request, kind: str, size: int, axes: tuple[str, ...]) -> float:
    topology = Topology(request.topology)
    return collective_seconds(kind, size, rows_of(request, axes), topology.chip.link_bandwidth)


def rows_of(request: Request, axes: tuple[str, ...]) -> tuple[Side, ...]:
    """The rows of chips that these axes of the mesh span together;
    the whole slice's own if it is all of them."""
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
    topology, (most, least) = Topology(request.topology), outlook.utilisation
    chip, mesh = topology.chip, " x ".join(map(str, request.axes))
    routed = "" if request.router == "dense" else f" E={request.experts}"
    parts = f" in {request.parts} parts" if request.parts > 1 else ""
    held = {
        name: size
        for name, size in memory.items()
        if size and name not in ("peak", "state", "temporary")
    }
    rows = {
        "model": f"{request.size} {request.router}{routed}, {request.batch} sequences a step{parts}",
        "slice": f"{request.topology}, data x expert x model = {mesh}; by {outlook.source}",
        "memory": f"{memory['peak'] / GIB:.2f} of {chip.hbm / GIB:.2f} GiB a chip: {'fits' if outlook.fits else 'does not fit'}",
        "": ", ".join(f"{name} {size / GIB:.2f}" for name, size in held.items()),
        "products": f"{_time(time.products)}  {outlook.flops:.3g} FLOPs at {chip.flops:.3g} a second",
        "HBM": f"{_time(time.memory)}  {outlook.hbm / GIB:,.1f} GiB at {chip.hbm_bandwidth:.3g} bytes a second",
        **{
            kind: f"{_time(seconds)}  {outlook.collectives[kind] / GIB:,.2f} GiB"
            for kind, seconds in time.collectives.items()
        },
        "step": f"{_time(time.overlapped)} at least, all at once; {_time(time.serial).strip()} one after the other",
        "first bottleneck": time.bottleneck,
        "model FLOPs": f"at most {most:.0%} of the peak; {least:.0%} with nothing overlapped",
        "tokens a second": f"at most {outlook.tokens_per_second:,.0f}",
        f"{run.steps:,} steps": f"{run.hours:,.1f} hours at least ({run.serial_hours:,.1f} with nothing overlapped)",
        "chip-hours": f"{run.chip_hours:,.0f} at least",
        "in all": f"{run.tokens:.3g} tokens, {run.flops:.3g} model FLOPs ({run.done_flops:.3g} done)",
        "moved": f"{run.link_bytes / 1e15:,.1f} PB in collectives, on all chips",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:>{width}}  {value}" for name, value in rows.items())


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:8.2f} ms"
