"""The paper's laws: dense, separable (Eq. 6), bilinear (Eq. 7), bounded L(N, E) (Eq. 1), L(F, B) (Eq. 2). Logarithms are base 10.

Eq. 2, alias L(P, F), has B = P/F, the parameters held per FLOP spent:

    log L = a log F + b log B̂ + c log F log B̂ + d,    B̂ of B as Ê of E, with B_start and B_max

Our choices, since the paper states neither unit: F is the release's column, forward FLOPs of a step of 2^19 tokens; B is
2^20 P/F, parameters per multiply-add of one token, so that a dense model without embeddings and attention would have
B = 1 (the released dense ones have 0.39 to 0.78).
"""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Beta, Data, Law, Published, Roles, Shape, Theta, stack_features
from fit.laws.saturation import E_START, RHO, RHO_HIGH, RHO_LOW, log_saturate, report_e_max

LOG10_E = float(np.log10(np.e))
B_UNIT = 2.0**20
"""Twice the tokens of the paper's step, 256 x 2048: two FLOPs a multiply-add."""

_COLUMNS = ("dense_parameter_count", "num_experts")
_RANGES = {"dense_parameter_count": (1.6e7, 1.32e9), "num_experts": (1.0, 512.0), "tokens_seen": (1.3e11, 1.32e11)}
"""The paper's runs: 15M to 1.3B, up to 512 experts; all on 250,000 steps of 2^19 tokens, which its laws do not read."""
_SIGNS = {"a": -1, "b": -1, "c": 1}
_LEAST = 0.02
"""Least B̂ offset at the run of smallest B: keeps log B̂ finite there."""


