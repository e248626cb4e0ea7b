"""Profile-likelihood intervals for shape parameters, as they are reported: E_start, E_max, L_0, B_start, B_max.

The valley of Eq. 1 in (b, c, E_start, E_max) is flat and bent, so an interval from derivatives at the optimum misleads, and a
percentile interval rests on the draws. A profile asks the data directly: held at v, how much worse does the best fit become?

    the interval holds every v with   RSS(v) / RSS_min <= 1 + t^2 / (n - p),   t the (1 + level)/2 quantile of Student's t, n - p degrees

the F form (our choice over chi-squared, because n is small); for a parameter that the loss is linear in it is the t interval.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.intervals.student import t_quantile
from fit.laws.interface import Beta, Data, Law, Link, Theta
from fit.solver.losses import SquaredLog
from fit.solver.polish import polish
from fit.solver.problem import Problem
from fit.solver.search import local_minima, project, shape_grid
from fit.solver.solve import Fit

_SCAN = 24
"""Values tried from the optimum to each end of the range, dense near the optimum: a crossing is sought between two of them."""

_STARTS = 3
"""Local minima of the held law's grid that are polished."""


@dataclass(frozen=True)
class ProfileInterval:
    """A parameter and its profile interval, in the law's unit.

    `low_open`, `high_open`: the fit never got bad enough on that side; the end given is then where the search's range ends, and
    the runs set no limit there. Where the interval has a gap its outer ends are given.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class _HeldLink:
    """A link that sees all shape parameters, under a law that has one less."""

    link: Link
    restore: Callable[[Theta], Inexact[np.ndarray, "*batch all_shapes"]]
    num_shapes: int

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The whole law's eta."""
        return self.link.of_loss(loss, self.restore(theta))

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """The whole law's loss."""
        return self.link.log10_loss(eta, self.restore(theta))


@dataclass(frozen=True)
class _Place:
    """Where a reported parameter lives among a law's shapes: itself shape `gone`, or shape `over` divided by shape `gone`."""

    gone: int
    over: int | None
    logarithmic: bool

    def range(self, limits: Float[np.ndarray, "shapes 2"]) -> tuple[float, float]:
        """Least and greatest value that is searched.

        A ratio ends where the bounds of shape `gone` begin to push shape `over` up: E_max at 10^6 experts, where nothing saturates.
        """
        low, high = limits[self.gone]
        if self.over is None:
            return float(low), float(high)
        return float(limits[self.over, 0] / high), float(limits[self.over, 0] / low)


def _place(law: Law, name: str) -> _Place:
    shapes = [shape.name for shape in law.shapes]
    if name in shapes and name in law.parameter_names:
        return _Place(shapes.index(name), None, law.shapes[shapes.index(name)].spacing == "log")
    if name in law.ratios:
        over, under = law.ratios[name]
        return _Place(shapes.index(under), shapes.index(over), True)
    there = ", ".join(profiled(law)) or "none"
    raise InputError(f"law {law.name!r} has no shape parameter {name!r} to profile; it has: {there}")


def profiled(law: Law) -> tuple[str, ...]:
    """The reported parameters of a law that a profile interval can be had for."""
    shapes = {shape.name for shape in law.shapes}
    return tuple(name for name in law.parameter_names if name in shapes or name in law.ratios)


