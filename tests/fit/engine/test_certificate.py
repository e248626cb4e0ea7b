"""Each of the three things a certificate says can be false, each is warned about, and the rule for parameters is one for fit and draws."""

from collections.abc import Callable

import numpy as np
import pytest

import fit.engine.solve as solving
from fit.diagnose import warnings_for
from fit.engine.polish import Solutions, polish
from fit.engine.problem import Problem
from fit.engine.refit import refit
from fit.engine.solve import IDENTIFIED, Fit, condition_numbers, fit_law
from fit.laws import BILINEAR, BOUNDED, SEPARABLE, UTILISATION
from fit.runs.schema import E, N
from fit.uncertainty.draws import resample
from fit.uncertainty.intervals import estimates
from tests.checks import unchecked
from tests.fit.designs import WAVE, Sample, bilinear_losses, grid, made_up, waves


def _codes(fit: Fit) -> dict[str, str]:
    return {warning.code: warning.severity for warning in warnings_for(fit, "x")}


def test_a_polish_stopped_early_is_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    data, loss = made_up(BOUNDED)

    def stopped(*args: object, max_steps: int = 1, newton: bool = False, **others: object) -> Solutions:
        return polish(*args, **(others | {"max_steps": 1}))  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(solving, "polish", stopped)
    fit = fit_law(BOUNDED, data, loss)
    assert not fit.certificate.converged
    assert fit.certificate.remaining > 1e-12
    assert not fit.certificate.certified
    assert _codes(fit)["not-converged"] == "error"


@unchecked()
def test_searches_that_end_at_different_optima_do_not_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    data, loss = waves()
    ends = [2.1, 5.3, 9.2, 3.5, 7.0, 10.5]

    def elsewhere(problem: Problem, which: int) -> Solutions:
        """Every search finds another local minimum only."""
        return polish(problem, np.array([[ends[which]]]), max_steps=50)

    monkeypatch.setattr(solving, "search", elsewhere)
    certificate = fit_law(WAVE, data, loss).certificate
    assert (certificate.confirmed, certificate.agreeing, certificate.searches) == (False, 1, 6)
    assert certificate.converged
    assert not certificate.certified
    assert _codes(fit_law(WAVE, data, loss))["not-confirmed"] == "warning"


def test_the_least_of_all_searches_is_given_and_two_that_agree_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    data, loss = waves()
    whole = fit_law(WAVE, data, loss)
    best = whole.parameters["w"]
    other = next(w for w in (2.1, 5.3, 9.2) if abs(w - best) > 1)
    order = [other, best, other, best]

    monkeypatch.setattr(solving, "search", lambda problem, which: polish(problem, np.array([[order[which]]]), max_steps=50))
    fit = fit_law(WAVE, data, loss)
    # Two that agree above the least do not confirm it: the fourth search does.
    assert (fit.certificate.searches, fit.certificate.agreeing, fit.certificate.confirmed) == (4, 2, True)
    assert fit.parameters["w"] == pytest.approx(best, rel=1e-8)


@pytest.mark.parametrize(
    ("n", "e"),
    [
        ([1e7] * 12, [1.0, 2.0, 4.0, 8.0] * 3),
        ([1e7, 1e8, 1e9] * 4, [8.0] * 12),
        ([1e7, 1e8] * 6, [2.0, 8.0] * 6),
        ([1e7, 1e8, 1e9] * 4, [1.0, 8.0, 64.0] * 4),
    ],
    ids=["one-size", "one-expert-count", "two-settings", "size-and-experts-together"],
)  # fmt: skip
def test_a_design_that_does_not_tell_parameters_apart_is_not_identified_in_fit_and_draws(n: list[float], e: list[float]) -> None:
    data = {N: np.array(n), E: np.array(e)}
    fit = fit_law(SEPARABLE if len(set(n)) == 3 else BILINEAR, data, bilinear_losses({N: data[N], E: data[E]}))
    assert not fit.certificate.identified
    assert fit.certificate.condition > IDENTIFIED
    assert not fit.certificate.certified
    refits = refit(fit, observed=np.tile(fit.problem.observed, (3, 1)))
    assert not refits.identified.any()
    assert not refits.usable.any()
    assert {one.status.value for one in estimates(fit, resample(fit, draws=50), fit.law.parameter_values)} == {"not identified"}


