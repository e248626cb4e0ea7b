"""The saturating expert count Ê of Eq. 1.

    1/Ê = 1/(E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max        so Ê(1) = E_start and Ê -> E_max

Searched over (E_start, rho) with rho = E_start/E_max rather than (E_start, E_max) (our choice): the box 0 < rho < 1 is just the
region where the formula makes sense, and no saturation at all (E_max -> infinity) is the regular point rho = 0.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import log
from fit.laws.interface import Beta, Shape

RHO_LOW, RHO_HIGH = 1e-6, 0.95
"""Range of E_start/E_max that is searched: at the lower end Ê is E - 1 + E_start to one part in 10^3 up to E = 10^3 E_start."""

E_START = Shape("E_start", low=1.0, high=64.0, points=14)
"""E_start from 1 (our choice: fewer than one effective expert has no meaning) to 64, 13 times the largest published value."""

RHO = Shape("rho", low=RHO_LOW, high=RHO_HIGH, points=16, offset=1e-3)
"""E_start/E_max. Its coordinate is a logarithm where it counts, so that valleys of equal E_max are straight, and linear near zero."""

_MANY = 20
"""Batches larger than this repay looking for runs of equal E."""


def log_saturate(
    e: Inexact[np.ndarray, "*#batch runs"], e_start: Inexact[np.ndarray, "*#batch 1"], rho: Inexact[np.ndarray, "*#batch 1"]
) -> Inexact[np.ndarray, "*batch runs"]:
    """ln Ê of `e` experts, given E_start and rho = E_start/E_max; worked out once for each number of experts where that saves logarithms.

    Analytic in every argument.
    """
    distinct, place = e, None
    if e_start.size > _MANY and e.ndim == 1 and not np.iscomplexobj(e):
        distinct, place = np.unique(e, return_inverse=True)
        if 2 * len(distinct) > len(e):
            distinct, place = e, None
    ln = -log(1 / (distinct - 1 + e_start / (1 - rho)) + rho / e_start)
    return ln if place is None else np.take(ln, place, axis=-1)


def report_e_max(theta: Float[np.ndarray, "*batch 2"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
    """Coefficients, E_start and E_max, from a fit in (E_start, rho)."""
    return np.concatenate([beta, theta[..., :1], theta[..., :1] / theta[..., 1:]], axis=-1)
