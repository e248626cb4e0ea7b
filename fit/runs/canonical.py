"""The runs that one law is fitted to: one router, its dense runs, one architecture."""

import numpy as np

from common.errors import InputError
from fit.runs.grid import DENSE, dense_runs, in_order, router_labels
from fit.runs.runs import Runs
from fit.runs.schema import K, M, R, count, listed, number, quoted


def routers(runs: Runs) -> tuple[str, ...]:
    """The routers in order of first appearance, "Dense" left out; all runs are one, "all", if no column says."""
    return tuple(router for router in in_order(router_labels(runs.columns)) if router != DENSE)


def dense(runs: Runs) -> Runs:
    """The dense runs: router type "Dense" or one expert, whichever of the two columns is there. There may be none."""
    return runs.keep(dense_runs(runs.columns), "dense runs")


def canonical(runs: Runs, router: str) -> Runs:
    """The runs that a law in N and E is fitted to for `router` (of `routers(runs)`, or "Dense"), each filter logged.

    Such a law says nothing of k, widened dense models and the routing frequency, so these, where there, are held at one value: 1, 1,
    and what most of the router's runs have (dense runs have none). On the release that leaves 61 / 59 / 62 runs for S-Base / Hash /
    RL-R, the 8 dense ones included. Raises `InputError` if the router is not there or a filter leaves none of its runs.
    """
    labels = router_labels(runs.columns)
    if router not in labels:
        raise InputError(f"no runs of router {quoted(router)} (routers there: {listed(in_order(labels))})")
    others = [name for name in in_order(labels) if name not in (router, DENSE)]
    if others or router == DENSE:
        reasons = [f"{count(int(np.sum(labels == name)))}: router {name}" for name in others]
        rule = "dense runs" if router == DENSE else f"{router} and dense runs"
        runs = runs.keep((labels == router) | (labels == DENSE), rule, reasons)
    for column in (K, M):
        if runs.has(column):
            runs = _at_one_value(runs, router, column, 1.0, f"{column} == 1")
    if runs.has(R) and router != DENSE:
        values, counts = np.unique(runs.columns[R][~dense_runs(runs.columns)], return_counts=True)
        most = float(values[counts == counts.max()][-1])  # of two equally common ones the larger: our choice
        runs = _at_one_value(runs, router, R, most, f"{R} == {number(most)}, as in most {router} runs (dense runs have none)")
    return runs


def _at_one_value(runs: Runs, router: str, column: str, value: float, rule: str) -> Runs:
    """The runs with `value` in `column`; dense runs also where it is empty, and whatever their routing frequency."""
    values, are_dense = runs.columns[column], dense_runs(runs.columns)
    if np.isnan(values[~are_dense]).any():  # only dense runs may leave it empty
        values = runs.numeric(column)
    mask = (values == value) | (are_dense & (np.isnan(values) | (column == R)))
    removed = np.unique(values[~mask]).tolist()
    if not (mask if router == DENSE else mask & ~are_dense).any():
        raise InputError(f"no {router} run has {column} == {number(value)} ({column} is {listed(map(number, removed))})")
    reasons = [f"{count(int(np.sum(~mask & (values == v))))}: {column} == {number(v)}" for v in removed]
    return runs.keep(mask, rule, reasons)
