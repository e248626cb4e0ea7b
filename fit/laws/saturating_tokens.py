"""Clark's saturating experts with tokens (Yun et al. 2024, arXiv 2404.02852): L = (A N^-alpha + B Ê^-beta + C D^-gamma + F) N^(d ln Ê).

Nothing of it is a floor where d is not 0: the last factor carries F along. Coefficients are not public.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Beta, Data, IdentityLink, Law, Shape, Theta, stack_features
from fit.laws.saturation import E_START, RHO, log_saturate
from fit.runs.schema import NATS, D, E, N


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    n, d = log(data[N]), log(data[D])
    alpha, beta, gamma, power = (theta[..., k : k + 1] for k in range(4))
    e = log_saturate(data[E], theta[..., 4:5], theta[..., 5:6])
    factor = power * n * e
    return stack_features(theta, (exp(factor - alpha * n), exp(factor - beta * e), exp(factor - gamma * d), exp(factor)))


def _report(theta: Float[np.ndarray, "*batch 6"], beta: Beta) -> Float[np.ndarray, "*batch 10"]:
    return np.concatenate([beta, theta[..., :5], theta[..., 4:5] / theta[..., 5:6]], axis=-1)


SATURATING_TOKENS = Law(
    name="saturating-tokens",
    title="Saturating experts and tokens",
    formula="L = (A N^-alpha + B Ê^-beta + C D^-gamma + F) N^(d ln Ê)",
    source="not the paper's: Yun et al. 2024, arXiv 2404.02852, no coefficients published",
    conventions="N: dense size (active parameters at k = 1)",
    columns=(N, D, E),
    coefficients=("A", "B", "C", "F"),
    features=_features,
    shapes=(
        Shape("alpha", 0.02, 2.0), Shape("beta", 0.02, 2.0), Shape("gamma", 0.02, 2.0),
        Shape("d", -0.1, 0.1, spacing="linear", coordinate="linear"), E_START, RHO,
    ),
    link=IdentityLink(),
    parameters=("A", "B", "C", "F", "alpha", "beta", "gamma", "d", "E_start", "E_max"),
    report=_report,
    units={"A": NATS, "B": NATS, "C": NATS, "F": NATS, "E_start": "experts", "E_max": "experts"},
    nonnegative=("A", "B", "C", "F"),
    ratios={"E_max": ("E_start", "rho")},
)  # fmt: skip
