"""What a design is asked for: the limits it must keep, and what of it is fixed beforehand."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from common.document.numbers import count
from common.errors import InputError

SERVING_BYTES = 2.0
"""Of a parameter in serving, in bfloat16."""

_UNITS = {"flops": "FLOPs", "memory": "bytes", "serve_memory": "bytes", "serve_flops": "FLOPs per token", "tokens": "tokens"}


@dataclass(frozen=True)
class Question:
    """Limits, of which None is no limit, and fixed values, of which None is free.

    `flops`: training and, with `lifetime_tokens` served after it, inference (Sardana et al. 2023). `memory`: bytes of all `devices`
    together, for a training step (`memory.training_bytes`); `serve_memory`: bytes for all parameters, `SERVING_BYTES` of each.
    `serve_flops`: a token's forward pass. `tokens`: what there is to train on, once or, with `repeat`, several times, what is read again
    being worth less (Muennighoff et al. 2023, Eq. 5 with their R_D*). `loss`: the cheapest model that reaches it, in nats per token.
    `max_experts`: of a layer, E x G. `experts` E and `k` are in units of a dense feed-forward's width: at `granularity` G (Krajewski et
    al. 2024) a layer has E x G experts, of which a token uses k x G.
    """

    flops: float | None = None
    memory: float | None = None
    devices: int = 1
    serve_memory: float | None = None
    serve_flops: float | None = None
    tokens: float | None = None
    repeat: bool = False
    lifetime_tokens: float | None = None
    loss: float | None = None
    max_experts: int | None = None
    experts: int | None = None
    k: int | None = None
    granularity: int | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and one.name != "repeat" and not (np.isfinite(value) and value > 0):
                raise InputError(f"{flag(one.name)} {value:g}: must be a finite number above 0")
        if self.flops is None and self.loss is None and self.tokens is None:
            raise InputError("nothing says how long to train: give --flops, --tokens, or the --loss to reach, such as --flops 1e21")
        if self.repeat and self.tokens is None:
            raise InputError("--repeat reads --tokens more than once: say how many there are, such as --tokens 100B --repeat")
        if self.repeat and self.flops is None and self.loss is None:
            raise InputError("--repeat without --flops or --loss: nothing says how long to train; give --flops, such as --flops 1e21")
        used, wide, most = self.k or 1, self.granularity or 1, self.max_experts
        if self.experts is not None and used > self.experts:
            raise InputError(f"--k {used} is more than --experts {self.experts}; give --experts {used} or more")
        if most is not None and wide * max(self.experts or 1, used) > most:
            needed = wide * max(self.experts or 1, used)
            raise InputError(f"a layer would have {needed} experts, E x G, and --max-experts is {most}; lift it {needed / most:.3g} times")

    @property
    def limits(self) -> dict[str, float]:
        """Upper limits that are given, by name."""
        found = {name: getattr(self, name) for name in (*_UNITS, "max_experts")}
        return {name: value for name, value in found.items() if value is not None}

    def scaled(self, name: str, factor: float) -> "Question":
        """The same with one limit times `factor`; whole numbers stay whole."""
        value = getattr(self, name) * factor
        return replace(self, **{name: int(value) if name == "max_experts" else value})

    def texts(self) -> Iterator[str]:
        """Limits and fixed values in words, such as `--flops 1e+21`."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value is True:
                yield flag(one.name)
            elif value is not None and one.name not in ("devices", "repeat"):
                yield f"{flag(one.name)} {self.amount(one.name, float(value))}"

    def amount(self, name: str, value: float) -> str:
        """A value of a limit as people write it, such as `8x80GB`, `1e+21`."""
        several = name == "memory" and self.devices > 1
        return f"{self.devices}x{amount(name, value / self.devices)}" if several else amount(name, value)


def flag(name: str) -> str:
    """The option of the command line for a limit."""
    return "--" + name.replace("_", "-")


def amount(name: str, value: float) -> str:
    """A limit's value as people write it, such as `640GB`, `1e+21`."""
    if name in ("memory", "serve_memory"):
        scale, unit = next(((x, u) for x, u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if value >= x * 0.9995), (1e3, "KB"))
        return f"{value / scale:.3g}{unit}"
    if name in ("tokens", "lifetime_tokens"):
        return count(value)
    return f"{value:.4g}" if name == "loss" else f"{value:.3g}" if name in ("flops", "serve_flops") else f"{value:g}"
