"""Made-up runs of known laws, without noise, for files in other people's layouts."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

import fit
from fit.runs import Runs, canonical

HOFFMANN: Mapping[str, float] = {"L_0": 1.69, "A": 406.4, "a": 0.34, "B": 410.7, "b": 0.28}
"""L = L_0 + A N^-a + B D^-b, Hoffmann et al. 2022, section D.3."""

DENSE_FLOOR: Mapping[str, float] = {"L_0": 1.8, "C": 480.0, "a": 0.33}
"""L = L_0 + C N^-a: our choice."""

S_BASE: Mapping[str, float] = {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104}
"""log10 L = a log10 N + b log10 E + c log10 N log10 E + d, Clark et al. 2022, Table 3 (S-Base)."""

SIZES, TOKENS, EXPERTS = (10e6, 30e6, 100e6, 300e6, 1e9), (1e9, 3e9, 10e9, 30e9), (1, 4, 16, 64)


def dense_runs() -> list[dict[str, float]]:
    """N, D and loss of every size at every number of tokens."""
    p = HOFFMANN
    grid = product(SIZES, TOKENS)
    return [{"N": n, "D": d, "loss": p["L_0"] + p["A"] * n ** -p["a"] + p["B"] * d ** -p["b"]} for n, d in grid]


def routed_runs() -> list[dict[str, float]]:
    """N, E and loss of every size with every number of experts, 1 among them."""
    p, runs = S_BASE, list[dict[str, float]]()
    for n, e in product(SIZES, EXPERTS):
        x, y = float(np.log10(n)), float(np.log10(e))
        runs.append({"N": n, "E": e, "loss": 10 ** (p["a"] * x + p["b"] * y + p["c"] * x * y + p["d"])})
    return runs


def loss_of_size(n: float) -> float:
    """The loss of `DENSE_FLOOR`."""
    return DENSE_FLOOR["L_0"] + DENSE_FLOOR["C"] * n ** -DENSE_FLOOR["a"]


def table(rows: list[dict[str, Any]], separator: str = ",") -> str:
    """The rows as text, numbers with all their digits."""
    return "\n".join([separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows), ""])


def parameters(law: str, runs: Runs, router: str = "Dense") -> dict[str, float]:
    """The law's parameters, fitted to the canonical runs."""
    chosen, fitted = canonical(runs, router), fit.law_named(law)
    return fit.fit_law(fitted, {name: chosen.numeric(name) for name in fitted.columns}, chosen.loss).parameters


def assert_law(law: str, truth: Mapping[str, float], runs: Runs, router: str = "Dense") -> None:
    """The runs have the law's coefficients: to 1e-6, since logs end 1e-7 above the curve."""
    assert parameters(law, runs, router) == pytest.approx(truth, rel=1e-6)
