"""Resamples are fitted to their own global optimum, and each one ends."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

import fit.engine.refit as refitting
from fit.diagnose import warnings_for
from fit.engine.losses import huber
from fit.engine.polish import polish
from fit.engine.project import project
from fit.engine.refit import refit
from fit.engine.search import spread
from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, SEPARABLE
from fit.runs.schema import N
from fit.uncertainty.draws import noise_residuals, resample
from tests.checks import unchecked
from tests.fit.designs import LAWS, WAVE, Sample, bilinear_losses, grid, least_wave, waves

SHAPED = tuple(law.name for law in LAWS if law.shapes)


def _observed(fit: Fit, draws: int, seed: int) -> Float[np.ndarray, "draws runs"]:
    noise = noise_residuals(fit)
    picks = np.random.default_rng(seed).integers(0, len(noise), (draws, fit.num_runs))
    return fit.log10_loss(fit.problem.data) + noise[picks]


def _weights(fit: Fit, draws: int, seed: int) -> Float[np.ndarray, "draws runs"]:
    picks = np.random.default_rng(seed).integers(0, fit.num_runs, (draws, fit.num_runs))
    return np.stack([np.bincount(row, minlength=fit.num_runs) for row in picks]).astype(np.float64)


def _brute_force(fit: Fit, weights: Float[np.ndarray, "1 runs"] | None, observed: Float[np.ndarray, "1 runs"] | None) -> float:
    """Least objective from the twenty best cells of a grid finer than any the engine uses."""
    grid_, _ = spread(fit.problem, refine=1.3)
    problem = fit.problem.resampled(weights, observed)
    at = project(problem.take(np.zeros(len(grid_), dtype=np.int64)), grid_)
    best = np.argsort(at.objective)[:20]
    return float(polish(problem.take(np.zeros(len(best), dtype=np.int64)), grid_[best], at.beta[best], max_steps=60).objective.min())


@pytest.mark.parametrize("scheme", ["pairs", "residuals"])
@pytest.mark.parametrize("law", SHAPED)
@unchecked()
def test_every_draw_reaches_the_optimum_brute_force_finds(law: str, scheme: str, fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted(law, "log")
    weights = _weights(fit, 2, 5) if scheme == "pairs" else None
    observed = None if scheme == "pairs" else _observed(fit, 2, 5)
    found = refit(fit, weights, observed)
    for i in range(2):
        best = _brute_force(fit, None if weights is None else weights[i : i + 1], None if observed is None else observed[i : i + 1])
        assert found.objective[i] <= best * (1 + 1e-9)


@unchecked()
def test_of_many_local_minima_every_draw_finds_its_own_global_one() -> None:
    data, loss = waves()
    fit = fit_law(WAVE, data, loss)
    observed = np.log10(loss) + 0.006 * np.random.default_rng(1).standard_normal((60, len(loss)))
    best, least = least_wave(data, observed, np.ones((60, len(loss))))
    # The draws' best frequencies are three.
    assert all((np.abs(best - w) < 0.7).any() for w in (2.1, 5.3, 9.2))
    found = refit(fit, observed=observed)
    assert (found.objective <= least * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.theta[:, 0], best, atol=0.006)
    assert found.usable.all()


@unchecked()
def test_of_many_local_minima_every_pairs_draw_finds_its_own_global_one() -> None:
    data, loss = waves()
    fit = fit_law(WAVE, data, loss)
    weights = _weights(fit, 60, 2)
    best, least = least_wave(data, np.tile(np.log10(loss), (60, 1)), weights)
    assert np.mean(np.abs(best - fit.parameters["w"]) > 1) > 0.2
    found = refit(fit, weights)
    assert (found.objective <= least * (1 + 1e-9)).all()


@unchecked()
def test_hubers_draws_of_a_linear_law_end_where_their_gradient_is_zero() -> None:
    data = grid()
    for delta in (1e-3, 1e-4):
        fit = fit_law(BILINEAR, data, bilinear_losses(data, noise=0.003), huber(delta))
        observed = _observed(fit, 40, 0)
        found = refit(fit, observed=observed)
        assert found.converged.all()
        basis = np.linalg.qr(BILINEAR.features(np.zeros(0), data))[0]
        r = (fit.law.log10_loss(found.theta, found.beta, data) - observed) * np.log(10)
        # Convex, hence optimal; what is left is rounding of losses near 0.5 beside delta, 1e-16/1e-4, in each of 25 terms.
        np.testing.assert_allclose(np.clip(r, -delta, delta) @ basis / delta, 0, atol=1e-9)


@unchecked()
def test_every_draw_of_eq_1_on_the_default_runs_is_usable(small: Callable[[str], Sample]) -> None:
    """The review's reproducer, 150 of its 1,000 draws: 393 of these were once lost for want of steps."""
    data, loss = small("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    found = refit(fit, observed=_observed(fit, 150, 0))
    assert found.converged.all()
    assert found.usable.all()
    # Most lie at a bound, which is an answer.
    assert 0 < found.at_bound.sum() < 150
    low = fit.problem.limits[0, 0]
    assert (
        found.at_bound == ((found.theta[:, 0] <= low * (1 + 1e-9)) | (found.theta[:, 1] <= 1.001e-6) | (found.theta[:, 1] >= 0.9499))
    ).all()


def test_unfinished_draws_are_counted_apart_from_unidentified_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_law(SEPARABLE, grid(3), bilinear_losses(grid(3)))
    weights = np.stack([(fit.problem.data[N] == 1e8) * 3.0, np.ones(fit.num_runs)])
    assert refit(fit, weights=weights).converged.tolist() == [True, True]
    assert refit(fit, weights=weights).identified.tolist() == [False, True]
    data = grid()
    curved = fit_law(BOUNDED_FLOOR, data, bilinear_losses(data) * (1 + 0.05 / np.sqrt(data["num_experts"])))
    monkeypatch.setattr(refitting, "_STAGES", ((1, False), (1, False)))
    draws = resample(curved, draws=30)
    assert draws.unfinished > 15
    assert draws.unfinished <= draws.failed <= 30
    message = next(warning for warning in warnings_for(curved, "x", draws=draws) if warning.code == "not-identified")
    assert message.severity == "error"
    assert f"{draws.unfinished} did not converge" in message.message


def test_the_number_of_draws_in_a_batch_does_not_matter(fitted: Callable[[str, str], Fit], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted("bounded", "log")
    weights = _weights(fit, 20, 0)
    whole = refit(fit, weights)
    monkeypatch.setattr(refitting, "_CELLS", 7 * fit.num_runs)
    np.testing.assert_allclose(refit(fit, weights).objective, whole.objective, rtol=1e-12)


def test_refitting_the_runs_themselves_is_the_fit(fitted: Callable[[str, str], Fit]) -> None:
    for law in LAWS:
        fit = fitted(law.name, "log")
        for found in (refit(fit, weights=np.ones((1, fit.num_runs))), refit(fit, observed=fit.problem.observed[None])):
            assert found.objective[0] == pytest.approx(fit.certificate.objective, rel=1e-10)
            np.testing.assert_allclose(
                fit.log10_loss(fit.problem.data), law.log10_loss(found.theta[0], found.beta[0], fit.problem.data), atol=1e-7
            )


def test_exactly_one_of_weights_and_losses_is_refitted_to(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("separable", "log")
    with pytest.raises(ValueError, match="one of the two"):
        refit(fit)
    with pytest.raises(ValueError, match="one of the two"):
        refit(fit, np.ones((1, fit.num_runs)), fit.problem.observed[None])
