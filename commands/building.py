"""A design as a model one can build: the nearest architecture of `reference/`, its exact counts, and the configuration that trains it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from common.document import Section, Table
from common.document.numbers import count
from fit.design.memory import PAPER_FROM
from fit.design.question import amount
from plan.memory import Step, step_memory
from reference.config import Remat, check_shape
from reference.count import dense_parameter_count, held_parameters, parameters
from reference.errors import ConfigError
from reference.mesh import DATA, EXPERT, MODEL, default_axes
from reference.sizes import Size
from training.config import TrainConfig, paper_recipe, small_recipe
from training.toml import to_toml

if TYPE_CHECKING:
    from fit.design.answer import Answer, Design

_WIDTHS = 16, 160
"""Least and largest d_model over the number of blocks; the paper's ladder has 64 to 128 from 25M on."""

_ASPECT = 0.03
"""What a factor of e in d_model over 64 blocks counts for, against one in N."""


_MULTIPLE = 8
"""From twice this many on, E is rounded down to a multiple of it, so that the devices of a node divide the experts."""


@dataclass(frozen=True)
class Built:
    """A model: the law it is by, its run, and its counts without embeddings (`active`, `total`) and with (`everything`)."""

    law: str
    config: TrainConfig
    size: Size
    active: int
    total: int
    everything: int
    wanted: float
    """Active parameters of the design, embeddings left out."""
    devices: int
    memory: int
    """Bytes of a training step on each of `devices`, by `plan`'s closed form."""

    @property
    def file(self) -> str:
        """Of its configuration."""
        return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in self.law).strip("-") + ".toml"

    def record(self) -> dict[str, Any]:
        """For JSON."""
        model = self.config.model
        return {
            "law": self.law, **asdict(self.size), "router": model.router, "experts": model.experts, "k": model.k,
            "granularity": model.granularity, "routing_frequency": model.routing_frequency, "active": self.active, "total": self.total,
            "everything": self.everything, "wanted": self.wanted, "steps": self.config.run.steps, "tokens": self.config.tokens,
            "memory": self.devices * self.memory, "config": to_toml(self.config),
        }  # fmt: skip


def built(answer: "Answer") -> Built | None:
    """The model nearest to a law's design; None where it has none, or none that can be built.

    That is where embeddings are most of it, where G does not divide its widths, or where its steps are past counting.
    """
    best = answer.best
    if best is None:
        return None
    wanted = float(answer.predictor.architecture.body(np.array([best.active]))[0])
    if wanted < best.active / 2:
        return None
    try:
        return _of(answer, best, wanted)
    except ConfigError:
        return None


def _of(answer: "Answer", best: "Design", wanted: float) -> Built:
    """The model of `wanted` active parameters. Raises `ConfigError` where there is none."""
    routed, every, devices = best.experts > 1, answer.predictor.architecture.every, answer.question.devices
    # A dense feed-forward has 8 of the 13 d^2 of a block, of which k are used in one block of `every`.
    size = nearest(wanted * 13 / (13 + 8 * (best.k - 1) / every if routed else 13))
    name = f"{size.d_model}x{size.num_blocks}x{size.num_heads}x{size.kqv_size}"
    recipe = paper_recipe(name) if wanted >= PAPER_FROM else small_recipe(name)
    # As many sequences as the recipe's, or more, so that the devices divide them.
    recipe = replace(recipe, data=replace(recipe.data, batch=math.ceil(recipe.data.batch / devices) * devices))
    wide, experts = round(best.granularity), round(best.experts)
    own = {
        "experts": (experts - experts % _MULTIPLE if experts >= 2 * _MULTIPLE else experts) * wide,
        "k": round(best.k) * wide,
        "granularity": wide,
        "routing_frequency": 1 / every,
    }
    model = replace(recipe.model, size=name, router="s-base" if routed else "dense", **(own if routed else {}))
    config = replace(recipe, model=model)
    config = config.of_length(max(1, math.ceil(best.tokens / (config.data.batch * model.context))))
    config = fitting(config, answer.question.memory, devices)
    config.check()
    model = config.model
    shape = config.model_config(config.data.vocabulary() or 257)
    counts = parameters(shape)
    idle = counts.experts - counts.experts * model.k // model.experts if routed else 0
    active = counts.total - idle - counts.router if routed else dense_parameter_count(shape)
    return Built(
        answer.predictor.name, config, size, active, counts.total, held_parameters(shape).everything, wanted, devices, peak(config, devices)
    )


