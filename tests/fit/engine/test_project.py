"""The linear half of a fit: within boxes against scipy's bounded least squares, by Huber's loss against optimality itself."""

import numpy as np
import pytest
from jaxtyping import Float
from scipy.optimize import lsq_linear, minimize

from fit.engine.losses import huber, squared
from fit.engine.problem import make_problem
from fit.engine.project import back_substituted, orthonormalised, project, solved
from fit.laws import BILINEAR, BOUNDED, FLOOR
from tests.fit.designs import bilinear_losses, grid, made_up

NOTHING: Float[np.ndarray, "1 0"] = np.zeros((1, 0))


def test_rows_are_orthonormal_and_the_triangle_leads_back() -> None:
    columns = np.random.default_rng(0).standard_normal((5, 4, 12))
    columns[:, 3] = columns[:, 0] + 1e-6 * columns[:, 3]
    basis, triangle = orthonormalised(columns)
    np.testing.assert_allclose(basis @ basis.swapaxes(-1, -2), np.broadcast_to(np.eye(4), (5, 4, 4)), atol=1e-12)
    np.testing.assert_allclose(triangle.swapaxes(-1, -2) @ basis, columns, atol=1e-12)
    z = np.random.default_rng(1).standard_normal((5, 4))
    np.testing.assert_allclose(back_substituted(triangle, z), np.linalg.solve(triangle, z[..., None])[..., 0], rtol=1e-9)


def test_a_column_that_the_others_span_gets_a_coefficient_of_zero() -> None:
    columns = np.random.default_rng(0).standard_normal((1, 3, 12))
    columns[:, 2] = 2 * columns[:, 0] - columns[:, 1]
    basis, triangle = orthonormalised(columns)
    assert not basis[0, 2].any()
    assert back_substituted(triangle, np.array([[1.0, 1.0, 0.0]]))[0, 2] == 0


