"""The paper's laws in N and E: separable (Eq. 6), bilinear (Eq. 7) and bounded, L(N,E) (Eq. 1). Logarithms are base 10."""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Beta, Data, Law, Published, Roles, Shape, Theta, stack_features
from fit.laws.saturation import RHO_HIGH, RHO_LOW, e_max, log_saturate

E_START = Shape("E_start", low=1.0, high=64.0, points=14)
"""E_start from 1 (our choice: fewer than one effective expert has no meaning) to 64, 13 times the largest published value."""

RHO = Shape("rho", low=RHO_LOW, high=RHO_HIGH, points=16, coordinate="linear")
"""E_start/E_max; see `fit.laws.saturation`."""

LOG10_E = float(np.log10(np.e))

_COLUMNS = ("dense_parameter_count", "num_experts")
_SIGNS = {"a": -1, "b": -1, "c": 1}
_TABLE_3 = "the paper, Table 3"


def _separable(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    x, e = (np.log10(data[column]) for column in _COLUMNS)
    return stack_features(theta, (x, e, np.ones_like(x)))


def _bilinear(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    x, e = (np.log10(data[column]) for column in _COLUMNS)
    return stack_features(theta, (x, e, x * e, np.ones_like(x)))


def _bounded(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    x = np.log10(data["dense_parameter_count"])
    e = log_saturate(data["num_experts"], theta[..., 0:1], theta[..., 1:2]) * LOG10_E
    return stack_features(theta, (x, e, x * e, np.ones_like(x)))


def report_e_max(theta: Float[np.ndarray, "*batch 2"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
    """Coefficients, E_start and E_max, from a fit in (E_start, rho)."""
    return np.concatenate([beta, theta[..., :1], e_max(theta)], axis=-1)


SEPARABLE = Law(
    name="separable",
    title="Separable law",
    formula="log L = a log N + b log E + d",
    source="the paper, Eq. 6",
    columns=_COLUMNS,
    coefficients=("a", "b", "d"),
    features=_separable,
    signs={"a": -1, "b": -1},
    roles=Roles(base=10.0, size=0, experts=1),
)

BILINEAR = Law(
    name="bilinear",
    title="Bilinear law",
    formula="log L = a log N + b log E + c log N log E + d",
    source="the paper, Eq. 7",
    columns=_COLUMNS,
    coefficients=("a", "b", "c", "d"),
    features=_bilinear,
    signs=_SIGNS,
    roles=Roles(base=10.0, size=0, experts=1, interaction=2),
)

BOUNDED = Law(
    name="bounded",
    title="Bounded law L(N, E)",
    formula="log L = a log N + b log Ê + c log N log Ê + d",
    source="the paper, Eq. 1",
    columns=_COLUMNS,
    coefficients=("a", "b", "c", "d"),
    features=_bounded,
    shapes=(E_START, RHO),
    parameters=("a", "b", "c", "d", "E_start", "E_max"),
    report=report_e_max,
    units={"E_start": "experts", "E_max": "experts"},
    signs=_SIGNS,
    ratios={"E_max": ("E_start", "rho")},
    roles=Roles(base=10.0, size=0, experts=1, interaction=2),
    published=tuple(
        Published(router, dict(zip(("a", "b", "c", "d", "E_start", "E_max", "N_cutoff"), row, strict=True)), _TABLE_3)
        for router, row in {
            "S-Base": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478, 937e9),
            "RL-R": (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982, 85e9),
            "Hash": (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741, 83e9),
        }.items()
    ),
)
