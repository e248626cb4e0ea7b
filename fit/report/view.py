"""What a report shows of an analysis, and its figures as cells: digits by the interval, words where digits would mean nothing."""

import math
from dataclasses import dataclass
from functools import cached_property

from common.document.numbers import count, decimals, interval, plain
from fit.analysis import DENSE_ROUTER, PAPER_LAW, POOLED, Analysis, Result
from fit.derived import Point, default_points, known_places
from fit.estimate import Estimate, Status
from fit.runs.schema import C, D, N

FAR = 1000.0
"""A figure so many times outside the runs, or more, is given in words."""

OUTSIDE = "†"
"""What marks every figure that is extrapolated: asked for outside the runs, or beyond the largest of its kind."""


HELD_OUT = {N: ("size", "sizes"), D: ("tokens", "numbers of tokens"), C: ("compute", "training budgets")}
"""What runs are held out by, in a table's cell and in a sentence."""


def cell(figure: Estimate | None, largest: float = math.inf, name: str = "") -> str:
    """An estimate with its interval or what stands for it; `largest`: the largest of its kind in the runs."""
    if figure is None or math.isnan(figure.value):
        return "" if figure is None else "no value"
    if figure.status is Status.NOT_IDENTIFIED:
        return str(figure.status)
    if math.isinf(figure.value) or figure.distance > FAR:
        if figure.low is not None and figure.low < FAR * largest < math.inf:
            return f"{count(figure.low, 3)} or above, or none"
        return f"no sign of an end below {count(FAR * largest)}" if math.isfinite(largest) else "over 1,000 times outside the runs"
    mark = OUTSIDE * figure.extrapolated
    counted = figure.unit in ("parameters", "FLOPs", "tokens") or name.startswith("optimal_")
    if figure.low is not None and figure.high is not None:
        return interval(figure.value, figure.low, figure.high, counted=counted, limit=FAR * largest) + mark
    text = count(figure.value, 3) if counted else plain(figure.value, decimals(2 * figure.se, figure.value) if figure.se else None)
    return (text if figure.status is Status.NOT_ASKED else f"{text} ({figure.status})") + mark


def router_name(router: str) -> str:
    """A router as people call it: runs that name none are `all runs`."""
    return {"all": "all runs", POOLED: "all routers together"}.get(router, router)


@dataclass(frozen=True)
class View:
    """An analysis with what is chosen of it: the laws and routers shown, and the model that experts are judged at.

    `laws` are those fitted, best first; `main` the law quoted and the paper's; `shown` the fits whose figures are given, law by law:
    those of `main` and of dense laws, or with `full` all.
    """

    analysis: Analysis
    full: bool = False

    @cached_property
    def laws(self) -> tuple[str, ...]:
        """The laws fitted, best first; those without a place in the ranking last, by their residuals."""
        ranked, errors = self.analysis.ranking.laws if self.analysis.ranking else (self.analysis.quoted,), self.analysis.residual_errors
        return tuple(dict.fromkeys([*ranked, *sorted(errors, key=lambda law: errors[law])]))

    @cached_property
    def main(self) -> tuple[str, ...]:
        """The law quoted, and the paper's."""
        return tuple(law for law in dict.fromkeys([self.analysis.quoted, PAPER_LAW]) if law in self.laws)

    @cached_property
    def shown(self) -> list[Result]:
        """The fits whose figures are given, law by law: those of the quoted law, the paper's and the dense ones, or all."""
        dense = {result.law.name for result in self.analysis.results if result.law.dense}
        chosen = self.laws if self.full else dict.fromkeys([*self.main, *(law for law in self.laws if law in dense)])
        return [result for law in chosen for result in self.analysis.results if result.law.name == law]

    @cached_property
    def routers(self) -> tuple[str, ...]:
        """The routers fitted, dense runs among them only where there is nothing else."""
        return tuple(r for r in self.analysis.routers if r not in (DENSE_ROUTER, POOLED)) or self.analysis.routers

    @property
    def held_out(self) -> str:
        """What runs are held out by to rank laws, in a sentence, such as `sizes`."""
        return HELD_OUT[self.analysis.held_out_by][1]

    @property
    def unit(self) -> str:
        """The unit of losses."""
        return self.analysis.runs.unit

    @cached_property
    def point(self) -> Point | None:
        """The model that routers are compared at: the first asked for, or the largest size of the runs; None without laws in N and E."""
        data, asked = known_places(self.analysis.runs), self.analysis.options.points
        if not data:
            return None
        point = asked[0] if asked else default_points(data)[-1]
        return point if any(f"epc({point.label})" in result.derived for result in self.analysis.results) else None

    @property
    def at(self) -> str:
        """The point's label."""
        return self.point.label if self.point else ""

    def figure(self, result: Result, name: str) -> str:
        """A coefficient or derived figure of a fit as a cell; `loss`, `epc` and `ratio` (EPC/N) are those at the point."""
        figures = {**result.coefficients, **result.derived}
        found = figures.get({"loss": f"loss({self.at})", "epc": f"epc({self.at})", "ratio": f"epc({self.at})"}.get(name, name))
        if name == "ratio" and found is not None and self.point is not None:
            found = found.scaled(1 / self.point.n)
        return cell(found, float(self.analysis.runs.numeric(N).max()) if name == "n_cutoff" else math.inf, name)

    def ratio(self, result: Result) -> str:
        """EPC/N at the point without its interval; empty where digits would mean nothing."""
        epc = result.derived.get(f"epc({self.at})")
        if epc is None or self.point is None or epc.distance > FAR:
            return ""
        return plain(epc.value / self.point.n, 2) + OUTSIDE * epc.extrapolated

    def by_loss(self, law: str) -> list[Result]:
        """The fits of a law that have a loss at the point, lowest first."""
        name = f"loss({self.at})"
        return sorted((r for r in self.analysis.of_law(law) if name in r.derived), key=lambda r: r.derived[name].value)

    def behind(self, best: Result, result: Result) -> Estimate | None:
        """The loss of a router at the point less that of the best, with the interval of the difference."""
        return self.analysis.difference(result.law.name, result.router, best.router, self.point) if self.point else None
