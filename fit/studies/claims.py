"""What the paper concludes, put to the runs: each conclusion as a line with our figure, and whether the runs bear it out.

The conclusions are those quoted by several sources: gains shrink with N; routing helps at every size tried; S-Base is the best
default; 64 to 128 experts; k = 1; R of 1/2 to 1; route any model up to 1.3B. Where one is advice and not a figure, the numbers that
bear on it are given and the judgement left to the reader.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from fit.analysis import DENSE_ROUTER, Estimate, Options, Result, short_count
from fit.epc import epc_quantity
from fit.intervals.bootstrap import Quantity, interval
from fit.laws import BOUNDED
from fit.load.schema import E, N
from fit.show.display import count, estimate, listing
from fit.show.document import Table
from fit.studies.published import Line, epc_of_row

EXAMPLE = (5e6, 128.0)
"""The paper's example of an effective parameter count: N and E."""


def figure(result: Result, quantity: Quantity, options: Options) -> list[Estimate]:
    """Figures of a fit with their intervals, where draws were made."""
    if result.draws is None:
        return [Estimate(float(value)) for value in quantity(result.fit.theta[None], result.fit.beta[None])[0]]
    found = interval(result.draws, quantity, options.level, options.method)
    rows = zip(found.value, found.low, found.high, strict=True)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in rows]


def above(found: Estimate, null: float) -> bool | None:
    """Whether the whole interval lies above `null`; None without one."""
    return None if found.low is None or np.isnan(found.low) else bool(found.low > null)


def shrinking_lines(result: Result, with_floor: Result | None) -> list[Line]:
    """c > 0 in Eq. 1, and whether it stays so when the law has a floor."""
    c = result.coefficients["c"]
    note = ""
    if with_floor is not None:
        other = with_floor.coefficients["c"]
        told = above(other, 0.0)
        verdict = "" if told is None else ": still above nought" if told else ": nought is not excluded"
        note = f"with a floor under the loss ({with_floor.law.name}) c is {estimate(other)}{verdict}"
    return [Line(f"gain-shrinks/{result.router}", "gains shrink with N", f"{result.router}: c", "c > 0", None, c, "", above(c, 0.0), note)]


def slope_lines(result: Result, options: Options) -> list[Line]:
    """The slopes fitted at one size after another: their trend, per decade of N."""
    sizes = np.unique(result.fit.problem.data[N])
    x = np.log10(sizes) - np.log10(sizes).mean()

    def trend(theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]) -> Float[np.ndarray, "draws quantities"]:
        """Least-squares slope of the per-size slopes against log10 N."""
        del theta
        return (beta[:, : len(sizes)] @ x / (x @ x))[:, None]

    slopes = result.fit.beta[: len(sizes)]
    shown = ", ".join(f"{slope:.4f} at {short_count(size)}" for size, slope in zip(sizes, slopes, strict=True))
    found = figure(result, trend, options)[0]
    name = f"{result.router}: trend of b(N) per decade of N"
    return [
        Line(f"slopes/{result.router}", "slopes per size", name, "rises towards 0", None, found, "", above(found, 0.0), f"b(N): {shown}")
    ]


def example_line(result: Result, options: Options) -> Line:
    """The paper's example, N = 5M with 128 experts. Its published figure is in nothing we could read, so the published row gives it."""
    n, e = EXAMPLE
    ours = figure(result, epc_quantity(result.law, np.array([n]), np.array([e])), options)[0]
    ours = Estimate(ours.value, ours.low, ours.high, extrapolated=True, unit="parameters")
    name = f"{result.router}: EPC of 5M with E = 128"
    if (row := BOUNDED.published_for(result.router)) is None:
        return Line(f"example/{result.router}", "the example of Eq. 11", name, "", None, ours)
    value, low, high = epc_of_row(row.values, n, e)
    why = f"published: from the row of Table 3, {count(low)} to {count(high)} over its rounding; the paper's own figure was not at hand"
    holds = None if ours.low is None or ours.high is None else bool(ours.low <= high and low <= ours.high)
    return Line(f"example/{result.router}", "the example of Eq. 11", name, count(value), value, ours, "", holds, why)


def _scaled(found: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else end * factor for end in (found.low, found.high))
    return Estimate(found.value * factor, low, high)


def largest_lines(result: Result, with_floor: Result | None, options: Options) -> list[Line]:
    """EPC/N at the largest size of the runs: route any model up to 1.3B."""
    n = float(result.fit.problem.data[N].max())
    lines: list[Line] = []
    for e in (64.0, 128.0):
        ratios = [
            _scaled(found, 1 / n)
            for one in (result, with_floor)
            if one is not None
            for found in figure(one, epc_quantity(one.law, np.array([n]), np.array([e])), options)
        ]
        why = f"with a floor: {estimate(ratios[1])}" if len(ratios) > 1 else ""
        name = f"{result.router}: EPC/N at {short_count(n)}, E = {e:g}"
        lines.append(
            Line(
                f"largest/{result.router}/{e:g}", "route any model up to 1.3B", name, "> 1", None, ratios[0], "", above(ratios[0], 1.0), why
            )
        )
    return lines


DEFAULT = "S-Base"
"""The router that the paper advises."""

Cells = Mapping[tuple[float, float], Mapping[str, float]]