def hold(law: Law, name: str, value: float) -> Law:
    """The law with a shape parameter held at `value` (in its reported unit), and one shape less to fit.

    It reports the same parameters, the held one among them. E_max = E_start/rho is held by rho = E_start/value, E_start bounded so that rho
    stays within its own bounds. Raises `InputError` for a parameter that is not a shape.
    """
    place = _place(law, name)
    left = tuple(k for k in range(len(law.shapes)) if k != place.gone)

    def restore(theta: Theta) -> Inexact[np.ndarray, "*batch all_shapes"]:
        """All shape parameters, the held one among them."""
        if place.over is None:
            filled = np.full_like(theta, value, shape=(*theta.shape[:-1], 1))
        else:
            kept = left.index(place.over)
            filled = theta[..., kept : kept + 1] / value
        return np.concatenate([theta[..., : place.gone], filled, theta[..., place.gone :]], axis=-1)

    def features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs features"]:
        """The whole law's features."""
        return law.features(restore(theta), data)

    def report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
        """The whole law's parameters."""
        return law.parameter_values(restore(theta), beta)

    def bounds(data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
        """Bounds of the shapes that are left."""
        limits = law.limits(data, loss)
        if place.over is not None:
            low, high = limits[place.gone] * value
            limits[place.over] = np.clip(limits[place.over], low, high)
        return tuple((float(limits[k, 0]), float(limits[k, 1])) for k in left)

    return replace(
        law,
        name=f"{law.name} at {name} = {value:g}",
        features=features,
        shapes=tuple(law.shapes[k] for k in left),
        link=_HeldLink(law.link, restore, len(left)),
        parameters=law.parameter_names,
        report=report,
        bounds=bounds,
        ratios={},
    )


def profile(fit: Fit, name: str, values: Float[np.ndarray, "values"]) -> Float[np.ndarray, "values"]:
    """RSS(v)/RSS_min: the least objective with the parameter held at each value, over the fit's own.

    Every value gets a global search of its own over what is left. `values` in the reported unit, within the range searched.
    """
    _check(fit)
    return np.array([_ratio(fit, name, float(value)) for value in values])


def profile_interval(fit: Fit, name: str, level: float = 0.95) -> ProfileInterval:
    """The profile interval of a shape parameter at this confidence level.

    Raises `InputError` for a parameter that is not a shape, for a loss that is not a square (the F form has no meaning there)
    and where no residual degrees of freedom are left.
    """
    place = _place(fit.law, name)
    _check(fit)
    degrees = fit.num_runs - fit.law.num_parameters
    most = 1 + t_quantile((1 + level) / 2, float(degrees)) ** 2 / degrees
    value = fit.parameters[name]
    to, back = (np.log, np.exp) if place.logarithmic else (float, float)

    def excess(u: float) -> float:
        """By how much the fit is too bad there: negative within the interval."""
        return _ratio(fit, name, float(back(u))) - most

    low, high = place.range(fit.problem.limits)
    bounds = min(low, value), max(high, value)
    ends = [_end(excess, float(to(value)), float(to(bound))) for bound in bounds]
    (low, low_open), (high, high_open) = ((float(back(u)), is_open) for u, is_open in ends)
    return ProfileInterval(name, value, low, high, level, low_open, high_open)


def _end(excess: Callable[[float], float], start: float, bound: float) -> tuple[float, bool]:
    """Where `excess` crosses nought for the last time on the way from `start` to `bound`; or the bound, if it ends below."""
    from scipy.optimize import root_scalar

    scan = start + (bound - start) * (np.arange(1, _SCAN + 1) / _SCAN) ** 2
    inside = np.array([True, *(excess(float(u)) <= 0 for u in scan)])
    if inside[-1]:
        return bound, True
    last = int(np.flatnonzero(inside)[-1])
    before = start if last == 0 else float(scan[last - 1])
    return float(root_scalar(excess, bracket=(before, float(scan[last])), method="brentq", xtol=1e-9).root), False


def _check(fit: Fit) -> None:
    if not isinstance(fit.problem.loss, SquaredLog):
        raise InputError(f"a profile interval needs a squared loss, and this fit minimises {fit.problem.loss.name}")
    if fit.num_runs <= fit.law.num_parameters:
        raise InputError(f"a profile interval needs more runs than the law's {fit.law.num_parameters} parameters")


def _ratio(fit: Fit, name: str, value: float) -> float:
    whole = fit.problem
    law = hold(fit.law, name, value)
    problem = replace(whole, law=law, limits=law.limits(whole.data, 10**whole.observed))
    return _least_objective(problem) / max(fit.certificate.objective, 1e-300)


def _least_objective(problem: Problem) -> float:
    """The global minimum, as `fit_law` finds it; a law that is not identified has one too, and no certificate."""
    grid, counts = shape_grid(problem)
    beta = project(problem, grid)
    met = problem.objective(problem.residuals(grid, beta, problem.observed[None]), None)
    start = np.zeros(1, dtype=np.int64) if not counts else local_minima(met[None], counts, most=min(_STARTS, len(grid)))[1]
    found = polish(problem, grid[start], beta[start], tolerance=1e-14, max_steps=60)
    return float(found.objective.min())
