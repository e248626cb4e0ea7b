"""`count`: parameters and FLOPs of models."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from commands.shared import Names, Numbers, split


@dataclass(frozen=True)
class Count:
    """Count parameters and FLOPs of the paper's models: N, P and F, as its release counts them."""

    size: Names = ()
    """Sizes of the paper, such as 370M, several with commas; none: every one there is."""
    router: Names = ()
    """dense, s-base, hash, rl-r or switch, several with commas; none: dense."""
    experts: Numbers = ()
    """Experts E of a routed layer, several with commas; none: 64."""
    k: Numbers = ()
    """Experts per token, several with commas; none: 1."""
    routing_frequency: Numbers = ()
    """Fractions R of blocks that are routed, such as 0.5 or 1/4, several with commas; none: 1/2."""
    batch: int = 256
    """Sequences of a step."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON on standard output, and nothing else there."""

    def run(self) -> None:
        """Count and print."""
        from commands.count_table import combinations, record, text
        from reference.errors import ConfigError

        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch}: a step has at least 1 sequence")
        asked = (self.size, self.router, self.experts, self.k, self.routing_frequency)
        models = combinations(*map(split, asked))
        if self.json:
            import json

            print(json.dumps(record(models, self.batch), indent=2))
        else:
            print(text(models, self.batch))
