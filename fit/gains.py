"""Does the gain from experts shrink as models grow? At fixed tokens, at tokens in proportion to size, and at fixed compute.

The gain is EPC/N: how many times its size a dense model needs, on the same tokens, to reach the routed one's loss. It is followed from the
smallest to the largest size of the runs, along a path through the middle of their tokens. Clark et al. ask at fixed tokens alone.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from fit.laws import Law
from fit.laws.interface import Beta, Theta
from fit.quantities import effective_parameter_count, has_epc
from fit.runs.schema import D, E, N
from fit.uncertainty.delta import Quantity

Path = Float[np.ndarray, "2"]

PATHS = ("fixed tokens", "tokens in proportion to N", "fixed compute")
"""How tokens go with size: D constant, D/N constant, N D constant."""


def tokens_along(path: str, sizes: Path, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Path:
    """Tokens at these two sizes, on the path through the geometric means of the runs' sizes and tokens."""
    n, d = (float(np.exp(np.log(data[name]).mean())) for name in (N, D))
    power = {"fixed tokens": 0.0, "tokens in proportion to N": 1.0, "fixed compute": -1.0}[path]
    return d * (sizes / n) ** power


def paths_of(law: Law) -> tuple[str, ...]:
    """The paths that a law can be asked along: all, or none for a law that does not know tokens."""
    return PATHS if has_epc(law) and D in law.columns else ()


def gain_ratio(law: Law, data: Mapping[str, Float[np.ndarray, "runs"]], path: str, experts: float) -> Quantity:
    """EPC/N at the largest size over that at the smallest along `path`, with `experts`: below 1 the gain shrinks, above 1 it grows.

    Infinite or 0 where no dense model reaches the routed one's loss at one of the two; NaN where at neither.
    """
    sizes = np.array([data[N].min(), data[N].max()])
    others = {D: tokens_along(path, sizes, data)}

    def _ratio(theta: Theta, beta: Beta) -> Float[np.ndarray, "*batch 1"]:
        worth = effective_parameter_count(law, np.real(theta), beta, sizes, np.full(2, experts), others) / sizes
        with np.errstate(invalid="ignore", divide="ignore"):
            return worth[..., 1:] / worth[..., :1]

    return _ratio


def most_experts(data: Mapping[str, Float[np.ndarray, "runs"]]) -> float:
    """E = 64, or the runs' largest below it."""
    return min(64.0, float(data[E].max()))
