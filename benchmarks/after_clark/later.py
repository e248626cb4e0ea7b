"""Published laws of later work: what experts are worth, N̄/N_a, at fixed tokens and at tokens that grow with the model.

N̄ is the dense size with the same loss on the same tokens. Each law takes its own N; the map from active to all parameters is stated there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from fit.literature import PublishedLaw, published
from fit.papers.krajewski2024 import Rows
from fit.runs.schema import A, D, E, N, P

FIXED, RATIO = 130e9, 20.0
"""Tokens of Clark's runs; tokens a parameter where they grow with size (Hoffmann et al. 2022)."""

SIZES = np.geomspace(3e7, 3e10, 31)
"""Active parameters."""

Loss = Callable[[float, float], float]
"""Of active parameters and tokens."""


@dataclass(frozen=True)
class Later:
    """A published law with a dense and a routed side."""

    name: str
    experts: str
    dense: Loss
    routed: Loss
    inside: tuple[float, float]
    """Active parameters of the runs behind it, as far as known; nothing where they are not."""

    def worth(self, n: float, d: float) -> float:
        """N̄/N_a: infinite where no dense model reaches the routed one's loss, 0 where every one does."""
        goal = self.routed(n, d)

        def _above(log_n: float) -> float:
            return self.dense(float(np.exp(log_n)), d) - goal

        low, high = np.log(n) - 20, np.log(n) + 30
        if _above(high) > 0:
            return np.inf
        if _above(low) < 0:
            return 0.0
        root: Any = brentq(_above, low, high)
        return float(np.exp(root) / n)

    def along(self, *, growing: bool) -> Float[np.ndarray, "sizes"]:
        """The worth at each of `SIZES`, at fixed tokens or at tokens in proportion to N_a."""
        return np.array([self.worth(n, RATIO * n if growing else FIXED) for n in SIZES.tolist()])


def _at(law: PublishedLaw, **columns: float) -> float:
    return float(law.loss({name: np.array([value]) for name, value in columns.items()})[0])


def later_laws() -> list[Later]:
    """Ludziejewski et al. at E = 8 and 32, Abnar et al. at S = 7/8 and 31/32, Krajewski et al. at E = 64 and G = 1 and 16."""
    joint, sparse = published("joint"), published("sparsity")
    rows = Rows(published("granularity:E=64"), published("granularity:dense"))

    def _joint(e: float) -> Loss:
        return lambda n, d: _at(joint, **{N: n, D: d, E: e})

    def _sparse(active: float) -> Loss:
        # k = 1 of 1/active experts, and all parameters in experts: N = N_a/(1 - S), as in its C = 6 (1 - S) N D.
        return lambda n, d: _at(sparse, **{P: n / active, D: d, A: active})

    def _fine(g: float) -> Loss:
        return lambda n, d: float(rows.routed_loss(np.array([n]), np.array([d]), g)[0])

    def _plain(n: float, d: float) -> float:
        return float(rows.dense_loss(np.array([n]), np.array([d]))[0])

    return [
        Later("Ludziejewski et al.", "E = 8", _joint(1.0), _joint(8.0), (0.0, 2.7e9)),
        Later("Ludziejewski et al.", "E = 32", _joint(1.0), _joint(32.0), (0.0, 2.7e9)),
        Later("Abnar et al.", "S = 7/8", _sparse(1.0), _sparse(1 / 8), (np.nan, np.nan)),
        Later("Abnar et al.", "S = 31/32", _sparse(1.0), _sparse(1 / 32), (np.nan, np.nan)),
        Later("Krajewski et al.", "E = 64, G = 1", _plain, _fine(1.0), (np.nan, np.nan)),
        Later("Krajewski et al.", "E = 64, G = 16", _plain, _fine(16.0), (np.nan, np.nan)),
    ]
