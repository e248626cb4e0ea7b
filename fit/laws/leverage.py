"""Efficiency leverage, the dense training FLOPs over the routed ones at equal loss (Tian et al. 2025, arXiv 2507.17702, Eq. 13):

    EL = Â^(alpha + gamma (log G)^2 + beta log G),   alpha = a + d log C,   1/Â = 1/(A + (1/A_start - 1/A_max)^-1) + 1/A_max

A = k/E with shared experts in both, G = 2 d_model/d_expert, C the training FLOPs. What is fitted is EL, so its column is the target.

The bases of the logarithms are our reading: 10 for C and 2 for G. With these the published coefficients give the optimum G = 11 and the
sevenfold leverage at A = 1/32, G = 12 and 1e22 FLOPs that the paper states; no other choice of 2, e and 10 gives both.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import log, log10
from fit.laws.interface import Beta, Data, Law, Published, Shape, Theta, stack_features
from fit.laws.saturation import RHO_HIGH, RHO_LOW
from fit.runs.schema import A, C, G

_COLUMNS = (A, C, G)
_LN2 = float(np.log(2))


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    start, rho = theta[..., 0:1], theta[..., 1:2]
    active = -log10(1 / (data[A] + start / (1 - rho)) + rho / start)
    c, g = log10(data[C]), log(data[G]) / _LN2
    return stack_features(theta, (active, active * c, active * g * g, active * g))


def _report(theta: Float[np.ndarray, "*batch 2"], beta: Beta) -> Float[np.ndarray, "*batch 6"]:
    return np.concatenate([beta, theta[..., :1], theta[..., :1] / theta[..., 1:]], axis=-1)


LEVERAGE = Law(
    name="leverage",
    title="Efficiency leverage",
    formula="EL = Â^(a + d log10 C + gamma (log2 G)^2 + beta log2 G)",
    source="not the paper's: Tian et al. 2025, Eq. 13; bases of the logarithms our reading",
    conventions="A = k/E, shared experts in both; G = 2 d_model/d_expert; the target is EL = dense over routed FLOPs at equal loss",
    columns=_COLUMNS,
    coefficients=("a", "d", "gamma", "beta"),
    features=_features,
    shapes=(Shape("A_start", 1e-3, 1.0, points=14), Shape("rho", RHO_LOW, RHO_HIGH, points=12, offset=1e-3)),
    parameters=("a", "d", "gamma", "beta", "A_start", "A_max"),
    report=_report,
    ratios={"A_max": ("A_start", "rho")},
    published=(
        Published(
            "Tian",
            {"a": 1.23, "d": -7.61e-2, "gamma": 1.67e-2, "beta": -1.17e-1, "A_start": 1.63e-2, "A_max": 5.28e16},
            "Tian et al. 2025",
        ),
    ),
)
