"""The runs that one law is fitted to: one router, its dense runs, one architecture."""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.runs.grid import ALL_ROUTERS, DENSE, dense_runs, in_order, router_labels
from fit.runs.runs import Runs
from fit.runs.schema import A, G, K, M, R, count, listed, number, quoted


def routers(runs: Runs, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The routers in order of first appearance, "Dense" left out; all runs are one, "all", if no column says. With `names` those of them.

    A name with a comma is one name where there is such a router, else several. Raises `InputError` for a name that is not there.
    """
    there = tuple(router for router in in_order(router_labels(runs.columns)) if router != DENSE)
    chosen = tuple(part.strip() for name in names for part in ([name] if name in there else name.split(",")) if part.strip())
    for name in chosen:
        if name not in there:
            raise InputError(f"no runs of router {quoted(name)}; the routers there: {listed(there) or 'none: all runs are dense'}")
    return tuple(dict.fromkeys(chosen)) or there


def dense(runs: Runs) -> Runs:
    """The dense runs: router type "Dense" or one expert, whichever of the two columns is there. There may be none."""
    return runs.keep(dense_runs(runs.columns), "dense runs")


def canonical(runs: Runs, router: str, reads: Collection[str] = ()) -> Runs:
    """The runs that a law is fitted to for `router` (of `routers(runs)`, or "Dense"), each filter logged; `reads` are the law's columns.

    A law in N and E says nothing of k, granularity, widened dense models and the routing frequency, so each of these, where there and not
    read, is held at the value that most of the router's runs have, and the dense ones at what most of them have. On the release that leaves
    61 / 59 / 62 runs for S-Base / Hash / RL-R, the 8 dense ones included. Raises `InputError` if the router is not there.
    """
    labels = router_labels(runs.columns)
    if router not in labels:
        raise InputError(f"no runs of router {quoted(router)} (routers there: {listed(in_order(labels))})")
    others = [name for name in in_order(labels) if name not in (router, DENSE)]
    if others or router == DENSE:
        reasons = [f"{count(int(np.sum(labels == name)))}: router {name}" for name in others]
        rule = "dense runs" if router == DENSE else f"{router} and dense runs"
        runs = runs.keep((labels == router) | (labels == DENSE), rule, reasons)
    free = {*reads, *((K,) if A in reads else ())}
    for column in (K, M, R, G):
        if runs.has(column) and column not in free and not (column in (R, G) and router == DENSE):
            runs = _at_one_value(runs, router, column)
    return runs


def _at_one_value(runs: Runs, router: str, column: str) -> Runs:
    """The runs with the commonest value in `column`, of the router's and of the dense ones; an empty cell is right in a dense run alone."""
    values, are_dense = runs.columns[column], dense_runs(runs.columns)
    routed = are_dense if are_dense.all() else ~are_dense
    empty, kind = np.isnan(values), "routed" if router == ALL_ROUTERS else router
    if empty[routed].all():
        return runs.keep(np.ones(len(runs), dtype=np.bool_), f"{column} is empty in every {kind} run")
    most = _commonest(values[routed], column)
    mask = (values == most) | (empty & are_dense) | ((column in (R, G)) & are_dense)
    several = len(np.unique(values[routed & ~empty])) > 1
    rule = f"{column} == {number(most)}" + (f", as in most {kind} runs" if several else "")
    # Dense runs may name another k than routed ones, such as 1.
    if are_dense.any() and not (mask & are_dense).any():
        mask |= are_dense & (values == _commonest(values[are_dense], column))
    reasons = [f"{count(int(np.sum(~mask & (values == v))))}: {column} == {number(v)}" for v in np.unique(values[~mask & ~empty]).tolist()]
    if left_empty := int(np.sum(~mask & empty)):
        reasons.append(f"{count(left_empty)}: {column} is empty")
    return runs.keep(mask, rule, reasons)


def _commonest(values: Float[np.ndarray, "runs"], column: str) -> float:
    """The commonest value; of equally common ones the larger routing frequency, and the smaller k and widening: our choice."""
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return float(found[counts == counts.max()][-1 if column == R else 0])
