"""Profile-likelihood intervals for shape parameters, as they are reported: E_start, E_max, L_0, B_start, B_max.

The valley of Eq. 1 in (b, c, E_start, E_max) is flat and bent, so an interval from derivatives at the optimum misleads, and a
percentile interval rests on the draws. A profile asks the data directly: held at v, how much worse does the best fit become?

    the interval holds every v with   RSS(v) / RSS_min <= 1 + t^2 / (n - p),   t the (1 + level)/2 quantile of Student's t, n - p degrees

the F form (our choice over chi-squared, because n is small); for a parameter that the loss is linear in it is the t interval.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.errors import InputError
from fit.engine.hold import hold
from fit.engine.solve import Fit, solve
from fit.laws.interface import Law
from fit.uncertainty.distributions import t_quantile

_SCAN = 16
"""Values tried from the optimum to each end of the range, dense near the optimum: a crossing is sought between two of them."""


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


def profiled(law: Law) -> tuple[str, ...]:
    """The reported parameters of a law that a profile interval can be had for."""
    shapes = {shape.name for shape in law.shapes}
    return tuple(name for name in law.parameter_names if name in shapes or name in law.ratios)


def _range(fit: Fit, name: str) -> tuple[float, float, bool]:
    """Least and greatest value that is searched, and whether on a log scale.

    A ratio ends where the bounds of its denominator begin to push its numerator up: E_max at 10^6 experts, where nothing saturates.
    """
    law, shapes = fit.law, [shape.name for shape in fit.law.shapes]
    if name in shapes and name in law.parameter_names:
        low, high = fit.problem.limits[shapes.index(name)]
        return float(low), float(high), law.shapes[shapes.index(name)].spacing == "log"
    if name in law.ratios:
        over, under = (fit.problem.limits[shapes.index(part)] for part in law.ratios[name])
        return float(over[0] / under[1]), float(over[0] / under[0]), True
    raise InputError(f"law {law.name!r} has no shape parameter {name!r} to profile; it has: {', '.join(profiled(law)) or 'none'}")


def profile(fit: Fit, name: str, value: float) -> float:
    """RSS(v)/RSS_min: the least objective with the parameter held at a value, in its reported unit, over the fit's own.

    What is left of the law gets a global search of its own.
    """
    whole = fit.problem
    if name in fit.law.ratios:
        # Bounds of the fit's own hold in its profile too.
        own = tuple((float(low), float(high)) for low, high in whole.limits)
        law = hold(replace(fit.law, bounds=lambda data, loss: own), name, value)
        problem = replace(whole, law=law, limits=law.limits(whole.data, 10**whole.observed))
    else:
        limits = whole.limits.copy()
        limits[[shape.name for shape in fit.law.shapes].index(name)] = value
        problem = replace(whole, limits=limits)
    return solve(problem, confirm=False).certificate.objective / max(fit.certificate.objective, 1e-300)


def profile_interval(fit: Fit, name: str, level: float = 0.95) -> ProfileInterval:
    """The profile interval of a shape parameter at this confidence level.

    Raises `InputError` for a parameter that is not a shape, for a loss that is not a square (the F form has no meaning there)
    and where no residual degrees of freedom are left.
    """
    low, high, logarithmic = _range(fit, name)
    if np.isfinite(fit.problem.loss.delta):
        raise InputError(f"a profile interval needs a squared loss, and this fit minimises {fit.problem.loss.name}")
    if fit.degrees < 1:
        raise InputError(f"a profile interval needs more runs than the law's {fit.problem.num_free} parameters")
    most = 1 + t_quantile((1 + level) / 2, float(fit.degrees)) ** 2 / fit.degrees
    value = fit.parameters[name]
    to, back = (np.log, np.exp) if logarithmic else (float, float)

    def excess(u: float) -> float:
        """By how much the fit is too bad there: negative within the interval."""
        return profile(fit, name, float(back(u))) - most

    ends = [_end(excess, float(to(value)), float(to(bound))) for bound in (min(low, value), max(high, value))]
    (low, low_open), (high, high_open) = ((float(back(u)), is_open) for u, is_open in ends)
    return ProfileInterval(name, value, low, high, level, low_open, high_open)


def _end(excess: Callable[[float], float], start: float, bound: float) -> tuple[float, bool]:
    """Where `excess` crosses zero for the last time on the way from `start` to `bound`; or the bound, if it ends below."""
    from scipy.optimize import root_scalar

    scan = start + (bound - start) * (np.arange(1, _SCAN + 1) / _SCAN) ** 2
    inside = np.array([True, *(excess(float(u)) <= 0 for u in scan)])
    if inside[-1]:
        return bound, True
    last = int(np.flatnonzero(inside)[-1])
    before = start if last == 0 else float(scan[last - 1])
    return float(root_scalar(excess, bracket=(before, float(scan[last])), method="brentq", xtol=1e-9).root), False
