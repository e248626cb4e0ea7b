"""Size, experts and tokens together, L = L_0 + A N^-a E^-g + B D^-b (the form of Wang et al. 2024).

Experts divide the term in size, as in Eq. 6 they divide the whole loss: at E = 1 it is the dense law `tokens`.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp
from fit.laws.interface import Beta, Data, IdentityLink, Law, Shape, Theta, stack_features


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    n, e, d = np.log(data["dense_parameter_count"]), np.log(data["num_experts"]), np.log(data["tokens_seen"])
    return stack_features(theta, (np.ones_like(n), exp(-theta[..., 0:1] * n - theta[..., 1:2] * e), exp(-theta[..., 2:3] * d)))


def _report(theta: Float[np.ndarray, "*batch 3"], beta: Beta) -> Float[np.ndarray, "*batch 6"]:
    return np.stack([beta[..., 0], beta[..., 1], theta[..., 0], theta[..., 1], beta[..., 2], theta[..., 2]], axis=-1)


TOKENS_EXPERTS = Law(
    name="tokens-experts",
    title="Size, experts and tokens",
    formula="L = L_0 + A N^-a E^-g + B D^-b",
    source="not the paper's: Wang et al. 2024, for runs of several numbers of experts and of tokens D",
    columns=("dense_parameter_count", "num_experts", "tokens_seen"),
    coefficients=("L_0", "A", "B"),
    features=_features,
    shapes=(
        Shape("a", low=0.02, high=3.0, points=10), Shape("g", low=-0.5, high=2.0, points=9, spacing="linear", coordinate="linear"),
        Shape("b", low=0.02, high=3.0, points=10),
    ),
    link=IdentityLink(),
    parameters=("L_0", "A", "a", "g", "B", "b"),
    report=_report,
    units={"L_0": "nats per token", "A": "nats per token", "B": "nats per token"},
    signs={"g": 1},
    nonnegative=("L_0", "A", "B"),
)  # fmt: skip