@pytest.mark.parametrize("seed", range(20))
def test_within_random_boxes_the_coefficients_are_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data, loss = grid(), bilinear_losses(grid(), c=0.01)
    free = project(make_problem(BILINEAR, data, loss), NOTHING).beta[0]
    # Boxes about, beside and around the free solution, one side open in some.
    centre = free * (1 + 0.5 * generator.standard_normal(4))
    low, high = centre - 0.3 * np.abs(free) * generator.random(4), centre + 0.3 * np.abs(free) * generator.random(4)
    low[generator.random(4) < 0.2], high[generator.random(4) < 0.2] = -np.inf, np.inf
    bounds = {name: (float(a), float(b)) for name, a, b in zip(BILINEAR.coefficients, low, high, strict=True)}
    problem = make_problem(BILINEAR, data, loss, bounds=bounds)
    found = project(problem, NOTHING)
    expected = lsq_linear(BILINEAR.features(np.zeros(0), data), np.log10(loss), (low, high), method="bvls", tol=1e-15)
    assert (found.beta[0] >= low - 1e-12 * np.abs(low)).all()
    assert (found.beta[0] <= high + 1e-12 * np.abs(high)).all()
    # scipy's active-set method ends at the exact solution but for rounding, of which there is 1e-16 times a condition of 1e3, squared.
    assert found.objective[0] == pytest.approx(2 * expected.cost / len(loss), rel=1e-9)
    np.testing.assert_allclose(found.beta[0], expected.x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("delta", [1e-2, 1e-3, 1e-4])
def test_hubers_loss_on_a_linear_law_ends_at_its_exact_solution_in_finitely_many_steps(delta: float) -> None:
    data, loss = grid(6, 6), bilinear_losses(grid(6, 6), c=0.01, noise=0.003)
    problem = make_problem(BILINEAR, data, loss, huber(delta))
    found = project(problem, NOTHING, steps=400, exact=True)
    x = BILINEAR.features(np.zeros(0), data)
    r = (x @ found.beta[0] - np.log10(loss)) * np.log(10)
    slope = x.T @ np.clip(r, -delta, delta)
    # A convex function is least where its gradient is zero; what is left is the rounding of a sum of 36 terms of size delta x.
    np.testing.assert_allclose(slope, 0, atol=1e-12 * delta * np.abs(x).sum(axis=0).max())


@pytest.mark.parametrize("delta", [1e-2, 1e-3, 1e-4])
def test_hubers_solution_is_that_of_its_quadratic_program(delta: float) -> None:
    data, loss = grid(4, 3), bilinear_losses(grid(4, 3), noise=0.003)
    problem = make_problem(BILINEAR, data, loss, huber(delta))
    found = project(problem, NOTHING, steps=400, exact=True)
    # Huber's loss is the least of u^2 + 2 delta |r - u| over u: with r - u between -v and v that is a quadratic program, in units of
    # delta; coefficients are in an orthonormal basis.
    basis = np.linalg.qr(BILINEAR.features(np.zeros(0), data))[0]
    y, runs = np.log10(loss) * np.log(10) / delta, len(loss)
    identity = np.eye(runs)

    def cost(z: Float[np.ndarray, "unknowns"]) -> float:
        return float(np.sum(z[4 : 4 + runs] ** 2) + 2 * np.sum(z[4 + runs :]))

    def slope(z: Float[np.ndarray, "unknowns"]) -> Float[np.ndarray, "unknowns"]:
        return np.concatenate([np.zeros(4), 2 * z[4 : 4 + runs], np.full(runs, 2.0)])

    # basis z - y - u <= v and >= -v
    upper = np.concatenate([basis, -identity, -identity], axis=1)
    lower = np.concatenate([basis, -identity, identity], axis=1)
    start = basis.T @ y
    r = basis @ start - y
    z = np.concatenate([start, np.clip(r, -1, 1), np.abs(r - np.clip(r, -1, 1)) + 1])
    solved = minimize(
        cost, z, jac=slope, method="SLSQP", options={"maxiter": 500, "ftol": 1e-14},
        constraints=[
            {"type": "ineq", "fun": lambda z: y - upper @ z, "jac": lambda z: -upper},
            {"type": "ineq", "fun": lambda z: lower @ z - y, "jac": lambda z: lower},
        ],
    )  # fmt: skip
    # SLSQP ends within 1e-9 of the optimum here.
    assert found.objective[0] * runs / delta**2 == pytest.approx(solved.fun, rel=1e-7)


def test_a_start_is_gone_on_from_and_what_it_cannot_better_is_kept() -> None:
    data, loss = made_up(FLOOR)
    problem = make_problem(FLOOR, data, loss, squared())
    theta = np.array([[1.5], [0.5]])
    best = project(problem, theta, steps=400, exact=True)
    again = project(problem, theta, start=best.beta, steps=400, exact=True)
    # At the optimum a step's gain is below rounding.
    np.testing.assert_allclose(again.objective, best.objective, rtol=1e-13)
    assert (
        project(problem, theta, start=best.beta * 1.01, steps=2).objective <= project(problem, theta, start=best.beta * 1.01).objective
    ).all()


def test_the_box_holds_in_every_row_of_a_batch_alone() -> None:
    data, loss = made_up(BOUNDED)
    theta = np.array([[1.0, 0.001], [2.0, 0.01], [4.0, 0.02], [8.0, 0.2]])
    free = project(make_problem(BOUNDED, data, loss), theta)
    low, high = (float(end) for end in np.quantile(free.beta[:, 2], [0.3, 0.7]))
    found = project(make_problem(BOUNDED, data, loss, bounds={"c": (low, high)}), theta)
    inside = (free.beta[:, 2] >= low) & (free.beta[:, 2] <= high)
    assert inside.sum() == 2
    np.testing.assert_allclose(found.beta[inside], free.beta[inside], rtol=1e-12)
    for row in np.flatnonzero(~inside):
        box = np.array([-np.inf, -np.inf, low, -np.inf]), np.array([np.inf, np.inf, high, np.inf])
        expected = lsq_linear(BOUNDED.features(theta[row], data), np.log10(loss), box, method="bvls", tol=1e-15)
        np.testing.assert_allclose(found.beta[row], expected.x, rtol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-200, 1e-310])
def test_singular_equations_of_any_scale_have_their_shortest_solution(size: float) -> None:
    # The one with unequal rows of a batch is singular to the last bit, so that the whole batch goes the way of the pseudo-inverse.
    matrix = size * np.array([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]]])
    found = solved(np.array([[[0.0, 0.0], [0.0, 0.0]], *matrix]), size * np.array([[[1.0], [1.0]]] * 3))
    np.testing.assert_allclose(found[..., 0], [[0.0, 0.0], [1.0, 0.0], [0.5, 0.25]], rtol=1e-9)
