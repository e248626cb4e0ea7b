"""What a fitted law implies: worth of experts (EPC), N_cutoff, slopes (Eqs. 8 to 11).

Each is a function of shape parameters and coefficients, of the fit or of its draws; sizes are found by solving for them, so that a law of
any form has them.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.laws.complex_step import STEP
from fit.laws.interface import Beta, Law, Theta
from fit.uncertainty.delta import Quantity

N, E, D = "dense_parameter_count", "num_experts", "tokens_seen"

REACH = 1e12
"""Sizes are sought up to this many times the one asked about, and down to as small a part."""

_SCAN = 49
"""Sizes tried for a bracket, each 1.8 times the one before."""

FLOPS_PER_TOKEN = 6.0
"""Training FLOPs per parameter and token: C = 6 N D (Kaplan et al. 2020; Hoffmann et al. 2022)."""

Values = Mapping[str, Float[np.ndarray, "points"]]


def has_epc(law: Law) -> bool:
    """Whether the law says how loss depends on N and E, so that an effective parameter count exists; a law of some sizes does not."""
    return {N, E} <= set(law.columns) <= {N, E, D} and not law.sizes


def has_cutoff(law: Law) -> bool:
    """Whether the law lets the gain from experts change with size, so that it may end at some size."""
    return law.roles is not None and law.roles.interaction is not None


def loss_quantity(law: Law, data: Values) -> Quantity:
    """Predicted loss (nats per token) on the mean curve at these points."""
    return lambda theta, beta: 10 ** law.log10_loss(theta, beta, data)


def log10_loss_quantity(law: Law, data: Values) -> Quantity:
    """log10 of the same."""
    return lambda theta, beta: law.log10_loss(theta, beta, data)


def size_reaching(
    law: Law, theta: Theta, beta: Beta, target: Float[np.ndarray, "*batch points"], data: Values
) -> Float[np.ndarray, "*batch points"]:
    """The dense size nearest to that of each point at which the law reaches the log10 loss `target`, everything else as at the point.

    Bracketed on a geometric scan away from the point, where the curve falls, then bisected to rounding. Infinite where no larger size
    within a factor of 10^12 reaches a lower loss, zero where every smaller one has it already.
    """
    batch, points = theta.shape[:-1], target.shape[-1]
    rows = int(np.prod(batch))
    theta, beta = theta.reshape(rows, theta.shape[-1]), beta.reshape(rows, beta.shape[-1])
    goal = np.broadcast_to(target, (*batch, points)).reshape(rows, points)
    start = np.log(data[N])
    rest = {name: column for name, column in data.items() if name != N}

    def excess(log_n: Float[np.ndarray, "draws points"]) -> Float[np.ndarray, "draws points"]:
        """How far the loss at these sizes is above the target."""
        columns = {name: np.broadcast_to(column, log_n.shape) for name, column in rest.items()}
        return law.log10_loss(theta, beta, {**columns, N: np.exp(log_n)}) - goal

    here = excess(np.broadcast_to(start, goal.shape))
    grow = here > 0
    scan = np.linspace(0, np.log(REACH), _SCAN)
    low = high = np.full(goal.shape, np.nan)
    previous = np.broadcast_to(start, goal.shape)
    for step in scan[1:]:
        at = start + np.where(grow, step, -step)
        crossed = np.isnan(low) & np.where(grow, excess(at) <= 0, excess(at) >= 0)
        low, high = np.where(crossed, np.where(grow, previous, at), low), np.where(crossed, np.where(grow, at, previous), high)
        previous = at
        if not np.isnan(low).any():
            break
    missing = np.isnan(low)
    low, high = np.where(missing, start, low), np.where(missing, start, high)
    for _ in range(52):
        middle = (low + high) / 2
        above = excess(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    found = np.where(here == 0, start, np.where(missing, np.where(grow, np.inf, -np.inf), (low + high) / 2))
    with np.errstate(over="ignore"):
        return np.exp(np.where(np.isnan(here), np.nan, found)).reshape(*batch, points)


def effective_parameter_count(
    law: Law, theta: Theta, beta: Beta, n: Float[np.ndarray, "points"], e: Float[np.ndarray, "points"], others: Values | None = None
) -> Float[np.ndarray, "*batch points"]:
    """Size of the dense model with the same loss as a routed one of dense size `n` with `e` experts: L(N̄, 1) = L(N, E) (Eq. 11).

    `n` in parameters, embeddings excluded; `e` at least 1; `others`: further columns of the law, such as tokens, alike in both models.
    Infinite where no dense model reaches that loss. Raises `InputError` for a law without N and E, and for columns that are missing.
    """
    others = others or {}
    if not has_epc(law):
        raise InputError(f"law {law.name!r} has no effective parameter count: it is not a law in N and E")
    if missing := [name for name in law.columns if name not in (N, E, *others)]:
        raise InputError(f"law {law.name!r} reads {', '.join(missing)} too: give it in `others`")
    return size_reaching(law, theta, beta, law.log10_loss(theta, beta, {**others, N: n, E: e}), {**others, N: n, E: np.ones_like(e)})


def epc_quantity(law: Law, data: Values) -> Quantity:
    """Effective parameter counts at these points, given by the law's columns."""
    others = {name: column for name, column in data.items() if name not in (N, E)}
    return lambda theta, beta: effective_parameter_count(law, theta, beta, data[N], data[E], others)


