"""Fit a law to its true optimum: global search over the shapes, exact least squares over the coefficients, polish, certificate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fit.errors import NotIdentifiedError
from fit.laws.interface import Law
from fit.solver.losses import Loss, SquaredLog
from fit.solver.polish import Solutions, polish
from fit.solver.problem import Problem
from fit.solver.search import local_minima, project, shape_grid

_SAME = 1e-9
"""Two objectives closer than this, relatively, are the same optimum."""

_RANK = 1e-10
"""A direction in which the scaled derivatives are shorter than this fraction of the longest is not identified: what float64 leaves."""


@dataclass(frozen=True)
class Certificate:
    """Why the fit is believed to be the optimum.

    `objective`: mean cost per run of the fit's loss. `gradient`: the largest cosine between the residuals and a derivative of theirs
    that a bound does not hold back; nought at an optimum. `remaining`: relative gain a further step predicts.
    `condition`: condition number of the derivatives with columns scaled to length one. `best_in_search`: the least true objective met
    on the grid or by a start before its last polish; below `objective` by rounding at most. `starts` polishes were made, `reached` of
    them ended at the optimum.
    `at_bounds`: shape parameters that ended at a bound.
    """

    objective: float
    gradient: float
    remaining: float
    condition: float
    best_in_search: float
    grid_points: int
    starts: int
    reached: int
    at_bounds: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A fitted law: the problem it solves, the optimum and its certificate."""

    problem: Problem
    theta: Float[np.ndarray, "shapes"]
    beta: Float[np.ndarray, "features"]
    certificate: Certificate

    @property
    def law(self) -> Law:
        """The law fitted."""
        return self.problem.law

    @property
    def num_runs(self) -> int:
        """Number of runs fitted."""
        return len(self.problem.observed)

    @property
    def parameters(self) -> dict[str, float]:
        """The reported parameters by name, in the law's units."""
        values = self.law.parameter_values(self.theta, self.beta)
        return dict(zip(self.law.parameter_names, map(float, values), strict=True))

    def log10_loss(self, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Float[np.ndarray, "runs"]:
        """log10 of the predicted loss (nats per token) of these runs."""
        return self.law.log10_loss(self.theta, self.beta, data)

    @property
    def residuals(self) -> Float[np.ndarray, "runs"]:
        """log10 of observed over predicted loss of each run fitted."""
        return self.problem.observed - self.log10_loss(self.problem.data)

    @property
    def rmse_log10(self) -> float:
        """Root mean square of the residuals of log10 loss."""
        return float(np.sqrt(np.mean(self.residuals**2)))


def make_problem(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None = None,
) -> Problem:
    """The problem of fitting `law` to runs with these columns and losses (nats per token).

    Raises `NotIdentifiedError` where there are fewer runs than parameters.
    """
    columns = {name: np.asarray(data[name], dtype=np.float64) for name in law.columns}
    if len(loss) < law.num_parameters:
        there = "there is 1 run" if len(loss) == 1 else f"there are {len(loss)} runs"
        raise NotIdentifiedError(f"law {law.name!r} has {law.num_parameters} parameters and {there}: it takes more runs or a smaller law")
    return Problem(law, columns, np.log10(loss), objective or SquaredLog(), law.limits(columns, loss))


def fit_law(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None = None,
) -> Fit:
    """Fit `law` to its global optimum.

    `data` has the columns the law names, one value per run; `loss` in nats per token; `objective` defaults to squared error
    of log10 loss. Raises `NotIdentifiedError`, in one line, where the runs cannot identify the law; never returns NaN.
    """
    problem = make_problem(law, data, loss, objective)
    grid, counts = shape_grid(problem)
    beta = project(problem, grid)
    met = problem.objective(problem.residuals(grid, beta, problem.observed[None]), None)
    _, points = local_minima(met[None], counts, most=len(grid))
    points = np.union1d(points, np.argsort(met, kind="stable")[:12])
    # A start on a plateau may crawl for long: all get as many steps as a fair start needs, the winner all it wants.
    found = polish(problem, grid[points], beta[points], max_steps=25)
    # What the search met, before the winner goes on: the certificate holds the optimum against it.
    best, seen = int(np.argmin(found.objective)), float(min(met.min(), found.objective.min()))
    winner = polish(problem, found.theta[[best]], found.beta[[best]])
    found = found.replaced(np.arange(len(points)) == best, winner)
    return _certified(problem, found, best, seen, len(grid))


def _certified(problem: Problem, found: Solutions, best: int, seen: float, grid_points: int) -> Fit:
    theta, beta, objective = found.theta[best], found.beta[best], float(found.objective[best])
    r, jacobian = problem.linearise(theta[None], beta[None], problem.observed[None])
    span = problem.limits[:, 1] - problem.limits[:, 0]
    near = np.minimum(theta - problem.limits[:, 0], problem.limits[:, 1] - theta) <= 1e-9 * span
    free = np.concatenate([np.ones(len(beta), dtype=bool), ~near])
    scaled = jacobian[0] / np.maximum(np.linalg.norm(jacobian[0], axis=0), 1e-300)
    singular = np.linalg.svd(scaled, compute_uv=False)
    if not np.isfinite(objective) or singular[-1] < _RANK * singular[0]:
        raise NotIdentifiedError(_why_not_identified(problem))
    psi = problem.loss.psi(r[0])
    length = float(np.linalg.norm(psi))
    gradient = float(np.max(np.abs(scaled[:, free].T @ psi))) / length if length > 0 else 0.0
    certificate = Certificate(
        objective=objective,
        gradient=gradient,
        remaining=float(found.remaining[best]),
        condition=float(singular[0] / singular[-1]),
        best_in_search=seen,
        grid_points=grid_points,
        starts=len(found.objective),
        reached=int(np.sum(found.objective <= objective * (1 + _SAME) + 1e-30)),
        at_bounds=tuple(shape.name for shape, here in zip(problem.law.shapes, near, strict=True) if here),
    )
    return Fit(problem, theta, beta, certificate)


def _why_not_identified(problem: Problem) -> str:
    """One line: which column takes one value only, or how many values each takes."""
    law, values = problem.law, {name: np.unique(column) for name, column in problem.data.items()}
    constant = [f"{name} ({distinct[0]:g})" for name, distinct in values.items() if len(distinct) == 1]
    if constant:
        return f"law {law.name!r} needs at least two values of each column, and there is one only of {' and '.join(constant)}"
    met = ", ".join(f"{len(distinct)} of {name}" for name, distinct in values.items())
    return (
        f"law {law.name!r} is not identified by these {len(problem.observed)} runs: some of its {law.num_parameters} parameters can move "
        f"without changing any prediction; distinct values: {met}"
    )
