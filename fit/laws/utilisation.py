"""The law across k and R: L(F, B), alias L(P, F), with B = P/F the parameters held per FLOP spent (Eq. 2). Logarithms base 10.

    log L = a log F + b log B̂ + c log F log B̂ + d,    B̂ of B as Ê of E, with B_start and B_max

Our choices, since the paper states neither unit: F is the release's column, forward FLOPs of a step of 2^19 tokens; B is
2^20 P/F, parameters per multiply-add of one token, so that a dense model without embeddings and attention would have
B = 1 (the released dense ones have 0.39 to 0.78). Another unit of either moves b, d, B_start and B_max, and not the fit.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Data, Law, Roles, Shape, Theta, stack_features
from fit.laws.log_linear import LOG10_E, report_e_max
from fit.laws.saturation import RHO_HIGH, RHO_LOW, log_saturate

B_UNIT = 2.0**20
"""Twice the tokens of the paper's step, 256 x 2048: two FLOPs a multiply-add."""

_LEAST = 0.02
"""Least B̂ offset at the run of smallest B: keeps log B̂ finite there."""


def utilisation_of(data: Data) -> Float[np.ndarray, "runs"]:
    """B of each run: 2^20 P/F."""
    return B_UNIT * data["total_parameter_count"] / data["flops_per_step"]


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    x = np.log10(data["flops_per_step"])
    b = log_saturate(utilisation_of(data), theta[..., 0:1], theta[..., 1:2]) * LOG10_E
    return stack_features(theta, (x, b, x * b, np.ones_like(x)))


def _bounds(data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
    # B - 1 + B_start/(1 - rho) must stay positive, also for runs with B below 1.
    del loss
    smallest = float(utilisation_of(data).min())
    return ((max(1 - smallest, 0.0) + _LEAST, 64.0), (RHO_LOW, RHO_HIGH))


UTILISATION = Law(
    name="utilisation",
    title="Law across k and R, L(F, B)",
    formula="log L = a log F + b log B̂ + c log F log B̂ + d, B = P/F",
    source="the paper, Eq. 2",
    columns=("total_parameter_count", "flops_per_step"),
    coefficients=("a", "b", "c", "d"),
    features=_features,
    shapes=(Shape("B_start", low=_LEAST, high=64.0, points=16), Shape("rho", RHO_LOW, RHO_HIGH, 16, coordinate="linear")),
    parameters=("a", "b", "c", "d", "B_start", "B_max"),
    report=report_e_max,
    units={"B_start": "parameters per multiply-add", "B_max": "parameters per multiply-add"},
    signs={"a": -1, "b": -1, "c": 1},
    bounds=_bounds,
    ratios={"B_max": ("B_start", "rho")},
    roles=Roles(base=10.0, size=0, experts=1, interaction=2),
)
