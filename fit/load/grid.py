"""The runs that one law is fitted to: one router, its dense runs, one architecture (the canonical set of the release).

A law in N and E says nothing of k, of the routing frequency or of widened dense models, so these are held at one value:
k = 1, `flop_increase` = 1, and the routing frequency that most of the router's runs have. On the release that gives
61 / 59 / 62 runs for S-Base / Hash / RL-R, the 8 dense runs included.
"""

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError
from fit.load.design import DENSE, dense_runs, in_order, router_labels
from fit.load.runs import Runs
from fit.load.schema import K, M, R, listed, number, quoted


def routers(runs: Runs) -> tuple[str, ...]:
    """The routers in order of first appearance, "Dense" left out; all runs are one, "all", if no column says."""
    return tuple(router for router in in_order(router_labels(runs.columns)) if router != DENSE)


def dense(runs: Runs) -> Runs:
    """The dense runs: router type "Dense" or one expert, whichever of the two columns is there. There may be none."""
    return runs.keep(dense_runs(runs.columns), "dense runs")


def canonical(runs: Runs, router: str) -> Runs:
    """The runs that a law in N and E is fitted to for `router` (of `routers(runs)`, or "Dense"), each filter logged.

    A filter is applied only if its column is there. A dense run has no routing frequency and may leave k and
    `flop_increase` empty. Raises `InputError` if the router is not there or a filter leaves none of its runs.
    """
    labels = router_labels(runs.columns)
    if router not in labels:
        raise InputError(f"no runs of router {quoted(router)} (routers there: {listed(in_order(labels))})")
    others = [name for name in in_order(labels) if name not in (router, DENSE)]
    if others or router == DENSE:
        reasons = [f"{_runs(labels == name)}: router {name}" for name in others]
        rule = "dense runs" if router == DENSE else f"{router} and dense runs"
        runs = runs.keep((labels == router) | (labels == DENSE), rule, reasons)
    for column in (K, M):
        if runs.has(column):
            runs = _at_one_value(runs, router, column, 1.0, f"{column} == 1")
    if runs.has(R) and router != DENSE:
        routed = ~dense_runs(runs.columns)
        values, counts = np.unique(_values(runs, R)[routed], return_counts=True)
        most = float(values[counts == counts.max()][-1])  # of two equally common ones the larger: our choice
        rule = f"{R} == {number(most)}, as in most {router} runs (dense runs have none)"
        runs = _at_one_value(runs, router, R, most, rule)
    return runs


def _values(runs: Runs, column: str) -> Float[np.ndarray, "runs"]:
    """The column, in which only dense runs may be empty (NaN)."""
    values = runs.columns[column]
    return runs.numeric(column) if (np.isnan(values) & ~dense_runs(runs.columns)).any() else values


def _at_one_value(runs: Runs, router: str, column: str, value: float, rule: str) -> Runs:
    """The runs with `value` in `column`; dense runs also where it is empty, and whatever their routing frequency."""
    values, are_dense = _values(runs, column), dense_runs(runs.columns)
    mask = (values == value) | (are_dense & (np.isnan(values) | (column == R)))
    wanted = mask if router == DENSE else mask & ~are_dense
    there = [number(v) for v in np.unique(values[~mask]).tolist()]
    if not wanted.any():
        raise InputError(f"no {router} run has {column} == {number(value)} ({column} is {listed(there)})")
    reasons = [f"{_runs(~mask & (values == v))}: {column} == {number(v)}" for v in np.unique(values[~mask]).tolist()]
    return runs.keep(mask, rule, reasons)


def _runs(mask: Bool[np.ndarray, "runs"]) -> str:
    many = int(np.count_nonzero(mask))
    return f"{many} run" if many == 1 else f"{many} runs"
