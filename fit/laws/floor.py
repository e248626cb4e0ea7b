"""Laws with an irreducible floor: L = L_0 + C N^-a Ê^-b N^(c ln Ê), with and without saturation and interaction; and of dense runs, in
size or in training compute.

Not the paper's: its forms fall to zero as N grows, extrapolate badly, and their c > 0 may only stand in for the floor. These
share the paper's dependence on experts and differ in the floor alone, so that a reader sees which conclusions survive it.
Logarithms are natural. Without the interaction the effective parameter count is N (Ê/E_start)^(b/a): a multiplier by E alone.
"""

from functools import partial

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Beta, Data, FloorLink, Law, Roles, Shape, Theta, stack_features
from fit.laws.saturation import E_START, RHO, log_saturate

_FLOOR = Shape("L_0", low=0.0, high=np.inf, points=14, spacing="linear", coordinate="linear")
_HIGHEST_FLOOR = 0.99
"""The floor may reach this fraction of the smallest loss among the runs: at the loss itself the law has no power law left."""


def _features(theta: Theta, data: Data, saturating: bool, interaction: bool) -> Inexact[np.ndarray, "*batch runs features"]:
    x, e = np.log(data["dense_parameter_count"]), data["num_experts"]
    e = log_saturate(e, theta[..., 1:2], theta[..., 2:3]) if saturating else np.log(e)
    terms = (-x, -e, x * e, np.ones_like(x)) if interaction else (-x, -e, np.ones_like(x))
    return stack_features(theta, terms)


def _report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta, saturating: bool) -> Float[np.ndarray, "*batch parameters"]:
    with np.errstate(over="ignore"):
        values = [theta[..., :1], np.exp(beta[..., -1:]), beta[..., :-1]]
    if saturating:
        values += [theta[..., 1:2], theta[..., 1:2] / theta[..., 2:3]]
    return np.concatenate(values, axis=-1)


def _bounds(data: Data, loss: Float[np.ndarray, "runs"], shapes: tuple[Shape, ...]) -> tuple[tuple[float, float], ...]:
    del data
    return ((0.0, _HIGHEST_FLOOR * float(loss.min())), *((shape.low, shape.high) for shape in shapes[1:]))


def _floor_law(name: str, title: str, formula: str, *, saturating: bool, interaction: bool) -> Law:
    shapes = (_FLOOR, E_START, RHO) if saturating else (_FLOOR,)
    exponents = ("a", "b", "c") if interaction else ("a", "b")
    return Law(
        name=name,
        title=title,
        formula=formula,
        source="not the paper's: its laws with an irreducible floor added (our choice, as they extrapolate badly without)",
        columns=("dense_parameter_count", "num_experts"),
        coefficients=(*exponents, "ln_C"),
        features=partial(_features, saturating=saturating, interaction=interaction),
        shapes=shapes,
        link=FloorLink(),
        parameters=("L_0", "C", *exponents, *(("E_start", "E_max") if saturating else ())),
        report=partial(_report, saturating=saturating),
        units={"L_0": "nats per token", "C": "nats per token", "E_start": "experts", "E_max": "experts"},
        signs={"a": 1, "b": 1, "c": 1},
        bounds=partial(_bounds, shapes=shapes),
        ratios={"E_max": ("E_start", "rho")} if saturating else {},
        roles=Roles(base=float(np.e), experts=1, interaction=2 if interaction else None, sign=-1),
    )


FLOOR = _floor_law("floor", "Floor", "L = L_0 + C N^-a E^-b", saturating=False, interaction=False)
BOUNDED_FLOOR = _floor_law("bounded-floor", "Floor, saturating", "L = L_0 + C N^-a Ê^-b", saturating=True, interaction=False)
FLOOR_INTERACTION = _floor_law(
    "floor-interaction", "Floor, interaction", "L = L_0 + C N^-a E^-b N^(c ln E)", saturating=False, interaction=True
)
BOUNDED_FLOOR_INTERACTION = _floor_law(
    "bounded-floor-interaction", "Floor, saturating, interaction", "L = L_0 + C N^-a Ê^-b N^(c ln Ê)", saturating=True, interaction=True
)


def _dense_features(theta: Theta, data: Data, column: str) -> Inexact[np.ndarray, "*batch runs 2"]:
    x = np.log(data[column])
    return stack_features(theta, (-x, np.ones_like(x)))


def _dense_law(name: str, title: str, column: str, scale: str, formula: str, source: str) -> Law:
    return Law(
        name=name,
        title=title,
        formula=formula,
        source=source,
        columns=(column,),
        coefficients=("a", f"ln_{scale}"),
        features=partial(_dense_features, column=column),
        shapes=(_FLOOR,),
        link=FloorLink(),
        parameters=("L_0", scale, "a"),
        report=partial(_report, saturating=False),
        units={"L_0": "nats per token", scale: "nats per token"},
        signs={"a": 1},
        bounds=partial(_bounds, shapes=(_FLOOR,)),
        dense=True,
    )


DENSE_FLOOR = _dense_law(
    "dense-floor",
    "Dense power law with a floor",
    "dense_parameter_count",
    "C",
    "L = L_0 + C N^-a",
    "not the paper's: its dense baseline with an irreducible floor; Hoffmann et al. 2022, Eq. 2, at one number of tokens",
)
FRONTIER = _dense_law(
    "frontier",
    "Compute frontier",
    "training_flops",
    "A",
    "L = L_0 + A C^-a",
    "not the paper's: the least loss of each training budget C, FLOPs of the whole run; with L_0 held at 0 the form of Kaplan et al. 2020, "
    "Eq. 1.3",
)
