"""A design as a model one can build: the nearest architecture of `reference/`, its exact counts, and the configuration that trains it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from common.document import Section, Table
from common.document.numbers import count
from reference.count import dense_parameter_count, held_parameters, parameters
from reference.sizes import Size
from training.config import TrainConfig, paper_recipe, small_recipe
from training.toml import to_toml

if TYPE_CHECKING:
    from fit.design.answer import Answer

PAPER = 10e6
"""From this many parameters on the paper's recipe is taken, below it the small models' (the ladder has nothing between 5M and 15M)."""

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
            "config": to_toml(self.config),
        }  # fmt: skip


def built(answer: "Answer") -> Built | None:
    """The model nearest to a law's design; None where it has none, or where embeddings are most of it."""
    best = answer.best
    if best is None:
        return None
    wanted = float(answer.predictor.architecture.body(np.array([best.active]))[0])
    if wanted < best.active / 2:
        return None
    routed, every = best.experts > 1, answer.predictor.architecture.every
    # A dense feed-forward has 8 of the 13 d^2 of a block, of which k are used in one block of `every`.
    size = nearest(wanted * 13 / (13 + 8 * (best.k - 1) / every if routed else 13))
    name = f"{size.d_model}x{size.num_blocks}x{size.num_heads}x{size.kqv_size}"
    recipe = paper_recipe(name) if wanted >= PAPER else small_recipe(name)
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
    config.check()
    shape = config.model_config(config.data.vocabulary() or 257)
    counts = parameters(shape)
    idle = counts.experts - counts.experts * model.k // model.experts if routed else 0
    active = counts.total - idle - counts.router if routed else dense_parameter_count(shape)
    return Built(answer.predictor.name, config, size, active, counts.total, held_parameters(shape).everything, wanted)


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
        rows.append((one.law, model.size, f"{experts:,}", f"{model.k}", f"{model.granularity}", *(count(float(each)) for each in counts)))
    words = (
        "d_model x blocks x heads x kqv_size; experts and k of a layer, in number. Counts are exact and leave the embedding out. "
        f"Trained by `cli.py train --config LAW.toml --corpus YOUR_TEXT`, checked by `cli.py plan --config LAW.toml --topology {topology} "
        "--closed-form`; --out writes LAW.toml. Its learning rate is the recipe's, which no law here speaks of."
    )
    table = Table("Models one can build", ("Law", "Size", "Experts", "k", "G", "N active", "N", "D"), tuple(rows))
    return Section("Models", (table, words))


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
