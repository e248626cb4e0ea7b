"""The dense law in size and tokens, L(N, D) = L_0 + A N^-a + B D^-b (Hoffmann et al. 2022, Eq. 2).

Not the paper's, whose runs all read as many tokens. It is a sum of power laws, so its link is the loss itself; its coefficients are
linear once a and b are fixed.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp
from fit.laws.interface import Beta, Data, IdentityLink, Law, Published, Shape, Theta, stack_features
from fit.runs.schema import NATS, D, N

_HOFFMANN = {N: (7e7, 1.6e10), D: (5e9, 5e11)}
"""The runs of Hoffmann et al. 2022: 70M to 16B parameters on 5 to 500 billion tokens (abstract)."""


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    n, d = np.log(data[N]), np.log(data[D])
    return stack_features(theta, (np.ones_like(n), exp(-theta[..., 0:1] * n), exp(-theta[..., 1:2] * d)))


def _report(theta: Float[np.ndarray, "*batch 2"], beta: Beta) -> Float[np.ndarray, "*batch 5"]:
    return np.stack([beta[..., 0], beta[..., 1], theta[..., 0], beta[..., 2], theta[..., 1]], axis=-1)


TOKENS = Law(
    name="tokens",
    title="Dense law in size and tokens",
    formula="L = L_0 + A N^-a + B D^-b",
    source="not the paper's: Hoffmann et al. 2022, Eq. 2, for dense runs of several numbers of tokens D",
    conventions="N: as in the file (published coefficients: all parameters of dense models)",
    columns=(N, D),
    coefficients=("L_0", "A", "B"),
    features=_features,
    shapes=(Shape("a", low=0.02, high=3.0, points=16), Shape("b", low=0.02, high=3.0, points=16)),
    link=IdentityLink(),
    parameters=("L_0", "A", "a", "B", "b"),
    report=_report,
    units=dict.fromkeys(("L_0", "A", "B"), NATS),
    nonnegative=("L_0", "A", "B"),
    dense=True,
    published=tuple(
        Published(name, dict(zip(("L_0", "A", "B", "a", "b"), values, strict=True)), source, standing, ranges)
        for name, values, source, standing, ranges in (
            ("Hoffmann", (1.69, 406.4, 410.7, 0.34, 0.28), "Hoffmann et al. 2022, approach 3", "read in the paper", _HOFFMANN),
            ("Hoffmann, TeX", (1.6934, 406.4, 410.7, 0.3392, 0.2849), "the same, TeX source", "read in a secondary source", _HOFFMANN),
            ("Besiroglu", (1.8172, 482.01, 2085.43, 0.3478, 0.3658), "Besiroglu et al. 2024", "read in the paper", _HOFFMANN),
            ("Liew, dense", (0.165, 12.3, 8.83, 0.116, 0.088), "Liew et al. 2025", "read in a secondary source", {}),
            ("Liew, 8 experts", (0.165, 7.05, 32.0, 0.080, 0.161), "Liew et al. 2025", "read in a secondary source", {}),
        )
    ),
)
