"""The paper's solutions of its laws beside ours: is the published row inside our interval, and if not, what is known to move it.

Table 3 is printed to three places. Four things stand between it and a refit of the same runs: that rounding, which alone moves
N_cutoff by factors; the seed filter of the release's notebook, which drops every dense 130M run; the flat valley of the objective,
along which very different rows fit alike; and a search from random starts in float32 that need not end at the optimum. The first
three are computed here, for the runs at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Float

from fit.analysis import Estimate, Result
from fit.epc import cutoff_quantity, effective_parameter_count
from fit.intervals.bootstrap import Quantity
from fit.laws import BOUNDED
from fit.show.display import count
from fit.solver.losses import SquaredLog
from fit.solver.solve import Fit
from fit.studies.sensitivity import Variant

HALF = 5e-4
"""Half a unit of the third decimal, in which Table 3 is printed."""


@dataclass(frozen=True)
class Line:
    """One published figure or claim beside ours.

    `place` is where the paper has it; `published` as it states it, `value` the figure if it is one. `ours` is our figure, or `found`
    says in words what the runs say. `holds`: the published value lies inside our interval, or the claim is borne out; None where that
    cannot be said. `why` they differ, if it is known, or what else a reader should know.
    """

    key: str
    place: str
    name: str
    published: str
    value: float | None = None
    ours: Estimate | None = None
    found: str = ""
    holds: bool | None = None
    why: str = ""

    @property
    def delta(self) -> float | None:
        """Ours minus the published value."""
        return None if self.value is None or self.ours is None else self.ours.value - self.value


def inside(figure: Estimate, value: float) -> bool | None:
    """Whether `value` lies in the figure's interval; None without one."""
    if figure.low is None or figure.high is None or np.isnan(figure.low) or np.isnan(figure.high):
        return None
    return bool(figure.low <= value <= figure.high)


@dataclass(frozen=True)
class Valley:
    """How the published row fits our runs, as the sum of squared residuals of log10 loss over the optimum's.

    `printed`: the row as printed; `rounded`: the best row that rounds to it; `shapes`: the published E_start and E_max with a, b, c, d
    refitted. `limit`: up to where the joint confidence region of all parameters reaches. None where the loss minimised is another.
    """

    printed: float
    rounded: float
    shapes: float
    limit: float


def joint_limit(fit: Fit, level: float) -> float:
    """RSS over its least at the border of the joint confidence region: 1 + p/(n - p) F, with F's quantile at p and n - p (Beale 1960)."""
    from scipy.special import fdtri

    p = fit.law.num_parameters
    left = fit.num_runs - p
    return float(1 + p / left * fdtri(p, left, level)) if left > 0 else np.inf


def valley(fit: Fit, row: Mapping[str, float], level: float) -> Valley | None:
    """Where a published row of Eq. 1 lies in the valley of these runs' objective."""
    if fit.law.name != BOUNDED.name or type(fit.problem.loss) is not SquaredLog or fit.certificate.objective <= 0:
        return None
    from scipy.optimize import lsq_linear

    theta, beta = _row(row)
    features, observed = BOUNDED.features(theta, fit.problem.data), fit.problem.observed
    least = float(np.sum(fit.residuals**2))
    free = observed - features @ np.linalg.lstsq(features, observed)[0]
    boxed = lsq_linear(features, observed, bounds=(beta - HALF, beta + HALF), tol=1e-14)
    return Valley(
        printed=float(np.sum((observed - features @ beta) ** 2)) / least,
        rounded=float(np.sum((observed - features @ boxed.x) ** 2)) / least,
        shapes=float(np.sum(free**2)) / least,
        limit=joint_limit(fit, level),
    )


def _row(row: Mapping[str, float]) -> tuple[Float[np.ndarray, "shapes"], Float[np.ndarray, "features"]]:
    """Shape parameters and coefficients of a row of Table 3."""
    return np.array([row["E_start"], row["E_start"] / row["E_max"]]), np.array([row[name] for name in "abcd"])


def rounding(row: Mapping[str, float], quantity: Quantity) -> tuple[float, float]:
    """The range of a figure over the rows that round to this one, taken at the corners of their box: a monotone figure ends there."""
    names: tuple[str, ...] = ("a", "b", "c", "d", "E_start", "E_max")
    corners: list[dict[str, float]] = [
        dict(zip(names, corner, strict=True)) for corner in product(*((row[n] - HALF, row[n] + HALF) for n in names))
    ]
    rows = [_row(corner) for corner in corners]
    values = quantity(np.array([theta for theta, _ in rows]), np.array([beta for _, beta in rows]))[:, 0]
    return float(values.min()), float(values.max())


def epc_of_row(row: Mapping[str, float], n: float, e: float) -> tuple[float, float, float]:
    """Effective parameter count at (N, E) by a row of Table 3, and its range over the row's rounding."""
    at_n, at_e = np.array([n]), np.array([e])

    def quantity(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "draws quantities"]:
        """Effective parameter count at the one point."""
        return effective_parameter_count(BOUNDED, theta, beta, at_n, at_e)

    theta, beta = _row(row)
    low, high = rounding(row, quantity)
    return float(quantity(theta[None], beta[None])[0, 0]), low, high


def table3_lines(result: Result, seed_alone: Variant | None, level: float) -> list[Line]:
    """The seven published figures of one router beside ours."""
    row = BOUNDED.published_for(result.router)
    if row is None:
        return []
    place = f"Table 3, {result.router}"
    lies = valley(result.fit, row.values, level)
    lines: list[Line] = []
    for name, value in row.values.items():
        ours = result.derived["n_cutoff"] if name == "N_cutoff" else result.coefficients[name]
        printed = count(value) if name == "N_cutoff" else f"{value:g}"
        lines.append(Line(f"table-3/{result.router}/{name}", place, name, printed, value, ours, "", inside(ours, value)))
    notes = {line.name: _why(line, row.values, seed_alone, lies) for line in lines}
    return [replace(line, why=notes[line.name]) for line in lines]


def _why(line: Line, row: Mapping[str, float], seed_alone: Variant | None, lies: Valley | None) -> str:
    """What is known to move this figure from ours."""
    reasons: list[str] = []
    if line.name == "N_cutoff":
        low, high = rounding(row, cutoff_quantity(BOUNDED))
        printed = count(10 ** (-row["b"] / row["c"]))
        reasons.append(f"10^(-b/c) of the printed row is {printed}, and {count(low)} to {count(high)} over its rounding alone")
    if line.ours is not None and line.value is not None and seed_alone is not None and line.name in seed_alone.values:
        theirs = seed_alone.values[line.name]
        if abs(theirs - line.value) < abs(line.ours.value - line.value):
            reasons.append(f"the notebook's seed filter ({seed_alone.runs} runs) gives {_shown(line.name, theirs)}, nearer")
    if line.holds is False and lies is not None:
        where = "inside" if lies.rounded <= lies.limit else "outside"
        reasons.append(f"the published row lies {where} the joint confidence region: the objective is flat along a valley")
    return "; ".join(reasons)


def _shown(name: str, value: float) -> str:
    return count(value) if name in ("N_cutoff", "N_c") else f"{value:.4g}"


def dense_lines(result: Result) -> list[Line]:
    """The published dense law beside ours."""
    row = result.law.published_for("Dense")
    lines: list[Line] = []
    for name, value in (row.values if row else {}).items():
        ours = result.coefficients[name]
        printed = f"{value:.3e}" if name == "N_c" else f"{value:g}"
        lines.append(Line(f"dense/{name}", "dense law", name, printed, value, ours, "", inside(ours, value)))
    return lines
