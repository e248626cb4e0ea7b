"""From what a law counts to what a model costs: all parameters and training FLOPs per token, by the active parameters, E, k and G.

E and k are in units of a dense feed-forward's width: at granularity G a layer has E x G experts, of which a token uses k x G, so that
neither parameters nor active ones change with G. Each convention is that of the paper whose coefficients are used; a model of `reference/`
has `ROUTED`'s. Widths go with depth as d_model = 64 x blocks where a count depends on them (Krajewski et al. 2024; elsewhere our choice).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

Sizes = Float[np.ndarray, "*batch cells"]
Each = Float[np.ndarray, "cells"]
Map = Callable[[Sizes, Each, float, Each], Sizes]

WIDTH = 64.0
"""d_model over the number of blocks."""

VOCABULARY = 50_257.0
"""Of Ludziejewski et al. 2025, whose N counts an embedding and an output layer."""


@dataclass(frozen=True)
class Architecture:
    """A convention: `total(n, e, k, g)` parameters, and `flops(n, e, k, g)` per token in training, forward and backward.

    `n` are the parameters that a token uses. Both rise with `n`. `every` is how many blocks go to one that is routed.
    """

    text: str
    total: Map
    flops: Map
    every: int = 1
    body: Callable[[Sizes], Sizes] = field(default=lambda n: n)
    """The parameters that a token uses without the embeddings, where `n` has them."""


def _dense_flops(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    """6 N_a, without the router's."""
    del e, k, g
    return 6 * n


def _depth(n: Sizes, cubic: float, linear: float) -> Sizes:
    """The L at which cubic L^3 + linear L = n, by the hyperbolic form of Cardano's solution."""
    root = np.sqrt(linear / (3 * cubic))
    return 2 * root * np.sinh(np.arcsinh(1.5 * n / (linear * root)) / 3)


def _joint_body(n: Sizes) -> Sizes:
    return 13 * WIDTH**2 * _depth(n, 13 * WIDTH**2, 2 * WIDTH * VOCABULARY) ** 3


def _joint_total(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    del k, g
    embeddings, block = 2 * WIDTH * VOCABULARY, WIDTH**2
    depth = _depth(n, 13 * block, embeddings)
    return embeddings * depth + (4 + 9 * e) * block * depth**3


def _granularity_blocks(n: Sizes) -> Sizes:
    """Of N_a = 12 d^2 blocks."""
    return np.cbrt(n / (12 * WIDTH**2))


def _granularity_total(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    del k, g
    return n * (8 * e + 4) / 12


def _granularity_flops(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    """(12 d^2 c_f + d E G c_r) blocks, with c_f = 6 and c_r = 14."""
    del k
    blocks = _granularity_blocks(n)
    return 6 * n + 14 * WIDTH * blocks * e * g * blocks


def _share(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    del g
    return n * e / k


def _routed_total(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    del g
    return n * (9 + 4 * e) / (9 + 4 * k)


def _same(n: Sizes, e: Each, k: float, g: Each) -> Sizes:
    del e, k, g
    return n


ROUTED = Architecture(
    "every second block routed: N_a = (9 + 4k) L d^2, N = (9 + 4E) L d^2, embeddings left out; C = 6 N_a D",
    _routed_total,
    _dense_flops,
    every=2,
)
"""Clark et al.'s: attention has 5 d^2 with relative positions, a feed-forward 8 d^2, and a token uses k experts in every second block."""

JOINT = Architecture(
    "N_a = 2dV + 13 L d^2, N = 2dV + (4 + 9E) L d^2, V = 50,257, d = 64 L; C = 6 N_a D (Ludziejewski et al. 2025)",
    _joint_total,
    _dense_flops,
    body=_joint_body,
)
GRANULARITY = Architecture(
    "N_a = 12 d^2 L, N = (8E + 4) d^2 L, embeddings left out, d = 64 L; C = (72 d^2 + 14 d E G) L D (Krajewski et al. 2024)",
    _granularity_total,
    _granularity_flops,
)
SPARSITY = Architecture("N_a = (1 - S) N = N k/E; C = 6 N_a D (Abnar et al. 2025)", _share, _dense_flops)
DENSE = Architecture("dense: N = N_a; C = 6 N D", _same, _dense_flops)
