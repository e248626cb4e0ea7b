"""What the runs cover: routers, model sizes, numbers of experts; and the warnings about what is missing or doubled.

A size here is a `dense_parameter_count` (N); `model_size_label` is a label only. A run with one expert is dense
whatever its router is called, since E = 1 is the dense model for every technique (the release's README).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Int, Shaped

from fit.load.schema import ROUTER, SEED, SIZE_LABEL, STEP, E, K, M, N, R, listed, number

# One entry per run: numbers as float64, text as numpy strings.
Columns = Mapping[str, Shaped[np.ndarray, "runs"]]

DENSE = "Dense"
ALL_ROUTERS = "all"
UNNAMED = "unnamed"
# Warnings name this many sizes, settings or cells and count the rest.
_MOST = 8


@dataclass(frozen=True)
class DataWarning:
    """Something a reader of the results must know about the runs: a code that does not change, and one line."""

    code: str
    message: str


def dense_runs(columns: Columns) -> Bool[np.ndarray, "runs"]:
    """Which runs are dense: router type "Dense", or one expert; none if neither column is there."""
    rows = len(next(iter(columns.values())))
    dense = np.zeros(rows, dtype=np.bool_)
    if ROUTER in columns:
        dense |= np.strings.lower(columns[ROUTER]) == DENSE.lower()
    if E in columns:
        dense |= columns[E] == 1
    return dense


def router_labels(columns: Columns) -> Shaped[np.ndarray, "runs"]:
    """Each run's router, "Dense" for dense runs; the others are one router called "all" if there is no `router_type`."""
    if ROUTER not in columns:
        named = np.full(len(next(iter(columns.values()))), ALL_ROUTERS)
    else:
        named = np.where(columns[ROUTER] == "", UNNAMED, columns[ROUTER])
    return np.where(dense_runs(columns), DENSE, named)


def design_warnings(columns: Columns, target: str, place: Callable[[int], str]) -> tuple[DataWarning, ...]:
    """Warnings about the runs as they are: settings run twice, empty cells. `place` says where run i was read."""
    if not {N, E} <= set(columns) or len(columns[N]) == 0:
        return ()
    return (*_duplicate_settings(columns, target, place), *_empty_cells(columns))


def removed_sizes(columns: Columns, kept: Bool[np.ndarray, "runs"], rule: str) -> tuple[DataWarning, ...]:
    """A warning for each model size of which `rule` leaves no run, or none of a router that has other runs left."""
    if N not in columns or not kept.any():
        return ()
    sizes, routers = columns[N], router_labels(columns)
    left = np.isin(sizes, sizes[kept])
    found = [(i, "") for i in _first_of_each([sizes], ~left & ~np.isnan(sizes))]
    # Where the whole router goes, as when another router is chosen, its sizes were not meant to stay.
    pairs = _codes([routers, sizes])
    lost = left & ~np.isin(pairs, pairs[kept]) & np.isin(routers, routers[kept])
    found += [(i, str(routers[i])) for i in _first_of_each([pairs], lost)]
    warnings = [_size_removed(columns, i, router, routers, rule) for i, router in found[:_MOST]]
    if len(found) > _MOST:
        warnings.append(DataWarning("size-removed", f"{len(found) - _MOST} more sizes: all runs are removed by {rule}"))
    return tuple(warnings)


def _size_removed(columns: Columns, run: int, router: str, routers: Shaped[np.ndarray, "runs"], rule: str) -> DataWarning:
    same = (columns[N] == columns[N][run]) & ((routers == router) if router else True)
    many, what = int(np.count_nonzero(same)), f"{router} run".strip()
    runs = f"its only {what} is" if many == 1 else f"all {many} {what}s are"
    label = f" ({columns[SIZE_LABEL][run]})" if SIZE_LABEL in columns else ""
    return DataWarning("size-removed", f"{N} {number(columns[N][run])}{label}: {runs} removed by {rule}")


