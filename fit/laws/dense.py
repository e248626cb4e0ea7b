"""The dense power law L(N) = (N_c/N)^alpha_N, in the form of Kaplan et al. 2020."""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.interface import Beta, Data, Law, Published, Roles, Theta, stack_features


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 2"]:
    x = np.log10(data["dense_parameter_count"])
    return stack_features(theta, (x, np.ones_like(x)))


def _report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch 2"]:
    del theta
    slope, intercept = beta[..., 0], beta[..., 1]
    # log L = -alpha_N log N + alpha_N log N_c. A slope of nought has no N_c: infinity says so.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.stack([-slope, 10 ** (-intercept / slope)], axis=-1)


DENSE = Law(
    name="dense",
    title="Dense power law",
    formula="L = (N_c / N)^alpha_N",
    source="the paper's dense baseline; the form of Kaplan et al. 2020",
    columns=("dense_parameter_count",),
    coefficients=("slope", "intercept"),
    features=_features,
    parameters=("alpha_N", "N_c"),
    report=_report,
    units={"N_c": "parameters"},
    signs={"alpha_N": 1},
    roles=Roles(base=10.0, size=0),
    published=(Published("Dense", {"alpha_N": 0.078, "N_c": 3.568e13}, "the paper, dense baseline"),),
)
