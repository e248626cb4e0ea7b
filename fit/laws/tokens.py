"""The dense law in size and tokens, L(N, D) = L_0 + A N^-a + B D^-b (Hoffmann et al. 2022, Eq. 2).

Not the paper's, whose runs all read as many tokens. It is a sum of power laws, so its link is the loss itself; its coefficients are
linear once a and b are fixed.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp
from fit.laws.interface import Beta, Data, IdentityLink, Law, Shape, Theta, stack_features


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    n, d = np.log(data["dense_parameter_count"]), np.log(data["tokens_seen"])
    return stack_features(theta, (np.ones_like(n), exp(-theta[..., 0:1] * n), exp(-theta[..., 1:2] * d)))


def _report(theta: Float[np.ndarray, "*batch 2"], beta: Beta) -> Float[np.ndarray, "*batch 5"]:
    return np.stack([beta[..., 0], beta[..., 1], theta[..., 0], beta[..., 2], theta[..., 1]], axis=-1)


TOKENS = Law(
    name="tokens",
    title="Dense law in size and tokens",
    formula="L = L_0 + A N^-a + B D^-b",
    source="not the paper's: Hoffmann et al. 2022, Eq. 2, for dense runs of several numbers of tokens D",
    columns=("dense_parameter_count", "tokens_seen"),
    coefficients=("L_0", "A", "B"),
    features=_features,
    shapes=(Shape("a", low=0.02, high=3.0, points=16), Shape("b", low=0.02, high=3.0, points=16)),
    link=IdentityLink(),
    parameters=("L_0", "A", "a", "B", "b"),
    report=_report,
    units={"L_0": "nats per token", "A": "nats per token", "B": "nats per token"},
    nonnegative=("L_0", "A", "B"),
    dense=True,
)
