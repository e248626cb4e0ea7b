"""SmallTalk, mixtures of separate language models (arXiv 2410.03529): does the gain from experts shrink as the models grow?

The gain is ln of the dense perplexity over the mixture's, in nats per token, at equal tokens.
"""

import tomllib
from pathlib import Path

import numpy as np

from fit.papers.paper import Figure, Group, Paper, Statement, judged

HALF = 0.005
"""Half a unit of the second decimal, in which perplexities are printed."""


def reproduce(points: Path) -> Paper:
    """The gains from the perplexities in `golden/public_points.toml`: at which E do they fall from its smaller to its larger model?"""
    table = tomllib.loads(points.read_text(encoding="utf-8"))["smalltalk"]
    dense, mixture = np.array(table["dense"]), np.array(table["mixture"])
    gains, rounding = np.log(dense / mixture), HALF / dense + HALF / mixture
    figures = [
        Figure(size, f"E = {e}", float(gain), low=float(gain - off), high=float(gain + off))
        for size, e, gain, off in zip(table["size"], table["experts"], gains, rounding, strict=True)
    ]
    pairs = [(small, large) for small in figures for large in figures if small.at == large.at and small.name != large.name]
    statements = tuple(_shrinks(small, large) for small, large in pairs[: len(pairs) // 2])
    group = Group("Gain over dense, nats per token [what rounding leaves]", tuple(figures))
    sources = (f"{table['source']}: {table['what']}.",)
    return Paper("smalltalk", "SmallTalk: gains from experts at two sizes", sources, statements, (group,))


def _shrinks(small: Figure, large: Figure) -> Statement:
    """Whether the gain falls, by more than the rounding of the perplexities explains."""
    why = f"{small.value:.3f} nats at {small.name}, {large.value:.3f} at {large.name}"
    return Statement(f"at {small.at} the gain shrinks with N", judged((large.high or np.inf) < (small.low or 0.0)), why)
