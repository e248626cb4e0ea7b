"""The global search: its objective against numpy's least squares, its local minima against scipy's filter."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import minimum_filter

from fit.laws import BOUNDED, BOUNDED_FLOOR, Law
from fit.solver.problem import Problem
from fit.solver.search import local_minima, search_observed, search_resampled, shape_grid
from fit.solver.solve import make_problem

RUNS = 40


def _problem(law: Law) -> Problem:
    generator = np.random.default_rng(0)
    data = {"dense_parameter_count": 10 ** generator.uniform(7, 9, RUNS), "num_experts": 2.0 ** generator.integers(0, 10, RUNS)}
    loss = 1.5 + 30 * data["dense_parameter_count"] ** -0.18 * data["num_experts"] ** -0.05
    return make_problem(law, data, loss * 10 ** (0.003 * generator.standard_normal(RUNS)))


def _by_lstsq(
    problem: Problem, theta: Float[np.ndarray, "shapes"], root: Float[np.ndarray, "runs"], observed: Float[np.ndarray, "runs"]
) -> float:
    """The least weighted square of what the features leave of the link's scale, weights to first order those of log loss."""
    omega = problem.working_weights(theta[None])[0] * root
    features = problem.law.features(theta[None], problem.data)[0]
    target = problem.law.link.of_loss(10**observed, theta)
    solution, *_ = np.linalg.lstsq(omega[:, None] * features, omega * target, rcond=None)
    return float(np.sum((omega * (target - features @ solution)) ** 2))


def test_the_search_over_resampled_runs_is_least_squares_at_every_point() -> None:
    for law in (BOUNDED, BOUNDED_FLOOR):
        problem = _problem(law)
        grid = shape_grid(problem, 0.3)[0]
        weights = np.random.default_rng(1).multinomial(RUNS, np.full(RUNS, 1 / RUNS), size=3).astype(np.float64)
        found = search_resampled(problem, grid, weights)
        expected = [[_by_lstsq(problem, theta, np.sqrt(row), problem.observed) for theta in grid] for row in weights]
        # A search needs few digits: products of features with a condition number of 1e3 keep these.
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_the_search_over_other_losses_is_least_squares_at_every_point() -> None:
    for law in (BOUNDED, BOUNDED_FLOOR):
        problem = _problem(law)
        grid = shape_grid(problem, 0.3)[0]
        observed = problem.observed + 0.003 * np.random.default_rng(1).standard_normal((3, RUNS))
        found = search_observed(problem, grid, observed)
        expected = [[_by_lstsq(problem, theta, np.ones(RUNS), row) for theta in grid] for row in observed]
        # What is left is about 1e-4 of the squares it is the difference of.
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_starts_are_the_lowest_local_minima_diagonal_neighbours_counted() -> None:
    values = np.random.default_rng(2).standard_normal((20, 6, 5, 4))
    row, point = local_minima(values.reshape(20, -1), (6, 5, 4), most=3)
    for i, table in enumerate(values):
        minima = np.flatnonzero(table.ravel() == minimum_filter(table, size=3, mode="nearest").ravel())
        lowest = minima[np.argsort(table.ravel()[minima])[:3]]
        assert set(point[row == i].tolist()) == set(lowest.tolist())
