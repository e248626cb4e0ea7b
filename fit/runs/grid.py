"""What the runs cover: routers, model sizes, numbers of experts; the runs that one law is fitted to; what is missing or doubled.

A size here is a `dense_parameter_count` (N); `model_size_label` is a label only. A run with one expert is dense whatever its
router is called, since E = 1 is the dense model for every technique (the release's README).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Int, Shaped

from fit.runs.schema import ROUTER, SEED, SIZE_LABEL, STEP, C, D, E, K, M, N, R, U, count, listed, number

# One entry per run: numbers as float64, text as numpy strings.
Columns = Mapping[str, Shaped[np.ndarray, "runs"]]

DENSE, ALL_ROUTERS, UNNAMED = "Dense", "all", "unnamed"
ASKED = ("rows-left-out", "small-sizes", "loss-unit", "flops-unit", "no-tokens")
"""Codes of warnings that change what every figure means: what was left out, and what may be in another unit."""
# Warnings name this many sizes, settings or cells and count the rest.
_MOST = 8


@dataclass(frozen=True)
class DataWarning:
    """Something a reader of the results must know about the runs: a code that does not change, and one line."""

    code: str
    message: str


@dataclass(frozen=True)
class SelectionStep:
    """One line of the selection log: what was done, the runs (or rows, before there are runs) left after it, those it removed, and why."""

    rule: str
    kept: int
    dropped: int
    reasons: tuple[str, ...] = ()


def codes(columns: Sequence[Shaped[np.ndarray, "runs"]]) -> Int[np.ndarray, "runs"]:
    """A number for every run, the same for runs equal in all of `columns` (at least one). Empty cells (NaN) are equal to each other."""
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for values in columns:
        distinct, inverse = np.unique(values, return_inverse=True)
        found = np.unique(found * len(distinct) + inverse, return_inverse=True)[1]
    return found


def dense_runs(columns: Columns) -> Bool[np.ndarray, "runs"]:
    """Which runs are dense: router type "Dense", or one expert; none if neither column is there."""
    dense = np.zeros(len(next(iter(columns.values()))), dtype=np.bool_)
    if ROUTER in columns:
        dense |= np.strings.lower(columns[ROUTER]) == DENSE.lower()
    return dense | (columns[E] == 1) if E in columns else dense


def router_labels(columns: Columns) -> Shaped[np.ndarray, "runs"]:
    """Each run's router, "Dense" for dense runs; the others are one router called "all" if there is no `router_type`."""
    dense = dense_runs(columns)
    named = np.where(columns[ROUTER] == "", UNNAMED, columns[ROUTER]) if ROUTER in columns else np.full(len(dense), ALL_ROUTERS)
    return np.where(dense, DENSE, named)


def in_order(labels: Shaped[np.ndarray, "runs"]) -> tuple[str, ...]:
    """Distinct labels in order of first appearance."""
    return tuple(dict.fromkeys(map(str, labels.tolist())))


def design_warnings(columns: Columns, target: str, place: Callable[[int], str]) -> tuple[DataWarning, ...]:
    """Warnings about the runs as they are: settings run twice, empty cells. `place` says where run i was read."""
    if not {N, E} <= set(columns) or len(columns[N]) == 0:
        return ()
    return (*_duplicate_settings(columns, target, place), *_empty_cells(columns))


def _duplicate_settings(columns: Columns, target: str, place: Callable[[int], str]) -> Iterator[DataWarning]:
    labels, names = router_labels(columns), [name for name in (E, K, R, M, D, C, U, SEED) if name in columns]
    group = codes([labels, columns[N], *(columns[name] for name in names)])

    def described(run: int) -> str:
        """One setting: its values, and where the runs that share it are, with their losses."""
        same = np.flatnonzero(group == group[run])[:_MOST].tolist()
        setting = " ".join([str(labels[run]), _size(columns, run), *(f"{name}={number(columns[name][run])}" for name in names)])
        losses = ", ".join(f"{columns[target][i]:.6g}" for i in same)
        return f"{setting} ({', '.join(map(place, same))}: {target} {losses})"

    if doubled := _first_of_each(group, np.bincount(group)[group] > 1):
        shown = "; ".join(map(described, doubled[:_MOST])) + (f"; and {len(doubled) - _MOST} more" if len(doubled) > _MOST else "")
        yield DataWarning("duplicate-settings", f"{count(len(doubled), 'setting')} occur more than once, all runs are kept: {shown}")


