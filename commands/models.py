"""`count`: parameters and FLOPs of models."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from commands.shared import Names, Numbers, split


@dataclass(frozen=True)
class Count:
    """Count parameters and FLOPs of the paper's models: N, P and F, as its release counts them."""

    size: Names = ()
    """Sizes of the paper, such as 370M, comma-separated; default: all."""
    router: Names = ()
    """dense, s-base, hash, rl-r or switch, comma-separated; default: dense."""
    experts: Numbers = ()
    """Experts E of a routed layer, comma-separated; default: 64."""
    k: Numbers = ()
    """Experts per token, comma-separated; default: 1."""
    routing_frequency: Numbers = ()
    """Fractions R of blocks that are routed, such as 0.5 or 1/4, comma-separated; default: 1/2."""
    batch: int = 256
    """Sequences per step."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Count and print."""
        from commands.count_table import combinations, record, text
        from reference.errors import ConfigError

        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch}: must be at least 1")
        lists = (self.size, self.router, self.experts, self.k, self.routing_frequency)
        models = combinations(*map(split, lists))
        if self.json:
            import json

            print(json.dumps(record(models, self.batch), indent=2))
        else:
            print(text(models, self.batch))
