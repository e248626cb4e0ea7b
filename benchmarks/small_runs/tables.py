"""The tables of `docs/small_runs.md` that hold the same figures of two sets of runs."""

from collections.abc import Sequence

import numpy as np

from benchmarks.small_runs.sources import ROUTERS, Scale, loss_at
from common.document import Table
from common.document.numbers import count, listing, percent
from fit.analysis import PAPER_LAW
from fit.derived import Point
from fit.report import cell
from fit.runs.schema import N
from fit.select import Score, pooled


def wins(scale: Scale, e: float) -> dict[str, int]:
    """At how many sizes each router has the lowest loss of the three."""
    first: dict[str, int] = dict.fromkeys(ROUTERS, 0)
    for n in scale.sizes():
        found = {router: loss for router in ROUTERS if np.isfinite(loss := loss_at(scale.runs, router, n, e))}
        if len(found) == len(ROUTERS):
            first[min(found, key=lambda router: found[router])] += 1
    return first


def below_dense(scale: Scale) -> tuple[int, int]:
    """How many settings of router, N and E have a lower loss than the dense model of their N, and of how many."""
    gains = [
        loss_at(scale.runs, "Dense", n, 1) - loss_at(scale.runs, router, n, e)
        for router in ROUTERS
        for n in scale.sizes()
        for e in np.unique(scale.runs.numeric("num_experts")).tolist()
        if e > 1
    ]
    known = [gain for gain in gains if np.isfinite(gain)]
    return sum(gain > 0 for gain in known), len(known)


def losses(ours: Scale) -> Table:
    """The runs themselves: dense loss by size, and what each router takes off it."""
    rows: list[tuple[str, ...]] = []
    for n in ours.sizes():
        dense = loss_at(ours.runs, "Dense", n, 1, seed=0)
        gains = [dense - loss_at(ours.runs, router, n, e, seed=0) for router in ROUTERS for e in (2.0, 8.0, 64.0)]
        rows.append((count(n), f"{dense:.4f}", *(f"{gain:.3f}" for gain in gains)))
    heads = [f"{router} E={e}" for router in ROUTERS for e in (2, 8, 64)]
    note = "Loss on the test split, nats per byte; then how much less each routed model has. Seed 0."
    return Table("Dense loss, and the gain of each router", ("N", "dense", *heads), tuple(rows), note)


def coefficients(scales: Sequence[Scale]) -> Table:
    """Eq. 1's coefficients with their intervals."""
    names = ("a", "b", "c", "d", "E_start", "E_max")
    rows: list[tuple[str, ...]] = []
    schemes: set[str] = set()
    for router in ROUTERS:
        for scale in scales:
            found = scale.analysis.find(router, PAPER_LAW)
            if found is None:
                rows.append((f"{router}, {scale.name}", "", "not identified", *[""] * (len(names) + 1)))
                continue
            schemes |= {found.draws.scheme} if found.draws else set()
            figures = [cell(found.coefficients[name]) for name in names]
            end, rmse = cell(found.derived["n_cutoff"], scale.sizes()[-1]), percent(found.fit.rmse_log10 * np.log(10))
            rows.append((f"{router}, {scale.name}", str(len(found.runs)), *figures, end, rmse))
    note = (
        f"Intervals at 95%, bootstrap by {listing(sorted(schemes))}; they assume the law is correct. N_cutoff in parameters, in words "
        "where it is beyond a thousand times the largest run, † where it is beyond that run. RMSE of ln loss."
    )
    return Table("Eq. 1 on both sets of runs", ("runs", "of them", *names, "N_cutoff", "RMSE"), tuple(rows), note)


def interactions(scales: Sequence[Scale]) -> Table:
    """c under every law that has it."""
    laws = ("bilinear", "bounded", "floor-interaction", "bounded-floor-interaction")
    rows = [(f"{router}, {scale.name}", *(_c(scale, router, law) for law in laws)) for router in ROUTERS for scale in scales]
    note = (
        "c > 0: what experts take off ln L shrinks with N. The last two laws have a floor, a loss that no size goes below. Intervals at "
        "95%, bootstrap by what the residuals ask for (docs/coverage.md)."
    )
    return Table("The interaction c under four laws", ("runs", *laws), tuple(rows), note)


def _c(scale: Scale, router: str, law: str) -> str:
    found = scale.analysis.find(router, law)
    return "not identified" if found is None else cell(found.coefficients["c"])


def worth(scales: Sequence[Scale], experts: float) -> Table:
    """EPC/N by size under Eq. 1."""
    rows = [
        (f"{scale.name}, {count(n)}", *(ratio(scale, router, Point(n, experts)) for router in ROUTERS))
        for scale in scales
        for n in scale.sizes()
    ]
    note = (
        f"How many times larger a dense model of the same loss would be, at E = {experts:g}, by Eq. 1 with 95% intervals; † extrapolated."
    )
    return Table(f"What {experts:g} experts are worth: EPC/N", ("N", *ROUTERS), tuple(rows), note)


def ratio(scale: Scale, router: str, point: Point, law: str = PAPER_LAW) -> str:
    """EPC/N of a router's model under a law; empty where its runs do not identify it."""
    found = scale.analysis.find(router, law)
    return "" if found is None else cell(found.derived[f"epc({point.label})"].scaled(1 / point.n))


def predictions(scales: Sequence[Scale]) -> Table:
    """The largest size, predicted by each law from all smaller ones."""
    laws = dict.fromkeys(result.law.name for scale in scales for result in scale.analysis.results)
    rows: list[tuple[str, ...]] = []
    for law in laws:
        cells = [_score_cell(largest_predicted(scale, law)) for scale in scales]
        if any(cells):
            rows.append((law, *cells))
    note = (
        "Each law was fitted to all smaller sizes. CRPS of ln L over the largest size's runs, of all routers whose runs identify it, "
        "mean error in nats, and how many fell into their 95% prediction intervals. Eq. 2 (utilisation) is fitted where k or R varies, to "
        "runs of every k and R."
    )
    return Table("The largest size predicted from the others", ("law", *(scale.name for scale in scales)), tuple(rows), note)


def largest_predicted(scale: Scale, law: str) -> Score | None:
    """How well the law, fitted to all smaller sizes, predicts the largest; None if no router's runs identify it."""
    largest = max(scale.sizes())
    steps = [
        step
        for result in scale.analysis.of_law(law)
        if result.router in ROUTERS
        for step in result.steps
        if step.following and step.by == N and step.size == largest
    ]
    return pooled(steps)


def _score_cell(found: Score | None) -> str:
    if found is None or found.crps is None:
        return ""
    covered = "" if found.covered is None else f", {found.covered} of {found.runs}"
    return f"{percent(found.crps)}, {found.mean_error:+.3f}{covered}"