def _empty_cells(columns: Columns) -> Iterator[DataWarning]:
    """One warning per router for the cells of (every size kept) x (the router's numbers of experts) without a run."""
    labels, sizes, experts = router_labels(columns), columns[N], columns[E]
    known = ~np.isnan(sizes) & ~np.isnan(experts)
    all_sizes = np.unique(sizes[known]).tolist()
    for router in in_order(labels):
        own = known & (labels == router)
        own_experts = np.unique(experts[own]).tolist()
        filled = set(zip(sizes[own].tolist(), experts[own].tolist(), strict=True))
        cells = len(all_sizes) * len(own_experts)
        if empty := cells - len(filled):
            grid = ((size, e) for size in all_sizes for e in own_experts if (size, e) not in filled)
            names = [f"{_size(columns, int(np.argmax(sizes == size)))}/E={number(e)}" for size, e in islice(grid, _MOST)]
            more = f" and {empty - _MOST} more" if empty > _MOST else ""
            message = f"{router}: {empty} of {count(cells, 'cell')} of the (size x experts) grid empty: {listed(names)}{more}"
            yield DataWarning("empty-cells", message)


def removed_sizes(columns: Columns, kept: Bool[np.ndarray, "runs"], rule: str) -> Iterator[DataWarning]:
    """A warning for each model size of which `rule` leaves no run, or none of a router that has other runs left."""
    if N not in columns or not kept.any():
        return
    sizes, labels = columns[N], router_labels(columns)
    pairs, left = codes([labels, sizes]), np.isin(sizes, sizes[kept])
    found = [(i, "") for i in _first_of_each(codes([sizes]), ~left & ~np.isnan(sizes))]
    # Where the whole router goes, as when another router is chosen, its sizes were not meant to stay.
    found += [(i, str(labels[i])) for i in _first_of_each(pairs, left & ~np.isin(pairs, pairs[kept]) & np.isin(labels, labels[kept]))]
    for run, router in found[:_MOST]:
        many = int(np.count_nonzero((sizes == sizes[run]) & ((labels == router) if router else True)))
        label, what = f" ({columns[SIZE_LABEL][run]})" if SIZE_LABEL in columns else "", f"{router} run".strip()
        removed = f"its only {what} is" if many == 1 else f"all {many} {what}s are"
        yield DataWarning("size-removed", f"{N} {number(sizes[run])}{label}: {removed} removed by {rule}")
    if len(found) > _MOST:
        yield DataWarning("size-removed", f"{len(found) - _MOST} more sizes: all runs are removed by {rule}")


def short_runs(columns: Columns) -> Iterator[DataWarning]:
    """A warning about runs that end before 90 % (our choice) of the longest run's steps: laws compare equal training."""
    steps = columns.get(STEP, np.zeros(0))
    longest = float(steps.max(initial=0.0))
    if short := np.flatnonzero(steps < 0.9 * longest).tolist():
        named = listed([f"{f'{_size(columns, i)} ' if N in columns else ''}at step {number(steps[i])}" for i in short])
        runs = f"{count(len(short))} end{'s' if len(short) == 1 else ''}"
        yield DataWarning("short-runs", f"{runs} before 90 % of the longest run's {number(longest)} steps: {named}")


def _size(columns: Columns, run: int) -> str:
    return (str(columns[SIZE_LABEL][run]) if SIZE_LABEL in columns else "") or f"N={number(columns[N][run])}"


def _first_of_each(group: Int[np.ndarray, "runs"], where: Bool[np.ndarray, "runs"]) -> list[int]:
    """The first run of each group among the runs in `where`, in order of appearance."""
    runs = np.flatnonzero(where)
    return sorted(runs[np.unique(group[runs], return_index=True)[1]].tolist())
