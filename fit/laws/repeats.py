"""Dense laws of repeated tokens, L(N, D, U) = L_0 + A N'^-a + B D'^-b, U of the D tokens being different ones (Muennighoff et al. 2023).

    D' = U + U R_D* (1 - exp(-R_D/R_D*)),   R_D = D/U - 1          tokens read again are worth less and less (section 3.1, Eq. 5)
    N' = U_N + U_N R_N* (1 - exp(-R_N/R_N*)),   R_N = N/U_N - 1    so are parameters beyond those that U tokens ask for (Eq. 6)
    U_N = (a A/(b B))^(1/a) U^(b/a)                                the compute-optimal N for U tokens; where N is below it, N' = N

The last is `D_to_N` of the authors' code (github.com/huggingface/datablations, README). They fit a = b, L_0, A and B to runs without
repeats first and R_D*, R_N* after; here all are fitted together, a and b apart, U_N always that of the very same A, B, a and b (our
choice). For that, U_N at 10^9 tokens is a shape parameter in the place of A. Where no model is larger than U_N, R_N* is not identified:
held at a million, it leaves N' = N.
"""

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log
from fit.laws.interface import Beta, Data, IdentityLink, Law, Shape, Theta, stack_features

_REFERENCE = 1e9
"""Tokens of which U_N is the shape parameter `best_N`."""

_COLUMNS = ("dense_parameter_count", "tokens_seen", "unique_tokens")

PUBLISHED_STAR = 15.387756
"""R_D* of Muennighoff et al. 2023 (appendix A)."""

_LOW, _HIGH = 0.1, 1e3
"""Range of R_D* and R_N*: from what even one repeat exhausts to what a hundred do not."""


def worth(
    amount: Inexact[np.ndarray, "..."], unique: Inexact[np.ndarray, "..."], star: Inexact[np.ndarray, "..."]
) -> Inexact[np.ndarray, "..."]:
    """What an amount is worth of which `unique` is not repeated; the amount itself where there is no more. Smooth to first order."""
    repeats = amount / unique - 1
    beyond = np.real(repeats) > 0
    return np.where(beyond, unique * (1 + star * (1 - exp(-np.where(beyond, repeats, 0.0) / star))), amount)


def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 2"]:
    n, d, u = (data[name] for name in _COLUMNS)
    # No more tokens are unique than are read.
    u = np.where(np.real(u) < np.real(d), u, d)
    a, b, star_d, star_n, best = (theta[..., k : k + 1] for k in range(5))
    log_effective = log(worth(n, best * exp(b / a * log(u / _REFERENCE)), star_n))
    # A/B at which `best` parameters are the optimum for the reference's tokens: a A best^-a = b B tokens^-b.
    ratio = b / a * exp(a * log(best) - b * np.log(_REFERENCE))
    return stack_features(theta, (np.ones_like(n), ratio * exp(-a * log_effective) + exp(-b * log(worth(d, u, star_d)))))


def _report(theta: Float[np.ndarray, "*batch 5"], beta: Beta) -> Float[np.ndarray, "*batch 7"]:
    a, b, star_d, star_n, best = (theta[..., k] for k in range(5))
    return np.stack([beta[..., 0], b / a * beta[..., 1] * best**a / _REFERENCE**b, a, beta[..., 1], b, star_d, star_n], axis=-1)


DATA_CONSTRAINED = Law(
    name="data-constrained",
    title="Data-constrained dense law",
    formula="L = L_0 + A N'^-a + B D'^-b, D' = U + U R_D* (1 - exp(-(D/U - 1)/R_D*)), N' likewise",
    source="not the paper's: Muennighoff et al. 2023, Eqs. 5 and 6, all parameters fitted together (our choice)",
    columns=_COLUMNS,
    coefficients=("L_0", "B"),
    features=_features,
    shapes=(
        Shape("a", 0.02, 3.0),
        Shape("b", 0.02, 3.0),
        Shape("R_D_star", _LOW, _HIGH),
        Shape("R_N_star", _LOW, _HIGH),
        Shape("best_N", 1e5, 1e10),
    ),
    link=IdentityLink(),
    parameters=("L_0", "A", "a", "B", "b", "R_D_star", "R_N_star"),
    report=_report,
    units=dict.fromkeys(("L_0", "A", "B"), "nats per token"),
    nonnegative=("L_0", "B"),
    dense=True,
)
