"""A check of everything that needs a GPU or a TPU, in under eight minutes, without a network.

    python -m benchmarks.accelerator --json out.json
    python -m benchmarks.accelerator --toy

Its parts, in this order:

    machine    what there is
    attention  the kernel's values and gradients against the plain form's in float64, and its time beside plain and chunked attention
    steps      tokens a second, model FLOPs utilisation and memory of dense and routed training steps, bfloat16, 8 x 2048 tokens
    run        a run by the command line: trained, stopped, continued, its curves read back, and sampled from
    peer       the same architecture in PyTorch, if this Python or `--torch-python` has it; routed by Switch, where ours is S-BASE

Each part has a share of the time, and what it leaves over is the next one's; an item that takes half of what its part has left is given
up, and what there is no time for is named in the table. An item runs in a process that may fail, hang or be killed without loss to the
others. Tables are printed and the JSON is written after every part.

`--toy` does all of it on a CPU, in models of some thousand parameters; kernels are interpreted.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import tyro

from benchmarks.common import save, show, verdict
from benchmarks.device import attention, peer, steps, whole_run
from benchmarks.device.parts import Found, Item, Part, Result, run_part

Name = Literal["attention", "steps", "run", "peer"]
NAMES: tuple[Name, ...] = get_args(Name)

MACHINE_SECONDS = 60.0
"""In which JAX must say which devices there are; a driver that hangs takes any time."""

SHARES: dict[str, float] = {"machine": 0.04, "attention": 0.21, "steps": 0.48, "run": 0.11, "peer": 0.16}
"""Of the time. Our choice: most of it is compiling, of some 15 steps and of 12 shapes of attention in three forms."""


@dataclass(frozen=True)
class Options:
    """What needs a GPU or a TPU, measured and checked."""

    toy: bool = False
    """Everything at toy size, on a CPU."""
    minutes: float = 8.0
    """For all parts together."""
    parts: tuple[Name, ...] = NAMES
    """Parts to run."""
    torch_python: Path | None = None
    """A Python that has PyTorch; default: this one, if it has."""
    json: Path | None = None
    """A file for the figures."""


@dataclass
class Check:
    """The parts so far."""

    options: Options
    start: float = field(default_factory=time.monotonic)
    results: dict[str, Result] = field(default_factory=dict[str, Result])

    def run(self, name: str, part: Part) -> Result:
        """Run a part, print its table, and write all figures so far. Exits if the machine is not one to measure."""
        names = ("machine", *self.options.parts)
        shares = [SHARES[each] for each in names]
        until = 60 * self.options.minutes * sum(shares[: names.index(name) + 1]) / sum(shares)
        if name == "machine":
            until = min(MACHINE_SECONDS, 60 * self.options.minutes)
        result = self.results[name] = run_part(part, self.start + until, _not_shown if name == "machine" else _shown)
        if name == "machine" and (reason := _refusal(result.found[0], self.options.toy)):
            raise SystemExit(reason)
        show(f"{part.title} ({result.seconds:.0f} s)", part.header, result.rows() or [["(none)", *[""] * (len(part.header) - 1)]])
        figures = {name: result.record() for name, result in self.results.items()}
        save(self.options.json, {"seconds": time.monotonic() - self.start, "parts": figures})
        return result


def _refusal(found: Found, toy: bool) -> str | None:
    """Why nothing can be measured on this machine, and what to do; None if it can."""
    reason = found.get("failed", f"not within {MACHINE_SECONDS:.0f} s" if "skipped" in found else None)
    if reason is None and (toy or found["platform"] != "cpu"):
        return None
    what = f"JAX does not say which devices there are: {reason}" if reason else "JAX sees no accelerator here"
    install = "install its driver, and JAX for it: uv sync --extra cuda"
    return f"error: {what}\n{install}\nor try everything at toy size: python -m benchmarks.accelerator --toy"


def part_of(name: Name, options: Options, check: Check) -> Part:
    """A part with its items."""
    toy = options.toy
    if name == "attention":
        title = "Attention, forward and backward pass: largest error over its bound, and time"
        return Part(attention.__name__, title, attention.items(toy), attention.HEADER, attention.row)
    if name == "steps":
        return Part(steps.__name__, "Training steps", steps.items(toy), steps.HEADER, steps.row)
    if name == "run":
        return Part(whole_run.__name__, "A run, stopped and continued", whole_run.items(toy), whole_run.HEADER, whole_run.row)
    python, where = options.torch_python or (Path(sys.executable) if find_spec("torch") else None), ""
    if python is None:
        where = ": no Python has it (--torch-python)"
    elif check.results["machine"].found[0]["platform"] not in ("gpu", "cpu"):
        python, where = None, ": only on a GPU"
    return Part(peer.__name__, f"PyTorch{where}", peer.items(toy, python, _fastest(check)), peer.HEADER, peer.row)


def _fastest(check: Check) -> dict[tuple[str, int], float]:
    """Our most tokens a second, by size and experts."""
    fastest: dict[tuple[str, int], float] = {}
    if (result := check.results.get("steps")) is not None:
        for item, found in zip(result.part.items, result.found, strict=True):
            model = item["size"], item["experts"]
            fastest[model] = max(fastest.get(model, 0.0), found.get("tokens_per_second", 0.0))
    return {model: speed for model, speed in fastest.items() if speed}


def _shown(item: Item, found: Found) -> None:
    """A line on standard error while the part goes on."""
    print(
        f"  {item['name']}{''.join(f' {how}: {found[how]}' for how in ('failed', 'skipped') if how in found)}", file=sys.stderr, flush=True
    )


def _not_shown(item: Item, found: Found) -> None:
    """Nothing: a table follows at once, or a refusal."""


def _machine_row(item: Item, found: Found) -> list[str]:
    memory, peak = found["bytes"], found["peak_flops"]
    cells = [str(found["devices"]), found["jax"], "-" if memory is None else f"{memory / 1e9:.1f}"]
    return [found["kind"], *cells, "-" if peak is None else f"{peak / 1e12:.0f}"]


def verdicts(results: dict[str, Result]) -> list[tuple[str, bool]]:
    """What must hold, of the parts that ran."""
    judged: list[tuple[str, bool]] = []

    def _measured(name: str) -> Sequence[tuple[Item, Found]]:
        result = results.get(name)
        pairs = [] if result is None else zip(result.part.items, result.found, strict=True)
        return [(item, found) for item, found in pairs if not {"failed", "skipped"} & set(found)]

    def _judge(what: str, name: str, holds: Callable[[Item, Found], bool]) -> None:
        if of := _measured(name):
            judged.append((what, all(holds(item, found) for item, found in of)))

    _judge("the kernel is as close as its roundings, or in float32 as the plain form", "attention", attention.as_close)
    _judge("a run that was stopped goes on to its last step and has curves", "run", whole_run.complete)
    failed = [
        f"{name}: {item['name']}"
        for name, result in results.items()
        for item, found in zip(result.part.items, result.found, strict=True)
        if "failed" in found
    ]
    judged.append(("nothing failed" + "".join(f"\n  failed: {each}" for each in failed), not failed))
    return judged


def main(options: Options) -> None:
    """Run the parts, and say what holds. Exit code 1 if something does not."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if options.toy:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif platforms and "cpu" not in platforms:
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"  # what is exact is computed there
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")  # JAX's default leaves a quarter of a GPU's memory unused
    check = Check(options)
    header = ("", "devices", "JAX", "GB each", "peak TFLOP/s")
    check.run("machine", Part("benchmarks.device.machine", "Machine", [{"name": "devices"}], header, _machine_row))
    for name in options.parts:
        check.run(name, part_of(name, options, check))
    judged = verdicts(check.results)
    print("\n" + "\n".join(f"{what}: {verdict(met)}" for what, met in judged))
    if not all(met for _, met in judged):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