def slope(law: Law, theta: Theta, beta: Beta, data: Values, column: str) -> Float[np.ndarray, "*batch points"]:
    """d eta / d log(column) at these points, in the base of the law's logarithms: for N the a(E) of Eq. 8, for any law."""
    moved = {name: values * (1 + 1j * STEP) if name == column else values for name, values in data.items()}
    base = law.roles.base if law.roles else float(np.e)
    return np.imag(law.eta(theta, beta, moved)) / STEP * np.log(base)


def expert_slope(law: Law, beta: Beta, n: Float[np.ndarray, "sizes"]) -> Float[np.ndarray, "*batch sizes"]:
    """b(N) = b + c log N, the slope of the link in log Ê at these sizes (Eq. 8): negative where experts help."""
    roles = law.roles
    if roles is None:
        raise InputError(f"law {law.name!r} has no slope in the number of experts")
    found = roles.sign * np.broadcast_to(beta[..., [roles.experts]], (*beta.shape[:-1], len(n)))
    if roles.interaction is not None:
        found = found + beta[..., [roles.interaction]] * (np.log(n) / np.log(roles.base))
    return found


def cutoff(law: Law, beta: Beta) -> Float[np.ndarray, "*batch"]:
    """N_cutoff = base^(-b/c), above which more experts no longer help; for Eq. 2 the same in FLOPs.

    Infinite where the gain does not shrink with size (c not positive): the law then has no such size.
    """
    roles = law.roles
    if roles is None or roles.interaction is None:
        raise InputError(f"law {law.name!r} has no N_cutoff: its gain from experts does not change with size")
    b, c = roles.sign * beta[..., roles.experts], beta[..., roles.interaction]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.where(c > 0, roles.base ** (-b / c), np.inf)


def cutoff_quantity(law: Law) -> Quantity:
    """N_cutoff as a quantity of a fit."""
    return lambda theta, beta: cutoff(law, beta)[..., None]


def has_allocation(law: Law) -> bool:
    """Whether the law is a sum of a power of N and one of D, so that a budget has a best N and D (`fit.budget`)."""
    return {"A", "a", "B", "b"} <= set(law.parameter_names) and law.columns[:2] == (N, D)


def outside(ranges: Mapping[str, tuple[float, float]], here: Mapping[str, float]) -> dict[str, float]:
    """How many times beyond the nearest end of its range each column is, for those that are, but for rounding."""
    ends = {name: (here[name] / high, low / here[name]) for name, (low, high) in ranges.items() if name in here}
    return {name: max(pair) for name, pair in ends.items() if max(pair) > 1 + 1e-9}


def beyond(values: Float[np.ndarray, "runs"], value: float) -> float:
    """How far outside the runs' values one lies, as a ratio to the nearest of them: 1 within, above 1 outside."""
    return float(max(value / values.max(), values.min() / value, 1.0))
