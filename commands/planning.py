"""`plan`: what a TPU's compiler makes of a model, without a TPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from commands.shared import progress_shown


@dataclass(frozen=True)
class Plan:
    """Compile for TPUs, ahead of time and without one: collectives, FLOPs and memory of a routed layer and of a training step.

    Needs the TPU compiler: `uv run --group tpu cli.py plan ...`. A layer takes half a minute, a step some minutes.
    """

    size: str = "1.3B"
    """A size of the paper."""
    router: Literal["dense", "s-base", "hash", "rl-r", "switch"] = "s-base"
    """The router, or a dense model."""
    experts: int = 64
    """Experts E of a routed layer."""
    topology: str = "v5p:2x2x4"
    """A slice of v5e or v5p chips, such as v5e:4x4."""
    mesh: str = ""
    """Chips along each axis, such as data=2,expert=8,model=1; left out: experts over as many as divide both, data over the rest."""
    batch: int = 256
    """Sequences of a step, of 2048 tokens."""
    parts: int = 1
    """Parts of the batch, one after the other, that a step's gradient is computed in."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the activations."""
    remat: bool = True
    """Compute each block again in the backward pass."""
    only: Literal["layer", "step"] | None = None
    """One of the two programs."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The programs of docs/plan.md instead of one model's. Those that --out already has are not compiled again: delete it for that."""
    out: Path | None = None
    """A Markdown file for the tables; JSON is written beside it."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON on standard output, and nothing else there."""

    def run(self) -> None:
        """Compile and print."""
        from reference.plan.request import Request, parse_mesh
        from reference.plan.table import ALL, measure_all, record, text

        mesh = parse_mesh(self.mesh) if self.mesh else None
        programs: tuple[Literal["layer", "step"], ...] = ("layer", "step") if self.router != "dense" else ("step",)
        requests = (
            ALL
            if self.all
            else [
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
        )
        with progress_shown("programs") as progress:
            results = measure_all(requests, self.out, progress)
        if self.json:
            import json

            print(json.dumps(record(results), indent=2))
        else:
            print(text(results))
