"""Ludziejewski et al. 2025, Joint MoE Scaling Laws (arXiv 2502.05172): what it prints beside what its joint law gives.

N_a are active parameters, embeddings included; C = 6 N_a D.
"""

import math

import numpy as np
from jaxtyping import Float

import fit
from common.document.numbers import count
from fit.literature import words
from fit.papers.paper import Figure, Group, Paper, Statement, crossing, judged, least, rises, values
from fit.quantities import FLOPS_PER_TOKEN
from fit.runs.schema import D, E, N

PRINTED = (
    (1.0, 30.364, -0.1817, 53.984, -0.1965), (2.0, 27.798, -0.1780, 66.840, -0.2065), (4.0, 24.846, -0.1731, 87.702, -0.2192),
    (8.0, 21.833, -0.1676, 119.913, -0.2338), (16.0, 19.016, -0.1617, 167.507, -0.2494), (32.0, 16.542, -0.1557, 234.673, -0.2652),
)  # fmt: skip
"""E and, as printed, m, mu, n, nu of L = m N_a^mu + n D^nu + c at that E."""

IN_COEFFICIENT, IN_EXPONENT = 3e-3, 2e-4
"""How far ours may be from them: two units of an exponent's last place, and what the law's rounded exponents move a coefficient by."""

EXPERTS = np.array([1.0, 8.0, 64.0])
RUNS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
"""Numbers of experts that optima are shown for, and those of its runs."""

BUDGETS = np.array([1e19, 1e20, 1e21])
"""Budgets at which the best N_a of its numbers of experts lies within its runs, or nearly."""

FAR = 1e24


def best(law: fit.PublishedLaw, c: float, e: float) -> tuple[float, float]:
    """N_a of least loss at a budget of c FLOPs and e experts, and the loss."""
    return least(lambda n: law.loss({N: n, D: c / (FLOPS_PER_TOKEN * n), E: np.full_like(n, e)}), 1e5, 1e15)


def constants(law: fit.PublishedLaw, e: float) -> tuple[float, float, float, float]:
    """m, mu, n and nu at e experts: what is left of the law without end to the other column, at 1 and at Euler's number."""
    one, euler, without_end = np.array([[1.0], [np.e], [1e300]])
    floor = law.loss({N: without_end, D: without_end, E: np.array([e])})[0]
    in_n, in_d = ([float(law.loss({a: x, b: without_end, E: np.array([e])})[0] - floor) for x in (one, euler)] for a, b in ((N, D), (D, N)))
    return in_n[0], math.log(in_n[1] / in_n[0]), in_d[0], math.log(in_d[1] / in_d[0])


def reproduce() -> Paper:
    """Its constants of each number of experts, its optima, and where the trade of parameters for tokens turns round."""
    law = fit.published("joint")
    names = ("m", "mu", "n", "nu")
    table = tuple(
        Figure(name, f"E = {e:g}", ours, printed)
        for e, *row in PRINTED
        for name, ours, printed in zip(names, constants(law, e), row, strict=True)
    )
    statements = (_gives_back(table), *_by_experts(law), _turns(law))
    groups = (
        Group("Ours (printed) of L = m N_a^mu + n D^nu + c", table),
        *(Group(f"Best models at {count(c)} FLOPs", _optima(law, c), first=False) for c in (1e21, FAR)),
    )
    sources = (f"Law: {law.law.formula}; {law.row.source}, {law.row.standing}.", f"{law.law.conventions}; C = 6 N_a D.")
    limit = "Its RMSE, 0.0062 on more than 280 runs and 0.0039 on validation runs, cannot be checked: the runs are not here."
    return Paper("ludziejewski", "Ludziejewski et al. 2025: its figures beside its joint law", sources, statements, groups, (limit,))


def _optima(law: fit.PublishedLaw, c: float) -> tuple[Figure, ...]:
    found: list[Figure] = []
    for e in EXPERTS.tolist():
        n, loss = best(law, c, e)
        at = f"E = {e:g}"
        found += [Figure("N_a*", at, n), Figure("D/N_a", at, c / (FLOPS_PER_TOKEN * n**2)), Figure("loss", at, loss)]
    return tuple(found)


def _sizes(law: fit.PublishedLaw, c: float) -> Float[np.ndarray, "experts"]:
    return np.array([best(law, c, e)[0] for e in RUNS.tolist()])


def _gives_back(table: tuple[Figure, ...]) -> Statement:
    near = [
        abs(one.value - (one.printed or 0.0)) < (IN_EXPONENT if one.name in ("mu", "nu") else IN_COEFFICIENT * one.value) for one in table
    ]
    digits = min(one.digits or 0.0 for one in table)
    why = f"{sum(near)} of {len(near)} within what rounding leaves; at least {digits:.1f} digits match"
    return Statement("the constants of each E follow from the law", judged(*near), why)


def _by_experts(law: fit.PublishedLaw) -> list[Statement]:
    sizes = np.array([_sizes(law, c) for c in BUDGETS.tolist()])
    losses = np.array([best(law, 1e21, e)[1] for e in RUNS.tolist()])
    ends = f"at 1e21 N_a* {count(sizes[-1, 0])} to {count(sizes[-1, -1])} from E = 1 to 32"
    return [
        Statement("with E a budget's best N_a falls, D rises", judged(*map(rises, -sizes)), ends),
        Statement("the best loss falls with E", judged(rises(-losses)), f"at 1e21 {values(losses)}"),
    ]


def _turns(law: fit.PublishedLaw) -> Statement:
    """The budget from which on N_a* rises with E, between dense models and the most experts of its runs."""
    turn = crossing(lambda c: math.log(best(law, c, RUNS[-1])[0] / best(law, c, 1.0)[0]), BUDGETS[-1], FAR)
    sizes = _sizes(law, FAR)
    outside = words(law.outside({N: float(sizes[-1]), E: float(RUNS[-1])}))
    why = f"from {count(turn)} FLOPs on; at 1e24 {count(sizes[0])} to {count(sizes[-1])}; beyond its runs: {outside}"
    return Statement("at 1e24 N_a* rises with E", "artefact" if rises(sizes) and outside else "no", why, stated=False)
