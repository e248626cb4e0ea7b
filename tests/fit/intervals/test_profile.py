"""Profile intervals: against the t interval where that is exact, and brute force where it isn't."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from jaxtyping import Float, Inexact
from scipy.stats import t as student

from common.errors import InputError
from fit.intervals.profile import hold, profile, profile_interval, profiled
from fit.laws import BILINEAR, BOUNDED, BOUNDED_FLOOR, FLOOR, UTILISATION, Law, Shape, stack_features
from fit.laws.saturation import saturate
from fit.solver.losses import Huber, Squared
from fit.solver.solve import Fit, fit_law

Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]
Samples = Callable[[str], Sample]


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
    features=lambda theta, data: stack_features(theta, (data["x"],)),
    shapes=(Shape("offset", low=0.0, high=10.0, points=12, spacing="linear", coordinate="linear"),),
    link=_OffsetLink(),
)
"""The intercept of a straight line, dressed as a shape parameter."""


def _line() -> Sample:
    x = np.linspace(-1, 2, 14)
    return {"x": x}, 3 + 0.2 * x + 0.05 * np.random.default_rng(3).standard_normal(len(x))


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_for_a_parameter_the_loss_is_linear_in_it_is_the_t_interval(level: float) -> None:
    data, loss = _line()
    found = profile_interval(fit_law(LINE, data, loss, Squared()), "offset", level)
    (_, intercept), covariance = np.polyfit(data["x"], loss, 1, cov=True)
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
        e_hat = np.log10(saturate(data["num_experts"], inside, inside / e_max))
        # Centred, so that the design is well conditioned; the intercept takes it up.
        centred = (x - x.mean()) * (e_hat - e_hat.mean(axis=1, keepdims=True))
        ones = np.ones_like(e_hat)
        design = np.stack([(x - x.mean()) * ones, e_hat, centred, ones], axis=-1)
        basis, _ = np.linalg.qr(design)
        rss[i] = np.min(y @ y - np.sum(np.einsum("grf,r->gf", basis, y) ** 2, axis=-1))
    degrees = len(y) - 6
    inside = rss <= rss.min() * (1 + student.ppf(0.975, degrees) ** 2 / degrees)
    return float(e_maxes[inside].min()), float(e_maxes[inside].max())


@pytest.mark.parametrize("router", ["S-Base", "RL-R"])
def test_the_interval_of_e_max_is_that_of_a_fine_grid(simulated: Samples, router: str) -> None:
    data, loss = simulated(router)
    found = profile_interval(fit_law(BOUNDED, data, loss), "E_max")
    low, high = _brute_force(data, loss)
    # Neighbours on the grid are 1.7 % apart: the true ends lie within one step outside the grid's.
    assert found.low == pytest.approx(low, rel=0.02)
    assert found.high == pytest.approx(high, rel=0.02)


CASES = [(BOUNDED, "E_start"), (BOUNDED, "E_max"), (UTILISATION, "B_start"), (UTILISATION, "B_max"), (FLOOR, "L_0")]


@pytest.mark.parametrize(("law", "name"), CASES, ids=[f"{law.name}-{name}" for law, name in CASES])
def test_at_its_ends_the_held_law_fits_as_badly_as_the_level_allows(simulated: Samples, law: Law, name: str) -> None:
    data, loss = simulated("Hash")
    fit = fit_law(law, data, loss)
    found = profile_interval(fit, name)
    degrees = len(loss) - law.num_parameters
    limit = 1 + student.ppf(0.975, degrees) ** 2 / degrees
    assert found.low < found.value < found.high
    for end in (found.low, found.high):
        held = fit_law(hold(law, name, end), data, loss)
        assert held.certificate.objective / fit.certificate.objective == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("name", ["L_0", "E_start", "E_max"])
def test_held_at_its_optimum_a_parameter_leaves_the_fit_as_it_is(simulated: Samples, name: str) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(BOUNDED_FLOOR, data, loss)
    held = fit_law(hold(BOUNDED_FLOOR, name, fit.parameters[name]), data, loss)
    assert held.law.num_parameters == BOUNDED_FLOOR.num_parameters - 1
    assert held.certificate.objective == pytest.approx(fit.certificate.objective, rel=1e-12)
    # The objective is flat to 1e-16 within 1e-8 of the optimum in the parameters' own spread, a few tens of per cent.
    for other, value in fit.parameters.items():
        assert held.parameters[other] == pytest.approx(value, rel=1e-6)


def test_held_elsewhere_it_reports_the_value_and_fits_no_better(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    fit = fit_law(BOUNDED, data, loss)
    values = np.geomspace(20, 5000, 9)
    assert (profile(fit, "E_max", values) >= 1 - 1e-12).all()
    held = fit_law(hold(BOUNDED, "E_max", 100.0), data, loss)
    assert held.parameters["E_max"] == pytest.approx(100, rel=1e-12)
    assert held.theta.shape == (1,)
    assert profile(fit, "E_max", np.array([100.0]))[0] == pytest.approx(held.certificate.objective / fit.certificate.objective, rel=1e-10)


def _unsaturated() -> Fit:
    """Eq. 1 fitted to losses that are a power of E, with noise: nothing bounds E_max from above."""
    n, e = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), 2.0 ** np.arange(8)))
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(n))
    loss = 10 ** (1.1 - 0.07 * np.log10(n) - 0.03 * np.log10(e) + noise)
    return fit_law(BOUNDED, {"dense_parameter_count": n, "num_experts": e}, loss)


def test_an_end_that_the_runs_do_not_set_is_open() -> None:
    found = profile_interval(_unsaturated(), "E_max")
    assert found.high_open
    assert not found.low_open
    # Beyond a million experts, a lower bound of 1 on E_start over one of 10^-6 on rho, nothing is searched.
    assert found.high == pytest.approx(max(1e6, found.value))
    # Ê at E = 128 falls short of E by a tenth at E_max = 1280; these runs tell that, and so set a lower limit.
    assert 128 < found.low < 1280


def test_only_shape_parameters_have_a_profile(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    assert profiled(BOUNDED_FLOOR) == ("L_0", "E_start", "E_max")
    assert profiled(UTILISATION) == ("B_start", "B_max")
    assert profiled(BILINEAR) == ()
    with pytest.raises(InputError, match="no shape parameter 'a' to profile; it has: E_start, E_max"):
        profile_interval(fit_law(BOUNDED, data, loss), "a")


def test_the_f_form_is_refused_for_a_loss_that_is_not_a_square_and_without_degrees_of_freedom(simulated: Samples) -> None:
    data, loss = simulated("S-Base")
    with pytest.raises(InputError, match="squared loss"):
        profile_interval(fit_law(BOUNDED, data, loss, Huber(0.01)), "E_max")
    x = np.array([0.5, 1.0])
    with pytest.raises(InputError, match="more runs than the law's 2 parameters"):
        profile_interval(fit_law(LINE, {"x": x}, 3 + 0.2 * x, Squared()), "offset")
