"""What to compile, for which chips: checked before anything is compiled."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from plan.chips import Topology
from plan.memory import Step
from reference.config import AttentionForm, ModelConfig, Remat, RouterConfig, technique
from reference.errors import ConfigError, require
from reference.mesh import DATA, EXPERT, MODEL, default_axes
from reference.sizes import size_named
from training.config import TrainConfig, vocabulary_multiple
from training.optimizer import Moment

Program = Literal["layer", "step", "evaluation"]


@dataclass(frozen=True)
class Request:
    """One program: a routed layer with its gradient, a training step, or one batch of an evaluation
    during training."""

    program: Program
    size: str = "1.3B"
    """A size or a shape (`reference.sizes.size_named`)."""
    router: str = "s-base"
    """A router of `reference.routers.ROUTERS`; or dense, which has no layer."""
    experts: int = 64
    topology: str = "v5p:2x2x4"
    mesh: tuple[int, int, int] | None = None
    """Devices along data, expert and model; None: experts over as many as divide both, data over
    the rest."""
    batch: int = 256
    """Sequences."""
    microbatches: int = 1
    """Gradient accumulation: the step's batch is split into so many."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: AttentionForm = "chunked"
    remat: Remat = "selective"
    """In a step; other programs have no use for it."""
    fsdp: bool = False
    """Whether the blocks' matrices are spread over all devices."""
    first_moment: Moment = "float32"
    """Dtype of AdamW's first moment."""
    k: int = 1
    granularity: int = 1
    shared_experts: int = 0
    routing_frequency: float = 0.5
    context: int = 2048
    vocabulary: int = 32_000
    """Token ids; the paper's by default."""
    capacity_factor: float = 1.25
    """In training; 0: no token is dropped."""

    def __post_init__(self) -> None:
        topology = Topology(self.topology)
        if self.router == "dense" and self.program == "layer":
            raise ConfigError("a dense model has no routed layer; ask for a step, or for a router")
        if math.prod(self.axes) != topology.devices:
            raise ConfigError(
                f"data x expert x model is {self.mesh_text}, but {self.topology} has "
                f"{topology.devices} chips; make the product that number"
            )
        for name in ("batch", "microbatches"):
            number = getattr(self, name)
            require(number >= 1, f"{name} is {number}; it must be at least 1")
        fix = f"is not divisible into {self.microbatches} microbatches"
        divides = self.batch % self.microbatches == 0
        require(divides, f"a batch of {self.batch} {fix}; use a divisor of {self.batch}")
        self.config()

    @property
    def axes(self) -> tuple[int, int, int]:
        """Devices along data, expert and model."""
        if self.mesh is not None:
            return self.mesh
        devices = Topology(self.topology).devices
        return default_axes(devices, 1 if self.router == "dense" else self.experts)

    @property
    def step(self) -> Step:
        """For closed forms."""
        forms = self.fsdp, self.first_moment
        return Step(self.config(), self.batch, self.microbatches, self.axes, *forms)

    @property
    def model(self) -> str:
        """The model in words."""
        if self.router == "dense":
            return f"{self.size} dense"
        words = [self.size, self.router, f"E={self.experts}"]
        words += [f"k={self.k}"] if self.k > 1 else []
        words += [f"G={self.granularity}"] if self.granularity > 1 else []
        words += [f"shared={self.shared_experts}"] if self.shared_experts else []
        return " ".join(words)

    @property
    def form(self) -> str:
        """What saves memory, in words."""
        words = [f"{self.attention} attention", f"{self.remat} rematerialisation"]
        words += ["FSDP"] if self.fsdp else []
        words += ["first moment in bfloat16"] if self.first_moment == "bfloat16" else []
        return ", ".join(words)

    @property
    def mesh_text(self) -> str:
        """The mesh in words."""
        return " x ".join(map(str, self.axes))

    def config(self) -> ModelConfig:
        """The model. Raises `ConfigError` for one that does not exist."""
        router = None
        if self.router != "dense":
            router = RouterConfig(
                technique(self.router)(),
                self.experts,
                self.k,
                self.capacity_factor or None,
                granularity=self.granularity,
                shared_experts=self.shared_experts,
            )
        return ModelConfig(
            size_named(self.size),
            router,
            self.routing_frequency,
            self.vocabulary,
            self.context,
            self.dtype,
            self.attention,
            self.remat if self.program == "step" else "none",
            vocabulary_multiple=vocabulary_multiple(self.vocabulary),
        )


def of_run(run: TrainConfig, vocabulary: int) -> dict[str, Any]:
    """The fields of a run's step; `vocabulary` where the run's tokenizer does not name one.

    Raises `ConfigError` for float64, which TPUs lack.
    """
    model, data = run.model, run.data
    require(model.dtype != "float64", "dtype is float64, which TPUs lack; use float32 or bfloat16")
    names = ("size", "router", "experts", "k", "granularity", "shared_experts")
    names = (
        *names,
        "routing_frequency",
        "context",
        "capacity_factor",
        "dtype",
        "attention",
        "remat",
    )
    return {
        **{name: getattr(model, name) for name in names},
        "attention": model.attention_form(),
        "vocabulary": data.vocabulary() or vocabulary,
        "batch": data.batch,
        "microbatches": data.accumulate,
        "fsdp": run.run.fsdp,
        "first_moment": run.optimizer.first_moment,
    }


def parse_mesh(text: str) -> tuple[int, int, int]:
    """`data=2,expert=8,model=1` in any order; an axis left out is 1. Raises `ConfigError`."""
    axes = {DATA: 1, EXPERT: 1, MODEL: 1}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name.strip() not in axes or not number.strip().isdecimal() or int(number) < 1:
            raise ConfigError(
                f"--mesh {text}: takes numbers of devices, such as data=2,expert=8,model=1"
            )
        axes[name.strip()] = int(number)
    return axes[DATA], axes[EXPERT], axes[MODEL]


def from_record(record: dict[str, Any]) -> Request:
    """A request from its JSON."""
    fields: dict[str, Any] = {**record, "mesh": tuple(record["mesh"]) if record["mesh"] else None}
    return Request(**fields)
