"""What was asked of a fit and what came of it: the options, and one law fitted to one router's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.derived import Point
from fit.diagnose import FitWarning, Misfit
from fit.engine.losses import Loss
from fit.engine.solve import Fit
from fit.estimate import Estimate, figure_cells, frame
from fit.laws import Law, law_named
from fit.quantities import beyond, loss_quantity
from fit.runs import Runs
from fit.runs.schema import ALIASES, ROUTER
from fit.select import RollOutStep
from fit.uncertainty.draws import Draws, Scheme
from fit.uncertainty.intervals import estimates, new_run_estimates

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Options:
    """How to fit.

    `laws` are names or laws of one's own; none: `DEFAULT_LAWS`. `routers` and `points` left empty are all there are, and
    `default_points`; `budgets` are training FLOPs that the best N and D are given for. `scheme` auto: wild clusters for a law whose
    residuals are clustered by size, wild where their spread is uneven, else residuals. `fixed` and `bounds` hold parameters at values or
    within intervals, in every law that has them; `unbounded` lifts the laws' own bounds of coefficients; `weights` names a column of
    relative weights; `group` the column whose values are fitted apart; `shared` names parameters that are the same in all routers, whose
    runs are then fitted together. `draw_all`: draws for every law, not for the quoted, the paper's and the dense ones alone.
    `other_draws`: how many a law has that is not quoted; None: as many.
    """

    laws: tuple[str | Law, ...] = ()
    routers: tuple[str, ...] = ()
    loss: Loss = field(default_factory=Loss)
    scheme: Scheme | Literal["auto"] = "auto"
    draws: int = 1000
    seed: int = 0
    level: float = 0.95
    points: tuple[Point, ...] = ()
    budgets: tuple[float, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict[str, float])
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    unbounded: bool = False
    weights: str = ""
    group: str = ROUTER
    shared: tuple[str, ...] = ()
    draw_all: bool = True
    other_draws: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95, not {self.level:g}")
        if self.draws < 0:
            raise InputError(f"draws must be 0 (no intervals) or more, not {self.draws}")
        for law in self.laws:
            if isinstance(law, str) and law != "per-size":
                law_named(law)

    @property
    def fewer_draws(self) -> int:
        """Draws of a law that is not quoted."""
        return self.draws if self.other_draws is None else min(self.draws, self.other_draws)


@dataclass(frozen=True, eq=False)
class Result:
    """One law fitted to one router's runs.

    `coefficients` are the law's reported parameters, `derived` what follows from them; `steps` the roll-out by size and by tokens;
    `misfit` what the residuals show.
    """

    router: str
    law: Law
    runs: Runs
    fit: Fit
    options: Options
    steps: tuple[RollOutStep, ...] = ()
    misfit: Misfit = field(default_factory=Misfit)
    draws: Draws | None = None
    coefficients: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    derived: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    warnings: tuple[FitWarning, ...] = ()

    def __repr__(self) -> str:
        return f"Result({self.router}, {self.fit!r})"

    def _repr_html_(self) -> str:
        table: Any = frame(self.rows("parameter"))
        return table._repr_html_()

    def rows(self, kind: Literal["parameter", "figure"]) -> list[dict[str, Any]]:
        """A row for each reported parameter, or for each derived figure."""
        figures = self.coefficients if kind == "parameter" else self.derived
        return [{"router": self.router, "law": self.law.name, kind: name, **figure_cells(figure)} for name, figure in figures.items()]

    def predict(
        self, *, kind: Literal["mean", "new run"] = "mean", **columns: float | int | Sequence[float | int] | Float[np.ndarray, "points"]
    ) -> "pl.DataFrame":
        """Predicted loss with its interval at new points, a row each: of the mean curve, or of a new run with its noise.

        `columns` are the law's, by our names or short ones: `predict(N=13e9, E=64)`. Raises `InputError` for a column that is missing.
        """
        full = {ALIASES.get(name, name): np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in columns.items()}
        if set(full) != set(self.law.columns):
            raise InputError(
                f"law {self.law.name!r} predicts from {', '.join(self.law.columns)}, and was given {', '.join(full) or 'nothing'}"
            )
        data = dict(zip(full, np.broadcast_arrays(*full.values()), strict=True))
        level = self.options.level
        if kind == "mean":
            found = estimates(self.fit, self.draws, loss_quantity(self.law, data), level, unit=self.runs.unit)
        else:
            found = [replace(one, unit=self.runs.unit) for one in new_run_estimates(self.fit, self.draws, data, level)]
        outside = np.max([[beyond(self.fit.problem.data[name], float(v)) for v in values] for name, values in data.items()], axis=0)
        rows = [
            {**{name: float(values[i]) for name, values in data.items()}, **figure_cells(replace(one, distance=float(outside[i])))}
            for i, one in enumerate(found)
        ]
        return frame(rows)
