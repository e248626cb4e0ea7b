"""A line in log E for every model size: log L_N(E) = b(N) log E + d(N), the paper's first look at the gain from experts."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Inexact

from fit.laws.interface import Data, Law, Theta, stack_features


def per_size(sizes: Iterable[float]) -> Law:
    """The law for these values of N: one slope b and one intercept d for each, smallest first.

    `sizes` in parameters, as they stand in the runs. A size met with one expert count only has no slope: leave it out.
    """
    ordered = tuple(sorted({float(size) for size in sizes}))

    def _features(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs features"]:
        log_e = np.log10(data["num_experts"])
        here = [(data["dense_parameter_count"] == size).astype(np.float64) for size in ordered]
        return stack_features(theta, (*(mask * log_e for mask in here), *here))

    labels = tuple(f"{size:.4g}" for size in ordered)
    return Law(
        name="per-size",
        title="A slope per size",
        formula="log L_N(E) = b(N) log E + d(N)",
        source="the paper, section 4 (fits at one N)",
        columns=("dense_parameter_count", "num_experts"),
        coefficients=(*(f"b({label})" for label in labels), *(f"d({label})" for label in labels)),
        features=_features,
        signs={f"b({label})": -1 for label in labels},
    )
