"""The global search: its objective against numpy's least squares, its local minima against scipy's filter, its sets of starts apart."""

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float
from scipy.ndimage import minimum_filter

from fit.engine.losses import huber
from fit.engine.polish import polish
from fit.engine.problem import Problem, make_problem
from fit.engine.search import SCATTERED, local_minima, search_observed, search_resampled, spread
from fit.engine.solve import SAME, fit_law
from fit.laws import BOUNDED, BOUNDED_FLOOR, Law, Shape
from fit.laws.interface import stack_features
from fit.literature import published
from fit.runs.schema import A, D, E, N, P

RUNS = 40


def _problem(law: Law, **fixed: float) -> Problem:
    generator = np.random.default_rng(0)
    data = {"dense_parameter_count": 10 ** generator.uniform(7, 9, RUNS), "num_experts": 2.0 ** generator.integers(0, 10, RUNS)}
    loss = 1.5 + 30 * data["dense_parameter_count"] ** -0.18 * data["num_experts"] ** -0.05
    return make_problem(
        law, data, loss * 10 ** (0.003 * generator.standard_normal(RUNS)), fixed=fixed, weights=generator.uniform(0.5, 2, RUNS)
    )


def _by_lstsq(
    problem: Problem, theta: Float[np.ndarray, "shapes"], root: Float[np.ndarray, "runs"], observed: Float[np.ndarray, "runs"]
) -> float:
    """The least weighted square of what the free features leave of the link's scale, weights to first order those of log loss."""
    omega = problem.working_weights(theta[None])[0] * root * np.sqrt(problem.weights)
    features = problem.law.features(theta[None], problem.data)[0]
    free = problem.free_coefficients
    target = problem.law.link.of_loss(10**observed, theta) - features[:, ~free] @ problem.box[~free, 0]
    solution, *_ = np.linalg.lstsq(omega[:, None] * features[:, free], omega * target, rcond=None)
    return float(np.sum((omega * (target - features[:, free] @ solution)) ** 2))


CASES = [(BOUNDED, {}), (BOUNDED_FLOOR, {}), (BOUNDED, {"c": 0.004})]


@pytest.mark.parametrize(("law", "fixed"), CASES, ids=["bounded", "bounded-floor", "fixed"])
def test_the_search_over_resampled_runs_is_least_squares_at_every_point(law: Law, fixed: dict[str, float]) -> None:
    problem = _problem(law, **fixed)
    grid = spread(problem, refine=0.3)[0]
    weights = np.random.default_rng(1).multinomial(RUNS, np.full(RUNS, 1 / RUNS), size=3).astype(np.float64)
    found = search_resampled(problem, grid, weights)
    expected = [[_by_lstsq(problem, theta, np.sqrt(row), problem.observed) for theta in grid] for row in weights]
    # A search needs few digits: products of features with a condition number of 1e3 keep these.
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize(("law", "fixed"), CASES, ids=["bounded", "bounded-floor", "fixed"])
def test_the_search_over_other_losses_is_least_squares_at_every_point(law: Law, fixed: dict[str, float]) -> None:
    problem = _problem(law, **fixed)
    grid = spread(problem, refine=0.3)[0]
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


def test_scattered_points_have_no_neighbours_and_the_lowest_are_the_starts() -> None:
    values = np.random.default_rng(2).standard_normal((4, 50))
    row, point = local_minima(values, (), most=5)
    for i, table in enumerate(values):
        assert set(point[row == i].tolist()) == set(np.argsort(table)[:5].tolist())


def test_every_further_search_has_points_of_its_own_within_the_bounds() -> None:
    problem = _problem(BOUNDED_FLOOR)
    low, high = problem.limits.T
    blocks = [spread(problem, which)[0] for which in range(4)]
    for i, block in enumerate(blocks):
        assert (block >= low).all()
        assert (block <= high * (1 + 1e-12)).all()
        for other in blocks[:i]:
            # The ends of the range are on every grid that reaches them; inside no point is on two.
            inside = [rows[((rows > low) & (rows < high * (1 - 1e-12))).all(axis=1)] for rows in (block, other)]
            assert not set(map(tuple, inside[0].round(12).tolist())) & set(map(tuple, inside[1].round(12).tolist()))