def cells(results: Sequence[Result]) -> Cells:
    """The least loss of every router, dense included, at each size and number of experts among the runs of these fits."""
    found: dict[tuple[float, float], dict[str, float]] = {}
    for result in results:
        runs = result.runs
        for n, e, loss in zip(runs.numeric(N), runs.numeric(E), runs.loss, strict=True):
            router = result.router if e > 1 else DENSE_ROUTER
            cell = found.setdefault((float(n), float(e)), {})
            cell[router] = min(float(loss), cell.get(router, np.inf))
    return found


def best_router_line(found: Cells, routers: Sequence[str]) -> tuple[Line, Table]:
    """In how many cells of the grid each router has the lowest measured loss, where all of them have a run."""
    full = {cell: losses for cell, losses in found.items() if set(routers) <= set(losses)}
    winners = {cell: min(routers, key=lambda router: losses[router]) for cell, losses in full.items()}
    sizes = sorted({n for n, _ in full})
    rows = tuple(
        (short_count(n), *(str(sum(w == router and cell[0] == n for cell, w in winners.items())) for router in routers)) for n in sizes
    )
    table = Table("Cells in which each router has the lowest loss", ("N", *routers), rows, "Measured losses, at every E that all have.")
    wins = {router: sum(winner == router for winner in winners.values()) for router in routers}
    first = [n for n in sizes if all(w == DEFAULT for cell, w in winners.items() if cell[0] == n)]
    behind = [n for n in sizes if _share(winners, n) <= 0.5]
    most = "in most at every size" if not behind else f"in half or fewer at {listing(map(short_count, behind))}"
    text = f"lowest loss in {wins[DEFAULT]} of {len(full)} cells, {most}"
    elsewhere = [f"{router} in {wins[router]}" for router in routers if router != DEFAULT and wins[router]]
    by_e = sorted({e for (_, e), winner in winners.items() if winner != DEFAULT})
    why = f"{listing(elsewhere)}, at E = {listing(f'{e:g}' for e in by_e)}; at every E at {listing(map(short_count, first)) or 'no size'}"
    holds = 2 * wins[DEFAULT] > len(full) if full else None
    return Line("best-router", "S-Base is the best default", "lowest measured loss", "S-Base", None, None, text, holds, why), table


def _share(winners: Mapping[tuple[float, float], str], n: float) -> float:
    """In what part of the cells of this size the paper's default has the lowest loss."""
    here = [winner == DEFAULT for (size, _), winner in winners.items() if size == n]
    return sum(here) / len(here)


def helps_line(found: Cells, routers: Sequence[str]) -> Line:
    """Every routed run against the dense one of its size, as measured."""
    dense = {n: losses[DENSE_ROUTER] for (n, _), losses in found.items() if DENSE_ROUTER in losses}
    pairs = [(n, losses[router] < dense[n]) for (n, _), losses in found.items() if n in dense for router in routers if router in losses]
    better = sum(lower for _, lower in pairs)
    sizes = len({n for n, _ in pairs})
    text = f"{better} of {len(pairs)} routed settings have a lower loss than the dense model of their size, at {sizes} sizes"
    return Line(
        "routing-helps",
        "routing helps at every size tried",
        "measured losses",
        "every size",
        None,
        None,
        text,
        better == len(pairs) or None,
    )


def doubling_table(results: Sequence[Result]) -> tuple[list[Line], Table]:
    """What one more doubling of the experts is worth under Eq. 1, at the smallest and largest size: 64 to 128 experts."""
    experts = 2.0 ** np.arange(10)
    lines: list[Line] = []
    rows: list[tuple[str, ...]] = []
    for result in results:
        sizes = result.fit.problem.data[N]
        gains = {n: _gain_per_doubling(result, n, experts) for n in (float(sizes.min()), float(sizes.max()))}
        rows += [(f"{result.router}, {short_count(n)}", *(f"{100 * gain:.2f}" for gain in row)) for n, row in gains.items()]
        lines.append(_experts_line(result, float(sizes.max()), dict(zip(experts[1:].tolist(), gains[float(sizes.max())], strict=True))))
    heads = ("Router, N", *(f"{e:g}→{2 * e:g}" for e in experts[:-1]))
    note = "By how many percent the loss falls as the number of experts doubles, under Eq. 1."
    return lines, Table("What one more doubling of the experts is worth", heads, tuple(rows), note)


def _gain_per_doubling(result: Result, n: float, experts: Float[np.ndarray, "counts"]) -> list[float]:
    """By what part the loss falls from each number of experts to the next."""
    return (1 - 10 ** np.diff(result.fit.log10_loss({N: np.full(len(experts), n), E: experts}))).tolist()


def _experts_line(result: Result, n: float, gains: Mapping[float, float]) -> Line:
    most = max(gains, key=lambda e: gains[e])
    shares = listing(f"{100 * gains[e] / gains[most]:.0f}% to {e:g}" for e in (128.0, 256.0, 512.0))
    text = f"largest to {most:g}: {100 * gains[most]:.2f}% of the loss; of that, {shares}"
    why = f"advice, not a figure; E_max, where Ê saturates, is {estimate(result.coefficients['E_max'])}"
    name = f"{result.router}: gain per doubling at {short_count(n)}"
    return Line(f"experts/{result.router}", "64 to 128 experts", name, "64 to 128", None, None, text, None, why)
