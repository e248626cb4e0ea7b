"""The released runs, and our own, under laws with and without a floor: what experts are worth, where that ends, the best router."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

import fit
from fit.derived import Point
from fit.gains import PATHS, gain_ratio
from fit.quantities import cutoff_quantity, epc_quantity
from fit.runs.schema import D, E, N

LAWS = ("bounded", "floor", "floor-interaction", "bounded-floor", "bounded-floor-interaction")
"""Eq. 1, and laws with a floor: without and with saturation, without and with an interaction."""

SIZES = np.geomspace(1.6e7, 1.3e10, 40)
"""Sizes at which the worth of experts is drawn, ten times beyond the released runs."""

EXPERTS, DRAWS = 64.0, 400


@dataclass(frozen=True)
class Released:
    """One law on the released S-Base runs: EPC/N along `SIZES` and at 1.31B, c and N_cutoff where it has them."""

    law: str
    worth: Float[np.ndarray, "sizes"]
    at_largest: fit.Estimate
    c: fit.Estimate | None
    cutoff: fit.Estimate | None
    more: fit.Estimate
    """EPC at E = 512 over that at E = 64, at 1.31B: what eight times the experts add."""
    held_out: float
    """Mean CRPS at held-out sizes, as a share of the loss."""


def released(curves: Path) -> tuple[list[Released], dict[str, str]]:
    """Each law on S-Base; and by law, the router of least loss at 1.31B/E=64, or `none shown`."""
    runs = fit.load_runs(curves)
    analysis = fit.analyse(runs, fit.Options(laws=LAWS, draws=DRAWS, points=(Point(float(runs.numeric(N).max()), EXPERTS),)))
    return [_of(analysis, law) for law in LAWS], {law: _best_router(analysis, law) for law in LAWS}


def _of(analysis: fit.Analysis, law: str) -> Released:
    result = analysis.result("S-Base", law)
    largest = result.fit.problem.data[N].max()
    along = {N: SIZES, E: np.full_like(SIZES, EXPERTS)}
    worth = epc_quantity(result.law, along)(result.fit.theta, result.fit.beta) / SIZES
    ends = epc_quantity(result.law, {N: np.full(2, largest), E: np.array([EXPERTS, 512.0])})
    more = fit.estimates(result.fit, result.draws, lambda t, b: (found := ends(t, b))[..., 1:] / found[..., :1])[0]
    point = analysis.options.points[0]
    ranking = analysis.ranking
    return Released(
        law, worth, result.derived[f"epc({point.label})"].scaled(1 / point.n), result.coefficients.get("c"),
        fit.estimates(result.fit, result.draws, cutoff_quantity(result.law))[0] if "c" in result.coefficients else None,
        more, ranking.scores[law] if ranking else np.nan,
    )  # fmt: skip


def _best_router(analysis: fit.Analysis, law: str) -> str:
    """The router whose loss is below every other's with 95 % confidence."""
    point = analysis.options.points[0]
    results = [one for one in analysis.of_law(law) if one.router != "Dense"]
    best = min(results, key=lambda one: one.derived[f"loss({point.label})"].value)
    gaps = [analysis.difference(law, best.router, other.router, point) for other in results if other is not best]
    return best.router if all(gap is not None and gap.sign < 0 for gap in gaps) else "none shown"


def own(curves: Sequence[Path], laws: tuple[str, ...]) -> tuple[dict[str, dict[str, fit.Estimate]], fit.Analysis]:
    """On our runs of several lengths: by law and path of tokens, EPC/N at the largest size over that at the smallest."""
    runs = fit.load_runs([str(path) for path in curves], where="seed == 0")
    analysis = fit.analyse(runs, fit.Options(laws=laws, routers=("S-Base",), draws=DRAWS))
    found: dict[str, dict[str, fit.Estimate]] = {}
    for result in analysis.results:
        if {N, E, D} <= set(result.law.columns):
            quantities = {path: gain_ratio(result.law, result.fit.problem.data, path, EXPERTS) for path in PATHS}
            found[result.law.name] = {path: fit.estimates(result.fit, result.draws, one)[0] for path, one in quantities.items()}
    return found, analysis
