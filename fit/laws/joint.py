"""Active parameters, tokens and experts together (Ludziejewski et al. 2025, arXiv 2502.05172), Ê as in Clark's Eq. 1:

    L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c

Both exponents move with experts, so that the best N and D of a budget do too. Eight shape parameters: the largest law here.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Beta, Data, IdentityLink, Law, Published, Shape, Theta, stack_features
from fit.laws.saturation import E_START, RHO, log_saturate
from fit.runs.schema import NATS, D, E, N

_NAMES = ("alpha", "delta", "gamma", "beta", "omega", "zeta")


def _linear(name: str, low: float, high: float) -> Shape:
    return Shape(name, low, high, spacing="linear", coordinate="linear")


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    n, d = log(data[N]), log(data[D])
    alpha, delta, gamma, beta, omega, zeta = (theta[..., k : k + 1] for k in range(6))
    e = log_saturate(data[E], theta[..., 6:7], theta[..., 7:8])
    return stack_features(theta, (exp(delta * e + (alpha + gamma * e) * n), exp(omega * e + (beta + zeta * e) * d), np.ones_like(n)))


def _report(theta: Float[np.ndarray, "*batch 8"], beta: Beta) -> Float[np.ndarray, "*batch 11"]:
    return np.concatenate([beta, theta[..., :7], theta[..., 6:7] / theta[..., 7:8]], axis=-1)


JOINT = Law(
    name="joint",
    title="Active size, tokens and experts",
    formula="L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c",
    source="not the paper's: Ludziejewski et al. 2025, arXiv 2502.05172",
    conventions="N: active parameters (published coefficients: embeddings included)",
    columns=(N, D, E),
    coefficients=("a", "b", "c"),
    features=_features,
    shapes=(
        _linear("alpha", -1.0, -0.02), _linear("delta", -3.0, 2.0), _linear("gamma", -0.2, 0.2), _linear("beta", -1.0, -0.02),
        _linear("omega", -2.0, 4.0), _linear("zeta", -0.2, 0.2), E_START, RHO,
    ),
    link=IdentityLink(),
    parameters=("a", "b", "c", *_NAMES, "E_start", "E_max"),
    report=_report,
    units={"a": NATS, "b": NATS, "c": NATS, "E_start": "experts", "E_max": "experts"},
    nonnegative=("a", "b", "c"),
    ratios={"E_max": ("E_start", "rho")},
    published=(
        Published(
            "Ludziejewski",
            {
                "a": 35.91, "alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098, "b": 35.98, "beta": -0.1775, "omega": 0.5529,
                "zeta": -0.0259, "E_start": 2.0732, "E_max": 290.4521, "c": 1.3637,
            },
            "Ludziejewski et al. 2025",
            ranges={E: (1.0, 32.0), N: (0.0, 2.7e9)},
        ),
    ),
)  # fmt: skip
