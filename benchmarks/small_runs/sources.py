"""What `docs/small_runs.md` is made from: two sets of runs with every law fitted, and what only the small ones have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fit.analysis import DENSE_ROUTER, Analysis, Result
from fit.laws import DENSE
from fit.runs import Runs, canonical

ROUTERS = ("S-Base", "Hash", "RL-R")


@dataclass(frozen=True)
class Scale:
    """One set of runs with every law fitted."""

    name: str
    analysis: Analysis

    @property
    def runs(self) -> Runs:
        """All of its runs."""
        return self.analysis.runs

    def sizes(self) -> list[float]:
        """The dense sizes, smallest first."""
        return np.unique(self.runs.numeric("dense_parameter_count")).tolist()

    def dense(self, law: str = DENSE.name) -> Result:
        """The power law fitted to the dense runs, or another law of theirs; `InputError` where they do not identify it."""
        return self.analysis.result(DENSE_ROUTER, law)


@dataclass(frozen=True)
class Sources:
    """All that the page is made from."""

    ours: Scale
    release: Scale
    variants: Runs
    """Runs of the routers in other forms, each in a column `variant`."""
    watched: Sequence[Mapping[str, str]]
    """Evaluations of the grid's own forms at shorter intervals."""
    choices: Mapping[str, Any]
    """How much information the choices of the trained routers carry on the token (`benchmarks.small_runs.choices`)."""
    standing: Mapping[str, Any]
    """Losses of models whose choices stand from the first step, and of ones whose choices drift (`benchmarks.small_runs.standing`)."""
    dense: Runs
    """Dense models of several numbers of tokens."""

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """The small runs, then the released ones."""
        return self.ours, self.release


def loss_at(runs: Runs, router: str, n: float, e: float, *, seed: float | None = None, target: str = "") -> float:
    """The loss of this model, nats per token: of one seed, or the mean of all there are; NaN if there is none."""
    chosen = canonical(runs, "Dense" if e == 1 else router)
    there = (chosen["dense_parameter_count"] == n) & (chosen["num_experts"] == e)
    if seed is not None:
        there &= chosen["seed"] == seed
    values = chosen.columns[target or chosen.target][there]
    return float(np.mean(values)) if len(values) else float("nan")
