"""Profile intervals: against the t interval where that is exact, and brute force where it isn't."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from jaxtyping import Float, Inexact
from scipy.stats import t as student

from common.errors import InputError
from fit.engine.hold import hold
from fit.engine.losses import huber, squared
from fit.engine.solve import Fit, fit_law
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, FLOOR, UTILISATION, Law, Shape, stack_features
from fit.uncertainty.profile import profile, profile_interval, profiled
from tests.checks import unchecked
from tests.fit.designs import Sample, e_hat, made_up


@dataclass(frozen=True)
class _OffsetLink:
    """eta = L - offset."""

    num_shapes: int = 1

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return loss - theta[..., :1]

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        return np.log(eta + theta[..., :1]) / np.log(10)


LINE = Law(
    name="line",
    title="A line",
    formula="L = offset + slope x",
    source="a test's own",
    columns=("x",),
    coefficients=("slope",),
    features=lambda theta, data: stack_features(theta, (np.log10(data["x"]),)),
    shapes=(Shape("offset", low=0.0, high=10.0, points=12, spacing="linear", coordinate="linear"),),
    link=_OffsetLink(),
)
"""The intercept of a straight line, dressed as a shape parameter."""


def _line() -> Sample:
    x = np.linspace(-1, 2, 14)
    return {"x": 10**x}, 3 + 0.2 * x + 0.05 * np.random.default_rng(3).standard_normal(len(x))


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_for_a_parameter_the_loss_is_linear_in_it_is_the_t_interval(level: float) -> None:
    data, loss = _line()
    found = profile_interval(fit_law(LINE, data, loss, squared()), "offset", level)
    (_, intercept), covariance = np.polyfit(np.log10(data["x"]), loss, 1, cov=True)
    half = student.ppf((1 + level) / 2, len(loss) - 2) * np.sqrt(covariance[1, 1])
    # The ends are sought to 1e-9, and the optimum found to far less.
    assert found.value == pytest.approx(intercept, abs=1e-8)
    assert found.low == pytest.approx(intercept - half, abs=1e-8)
    assert found.high == pytest.approx(intercept + half, abs=1e-8)
    assert not found.low_open
    assert not found.high_open


def _brute_force(data: Mapping[str, Float[np.ndarray, "runs"]], loss: Float[np.ndarray, "runs"]) -> tuple[float, float]:
    """The interval of E_max under Eq. 1 by the definition: least squares at every point of a fine grid over (E_max, E_start)."""
    e_maxes, e_starts = np.geomspace(50, 20_000, 350), np.geomspace(1, 40, 250)
    x, y = np.log10(data["dense_parameter_count"]), np.log10(loss)
    rss = np.empty(len(e_maxes))
    for i, e_max in enumerate(e_maxes):
        inside = e_starts[e_starts < 0.95 * e_max][:, None]
        log_e = np.log10(e_hat(data["num_experts"], inside, e_max))
        # Centred, so that the design is well conditioned; the intercept takes it up.
        centred = (x - x.mean()) * (log_e - log_e.mean(axis=1, keepdims=True))
        ones = np.ones_like(log_e)
        basis, _ = np.linalg.qr(np.stack([(x - x.mean()) * ones, log_e, centred, ones], axis=-1))
        rss[i] = np.min(y @ y - np.sum(np.einsum("grf,r->gf", basis, y) ** 2, axis=-1))
    degrees = len(y) - 6
    inside = rss <= rss.min() * (1 + student.ppf(0.975, degrees) ** 2 / degrees)
    return float(e_maxes[inside].min()), float(e_maxes[inside].max())


@unchecked()
def test_the_interval_of_e_max_is_that_of_a_fine_grid(simulated: Callable[[str], Sample]) -> None:
    data, loss = simulated("RL-R")
    found = profile_interval(fit_law(BOUNDED, data, loss), "E_max")
    low, high = _brute_force(data, loss)
    # Neighbours on the grid are 1.7 % apart: the true ends lie within one step outside the grid's.
    assert found.low == pytest.approx(low, rel=0.02)
    assert found.high == pytest.approx(high, rel=0.02)


@pytest.mark.parametrize(("law", "name"), [("bounded", "E_start"), ("utilisation", "B_max"), ("floor", "L_0")])
@unchecked()
def test_at_its_ends_the_held_law_fits_as_badly_as_the_level_allows(law: str, name: str, fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted(law, "log")
    found = profile_interval(fit, name)
    limit = 1 + student.ppf(0.975, fit.degrees) ** 2 / fit.degrees
    assert found.low < found.value < found.high
    ends = [end for end, is_open in ((found.low, found.low_open), (found.high, found.high_open)) if not is_open]
    assert ends
    for end in ends:
        held = fit_law(fit.law, *made_up(fit.law), fixed={name: end})
        assert held.certificate.objective / fit.certificate.objective == pytest.approx(limit, rel=1e-6)


def test_a_profile_is_the_held_laws_objective_and_nowhere_below_the_fits(fitted: Callable[[str, str], Fit]) -> None:
    fit = fitted("bounded", "log")
    values = np.geomspace(40, 5000, 5)
    found = [profile(fit, "E_max", float(value)) for value in values]
    assert min(found) >= 1 - 1e-12
    held = fit_law(hold(BOUNDED, "E_max", float(values[2])), *made_up(BOUNDED))
    assert found[2] == pytest.approx(held.certificate.objective / fit.certificate.objective, rel=1e-7)


@pytest.mark.parametrize("bounds", [(1.2, 1.2), (1.0, 1.3)])
@unchecked()
def test_a_profile_keeps_to_the_bounds_of_its_fit(bounds: tuple[float, float]) -> None:
    data, loss = made_up(BOUNDED)
    fit = fit_law(BOUNDED, data, loss, bounds={"E_start": bounds})
    assert profile(fit, "E_max", fit.parameters["E_max"]) == pytest.approx(1, rel=1e-9)
    found = profile_interval(fit, "E_max")
    limit = 1 + student.ppf(0.975, fit.degrees) ** 2 / fit.degrees
    for end in (found.low, found.high):
        held = fit_law(BOUNDED, data, loss, fixed={"E_max": end}, bounds={"E_start": bounds})
        assert held.certificate.objective / fit.certificate.objective == pytest.approx(limit, rel=1e-6)


def test_a_profile_with_two_valleys_finds_the_lower_one_at_every_value() -> None:
    """With the second wave held, the first one's best is between two points of the grid, and a worse one on a point."""
    x = np.linspace(0.05, 6, 40)
    law = Law(
        name="two-waves", title="", formula="", source="a test's own", columns=("x",), coefficients=("u", "v", "d"),
        features=lambda theta, data: stack_features(
            theta, (np.sin(theta[..., 0:1] * data["x"]), np.sin(theta[..., 1:2] * data["x"]), np.ones_like(data["x"]))
        ),
        shapes=(
            Shape("w", low=1.0, high=8.0, points=15, spacing="linear", coordinate="linear"),
            Shape("z", low=8.5, high=12.0, points=10, spacing="linear", coordinate="linear"),
        ),
    )  # fmt: skip
    y = 0.4 + 0.02 * np.sin(2.25 * x) + 0.0193 * np.sin(5.5 * x) + 0.01 * np.sin(10 * x)
    y = y + 0.002 * np.random.default_rng(0).standard_normal(40)
    fit = fit_law(law, {"x": x}, 10**y)
    values = np.array([8.8, 10.0, 11.7])
    found = [profile(fit, "z", float(value)) for value in values]
    for value, ratio in zip(values, found, strict=True):
        w = np.linspace(1, 8, 2000)[:, None]
        basis, _ = np.linalg.qr(np.stack([np.sin(w * x), np.broadcast_to(np.sin(value * x), (2000, 40)), np.ones((2000, 40))], axis=-1))
        least = float((y @ y - np.sum(np.einsum("prf,r->pf", basis, y) ** 2, axis=-1)).min()) / 40
        # The brute-force grid's steps of 0.0035 miss the least by up to 1e-4 of it.
        assert ratio <= least / fit.certificate.objective
        assert ratio == pytest.approx(least / fit.certificate.objective, rel=1e-3)


