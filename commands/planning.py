"""`plan`: the cost of a model on TPUs, estimated without one."""

import json
import textwrap
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from commands.shared import Flat, Shape, progress_shown

if TYPE_CHECKING:
    from plan.request import Request


@dataclass(frozen=True)
class Plan:
    """Estimate a model's memory, FLOPs, communication and time on TPUs, without one.

    With --closed-form, by formulas alone, at once. Otherwise a routed layer, a training step and an evaluation batch are compiled, which
    needs the TPU compiler, `uv run --group tpu cli.py plan ...`; a layer takes half a minute, the others some minutes.
    """

    size: str = "1.3B"
    """A size from 7K to 7B, or a shape such as 512x6x8x32."""
    shape: Flat[Shape] = field(default_factory=Shape)
    router: str = "s-base"
    """dense, s-base or another router; an unknown name lists them."""
    experts: int = 64
    """Experts E of a routed layer."""
    k: int = 1
    """Experts per token."""
    granularity: int = 1
    """G: an expert is 4 * d_model / G wide."""
    shared_experts: int = 0
    """Experts that every token uses."""
    routing_frequency: str = "1/2"
    """Fraction R of the blocks that are routed, such as 1/2 or 0.5."""
    capacity_factor: float = 1.25
    """Of the experts in training; 0: no token is dropped."""
    topology: str = "v5p:2x2x4"
    """A slice of v4, v5e, v5p or v6e chips, such as v5e:4x4."""
    mesh: str = ""
    """Chips along each axis, such as data=2,expert=8,model=1; default: as many as divide both over experts, the rest over data."""
    batch: int = 256
    """Sequences per step; an evaluation batch is one microbatch."""
    context: int = 2048
    """Tokens per sequence."""
    vocabulary: int = 32_000
    """Number of token ids."""
    microbatches: int = 1
    """Gradient-accumulation microbatches per step."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of the activations."""
    attention: Literal["plain", "chunked", "kernel"] = "chunked"
    """How attention is computed."""
    remat: Literal["none", "selective", "full"] = "selective"
    """What blocks compute again in the backward pass."""
    fsdp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Spread the blocks' weights over all devices."""
    first_moment: Literal["float32", "bfloat16"] = "float32"
    """Dtype of AdamW's first moment."""
    config: Path | None = None
    """A run's config.toml: its model, batch and number of steps, instead of the options above; the mesh is --mesh."""
    closed_form: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile nothing: estimate by formulas alone."""
    steps: int | None = None
    """Steps of the whole run, for its hours and FLOPs; default: 250,000, the paper's."""
    only: Literal["layer", "step", "evaluation"] | None = None
    """Only this program."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile the programs of docs/plan.md instead of one model's; skips those in --out (delete it to recompile)."""
    out: Path | None = None
    """A Markdown file for the tables; JSON is written beside it."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Compile or estimate, and print."""
        if self.closed_form:
            self._by_closed_form()
        else:
            self._compile()

    def _requests(self) -> "list[Request]":
        from plan.request import Request, of_run, parse_mesh
        from plan.table import ALL, evaluation_of
        from reference.config import routing_frequency
        from training.toml import read_toml

        if self.all:
            return list(ALL)
        options = {each.name: getattr(self, each.name) for each in fields(Request) if each.name not in ("program", "mesh")}
        options["size"] = self.shape.name or self.size
        options["routing_frequency"] = routing_frequency(self.routing_frequency)
        if self.config:
            options |= of_run(read_toml(self.config), self.vocabulary)
        step = Request("step", mesh=parse_mesh(self.mesh) if self.mesh else None, **options)
        found = [step, evaluation_of(step)]
        if self.only == "layer" or step.router != "dense":
            found.insert(0, replace(step, program="layer", microbatches=1))
        return [request for request in found if self.only in (None, request.program)]

    def _steps(self) -> int:
        """Of the whole run: those asked for, the configuration's, or the paper's."""
        from training.toml import read_toml

        if self.steps is None and self.config:
            return read_toml(self.config).run.steps
        return 250_000 if self.steps is None else self.steps

    def _by_closed_form(self) -> None:
        from plan.outlook import by_closed_form, text
        from plan.search import fastest_fit, in_words
        from reference.errors import ConfigError

        if self.out:
            raise ConfigError("--out is for compiled programs; omit --closed-form, or use --json")
        requests = [request for request in self._requests() if request.program == (self.only or "step")]
        outlooks = [by_closed_form(request, self._steps()) for request in requests]
        if self.json:
            print(json.dumps([outlook.record() for outlook in outlooks], indent=2))
        else:
            print("\n\n".join(map(text, outlooks)))
            for outlook in outlooks:
                if not outlook.fits:
                    print("\n" + textwrap.fill(in_words(fastest_fit(outlook.request, self._steps())), 80, break_on_hyphens=False))

    def _compile(self) -> None:
        from plan.outlook import by_compiler, text
        from plan.table import measure_all, record
        from plan.table import text as table

        with progress_shown("programs") as progress:
            results = measure_all(self._requests(), self.out, progress)
        outlooks = [outlook for result in results if (outlook := by_compiler(result, self._steps()))]
        if self.json:
            print(json.dumps({**record(results), "outlooks": [outlook.record() for outlook in outlooks]}, indent=2))
        else:
            print("\n\n".join((table(results), *map(text, outlooks))))
