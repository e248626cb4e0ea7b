"""Columns that follow from others: what laws ask for and a table does not say. Each derivation is a line of the log."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fit.runs.grid import SelectionStep
from fit.runs.runs import Runs
from fit.runs.schema import EXPERT_WIDTH, WIDTH, A, C, D, E, G, K, N, P


class Derivation(NamedTuple):
    """How a column follows from others, in words and in numbers; `reads` are those that must be there; `dense`: of dense runs alone."""

    words: str
    reads: tuple[str, ...]
    values: Callable[[Runs], Float[np.ndarray, "runs"]]
    dense: bool = False

    def holds(self, runs: Runs) -> bool:
        """Whether these runs have it."""
        return all(runs.has(name) for name in self.reads) and not (self.dense and runs.has(E) and bool((runs.columns[E] != 1).any()))


def _activation(runs: Runs) -> Float[np.ndarray, "runs"]:
    """k/E; a dense run uses all it has, whatever its row says of k."""
    e, k = runs.numeric(E), runs.columns[K]
    return np.where(e == 1, 1.0, k / e)


_DERIVED: dict[str, Sequence[Derivation]] = {
    C: (Derivation("C = 6 N D", (N, D), lambda runs: 6 * runs.numeric(N) * runs.numeric(D)),),
    A: (
        Derivation("A = k/E", (E, K), _activation),
        Derivation("A = 1/E, k taken for 1", (E,), lambda runs: 1 / runs.numeric(E)),
    ),
    G: (Derivation("G = d_ff/d_expert", (WIDTH, EXPERT_WIDTH), lambda runs: runs.columns[WIDTH] / runs.columns[EXPERT_WIDTH]),),
    P: (Derivation("P = N, as in dense models", (N,), lambda runs: runs.numeric(N), dense=True),),
}
"""The ways to each column, better ones first. C is the convention of Kaplan et al. 2020, section 2.1; G is Krajewski et al.'s."""


def with_columns(runs: Runs, names: Collection[str]) -> Runs:
    """The runs with these columns as far as they are there or follow from others; the log says what was derived."""
    for name in names:
        way = next((one for one in _DERIVED.get(name, ()) if one.holds(runs)), None)
        if way is not None and not runs.has(name):
            step = SelectionStep(f"no column {name}: {way.words}", len(runs), 0)
            runs = replace(runs, columns={**runs.columns, name: way.values(runs)}, log=(*runs.log, step))
    return runs
