"""Student's t quantile. SciPy has it, and its import alone takes longer than a whole point fit; tests hold this one against it."""

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