def test_a_fixed_shape_is_searched_at_its_value_alone() -> None:
    points, counts = spread(_problem(BOUNDED, E_start=3.0))
    assert counts[0] == 1
    assert set(points[:, 0].tolist()) == {3.0}


def test_more_than_three_shapes_are_searched_by_points_spread_evenly() -> None:
    shapes = tuple(Shape(f"s{k}", low=1.0, high=10.0, spacing="linear") for k in range(5))
    law = replace(
        BOUNDED, features=lambda theta, data: stack_features(theta, (data["num_experts"] ** theta[..., :1],)),
        coefficients=("a",), shapes=shapes, parameters=(), report=None, ratios={},
    )  # fmt: skip
    data = {"dense_parameter_count": np.ones(8), "num_experts": np.arange(1.0, 9)}
    points, counts = spread(make_problem(law, data, np.full(8, 2.0)))
    assert (counts, len(points)) == ((), SCATTERED)
    assert ((points >= 1) & (points <= 10)).all()
    # Roberts 2018: multiples of the powers of 1/g, g the real root above 1 of x^6 = x + 1 for five axes, from one half on.
    (g,) = [root.real for root in np.roots([1, 0, 0, 0, 0, -1, -1]) if abs(root.imag) < 1e-9 and root.real > 0]
    expected = (0.5 + np.arange(1, SCATTERED + 1)[:, None] * g ** -np.arange(1.0, 6.0)) % 1
    np.testing.assert_allclose((points - 1) / 9, expected, atol=1e-9)
    # Every quarter of every axis, and every quadrant of every pair of axes, has its share to a twentieth.
    upper = points > 5.5
    for axis in range(5):
        np.testing.assert_allclose(np.histogram(points[:, axis], bins=4, range=(1, 10))[0], SCATTERED / 4, rtol=0.05)
        for other in range(axis):
            assert np.mean(upper[:, axis] & upper[:, other]) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_law_of_eight_shapes_is_confirmed_and_no_higher_than_a_descent_from_the_truth(seed: int) -> None:
    law, rng = published("joint"), np.random.default_rng(seed)
    data: dict[str, Float[np.ndarray, "runs"]] = {
        N: np.exp(rng.uniform(np.log(5e7), np.log(3e9), 100)), D: np.exp(rng.uniform(np.log(2e9), np.log(1e11), 100)),
        E: rng.choice([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 100),
    }  # fmt: skip
    fit = fit_law(law.law, data, law.loss(data) * np.exp(0.005 * rng.standard_normal(100)))
    assert fit.certificate.confirmed
    assert fit.certificate.converged
    truth = polish(fit.problem, law.theta[None], law.beta[None], newton=True, max_steps=200)
    assert fit.certificate.objective <= truth.objective[0] * (1 + SAME)


def test_an_optimum_at_a_bound_is_as_near_as_its_lowest_reading_says() -> None:
    # Coefficient e ends at 0; once rounding alone is left, what a further step would gain wanders between 1e-15 and 1e-11.
    law = published("sparsity")
    axes = (np.geomspace(1e8, 1e11, 4), np.geomspace(1e9, 1e11, 4), 2.0 ** -np.arange(6))
    data: dict[str, Float[np.ndarray, "runs"]] = dict(zip((P, D, A), (axis.ravel() for axis in np.meshgrid(*axes)), strict=True))
    loss = law.loss(data) * 10 ** (0.002 * np.random.default_rng(0).standard_normal(96))
    certificate = fit_law(law.law, data, loss, huber(0.01)).certificate
    assert certificate.at_bounds == ("e",)
    assert certificate.converged
