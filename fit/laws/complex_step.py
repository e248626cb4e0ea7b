"""Derivatives by complex steps: f(x + ih) = f(x) + ih f'(x) with h so small that nothing else is left (Squire & Trapp 1998).

numpy's own complex logarithm and exponential serve any imaginary part; these use that it is infinitesimal, to full precision
and several times faster. Laws and links are right with either.
"""

import numpy as np
from jaxtyping import Inexact

STEP = 1e-100
"""h: far below rounding, so that derivatives are exact, and far above underflow."""

_LOG10_E = float(np.log10(np.e))


def log(x: Inexact[np.ndarray, "*shape"]) -> Inexact[np.ndarray, "*shape"]:
    """Natural logarithm of real numbers, or of complex ones with an infinitesimal imaginary part."""
    if not np.iscomplexobj(x):
        return np.log(x)
    out = np.empty_like(x)
    np.log(np.real(x), out=np.real(out))
    np.divide(np.imag(x), np.real(x), out=np.imag(out))
    return out


def log10(x: Inexact[np.ndarray, "*shape"]) -> Inexact[np.ndarray, "*shape"]:
    """The same, base 10."""
    return log(x) * _LOG10_E if np.iscomplexobj(x) else np.log10(x)


def exp(x: Inexact[np.ndarray, "*shape"]) -> Inexact[np.ndarray, "*shape"]:
    """Exponential of real numbers, or of complex ones with an infinitesimal imaginary part."""
    if not np.iscomplexobj(x):
        return np.exp(x)
    out = np.empty_like(x)
    np.exp(np.real(x), out=np.real(out))
    np.multiply(np.imag(x), np.real(out), out=np.imag(out))
    return out
