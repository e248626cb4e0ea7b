"""Laws with an irreducible floor: L = L_0 + C N^-a Ê^-b N^(c ln Ê), with and without saturation and interaction, and of dense runs alone.

Not the paper's: its forms fall to nought as N grows, extrapolate badly, and their c > 0 may only stand in for the floor. These
share the paper's dependence on experts and differ in the floor alone, so that a reader sees which conclusions survive it.
Logarithms are natural. Without the interaction the effective parameter count is N (Ê/E_start)^(b/a): a multiplier by E alone.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Beta, Data, FloorLink, Law, Roles, Shape, Theta, stack_features
from fit.laws.log_linear import E_START, RHO
from fit.laws.saturation import e_max, log_saturate

_FLOOR = Shape("L_0", low=0.0, high=np.inf, points=14, spacing="linear", coordinate="linear")
_HIGHEST_FLOOR = 0.99
"""The floor may reach this fraction of the smallest loss among the runs: at the loss itself the law has no power law left."""


def _log_experts(theta: Theta, data: Data, saturating: bool) -> Inexact[np.ndarray, "*#batch runs"]:
    e = data["num_experts"]
    return log_saturate(e, theta[..., 1:2], theta[..., 2:3]) if saturating else np.log(e)


def _floor_bounds(data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
    del data
    return ((0.0, _HIGHEST_FLOOR * float(loss.min())),)


def _floor_law(name: str, title: str, formula: str, *, saturating: bool, interaction: bool) -> Law:
    shapes = (_FLOOR, E_START, RHO) if saturating else (_FLOOR,)

    def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs features"]:
        x, e = np.log(data["dense_parameter_count"]), _log_experts(theta, data, saturating)
        terms = (x, e, x * e, np.ones_like(x)) if interaction else (x, e, np.ones_like(x))
        return stack_features(theta, terms)

    def _report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
        # The law is written with exponents -a and -b; c keeps its sign; the constant is ln C.
        exponents = beta[..., :-1] * np.array([-1.0, -1.0, 1.0][: beta.shape[-1] - 1])
        values = [theta[..., :1], np.exp(beta[..., -1:]), exponents]
        if saturating:
            values += [theta[..., 1:2], e_max(theta[..., 1:])]
        return np.concatenate(values, axis=-1)

    def _bounds(data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
        return (*_floor_bounds(data, loss), *((shape.low, shape.high) for shape in shapes[1:]))

    exponents = ("a", "b", "c") if interaction else ("a", "b")
    return Law(
        name=name,
        title=title,
        formula=formula,
        source="not the paper's: its laws with an irreducible floor added (our choice, as they extrapolate badly without)",
        columns=("dense_parameter_count", "num_experts"),
        coefficients=(*exponents, "ln_C"),
        features=_features,
        shapes=shapes,
        link=FloorLink(),
        parameters=("L_0", "C", *exponents, *(("E_start", "E_max") if saturating else ())),
        report=_report,
        units={"L_0": "nats per token", "C": "nats per token", "E_start": "experts", "E_max": "experts"},
        signs={"a": 1, "b": 1, "c": 1},
        bounds=_bounds,
        ratios={"E_max": ("E_start", "rho")} if saturating else {},
        roles=Roles(base=float(np.e), size=0, experts=1, interaction=2 if interaction else None),
    )


FLOOR = _floor_law("floor", "Floor", "L = L_0 + C N^-a E^-b", saturating=False, interaction=False)
BOUNDED_FLOOR = _floor_law("bounded-floor", "Floor, saturating", "L = L_0 + C N^-a Ê^-b", saturating=True, interaction=False)
FLOOR_INTERACTION = _floor_law(
    "floor-interaction", "Floor, interaction", "L = L_0 + C N^-a E^-b N^(c ln E)", saturating=False, interaction=True
)
BOUNDED_FLOOR_INTERACTION = _floor_law(
    "bounded-floor-interaction",
    "Floor, saturating, interaction",
    "L = L_0 + C N^-a Ê^-b N^(c ln Ê)",
    saturating=True,
    interaction=True,
)


def _dense_features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 2"]:
    x = np.log(data["dense_parameter_count"])
    return stack_features(theta, (x, np.ones_like(x)))


def _dense_report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch 3"]:
    return np.stack([theta[..., 0], np.exp(beta[..., 1]), -beta[..., 0]], axis=-1)


DENSE_FLOOR = Law(
    name="dense-floor",
    title="Dense power law with a floor",
    formula="L = L_0 + C N^-a",
    source="not the paper's: its dense baseline with an irreducible floor; Hoffmann et al. 2022, Eq. 2, at one number of tokens",
    columns=("dense_parameter_count",),
    coefficients=("a", "ln_C"),
    features=_dense_features,
    shapes=(_FLOOR,),
    link=FloorLink(),
    parameters=("L_0", "C", "a"),
    report=_dense_report,
    units={"L_0": "nats per token", "C": "nats per token"},
    signs={"a": 1},
    bounds=_floor_bounds,
    roles=Roles(base=float(np.e), size=0),
)