@unchecked()
def test_an_end_that_the_runs_do_not_set_is_open() -> None:
    n, e = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(8)))
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(n))
    loss = 10 ** (1.1 - 0.07 * np.log10(n) - 0.03 * np.log10(e) + noise)
    found = profile_interval(fit_law(BOUNDED, {"dense_parameter_count": n, "num_experts": e}, loss), "E_max")
    assert (found.low_open, found.high_open) == (False, True)
    # Beyond a million experts, a lower bound of 1 on E_start over one of 10^-6 on rho, nothing is searched.
    assert found.high == pytest.approx(max(1e6, found.value))
    # Ê at E = 128 falls short of E by a tenth at E_max = 1280; these runs tell that, and so set a lower limit.
    assert 128 < found.low < 1280


def test_only_shape_parameters_have_a_profile(fitted: Callable[[str, str], Fit]) -> None:
    assert profiled(BOUNDED_FLOOR) == ("L_0", "E_start", "E_max")
    assert profiled(UTILISATION) == ("B_start", "B_max")
    assert profiled(FLOOR) == ("L_0",)
    assert profiled(BILINEAR) == ()
    with pytest.raises(InputError, match="no shape parameter 'a' to profile; it has: E_start, E_max"):
        profile_interval(fitted("bounded", "log"), "a")


def test_the_f_form_is_refused_for_a_loss_that_is_not_a_square_and_without_degrees_of_freedom() -> None:
    data, loss = _line()
    with pytest.raises(InputError, match="squared loss"):
        profile_interval(fit_law(LINE, data, loss, huber(0.01)), "offset")
    with pytest.raises(InputError, match="more runs than the law's 2 parameters"):
        profile_interval(fit_law(LINE, {"x": data["x"][:2]}, loss[:2], squared()), "offset")
