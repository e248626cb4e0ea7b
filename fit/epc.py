"""What experts are worth: effective parameter count, N_cutoff, slopes and lines of equal loss (paper, Eqs. 8 to 11)."""

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.intervals.bootstrap import Quantity
from fit.laws.interface import Law

_FAR = 1e12
"""Second size, in parameters, at which the dense curve is evaluated to read its slope: far from 1, so that few digits are lost."""


def has_epc(law: Law) -> bool:
    """Whether the law says how loss depends on N and E, so that an effective parameter count exists."""
    return {"dense_parameter_count", "num_experts"} <= set(law.columns) and law.roles is not None


def has_cutoff(law: Law) -> bool:
    """Whether the law lets the gain from experts change with size, so that it may end at some size."""
    return law.roles is not None and law.roles.interaction is not None


def _eta(
    law: Law,
    theta: Float[np.ndarray, "*batch shapes"],
    beta: Float[np.ndarray, "*batch features"],
    n: Float[np.ndarray, "runs"],
    e: Float[np.ndarray, "runs"],
) -> Float[np.ndarray, "*batch runs"]:
    features = law.features(theta, {"dense_parameter_count": n, "num_experts": e})
    return np.einsum("...rf,...f->...r", features, beta)


def effective_parameter_count(
    law: Law,
    theta: Float[np.ndarray, "*batch shapes"],
    beta: Float[np.ndarray, "*batch features"],
    n: Float[np.ndarray, "runs"],
    e: Float[np.ndarray, "runs"],
) -> Float[np.ndarray, "*batch runs"]:
    """Size of the dense model with the same loss as a routed one of dense size `n` with `e` experts: L(N̄, 1) = L(N, E) (Eq. 11).

    `n` in parameters, embeddings excluded; `e` at least 1. For Eq. 1 this is N^(alpha(Ê)/alpha(E_start)) (Ê/E_start)^(b/alpha(E_start)),
    written so that any law whose link is a line in log N at E = 1 has it. Infinite where the dense curve does not fall with N. Raises
    `InputError` for a law without N and E.
    """
    if not has_epc(law):
        raise InputError(f"law {law.name!r} has no effective parameter count: it is not a law in N and E")
    one = np.array([1.0, _FAR])
    ends = _eta(law, theta, beta, one, np.ones(2))
    start, slope = ends[..., :1], (ends[..., 1:] - ends[..., :1]) / np.log10(_FAR)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_n = (_eta(law, theta, beta, n, e) - start) / slope
        return np.where(slope < 0, 10**log_n, np.inf)


def epc_quantity(law: Law, n: Float[np.ndarray, "quantities"], e: Float[np.ndarray, "quantities"]) -> Quantity:
    """Effective parameter count at chosen points, as a quantity of a fit."""
    return lambda theta, beta: effective_parameter_count(law, theta, beta, n, e)


def expert_slope(law: Law, beta: Float[np.ndarray, "*batch features"], n: Float[np.ndarray, "sizes"]) -> Float[np.ndarray, "*batch sizes"]:
    """b(N) = b + c log N, the slope of the link in log Ê at these sizes (Eq. 8): negative where experts help."""
    roles = law.roles
    if roles is None or roles.experts is None:
        raise InputError(f"law {law.name!r} has no slope in the number of experts")
    slope = np.broadcast_to(beta[..., [roles.experts]], (*beta.shape[:-1], len(n)))
    if roles.interaction is not None:
        slope = slope + beta[..., [roles.interaction]] * (np.log(n) / np.log(roles.base))
    return slope


def size_slope(
    law: Law,
    theta: Float[np.ndarray, "*batch shapes"],
    beta: Float[np.ndarray, "*batch features"],
    e: Float[np.ndarray, "counts"],
) -> Float[np.ndarray, "*batch counts"]:
    """a(E) = a + c log Ê, the slope of the link in log N at these expert counts (Eq. 8)."""
    if not has_epc(law) or law.roles is None:
        raise InputError(f"law {law.name!r} has no slope in N by the number of experts")
    rise = _eta(law, theta, beta, np.full_like(e, _FAR), e) - _eta(law, theta, beta, np.ones_like(e), e)
    return rise * np.log(law.roles.base) / np.log(_FAR)


def cutoff(law: Law, beta: Float[np.ndarray, "*batch features"]) -> Float[np.ndarray, "*batch"]:
    """N_cutoff = base^(-b/c), above which more experts no longer help; for Eq. 2 the same in FLOPs.

    Infinite where the gain does not shrink with size (c not positive): the law then has no such size.
    """
    roles = law.roles
    if roles is None or roles.experts is None or roles.interaction is None:
        raise InputError(f"law {law.name!r} has no N_cutoff: its gain from experts does not change with size")
    b, c = beta[..., roles.experts], beta[..., roles.interaction]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(c > 0, roles.base ** (-b / c), np.inf)


def cutoff_quantity(law: Law) -> Quantity:
    """N_cutoff as a quantity of a fit."""
    return lambda theta, beta: cutoff(law, beta)[..., None]


def equal_loss_line(
    law: Law,
    theta: Float[np.ndarray, "*batch shapes"],
    beta: Float[np.ndarray, "*batch features"],
    dense_size: float,
    e: Float[np.ndarray, "counts"],
) -> Float[np.ndarray, "*batch counts"]:
    """The dense sizes N at which routed models with `e` experts reach the loss of a dense model of `dense_size` parameters.

    Inverse of the effective parameter count at fixed E. Infinite where the loss does not fall with N at that E.
    """
    if not has_epc(law):
        raise InputError(f"law {law.name!r} has no lines of equal loss: it is not a law in N and E")
    goal = _eta(law, theta, beta, np.array([dense_size]), np.ones(1))
    start = _eta(law, theta, beta, np.ones_like(e), e)
    slope = (_eta(law, theta, beta, np.full_like(e, _FAR), e) - start) / np.log10(_FAR)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(slope < 0, 10 ** ((goal - start) / slope), np.inf)