def test_fit_and_draws_go_by_one_condition_number_and_one_limit() -> None:
    """Sizes that differ in the seventh or eighth digit: slope and intercept move as one, on either side of the limit."""
    both: list[bool] = []
    for spread in (3e-8, 1e-7, 3e-7, 1e-6, 1e-5):
        data = {N: 1e8 * (1 + spread * np.repeat(np.arange(5.0), 4)), E: np.tile([1.0, 4.0, 16.0, 64.0], 5)}
        fit = fit_law(SEPARABLE, data, bilinear_losses({N: data[N], E: data[E]}))
        refits = refit(fit, observed=fit.problem.observed[None])
        assert refits.identified[0] == fit.certificate.identified == (fit.certificate.condition <= 1e7)
        both.append(bool(fit.certificate.identified))
    assert set(both) == {True, False}


def test_the_condition_number_is_numpys() -> None:
    fit = fit_law(BOUNDED, *made_up(BOUNDED))
    jacobian = fit.derivatives / np.linalg.norm(fit.derivatives, axis=0)
    # numpy's, of a condition of about 1e3 from derivatives good to 1e-16.
    assert fit.certificate.condition == pytest.approx(np.linalg.cond(jacobian), rel=1e-9)
    weights = np.random.default_rng(0).integers(0, 3, (2, fit.num_runs)).astype(np.float64)
    both = condition_numbers(fit.problem.resampled(weights, None), fit.theta[None].repeat(2, 0), fit.beta[None].repeat(2, 0))
    for row, found in zip(weights, both, strict=True):
        rows = fit.derivatives * np.sqrt(row)[:, None]
        assert found == pytest.approx(np.linalg.cond(rows / np.linalg.norm(rows, axis=0)), rel=1e-9)


def test_a_resample_of_one_size_alone_is_not_identified() -> None:
    fit = fit_law(SEPARABLE, grid(3), bilinear_losses(grid(3)))
    weights = np.stack([(fit.problem.data[N] == 1e8) * 3.0, np.ones(fit.num_runs)])
    refits = refit(fit, weights=weights)
    np.testing.assert_array_equal(refits.identified, [False, True])
    np.testing.assert_array_equal(refits.usable, [False, True])


@pytest.mark.parametrize("router", ["S-Base", "Hash", "RL-R"])
@unchecked()
def test_eq_2_on_runs_of_one_k_and_r_is_not_identified(small: Callable[[str], Sample], router: str) -> None:
    assert not fit_law(UTILISATION, *small(router)).certificate.identified


def test_eq_1_on_the_default_rl_r_runs_is_not_identified(small: Callable[[str], Sample]) -> None:
    assert not fit_law(BOUNDED, *small("RL-R")).certificate.identified


def test_saturation_that_the_runs_do_not_show_ends_at_a_bound_and_is_warned_about() -> None:
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(9)))
    # Losses that fall faster with every further doubling of E: no curve that saturates can follow.
    loss = 10 ** (1.1 - 0.08 * np.log10(n) - 0.03 * np.log10(e) - 0.001 * np.log10(e) ** 2)
    fit = fit_law(BOUNDED, {N: n, E: e}, loss)
    assert "rho" in fit.certificate.at_bounds
    message = next(
        warning.message for warning in warnings_for(fit, "x") if warning.code == "at-bound" and warning.message.startswith("rho")
    )
    assert message == "rho (E_max = E_start/rho) ended at the end of its range: the runs set no limit there"


def test_a_fixed_parameter_is_at_no_bound() -> None:
    data, loss = made_up(BOUNDED)
    assert fit_law(BOUNDED, data, loss, fixed={"E_start": 2.0, "c": 0.0}).certificate.at_bounds == ()


def test_a_coefficient_held_by_its_bound_is_named() -> None:
    data, loss = made_up(BILINEAR)
    assert fit_law(BILINEAR, data, loss, bounds={"c": (0.01, 1.0)}).certificate.at_bounds == ("c",)
