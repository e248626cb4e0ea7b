"""Fit a law to its true optimum: global search over the shapes, exact least squares over the coefficients, polish; and what is known of it.

A fit says three things of itself, and each can fail: it `converged` (no step lowers the objective any more), it is `confirmed` (a second,
disjoint set of starts ended no lower), and its parameters are `identified` (each direction changes some prediction).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError
from fit.engine.hold import hold
from fit.engine.losses import Loss, loss_named
from fit.engine.polish import Solutions, polish
from fit.engine.problem import Problem, make_problem
from fit.engine.project import Projected, project
from fit.engine.rows import Betas, PerFit, Thetas
from fit.engine.search import local_minima, spread
from fit.errors import NotIdentifiedError
from fit.laws import CATALOGUE, per_size
from fit.laws.interface import Law

SAME = 1e-9
"""Two objectives closer than this, relatively, are the same optimum."""

IDENTIFIED = 1e7
"""Condition number of the scaled derivatives above which parameters are not identified: some direction then moves them ten million
times further than it moves the predictions. The one rule for a fit and for its resamples."""

_ROUNDS = 6
"""Searches made at most until two of them end at the same lowest objective."""

_STARTS = 8
"""Lowest points of a search that are polished besides its local minima."""

_ROUNDED = 1e-20
"""Relative gain at which the point fit ends: its parameters are then within 1e-10 of their standard errors of the optimum."""

_FINISHED = 3
"""Lowest ends of the first steps that are taken to convergence, if they are not there yet."""

_SCATTERED = ((60, 6), (24, 8), (8, 12))
"""Starts that go on where points are scattered, the lowest first, and for how many steps: of the ways tried that of least time to two
searches that agree (Ludziejewski's law, 100 and 300 runs: 2.8 s where 60 starts of 8 steps took 5.5)."""


@dataclass(frozen=True)
class Certificate:
    """What is known of the optimum.

    `objective`: mean cost per run of the fit's loss. `remaining`: relative gain that a further Newton step predicts; `converged` where
    below 1e-12. `searches` were made, from disjoint sets of starts, of which `agreeing` ended at the least objective of all; `confirmed`
    where two or more did (a law without free shapes has one optimum, and needs none). `condition`: condition number of the derivatives
    of all fitted parameters, columns scaled to length one; `identified` where it is below 1e7. `starts` polishes were made, and
    `reached` of them ended at the optimum. `at_bounds`: parameters that ended at a bound.
    """

    objective: float
    remaining: float
    converged: bool
    confirmed: bool
    identified: bool
    condition: float
    searches: int
    agreeing: int
    starts: int
    reached: int
    at_bounds: tuple[str, ...]

    @property
    def certified(self) -> bool:
        """Whether all three hold."""
        return self.converged and self.confirmed and self.identified


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law: the problem it solves, the optimum and what is known of it."""

    problem: Problem
    theta: Float[np.ndarray, "shapes"]
    beta: Float[np.ndarray, "features"]
    certificate: Certificate

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.parameters.items())
        return f"Fit({self.law.name} on {self.num_runs} runs: {values}; RMSE {self.rmse_log10:.5f})"

    @property
    def law(self) -> Law:
        """The law fitted."""
        return self.problem.law

    @property
    def num_runs(self) -> int:
        """Number of runs fitted."""
        return len(self.problem.observed)

    @property
    def degrees(self) -> int:
        """Residual degrees of freedom: runs less fitted parameters."""
        return self.num_runs - self.problem.num_free

    @property
    def parameters(self) -> dict[str, float]:
        """The reported parameters by name, in the law's units."""
        values = self.law.parameter_values(self.theta, self.beta)
        return dict(zip(self.law.parameter_names, map(float, values), strict=True))

    def log10_loss(self, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Float[np.ndarray, "runs"]:
        """log10 of the predicted loss (nats per token) of these runs."""
        return self.law.log10_loss(self.theta, self.beta, data)

    @cached_property
    def residuals(self) -> Float[np.ndarray, "runs"]:
        """log10 of observed over predicted loss of each run fitted."""
        return self.problem.observed - self.log10_loss(self.problem.data)

    @property
    def rmse_log10(self) -> float:
        """Root mean square of the residuals of log10 loss, runs weighted as they were fitted."""
        return float(np.sqrt(np.mean(self.problem.weights * self.residuals**2)))

    @property
    def r_squared(self) -> float:
        """Share of the variance of log10 loss that the law explains; NaN where all losses are one."""
        observed, weights = self.problem.observed, self.problem.weights
        variance = float(np.mean(weights * (observed - np.average(observed, weights=weights)) ** 2))
        return 1 - self.rmse_log10**2 / variance if variance > 0 else float("nan")

    @cached_property
    def derivatives(self) -> Float[np.ndarray, "runs unknowns"]:
        """d residual / d unknown at the optimum, weighted by the root of each run's weight; zero for what is fixed or at a bound."""
        _, jacobian = self.problem.linearise(self.theta[None], self.beta[None])
        return jacobian[0] * moving(self.problem, self.theta[None], self.beta[None])[0] * np.sqrt(self.problem.weights)[:, None]

    def save(self, path: Path | str) -> None:
        """Write the fit as JSON: its runs, its law's name or import path, its optimum at full precision. `load` reads it."""
        law = self.law
        if law.sizes:
            where: dict[str, Any] = {"per_size": list(law.sizes)}
        else:
            where = {"law": law.name} if CATALOGUE.get(law.name) is law else {"law": _import_path(law)}
        problem = self.problem
        record = {
            "schema": "routelaw.saved-fit/1", **where, "loss": problem.loss.label,
            "data": {name: column.tolist() for name, column in problem.data.items()}, "observed": problem.observed.tolist(),
            "weights": problem.weights.tolist(), "limits": problem.limits.tolist(), "box": problem.box.tolist(),
            "theta": self.theta.tolist(), "beta": self.beta.tolist(), "certificate": asdict(self.certificate),
        }  # fmt: skip
        Path(path).write_text(json.dumps(record), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> "Fit":
        """Read a fit that `save` wrote. A law of one's own is imported from the module that defines it."""
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        law = per_size(record["per_size"]) if "per_size" in record else _law_at(record["law"])
        arrays = {key: np.array(record[key], dtype=np.float64) for key in ("observed", "weights", "limits", "box", "theta", "beta")}
        data = {name: np.array(column, dtype=np.float64) for name, column in record["data"].items()}
        limits, box = arrays["limits"].reshape(-1, 2), arrays["box"].reshape(-1, 2)
        problem = Problem(law, data, arrays["observed"], loss_named(record["loss"]), limits, box, arrays["weights"], arrays["observed"])
        known: dict[str, Any] = record["certificate"]
        known["at_bounds"] = tuple(known["at_bounds"])
        return cls(problem, arrays["theta"], arrays["beta"], Certificate(**known))


def _import_path(law: Law) -> str:
    """`module:NAME` of a law that is not in the catalogue."""
    for path, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is law and module is not sys.modules.get("__main__"):
                return f"{path}:{name}"
    raise InputError(f"law {law.name!r} cannot be saved: it must be a variable of a module that can be imported again")


def _law_at(path: str) -> Law:
    module, colon, name = path.partition(":")
    return getattr(import_module(module), name) if colon else CATALOGUE[path]


def moving(problem: Problem, theta: Thetas, beta: Betas) -> Bool[np.ndarray, "batch unknowns"]:
    """Which unknowns of each fit are neither fixed nor at a bound."""
    span = problem.limits[:, 1] - problem.limits[:, 0]
    inside = np.minimum(theta - problem.limits[:, 0], problem.limits[:, 1] - theta) > 1e-9 * span
    within = (beta > problem.box[:, 0] + 1e-12 * np.abs(beta)) & (beta < problem.box[:, 1] - 1e-12 * np.abs(beta))
    return np.concatenate([within & problem.free_coefficients, inside & problem.free_shapes], axis=-1)


def condition_numbers(problem: Problem, theta: Thetas, beta: Betas) -> PerFit:
    """Condition number of each fit's derivatives, columns scaled to length one; infinite where one is zero or not finite."""
    free = np.concatenate([problem.free_coefficients, problem.free_shapes])
    columns = (problem.linearise(theta, beta)[1] * np.sqrt(problem.weights)[..., None])[..., free]
    out = np.full(len(theta), np.inf if free.any() else 1.0)
    length = np.linalg.norm(columns, axis=1)
    usable = (np.isfinite(length) & (length > 0)).all(axis=-1) & (0 < free.sum() <= columns.shape[1])
    singular = np.linalg.svd(columns[usable] / length[usable][:, None], compute_uv=False)
    with np.errstate(divide="ignore"):
        out[usable] = singular[:, 0] / singular[:, -1]
    return out


def fit_law(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    weights: Float[np.ndarray, "runs"] | None = None,
    unbounded: bool = False,
) -> Fit:
    """Fit `law` to its global optimum.

    `data` has the columns the law names, one value per run; `loss` in nats per token; `objective` defaults to squared error of log10 loss.
    `fixed` holds parameters at values, `bounds` within intervals; `weights` count runs more or less, and leave out those of weight 0;
    `unbounded` lifts the bounds that the law has for its coefficients. Raises `NotIdentifiedError` for fewer runs than parameters and
    `InputError` for values that no run or parameter has; never returns NaN. What the runs do not identify is in the certificate.
    """
    for name in [name for name in fixed or {} if name in law.ratios]:
        law, fixed = hold(law, name, (fixed or {})[name]), {key: value for key, value in (fixed or {}).items() if key != name}
    problem = make_problem(law, data, loss, objective, fixed=fixed, bounds=bounds, weights=weights, unbounded=unbounded)
    runs = len(problem.observed)
    if runs < problem.num_free:
        there = "there is 1 run" if runs == 1 else f"there are {runs} runs"
        raise NotIdentifiedError(f"law {law.name!r} has {problem.num_free} parameters and {there}: it takes more runs or a smaller law")
    return solve(problem)


def solve(problem: Problem, *, confirm: bool = True) -> Fit:
    """The global optimum of a problem, with its certificate; without `confirm` by one search, which leaves it unconfirmed."""
    ends: list[Solutions] = []
    starts = reached = 0
    while True:
        found = search(problem, len(ends))
        best = int(np.argmin(found.objective))
        ends.append(found.take(np.array([best])))
        starts, reached = starts + len(found.objective), reached + int(_same(found.objective, found.objective[best]).sum())
        least = min(ends, key=lambda one: float(one.objective[0]))
        agreeing = sum(bool(_same(one.objective, least.objective[0])[0]) for one in ends)
        if agreeing > 1 or len(ends) == _ROUNDS or not (confirm and problem.free_shapes.any()):
            break
    if not least.remaining[0] < _ROUNDED:
        before = least.remaining
        least = polish(problem, least.theta, least.beta, tolerance=_ROUNDED, max_steps=60, newton=True)
        # Once rounding alone is left what a step predicts wanders: the optimum is as near as the lowest reading says.
        least.remaining = np.minimum(before, least.remaining)
    if not np.isfinite(least.objective[0]):
        raise NotIdentifiedError(why_not_identified(problem))
    return certified(problem, least, len(ends), agreeing, starts, reached)


def certified(problem: Problem, optimum: Solutions, searches: int = 1, agreeing: int = 1, starts: int = 1, reached: int = 1) -> Fit:
    """The fit at the one optimum given, with what is known of it."""
    condition = float(condition_numbers(problem, optimum.theta, optimum.beta)[0])
    free = moving(problem, optimum.theta, optimum.beta)[0]
    names = [*problem.law.coefficients, *(shape.name for shape in problem.law.shapes)]
    fitted = np.concatenate([problem.free_coefficients, problem.free_shapes])
    certificate = Certificate(
        objective=float(optimum.objective[0]),
        remaining=float(optimum.remaining[0]),
        converged=bool(optimum.converged[0]),
        confirmed=agreeing > 1 or not problem.free_shapes.any(),
        identified=condition <= IDENTIFIED,
        condition=condition,
        searches=searches,
        agreeing=agreeing,
        starts=starts,
        reached=reached,
        at_bounds=tuple(name for name, moves, fits in zip(names, free, fitted, strict=True) if fits and not moves),
    )
    return Fit(problem, optimum.theta[0], optimum.beta[0], certificate)


def search(problem: Problem, which: int) -> Solutions:
    """Where the starts of one search end: every one polished, the best ones to convergence."""
    grid, counts = spread(problem, which)
    at = project(problem, grid)
    if counts:
        _, points = local_minima(at.objective[None], counts, most=len(grid))
        points = np.union1d(points, np.argsort(at.objective, kind="stable")[:_STARTS])
        found = polish(problem, grid[points], at.beta[points], max_steps=8)
    else:
        found = _thinned(problem, grid, at)
    # The lowest of those still on their way go on with the true second derivative.
    order = np.argsort(found.objective, kind="stable")[:_FINISHED]
    going = order[~found.converged[order]]
    if len(going):
        found.put(going, polish(problem, found.theta[going], found.beta[going], newton=True, max_steps=60))
    return found


def _thinned(problem: Problem, points: Thetas, at: Projected) -> Solutions:
    """The lowest scattered points polished, fewer of them the further they go."""
    (first, steps), *later = _SCATTERED
    lowest = np.argsort(at.objective, kind="stable")[:first]
    found = polish(problem, points[lowest], at.beta[lowest], max_steps=steps)
    for kept, steps in later:
        order = np.argsort(found.objective, kind="stable")[:kept]
        going = order[~found.converged[order]]
        if len(going):
            found.put(going, polish(problem, found.theta[going], found.beta[going], max_steps=steps))
    return found


def _same(objective: Float[np.ndarray, "starts"], least: float) -> Bool[np.ndarray, "starts"]:
    return objective <= least * (1 + SAME) + 1e-30


def why_not_identified(problem: Problem, at_bounds: Sequence[str] = ()) -> str:
    """One line: which column takes one value only, or which coefficients are 0, or how many values each column takes."""
    law, values = problem.law, {name: np.unique(column) for name, column in problem.data.items()}
    constant = [f"{name} ({distinct[0]:g})" for name, distinct in values.items() if len(distinct) == 1]
    if constant:
        return f"law {law.name!r} needs at least two values of each column, and there is one only of {' and '.join(constant)}"
    zero = [name for name in law.nonnegative if name in at_bounds]
    if zero:
        return f"law {law.name!r} is not identified: {' and '.join(zero)} ended at 0, the bound, where some exponent changes no prediction"
    met = ", ".join(f"{len(distinct)} of {name}" for name, distinct in values.items())
    return (
        f"law {law.name!r} is not identified by these {len(problem.observed)} runs: some of its {problem.num_free} parameters can move "
        f"without changing any prediction; distinct values: {met}"
    )
