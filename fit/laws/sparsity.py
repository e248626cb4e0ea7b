"""Sparsity: laws in all parameters N, tokens D and the share of experts that a token does not use, S = (E - k)/E = 1 - A.

The column read is the activation ratio A = k/E, which is 1 in dense models. Abnar et al. 2025 (arXiv 2501.12370):

    L = a N^-alpha + b D^-beta + c (1 - S)^-lambda + d (1 - S)^-delta N^-gamma + e

and Hossain et al. 2026, which is a dense law at S = 0 by construction:

    L = e (1 - S)^gamma + (a (1 - S)^alpha + c S) N^-alpha + b D^-beta

Which N the latter takes is not stated where we read: here all parameters, as Abnar et al. have it.
"""

import numpy as np
from jaxtyping import Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Data, IdentityLink, Law, Published, Shape, Theta, stack_features
from fit.runs.schema import NATS, A, C, D, P

_COLUMNS = (P, D, A)


def _abnar(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 5"]:
    n, d, active = (log(data[name]) for name in _COLUMNS)
    alpha, beta, power, delta, gamma = (theta[..., k : k + 1] for k in range(5))
    terms = (exp(-alpha * n), exp(-beta * d), exp(-power * active), exp(-delta * active - gamma * n), np.ones_like(n))
    return stack_features(theta, terms)


def _hossain(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    n, d, active = (log(data[name]) for name in _COLUMNS)
    alpha, beta, gamma = (theta[..., k : k + 1] for k in range(3))
    sparse = (1 - data[A]) * exp(-alpha * n)
    return stack_features(theta, (exp(gamma * active), exp(alpha * (active - n)), sparse, exp(-beta * d)))


SPARSITY = Law(
    name="sparsity",
    title="Size, tokens and sparsity",
    formula="L = a N^-alpha + b D^-beta + c (1-S)^-lambda + d (1-S)^-delta N^-gamma + e",
    source="not the paper's: Abnar et al. 2025, arXiv 2501.12370",
    conventions="N: all parameters, embeddings included; S = (E - k)/E",
    columns=_COLUMNS,
    coefficients=("a", "b", "c", "d", "e"),
    features=_abnar,
    shapes=(
        Shape("alpha", 0.02, 2.0), Shape("beta", 0.02, 2.0), Shape("lambda", -2.0, 2.0, spacing="linear", coordinate="linear"),
        Shape("delta", -1.0, 2.0, spacing="linear", coordinate="linear"), Shape("gamma", 0.02, 2.0),
    ),
    link=IdentityLink(),
    units=dict.fromkeys(("a", "b", "c", "d", "e"), NATS),
    nonnegative=("a", "b", "c", "d", "e"),
    published=(
        Published(
            "Abnar",
            {
                "a": 16612.50, "alpha": 0.5962, "b": 5455.67, "beta": 0.3954, "c": 0.4598, "lambda": -0.1666, "d": 17.26, "delta": 0.1603,
                "gamma": 0.1595, "e": 0.94,
            },
            "Abnar et al. 2025",
            "read in two secondary sources",
            {C: (3e19, 1e21), A: (0.02, 1.0)},
        ),
    ),
)  # fmt: skip

SPARSITY_DENSE = Law(
    name="sparsity-dense",
    title="Sparsity, dense at S = 0",
    formula="L = e (1-S)^gamma + (a (1-S)^alpha + c S) N^-alpha + b D^-beta",
    source="not the paper's: Hossain et al. 2026, no coefficients published where we read",
    conventions="N: all parameters (our reading); S = (E - k)/E",
    columns=_COLUMNS,
    coefficients=("e", "a", "c", "b"),
    features=_hossain,
    shapes=(
        Shape("alpha", 0.02, 2.0, points=12), Shape("beta", 0.02, 2.0, points=12),
        Shape("gamma", -1.0, 1.0, points=9, spacing="linear", coordinate="linear"),
    ),
    link=IdentityLink(),
    units=dict.fromkeys(("e", "a", "c", "b"), NATS),
    nonnegative=("e", "a", "c", "b"),
)  # fmt: skip
