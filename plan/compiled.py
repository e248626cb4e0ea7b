"""One request compiled, and what came of it.

    python -m plan.compiled '{"program": "layer", ...}'

is what `measure` runs, in a process of its own: libtpu reads which chips it compiles for once, from
the environment, and a program may need gigabytes to compile.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import WorkError
from plan.chips import GIB, Topology
from plan.hlo import Collectives, collectives
from plan.request import Request, from_record
from plan.traffic import counted_once
from reference.config import check_shape
from reference.errors import ConfigError
from reference.mesh import DATA, EXPERT, MODEL


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    arguments: int
    """Weights, optimizer state, batch."""
    temporaries: int
    outputs: int
    aliased: int
    """Outputs that take the place of donated arguments."""
    code: int

    @property
    def total(self) -> int:
        """What has to be there at once."""
        return self.arguments + self.temporaries + self.outputs - self.aliased + self.code


@dataclass(frozen=True)
class Result:
    """What the compiler made of a request; its memory alone if it refused the program as too
    large."""

    request: Request
    fits: bool
    memory: Memory
    """Of a refused program, arguments by their layouts and temporaries as the error says."""
    flops: float | None = None
    """Of one device, as XLA counts: a loop's body once."""
    closed_form: float | None = None
    """The same for the matrix products, by closed form."""
    collectives: dict[str, Collectives] | None = None
    seconds: float | None = None
    """To compile."""

    @property
    def ratio(self) -> float | None:
        """FLOPs over closed form."""
        return self.flops / self.closed_form if self.flops and self.closed_form else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(request: Request) -> Result:
    """Compile `request` in a process of its own.

    Raises `ConfigError` if the mesh does not divide the model, `WorkError` if libtpu is not
    installed or the compiler fails.
    """
    check_on_mesh(request)
    if Topology(request.topology).is_gpu:
        raise ConfigError(
            f"{request.topology}: no program is compiled for GPUs that are not there; "
            "use --closed-form"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise WorkError(
            "plan needs the TPU compiler, libtpu, which is not installed: "
            "uv run --group tpu cli.py plan ..."
        )
    settings = compiler_settings(Topology(request.topology))
    command = [sys.executable, "-m", "plan.compiled", json.dumps(asdict(request))]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WorkError(f"the TPU compiler stopped with exit code {done.returncode}: {last}")
    return from_result(json.loads(done.stdout.splitlines()[-1]))


def compiler_settings(topology: Topology) -> dict[str, str]:
    """The environment of a process that compiles for chips that are not there."""
    return {
        "JAX_PLATFORMS": "cpu",
        # The last line of a traceback is then the error.
        "JAX_TRACEBACK_FILTERING": "off",
        # No chip is used, so that nothing has to be locked.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": topology.accelerator_type,
    }


def check_on_mesh(request: Request) -> None:
    """Raises `ConfigError` if the mesh does not divide the model and its microbatches.

    The message has a batch and a mesh that are divisible.
    """
    data, expert, model = request.axes
    shape: dict[str, int] = {DATA: data, EXPERT: expert, MODEL: model}
    spread, sequences = data * expert, request.batch // request.microbatches
    if sequences % spread:
        fewer = math.gcd(spread, sequences)
        experts = math.gcd(expert, fewer)
        mesh = f"data={fewer // experts},expert={experts},model={model * spread // fewer}"
        raise ConfigError(
            f"{sequences} sequences of a batch are not divisible by the {spread} devices of "
            f"data x expert; use --batch {spread * request.microbatches}, or --mesh {mesh}"
        )
    check_shape(request.config(), shape, request.batch // request.microbatches)


def from_result(record: dict[str, Any]) -> Result:
    """A result from its JSON."""
    found = record["collectives"]
    fields: dict[str, Any] = {
        **record,
        "request": from_record(record["request"]),
        "memory": Memory(**record["memory"]),
        "collectives": found and {kind: Collectives(**counts) for kind, counts in found.items()},
    }
    return Result(**fields)


def out_of_memory(message: str, arguments: int) -> Memory | None:
    """The memory that a compiler's error states, with the arguments' bytes added if it leaves them
    out; None for other errors."""
    if found := re.search(r"HLO temporaries \(([\d.]+)G\)", message):
        return Memory(arguments, int(float(found[1]) * GIB), 0, 0, 0)
    if found := re.search(r"[Uu]sed ([\d.]+)G of", message):
        return Memory(arguments, max(0, int(float(found[1]) * GIB) - arguments), 0, 0, 0)
    return None


def compile_here(request: Request) -> Result:
    """Compile `request` in this process, whose environment `measure` has set."""
    import jax
    from jax.experimental import topologies

    from plan.programs import argument_bytes, lowered
    from reference.mesh import make_mesh

    topology = Topology(request.topology)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
    begin = time.monotonic()
    program, arguments = lowered(request, make_mesh(*request.axes, devices=devices))
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = out_of_memory(str(error), argument_bytes(arguments))
        if memory is None:
            raise
        return Result(request, False, memory)
    sizes: Any = compiled.memory_analysis()
    memory = Memory(
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes,
        aliased=sizes.alias_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
    )
    costs: Any = compiled.cost_analysis()
    return Result(
        request,
        memory.total <= topology.chip.hbm,
        memory,
        costs["flops"],
        counted_once(request.program, request.step),
        collectives(compiled.as_text() or ""),
        time.monotonic() - begin,
    )


def main() -> int:
    """Compile the request of the command line and print its result as JSON."""
    request = from_record(json.loads(sys.argv[1]))
    try:
        print(json.dumps(compile_here(request).record()))
    except RuntimeError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
