"""Size, experts and tokens together, L = L_0 + A N^-a E^-g + B D^-b (the form of Wang et al. 2024), and the same with Clark's Ê.

Experts divide the term in size, as in Eq. 6 they divide the whole loss: at E = 1 the first is the dense law `tokens`. With Ê for E, and
with the interaction N^(c ln Ê), the laws are ours: a floor, Clark's dependence on experts, and tokens. Logarithms are natural.
"""

from functools import partial

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Beta, Data, IdentityLink, Law, Shape, Theta, stack_features
from fit.laws.saturation import E_START, RHO, log_saturate
from fit.runs.schema import NATS, D, E, N

_A, _B = Shape("a", low=0.02, high=3.0, points=10), Shape("b", low=0.02, high=3.0, points=10)
_G = Shape("g", low=-0.5, high=2.0, points=9, spacing="linear", coordinate="linear")
_C = Shape("c", low=-0.2, high=0.2, spacing="linear", coordinate="linear")


def _features(theta: Theta, data: Data, saturating: bool, interaction: bool) -> Inexact[np.ndarray, "*batch runs 3"]:
    n, e, d = log(data[N]), data[E], log(data[D])
    e = log_saturate(e, theta[..., 3:4], theta[..., 4:5]) if saturating else log(e)
    size = -theta[..., 0:1] * n - theta[..., 1:2] * e
    size = size + theta[..., 5:6] * e * n if interaction else size
    return stack_features(theta, (np.ones_like(n), exp(size), exp(-theta[..., 2:3] * d)))


def _report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
    values = [beta[..., :2], theta[..., :2], beta[..., 2:], theta[..., 2:4]]  # b, and E_start where there is one
    if theta.shape[-1] > 3:
        values += [theta[..., 3:4] / theta[..., 4:5], theta[..., 5:]]
    return np.concatenate(values, axis=-1)


def _law(name: str, title: str, formula: str, source: str, *, saturating: bool = False, interaction: bool = False) -> Law:
    more = (*((E_START, RHO) if saturating else ()), *((_C,) if interaction else ()))
    return Law(
        name=name,
        title=title,
        formula=formula,
        source=source,
        conventions="N: dense size (active parameters at k = 1)",
        columns=(N, E, D),
        coefficients=("L_0", "A", "B"),
        features=partial(_features, saturating=saturating, interaction=interaction),
        shapes=(_A, _G, _B, *more),
        link=IdentityLink(),
        parameters=("L_0", "A", "a", "g", "B", "b", *(("E_start", "E_max") if saturating else ()), *(("c",) if interaction else ())),
        report=_report,
        units={"L_0": NATS, "A": NATS, "B": NATS} | ({"E_start": "experts", "E_max": "experts"} if saturating else {}),
        signs={"g": 1},
        nonnegative=("L_0", "A", "B"),
        ratios={"E_max": ("E_start", "rho")} if saturating else {},
    )


TOKENS_EXPERTS = _law(
    "tokens-experts",
    "Size, experts and tokens",
    "L = L_0 + A N^-a E^-g + B D^-b",
    "not the paper's: Wang et al. 2024, for runs of several numbers of experts and of tokens D",
)
BOUNDED_TOKENS = _law(
    "bounded-tokens",
    "Size, saturating experts and tokens",
    "L = L_0 + A N^-a Ê^-g + B D^-b",
    "ours: a floor, Clark's Ê and tokens",
    saturating=True,
)
BOUNDED_TOKENS_INTERACTION = _law(
    "bounded-tokens-interaction",
    "Size, saturating experts and tokens, interaction",
    "L = L_0 + A N^-a Ê^-g N^(c ln Ê) + B D^-b",
    "ours: a floor, Clark's Ê with its interaction, and tokens",
    saturating=True,
    interaction=True,
)