def _dense(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 2"]:
    x = np.log10(data["dense_parameter_count"])
    return stack_features(theta, (-x, np.ones_like(x)))


def _dense_report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch 2"]:
    del theta
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.stack([beta[..., 0], 10 ** (beta[..., 1] / beta[..., 0])], axis=-1)


def _dense_at(values: Mapping[str, float]) -> tuple[Float[np.ndarray, "0"], Float[np.ndarray, "2"]]:
    alpha = values["alpha_N"]
    return np.empty(0), np.array([alpha, alpha * np.log10(values["N_c"])])


def _routed(theta: Theta, data: Data, saturating: bool, interaction: bool) -> Inexact[np.ndarray, "*batch runs features"]:
    x, e = np.log10(data[_COLUMNS[0]]), data[_COLUMNS[1]]
    e = log_saturate(e, theta[..., 0:1], theta[..., 1:2]) * LOG10_E if saturating else np.log10(e)
    return stack_features(theta, (x, e, x * e, np.ones_like(x)) if interaction else (x, e, np.ones_like(x)))


def utilisation_of(data: Data) -> Inexact[np.ndarray, "*#batch runs"]:
    """B of each run: 2^20 P/F."""
    return B_UNIT * data["total_parameter_count"] / data["flops_per_step"]


def _utilisation(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 4"]:
    x = np.log10(data["flops_per_step"])
    b = log_saturate(utilisation_of(data), theta[..., 0:1], theta[..., 1:2]) * LOG10_E
    return stack_features(theta, (x, b, x * b, np.ones_like(x)))


def _utilisation_bounds(data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
    # B - 1 + B_start/(1 - rho) must stay positive, also for runs with B below 1.
    del loss
    smallest = float(np.real(utilisation_of(data)).min())
    return ((max(1 - smallest, 0.0) + _LEAST, 64.0), (RHO_LOW, RHO_HIGH))


DENSE = Law(
    name="dense",
    title="Dense power law",
    formula="L = (N_c / N)^alpha_N",
    source="the paper's dense baseline; the form of Kaplan et al. 2020",
    columns=("dense_parameter_count",),
    coefficients=("alpha_N", "intercept"),
    features=_dense,
    parameters=("alpha_N", "N_c"),
    report=_dense_report,
    units={"N_c": "parameters"},
    signs={"alpha_N": 1},
    dense=True,
    published=(
        Published("Dense", {"alpha_N": 0.078, "N_c": 3.568e13}, "the paper, dense baseline", ranges=_RANGES | {"num_experts": (1.0, 1.0)}),
    ),
    inverse=_dense_at,
)

SEPARABLE = Law(
    name="separable",
    title="Separable law",
    formula="log L = a log N + b log E + d",
    source="the paper, Eq. 6",
    columns=_COLUMNS,
    coefficients=("a", "b", "d"),
    features=partial(_routed, saturating=False, interaction=False),
    signs={"a": -1, "b": -1},
    roles=Roles(base=10.0, experts=1),
)

BILINEAR = Law(
    name="bilinear",
    title="Bilinear law",
    formula="log L = a log N + b log E + c log N log E + d",
    source="the paper, Eq. 7",
    columns=_COLUMNS,
    coefficients=("a", "b", "c", "d"),
    features=partial(_routed, saturating=False, interaction=True),
    signs=_SIGNS,
    roles=Roles(base=10.0, experts=1, interaction=2),
)

BOUNDED = Law(
    name="bounded",
    title="Bounded law L(N, E)",
    formula="log L = a log N + b log Ê + c log N log Ê + d",
    source="the paper, Eq. 1",
    columns=_COLUMNS,
    coefficients=("a", "b", "c", "d"),
    features=partial(_routed, saturating=True, interaction=True),
    shapes=(E_START, RHO),
    parameters=("a", "b", "c", "d", "E_start", "E_max"),
    report=report_e_max,
    units={"E_start": "experts", "E_max": "experts"},
    signs=_SIGNS,
    ratios={"E_max": ("E_start", "rho")},
    roles=Roles(base=10.0, experts=1, interaction=2),
    published=tuple(
        Published(
            router, dict(zip(("a", "b", "c", "d", "E_start", "E_max", "N_cutoff"), row, strict=True)), "the paper, Table 3", ranges=_RANGES
        )
        for router, row in {
            "S-Base": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478, 937e9),
            "RL-R": (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982, 85e9),
            "Hash": (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741, 83e9),
        }.items()
    ),
)

UTILISATION = Law(
    name="utilisation",
    title="Law across k and R, L(F, B)",
    formula="log L = a log F + b log B̂ + c log F log B̂ + d, B = P/F",
    source="the paper, Eq. 2",
    columns=("total_parameter_count", "flops_per_step"),
    coefficients=("a", "b", "c", "d"),
    features=_utilisation,
    shapes=(Shape("B_start", low=_LEAST, high=64.0, points=16), RHO),
    parameters=("a", "b", "c", "d", "B_start", "B_max"),
    report=report_e_max,
    units={"B_start": "parameters per multiply-add", "B_max": "parameters per multiply-add"},
    signs=_SIGNS,
    bounds=_utilisation_bounds,
    ratios={"B_max": ("B_start", "rho")},
    roles=Roles(base=10.0, experts=1, interaction=2),
)


def _per_size(theta: Theta, data: Data, sizes: tuple[float, ...]) -> Inexact[np.ndarray, "*batch runs features"]:
    log_e = np.log10(data["num_experts"])
    here = [np.where(np.real(data["dense_parameter_count"]) == size, 1.0, 0.0) for size in sizes]
    here[0] = np.where(sum(here) == 0, np.nan, here[0])
    return stack_features(theta, (*(mask * log_e for mask in here), *here))


def per_size(sizes: Iterable[float]) -> Law:
    """A line in log E for each of these values of N: one slope b and one intercept d for each, smallest first.

    It predicts nothing at other sizes. `sizes` in parameters, as they stand in the runs. A size met with one expert count only has no
    slope: leave it out.
    """
    ordered = tuple(sorted({float(size) for size in sizes}))
    labels = tuple(f"{size:.4g}" for size in ordered)
    return Law(
        name="per-size",
        title="A slope per size",
        formula="log L_N(E) = b(N) log E + d(N)",
        source="the paper, section 4 (fits at one N)",
        columns=_COLUMNS,
        coefficients=(*(f"b({label})" for label in labels), *(f"d({label})" for label in labels)),
        features=partial(_per_size, sizes=ordered),
        sizes=ordered,
        signs={f"b({label})": -1 for label in labels},
    )
