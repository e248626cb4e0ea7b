"""Granularity of experts, L(N, D, G) = c + (g G^-gamma + a) N^-alpha + b D^-beta (Krajewski et al. 2024, arXiv 2402.07871).

G = d_ff/d_expert: each expert of a standard model is cut into G, of which G times as many are used, so that neither parameters nor FLOPs
of the experts change. The law is for one expansion rate E: its published coefficients hold at E = 64, with a row for dense models.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Beta, Data, IdentityLink, Law, Published, Shape, Theta, stack_features
from fit.runs.schema import NATS, D, E, G, P

_SOURCE = "Krajewski et al. 2024"
_RANGES = {E: (64.0, 64.0), G: (1.0, 16.0)}
"""One expansion rate, and G from 1 to 16; the range of N and D is not stated where we read."""


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    n, d, g = (log(data[name]) for name in (P, D, G))
    gamma, alpha, beta = (theta[..., k : k + 1] for k in range(3))
    return stack_features(theta, (np.ones_like(n), exp(-gamma * g - alpha * n), exp(-alpha * n), exp(-beta * d)))


def _report(theta: Float[np.ndarray, "*batch 3"], beta: Beta) -> Float[np.ndarray, "*batch 7"]:
    return np.concatenate([beta, theta], axis=-1)


GRANULARITY = Law(
    name="granularity",
    title="Size, tokens and granularity",
    formula="L = c + (g G^-gamma + a) N^-alpha + b D^-beta",
    source="not the paper's: Krajewski et al. 2024, arXiv 2402.07871",
    conventions="N: all parameters, embeddings left out; G = d_ff/d_expert; one expansion rate E",
    columns=(P, D, G),
    coefficients=("c", "g", "a", "b"),
    features=_features,
    shapes=(Shape("gamma", 0.02, 3.0, points=10), Shape("alpha", 0.02, 2.0, points=12), Shape("beta", 0.02, 2.0, points=12)),
    link=IdentityLink(),
    parameters=("c", "g", "a", "b", "gamma", "alpha", "beta"),
    report=_report,
    units=dict.fromkeys(("c", "g", "a", "b"), NATS),
    nonnegative=("c", "g", "a", "b"),
    published=(
        Published(
            "E=64", {"a": 18.1, "alpha": 0.115, "b": 30.8, "beta": 0.147, "g": 2.1, "gamma": 0.58, "c": 0.47}, _SOURCE, ranges=_RANGES
        ),
        # Without experts there is no term in G: any gamma says the same.
        Published(
            "dense", {"a": 16.3, "alpha": 0.126, "b": 26.7, "beta": 0.127, "g": 0.0, "gamma": 1.0, "c": 0.47}, _SOURCE,
            ranges={E: (1.0, 1.0)},
        ),
    ),
)  # fmt: skip
