"""`count`: parameters and FLOPs of models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands.shared import Flat, Names, Numbers, Shape, split

if TYPE_CHECKING:
    from reference.config import ModelConfig


@dataclass(frozen=True)
class Count:
    """Count parameters and FLOPs of models: N, P and F, as the paper's release counts them."""

    size: Names = ()
    """Sizes from 7K to 7B, such as 370M, or shapes such as 512x6x8x32, comma-separated; default: the paper's."""
    shape: Flat[Shape] = field(default_factory=Shape)
    router: Names = ()
    """dense, s-base, hash, rl-r, switch or loss-free, comma-separated; default: dense."""
    experts: Numbers = ()
    """Experts E of a routed layer, comma-separated; default: 64."""
    k: Numbers = ()
    """Experts per token, comma-separated; default: 1."""
    routing_frequency: Numbers = ()
    """Fractions R of blocks that are routed, such as 0.5 or 1/4, comma-separated; default: 1/2."""
    granularity: int = 1
    """G: experts are 1/G as wide as a dense feed-forward."""
    shared_experts: int = 0
    """Experts that every token uses."""
    context: int = 2048
    """Tokens per sequence."""
    vocabulary: int = 32_000
    """Number of token ids."""
    batch: int = 256
    """Sequences per step."""
    config: Path | None = None
    """A run's config.toml: its model and batch, instead of the options above."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""

    def run(self) -> None:
        """Count and print."""
        from commands.count_table import record, text
        from reference.errors import ConfigError

        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch}: must be at least 1")
        models, batch = self._of_run(self.config) if self.config else (self._combinations(), self.batch)
        if self.json:
            import json

            print(json.dumps(record(models, batch), indent=2))
        else:
            print(text(models, batch))

    def _combinations(self) -> "dict[str, ModelConfig]":
        from commands.count_table import combinations

        sizes = (*self.size, self.shape.name) if self.shape.name else self.size
        lists = (sizes, self.router, self.experts, self.k, self.routing_frequency)
        shared = {name: getattr(self, name) for name in ("granularity", "shared_experts", "context", "vocabulary")}
        return combinations(*map(split, lists), **shared)

    def _of_run(self, path: Path) -> "tuple[dict[str, ModelConfig], int]":
        """The model and the batch of a configuration; a vocabulary that it does not name is `--vocabulary`."""
        from commands.count_table import name
        from training.toml import read_toml

        run = read_toml(path)
        model = run.model_config(run.data.vocabulary() or self.vocabulary)
        return {name(run.model.size, run.model.router, model): model}, run.data.batch
