"""The saturating expert count Ê of Eq. 1, and its inverse.

    1/Ê = 1/(E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max        so Ê(1) = E_start and Ê -> E_max

Searched over (E_start, rho) with rho = E_start/E_max rather than (E_start, E_max) (our choice): the box 0 < rho < 1 is just the
region where the formula makes sense, and no saturation at all (E_max -> infinity) is the regular point rho = 0.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import log

RHO_LOW, RHO_HIGH = 1e-6, 0.95
"""Range of E_start/E_max that is searched: at the lower end Ê is E - 1 + E_start to one part in 10^3 up to E = 10^3 E_start."""


_MANY = 20
"""Batches larger than this repay looking for runs of equal E."""


def saturate(
    e: Inexact[np.ndarray, "*#batch runs"], e_start: Inexact[np.ndarray, "*#batch 1"], rho: Inexact[np.ndarray, "*#batch 1"]
) -> Inexact[np.ndarray, "*batch runs"]:
    """Ê of `e` experts, given E_start and rho = E_start/E_max (Eq. 1). Analytic in every argument."""
    return 1 / (1 / (e - 1 + e_start / (1 - rho)) + rho / e_start)


def log_saturate(
    e: Inexact[np.ndarray, " runs"], e_start: Inexact[np.ndarray, "*batch 1"], rho: Inexact[np.ndarray, "*batch 1"]
) -> Inexact[np.ndarray, "*batch runs"]:
    """ln Ê of every run, worked out once for each number of experts where that saves logarithms."""
    distinct, place = np.unique(e, return_inverse=True) if e_start.size > _MANY else (e, None)
    if 2 * len(distinct) > len(e):
        distinct, place = e, None
    ln = -log(1 / (distinct - 1 + e_start / (1 - rho)) + rho / e_start)
    return ln if place is None else np.take(ln, place, axis=-1)


def unsaturate(
    e_hat: Float[np.ndarray, "*#batch runs"], e_start: Float[np.ndarray, "*#batch 1"], rho: Float[np.ndarray, "*#batch 1"]
) -> Float[np.ndarray, "*batch runs"]:
    """The number of experts whose Ê is `e_hat`: inverse of `saturate`. Infinite or negative at or above E_max = E_start/rho."""
    return 1 / (1 / e_hat - rho / e_start) + 1 - e_start / (1 - rho)


def e_max(theta: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 1"]:
    """E_max of (E_start, rho)."""
    return theta[..., :1] / theta[..., 1:]
