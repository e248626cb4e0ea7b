"""Abnar et al. 2025, Parameters vs FLOPs (arXiv 2501.12370): its statements beside what its own law gives.

S = (E - k)/E; N all parameters, N_a = (1 - S) N those that a token uses, C = 6 N_a D. N* is the best N of a budget C and a sparsity S;
S* the best sparsity of a budget and a size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

import fit
from common.document.numbers import count
from fit.papers.paper import Figure, Group, Paper, Statement, judged, least, rises, values
from fit.quantities import FLOPS_PER_TOKEN
from fit.runs.schema import A, D, P

BUDGETS = np.array([3e19, 6e19, 1e20, 3e20, 1e21])
"""The budgets of its runs, FLOPs."""

SPARSITIES = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98])
"""From dense models to the sparsest of its runs."""

SIZES = np.array([1e8, 2e8, 3e8, 4e8, 5e8, 1e9, 2e9, 5e9, 1e10, 1e11])
"""Total parameters at which S* is asked for."""

BOUND, SHOWN, LARGEST = 5e8, 1e9, 1e11
"""Of these: the size below which it advises dense models, one that is shown, and one at which S* should be near 1."""

LEAST_ACTIVE, NEAR = 1e-6, 0.99
"""The smallest share 1 - S that is searched, and from where on S* counts as near 1."""


@dataclass(frozen=True, eq=False)
class Optima:
    """What the law says is best: N* and its loss (nats per token) of each budget and sparsity, S* of each budget and size."""

    n: Float[np.ndarray, "budgets sparsities"]
    loss: Float[np.ndarray, "budgets sparsities"]
    sparsity: Float[np.ndarray, "budgets sizes"]

    @property
    def active(self) -> Float[np.ndarray, "budgets sparsities"]:
        """N_a* = (1 - S) N*."""
        return (1 - SPARSITIES) * self.n

    def at_size(self, n: float) -> Float[np.ndarray, "budgets"]:
        """S* at this size."""
        return self.sparsity[:, list(SIZES).index(n)]


def optima(law: fit.PublishedLaw) -> Optima:
    """Every optimum, by search."""

    def of_size(c: float, s: float) -> tuple[float, float]:
        """The best N of a budget at this sparsity, and its loss."""
        return least(lambda n: law.loss({P: n, D: c / (FLOPS_PER_TOKEN * (1 - s) * n), A: np.full_like(n, 1 - s)}), 1e6, 1e14)

    def of_sparsity(c: float, n: float) -> float:
        """The best sparsity of a budget at this N."""
        return 1 - least(lambda a: law.loss({P: np.full_like(a, n), D: c / (FLOPS_PER_TOKEN * a * n), A: a}), LEAST_ACTIVE, 1.0)[0]

    found = np.array([[of_size(c, s) for s in SPARSITIES.tolist()] for c in BUDGETS.tolist()])
    return Optima(found[..., 0], found[..., 1], np.array([[of_sparsity(c, n) for n in SIZES.tolist()] for c in BUDGETS.tolist()]))


def reproduce() -> Paper:
    """The statements beside the published law, and the optima that decide them."""
    law = fit.published("sparsity")
    found = optima(law)
    statements = (*_along_sparsity(found), *_with_budget(found), *_at_fixed_size(found), _grows(found), *_of_the_form(law))
    sources = (f"Law: {law.law.formula}; {law.row.source}, {law.row.standing}.", f"{law.law.conventions}; C = 6 (1 - S) N D.")
    why = (
        "It was fitted to best models alone. There alpha a N^-alpha + gamma d (1-S)^-delta N^-gamma = beta b D^-beta, so that such runs "
        "cannot tell a, b and d apart."
    )
    title = "Abnar et al. 2025: its statements beside its own law"
    return Paper("abnar", title, sources, statements, _tables(found), (why,))


def _tables(found: Optima) -> tuple[Group, ...]:
    columns = {"N*": found.n, "N_a*": found.active, "loss": found.loss}
    budgets = [(k, count(c)) for k, c in enumerate(BUDGETS.tolist())]
    best = [
        Figure(name, f"C = {c}, S = {s:g}", float(column[k, i]))
        for k, c in budgets
        for i, s in enumerate(SPARSITIES.tolist())
        for name, column in columns.items()
    ]
    sparsest = [
        Figure(f"C = {c}", f"N = {count(n)}", float(found.sparsity[k, i])) for i, n in enumerate(SIZES.tolist()) for k, c in budgets
    ]
    return Group("Best N of each budget and sparsity", tuple(best), first=False), Group("Best S of each size", tuple(sparsest), first=False)


def _along_sparsity(found: Optima) -> list[Statement]:
    more, less = found.n[:, -1] / found.n[:, 0], found.active[:, -1] / found.active[:, 0]
    end = f"at S = {SPARSITIES[-1]:g}"
    drop = f"{found.loss[0, 0]:.3f} to {found.loss[0, -1]:.3f} at {count(BUDGETS[0])} FLOPs"
    return [
        Statement("N* rises with S", judged(*map(rises, found.n)), f"to {more.min():.0f}-{more.max():.0f} times the dense {end}"),
        Statement("N_a* falls with S", judged(*map(rises, -found.active)), f"to {less.min():.2f}-{less.max():.2f} of the dense {end}"),
        Statement("the best loss falls with S", judged(*map(rises, -found.loss)), drop),
    ]


def _with_budget(found: Optima) -> list[Statement]:
    gains = found.loss[:, 0] - found.loss[:, -1]
    less, share = found.active[:, 0] - found.active[:, -1], found.active[:, -1] / found.active[:, 0]
    faster = f"the drop is {count(less[0])} to {count(less[-1])}, what is left {share[0]:.2f} to {share[-1]:.2f}"
    return [
        Statement("sparsity gains no less at larger C", judged(not np.any(np.diff(gains) < 0)), f"nats, S = 0 to 0.98: {values(gains)}"),
        Statement("N_a* falls faster with S at larger C", judged(rises(less), rises(-share)), faster),
    ]


def _at_fixed_size(found: Optima) -> list[Statement]:
    shown, small = found.at_size(SHOWN), found.sparsity[:, SIZES <= BOUND]
    rising = not np.any(np.diff(found.sparsity) < 0), bool(np.all(found.at_size(LARGEST) > NEAR))
    middle = found.sparsity[len(BUDGETS) // 2]
    some = [f"{middle[list(SIZES).index(n)]:.3f} at {count(n)}" for n in (SIZES[0], SHOWN, LARGEST)]
    dense = small == 0
    why = f"S* at {count(BOUND)}: {values(found.at_size(BOUND))}; dense in {dense.sum()} of {dense.size} cells from {count(SIZES[0])}"
    return [
        Statement("at fixed N S* rises with N towards 1", judged(*rising), f"at 1e20: {', '.join(some)}"),
        Statement("at fixed N S* falls with C (D.2)", judged(rises(-shown)), f"at 1B {values(shown)}: its discussion says the opposite"),
        Statement("below 500M dense is best at most C", judged(*(dense.mean(axis=0) > 0.5).tolist()), why),
    ]


def _grows(found: Optima) -> Statement:
    slopes = np.polyfit(np.log(BUDGETS), np.log(found.n), 1)[0]
    why = f"N* ~ C^{slopes[0]:.2f} dense, C^{slopes[-1]:.2f} at S = 0.98"
    return Statement("larger C raises N* and N_a* at any S", judged(rises(found.n, axis=0), rises(found.active, axis=0)), why)


def _of_the_form(law: fit.PublishedLaw) -> list[Statement]:
    """What the law has and the paper does not state: a floor that moves with S, and less compute preferred at equal N and D."""
    p, without_end = law.row.values, np.array([1e300])
    floors = [float(law.loss({P: without_end, D: without_end, A: np.array([a])})[0]) for a in (1.0, 1e-30)]
    # Where the derivative of c (1-S)^-lambda + d (1-S)^-delta N^-gamma in S is 0 at S = 0.
    critical = (p["d"] * p["delta"] / (p["c"] * -p["lambda"])) ** (1 / p["gamma"])
    size = 10 * critical
    there = 1 - least(lambda a: law.loss({P: np.full_like(a, size), D: np.full_like(a, 1e300), A: a}), LEAST_ACTIVE, 1.0)[0]
    moves = f"{floors[0]:.2f} nats dense, {floors[1]:.2f} as S nears 1, however large N and D"
    prefers = f"above N = {critical / 1e9:.2g}B: S = {there:.2f} at {count(size)}, less compute for a lower loss"
    return [
        Statement("the least possible loss depends on S", "artefact" if floors[0] > floors[1] else "no", moves, stated=False),
        Statement("at equal N and D S > 0 beats dense", "artefact" if there > 0 else "no", prefers, stated=False),
    ]
