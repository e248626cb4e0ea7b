"""`plan`: the cost of a model on TPUs, estimated without one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from commands.shared import progress_shown

if TYPE_CHECKING:
    from plan.request import Request


@dataclass(frozen=True)
class Plan:
    """Estimate a model's memory, FLOPs, communication and time on TPUs, without one.

    With --closed-form, by formulas alone, at once. Otherwise a routed layer and a training step are compiled, which needs the TPU compiler,
    `uv run --group tpu cli.py plan ...`, and takes half a minute for a layer, some minutes for a step.
    """

    size: str = "1.3B"
    """A size of the paper."""
    router: Literal["dense", "s-base", "hash", "rl-r", "switch"] = "s-base"
    """The router, or a dense model."""
    experts: int = 64
    """Experts E of a routed layer."""
    topology: str = "v5p:2x2x4"
    """A slice of v4, v5e, v5p or v6e chips, such as v5e:4x4."""
    mesh: str = ""
    """Chips along each axis, such as data=2,expert=8,model=1; default: as many as divide both over experts, the rest over data."""
    batch: int = 256
    """Sequences per step, of 2048 tokens."""
    parts: int = 1
    """Gradient-accumulation microbatches per step."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of the activations."""
    remat: bool = True
    """Rematerialise blocks in the backward pass."""
    closed_form: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile nothing: estimate a training step by formulas alone."""
    steps: int = 250_000
    """Steps of the whole run, for its hours and FLOPs; the paper's by default."""
    only: Literal["layer", "step"] | None = None
    """Compile only this program."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile the programs of docs/plan.md instead of one model's; skips those in --out (delete it to recompile)."""
    out: Path | None = None
    """A Markdown file for the tables; JSON is written beside it."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Estimate and print."""
        if self.closed_form:
            self._by_closed_form()
        else:
            self._compile()

    def _requests(self) -> "list[Request]":
        from plan.request import Request, parse_mesh
        from plan.table import ALL

        if self.all:
            return list(ALL)
        mesh = parse_mesh(self.mesh) if self.mesh else None
        programs: tuple[Literal["layer", "step"], ...] = ("layer", "step") if self.router != "dense" else ("step",)
        if self.closed_form and self.only is None:
            programs = ("step",)
        return [
            Request(
                program,
                self.size,
                self.router,
                self.experts,
                self.topology,
                mesh,
                self.batch,
                self.parts if program == "step" else 1,
                self.dtype,
                self.remat,
            )
            for program in programs
            if self.only in (None, program)
        ]

    def _by_closed_form(self) -> None:
        from plan.outlook import by_closed_form, text
        from reference.errors import ConfigError

        if self.out:
            raise ConfigError("--out is for compiled programs; omit --closed-form, or use --json")
        requests = [request for request in self._requests() if not self.all or request.program == "step"]
        outlooks = [by_closed_form(request, self.steps) for request in requests]
        if self.json:
            import json

            print(json.dumps([outlook.record() for outlook in outlooks], indent=2))
        else:
            print("\n\n".join(map(text, outlooks)))

    def _compile(self) -> None:
        from plan.outlook import by_compiler, text
        from plan.table import measure_all, record
        from plan.table import text as table

        with progress_shown("programs") as progress:
            results = measure_all(self._requests(), self.out, progress)
        outlooks = [outlook for result in results if (outlook := by_compiler(result, self.steps))]
        if self.json:
            import json

            print(json.dumps({**record(results), "outlooks": [outlook.record() for outlook in outlooks]}, indent=2))
        else:
            print("\n\n".join((table(results), *map(text, outlooks))))
