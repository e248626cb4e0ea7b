"""What to compile, for which chips.

Nothing here imports JAX, so that a wrong request is answered at once.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from plan.chips import Topology
from reference.config import ModelConfig, model_config
from reference.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """One program: a routed layer with its gradient, or a whole training step."""

    program: Literal["layer", "step"]
    size: str = "1.3B"
    router: str = "s-base"
    """A technique, or dense for a step."""
    experts: int = 64
    topology: str = "v5p:2x2x4"
    mesh: tuple[int, int, int] | None = None
    """Devices along data, expert and model;
    None: experts over as many as divide both, data over the rest."""
    batch: int = 256
    """Sequences of 2048 tokens."""
    parts: int = 1
    """Parts that the step's gradient is computed in, one after the other."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: bool = True

    def __post_init__(self) -> None:
        topology = Topology(self.topology)
        if self.router == "dense" and self.program == "layer":
            raise ConfigError("a dense model has no routed layer; ask for a step, or for a router")
        if math.prod(self.axes) != topology.devices:
            product = " x ".join(map(str, self.axes))
            raise ConfigError(
                f"data x expert x model is {product}, but {self.topology} has {topology.devices} chips; make the product that"
            )
        for name in ("batch", "parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch % self.parts:
            raise ConfigError(
                f"a batch of {self.batch} sequences does not come out even in {self.parts} parts; use a divisor of {self.batch}"
            )
        self.config()

    @property
    def axes(self) -> tuple[int, int, int]:
        """Devices along data, expert and model."""
        if self.mesh is not None:
            return self.mesh
        devices = Topology(self.topology).devices
        expert = 1 if self.router == "dense" else math.gcd(devices, self.experts)
        return devices // expert, expert, 1

    def config(self) -> ModelConfig:
        """The model. Raises `ConfigError` for one that does not exist."""
        return replace(
            model_config(self.size, self.router, self.experts), dtype=self.dtype, remat=self.remat
        )


def parse_mesh(text: str) -> tuple[int, int, int]:
    """`data=2,expert=8,model=1` in any order, an axis left out being 1. Raises `ConfigError`."""
    axes = {"data": 1, "expert": 1, "model": 1}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name.strip() not in axes or not number.strip().isdigit() or int(number) < 1:
            raise ConfigError(
                f"--mesh {text}: takes numbers of devices, such as data=2,expert=8,model=1"
            )
        axes[name.strip()] = int(number)
    return axes["data"], axes["expert"], axes["model"]


def from_record(record: dict[str, Any]) -> Request:
    """A request from its JSON."""
    fields: dict[str, Any] = {**record, "mesh": tuple(record["mesh"]) if record["mesh"] else None}
    return Request(**fields)