def fitting(config: TrainConfig, memory: float | None, devices: int) -> TrainConfig:
    """The run in the least costly setting that keeps `memory` on all `devices` together, with fewer experts where none does.

    Blocks computed again cost up to a third of a step, weights spread over devices (FSDP) their gathering, microbatches a sum. The run
    as it is where no limit is given or nothing keeps it.
    """
    if memory is None:
        return config
    experts, wide = config.model.experts, config.model.granularity
    fewer = (experts - less for less in range(0, experts // 2, _MULTIPLE * wide)) if config.model.router != "dense" else (experts,)
    for number in fewer:
        for one in _settings(replace(config, model=replace(config.model, experts=number)), devices):
            if devices * peak(one, devices) <= memory:
                return one
    return config


def _settings(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """The run with less and less memory, as far as its batch and experts go over the devices."""
    remats: tuple[Remat, ...] = ("none", "selective", "full")
    micro = [1]
    while config.data.batch % (2 * micro[-1] * devices) == 0:
        micro.append(2 * micro[-1])
    for remat in remats[remats.index(config.model.remat) :]:
        for fsdp in (False, True)[: 1 + (devices > 1)]:
            for microbatches in micro:
                model = replace(config.model, remat=remat, unroll=config.model.unroll if remat == "none" else 1)
                data, run = replace(config.data, accumulate=microbatches), replace(config.run, fsdp=fsdp)
                yield replace(config, model=model, data=data, run=run)


def peak(config: TrainConfig, devices: int) -> int:
    """Bytes of a step on each of so many devices, by `plan`'s closed form. Raises `ConfigError` where they do not divide the batch."""
    model = config.model_config(config.data.vocabulary() or 257)
    axes = default_axes(devices, config.model.experts if config.model.router != "dense" else 1)
    check_shape(model, dict(zip((DATA, EXPERT, MODEL), axes, strict=True)), config.data.batch // config.data.accumulate)
    return step_memory(Step(model, config.data.batch, config.data.accumulate, axes, config.run.fsdp, config.optimizer.first_moment)).peak


def nearest(n: float) -> Size:
    """The shape whose dense count, L (13 d^2 + 4 d) with heads as wide as d_model together, is nearest to `n`; d_model near 64 L."""
    found: list[tuple[float, Size]] = []
    for blocks in range(2, 129, 2):
        ideal = math.sqrt(n / (13 * blocks))
        for heads, head in _heads(ideal):
            d = heads * head
            if _WIDTHS[0] <= d / blocks <= _WIDTHS[1] or blocks == 2:
                off = abs(math.log(blocks * (13 * d**2 + 4 * d) / n)) + _ASPECT * abs(math.log(d / (64 * blocks)))
                found.append((off, Size(d, blocks, heads, head)))
    return min(found, key=lambda one: one[0])[1]


def _heads(width: float) -> list[tuple[int, int]]:
    """Heads and their width, together just below and above `width`: of 128 or 64, and of small models four, as in the ladder."""
    if width < 384:
        return [(4, max(1, math.floor(width / 4) + more)) for more in (0, 1)]
    head = 128 if width >= 1536 else 64
    return [(math.floor(width / head) + more, head) for more in (0, 1)]


def built_section(models: Sequence[Built], topology: str) -> Section:
    """Their table, and the commands that train and check them."""
    rows: list[tuple[str, ...]] = []
    for one in models:
        model, counts = one.config.model, (one.active, one.total, one.config.tokens)
        experts = model.experts if model.router != "dense" else 1
        held = amount("memory", float(one.memory))
        held = f"{one.devices}x{held}" if one.devices > 1 else held

        setting = ", ".join(_setting(one.config))
        rows.append(
            (
                one.law,
                model.size,
                f"{experts:,}",
                f"{model.k}",
                f"{model.granularity}",
                *(count(float(each)) for each in counts),
                held,
                setting,
            )
        )
    words = (
        "d_model x blocks x heads x kqv_size; experts and k of a layer, in number. Counts are exact and leave the embedding out. "
        "--out writes LAW.toml files; cli.py train --config LAW.toml --corpus YOUR_TEXT trains one, cli.py plan --config LAW.toml "
        f"--topology {topology} --closed-form checks it. Learning rates are the recipe's: no law here speaks of them."
    )
    table = Table("Models one can build", ("Law", "Size", "Experts", "k", "G", "N active", "N", "D", "Memory", "Setting"), tuple(rows))
    return Section("Models", (table, words))


def _setting(config: TrainConfig) -> Iterator[str]:
    """What saves memory, as options of `train`."""
    if config.model.remat != "none":
        yield f"--remat {config.model.remat}"
    if config.run.fsdp:
        yield "--fsdp"
    if config.data.accumulate > 1:
        yield f"--accumulate {config.data.accumulate}"


def built_finding(models: Sequence[Built]) -> tuple[str, ...]:
    """The last routed law's model, as a command."""
    routed = [one for one in models if one.config.model.router != "dense"]
    if not routed:
        return ()
    one = routed[-1]
    model = one.config.model
    command = f"cli.py count --size {model.size} --router {model.router} --experts {model.experts}"
    command += f" --k {model.k}" if model.k > 1 else ""
    command += f" --granularity {model.granularity}" if model.granularity > 1 else ""
    command += f" --routing-frequency {model.routing_frequency:g}" if model.routing_frequency != 0.5 else ""
    return (
        f"To build, by {one.law}: {command} ({count(float(one.active))} of {count(float(one.total))}); --out writes config.toml files.",
    )