def _duplicate_settings(columns: Columns, target: str, place: Callable[[int], str]) -> tuple[DataWarning, ...]:
    routers = router_labels(columns)
    codes = _codes([routers, *(columns[name] for name in (N, E, K, R, M, SEED) if name in columns)])
    doubled = np.bincount(codes)[codes] > 1
    first = _first_of_each([codes], doubled)
    if not first:
        return ()

    def described(run: int) -> str:
        """One setting: its values, and where the runs that share it are, with their losses."""
        same = np.flatnonzero(codes == codes[run])[:_MOST].tolist()
        values = [f"{name}={number(columns[name][run])}" for name in (E, K, R, M, SEED) if name in columns]
        setting = " ".join([str(routers[run]), _size(columns, run), *values])
        losses = ", ".join(f"{columns[target][i]:.6g}" for i in same)
        return f"{setting} ({', '.join(map(place, same))}: {target} {losses})"

    shown = "; ".join(map(described, first[:_MOST]))
    more = f"; and {len(first) - _MOST} more" if len(first) > _MOST else ""
    message = f"{_count(len(first), 'setting')} occur more than once, all runs are kept: {shown}{more}"
    return (DataWarning("duplicate-settings", message),)


def _empty_cells(columns: Columns) -> tuple[DataWarning, ...]:
    """One warning per router for the cells of (every size kept) x (the router's numbers of experts) without a run."""
    routers, sizes, experts = router_labels(columns), columns[N], columns[E]
    known = ~np.isnan(sizes) & ~np.isnan(experts)
    all_sizes = np.unique(sizes[known])
    warnings: list[DataWarning] = []
    for router in in_order(routers):
        mine = known & (routers == router)
        own_experts = np.unique(experts[mine])
        filled = set(zip(sizes[mine].tolist(), experts[mine].tolist(), strict=True))
        cells, empty = len(all_sizes) * len(own_experts), len(all_sizes) * len(own_experts) - len(filled)
        if empty:
            grid = ((n, e) for n in all_sizes.tolist() for e in own_experts.tolist() if (n, e) not in filled)
            names = [_cell(columns, n, e) for n, e in islice(grid, _MOST)]
            more = f" and {empty - _MOST} more" if empty > _MOST else ""
            message = f"{router}: {empty} of {_count(cells, 'cell')} of the (size x experts) grid empty: "
            warnings.append(DataWarning("empty-cells", message + listed(names) + more))
    return tuple(warnings)


def _cell(columns: Columns, size: float, experts: float) -> str:
    return f"{_size(columns, int(np.argmax(columns[N] == size)))}/E={number(experts)}"


def _size(columns: Columns, run: int) -> str:
    label = str(columns[SIZE_LABEL][run]) if SIZE_LABEL in columns else ""
    return label or f"N={number(columns[N][run])}"


def _count(many: int, what: str) -> str:
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def _codes(columns: Sequence[Shaped[np.ndarray, "runs"]]) -> Int[np.ndarray, "runs"]:
    """One number per run, the same for runs with the same values in all `columns`."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for values in columns:
        distinct, inverse = np.unique(values, return_inverse=True)
        codes = np.unique(codes * len(distinct) + inverse, return_inverse=True)[1]
    return codes


def _first_of_each(columns: Sequence[Shaped[np.ndarray, "runs"]], where: Bool[np.ndarray, "runs"]) -> list[int]:
    """The first run of each distinct combination of values among the runs in `where`, in order of appearance."""
    runs = np.flatnonzero(where)
    first = np.unique(_codes([values[runs] for values in columns]), return_index=True)[1] if len(runs) else runs
    return sorted(runs[first].tolist())


def in_order(labels: Shaped[np.ndarray, "runs"]) -> tuple[str, ...]:
    """Distinct labels in order of first appearance."""
    distinct, first = np.unique(labels, return_index=True)
    return tuple(str(label) for label in distinct[np.argsort(first)])


def short_runs(columns: Columns) -> tuple[DataWarning, ...]:
    """A warning about runs that end before 90 % (our choice) of the longest run's steps: laws compare equal training."""
    if STEP not in columns or len(columns[STEP]) == 0:
        return ()
    steps = columns[STEP]
    longest = float(steps.max())
    short = np.flatnonzero(steps < 0.9 * longest).tolist()
    if not short:
        return ()
    sizes = [f"{_size(columns, i)} " if N in columns else "" for i in short]
    named = listed([f"{size}at step {number(steps[i])}" for size, i in zip(sizes, short, strict=True)])
    runs = "1 run ends" if len(short) == 1 else f"{len(short)} runs end"
    message = f"{runs} before 90 % of the longest run's {number(longest)} steps: {named}"
    return (DataWarning("short-runs", message),)
