"""Student's t quantile and the tail of F. SciPy has both, but takes longer to import than a whole fit; tests hold these to it."""

import math

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(60)


def t_quantile(level: float, freedom: float) -> float:
    """The value that Student's t with `freedom` degrees of freedom stays below with probability `level`, in (0, 1).

    With x = sqrt(freedom) tan(angle) the density is cos(angle)^(freedom - 1): smooth, so that 60 Gauss-Legendre nodes give its
    integral to rounding, and Newton's method inverts it.
    """
    if not 0 < level < 1 or not freedom >= 1:
        raise ValueError(f"t_quantile takes a level in (0, 1) and freedom of at least 1, not {level} and {freedom}")
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    goal, low, high = abs(level - 0.5), 0.0, math.pi / 2
    angle = min(goal / constant, 1.0)
    for _ in range(200):
        # An integral from 0 to the angle over nodes on [-1, 1].
        mass = constant * angle / 2 * float(_WEIGHTS @ np.cos(angle * (_NODES + 1) / 2) ** (freedom - 1))
        low, high = (angle, high) if mass < goal else (low, angle)
        density = constant * math.cos(angle) ** (freedom - 1)
        step = angle + (goal - mass) / density if density > 0 else math.inf
        moved = step if low < step < high else (low + high) / 2
        if abs(moved - angle) <= 1e-15 * angle:
            break
        angle = moved
    return math.copysign(math.sqrt(freedom) * math.tan(angle), level - 0.5)


def f_tail(f: float, numerator: int, denominator: int) -> float:
    """Probability that F with these degrees of freedom, both at least 1, exceeds `f`: the p-value of an F test.

    With x = denominator/(denominator + numerator f) = sin(angle)^2 it is the integral of sin^(denominator - 1) cos^(numerator - 1), which
    Gauss-Legendre nodes give over the part of the range where it counts.
    """
    if numerator < 1 or denominator < 1:
        raise ValueError(f"f_tail takes degrees of freedom of at least 1, not {numerator} and {denominator}")
    if f <= 0:
        return 1.0
    constant = 2 * math.exp(math.lgamma((numerator + denominator) / 2) - math.lgamma(numerator / 2) - math.lgamma(denominator / 2))
    top = math.asin(math.sqrt(denominator / (denominator + numerator * f)))
    # Far below the top, in units of the integrand's width there, nothing is left.
    low = max(0.0, top - 40 / math.sqrt(denominator)) if denominator > 400 else 0.0
    angle = low + (top - low) * (_NODES + 1) / 2
    return min(1.0, constant * (top - low) / 2 * float(_WEIGHTS @ (np.sin(angle) ** (denominator - 1) * np.cos(angle) ** (numerator - 1))))
