"""From runs to results: every law asked for, on every router, ranked by how it predicts held-out sizes, with intervals and warnings.

An `Analysis` is all that a report shows; its tables are data frames, and `fit.report` turns it into what people read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from common.errors import InputError
from fit.budget.isoflop import Comparison, compare_approaches, isoflop
from fit.causes import cause
from fit.derived import Point, default_points, derived_figures, known_places
from fit.diagnose import misfit, seed_noise, warnings_for
from fit.engine.shared import fit_shared
from fit.engine.solve import fit_law, why_not_identified
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate, frame
from fit.jobs import DENSE_ROUTER, POOLED, Skipped, jobs, runs_for, with_slope
from fit.laws import CATALOGUE, Law, law_named, per_size
from fit.quantities import has_allocation, loss_quantity
from fit.results import Options, Result
from fit.runs import Runs, canonical, routers, with_columns
from fit.runs.grid import ALL_ROUTERS
from fit.runs.schema import NATS, ROUTER, D, E, N, listed, short
from fit.select import AXES, Ranking, RollOutStep, cells_of, rank, roll_outs
from fit.uncertainty.draws import Scheme, resample
from fit.uncertainty.intervals import difference, estimates

if TYPE_CHECKING:
    import polars as pl

PAPER_LAW = "bounded"
"""The law whose figures are given as what the paper's law says (Eq. 1)."""

OTHER_DRAWS = 400
"""Draws that `compare` makes of laws that are not quoted, and `fit` of those that nobody asked for by name either: enough for the ends of
a 95 % interval from five clusters or more (364)."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """Every result of one request, with the runs it started from and the options it was made with.

    `ranking` holds the laws of routed runs, or where there are none those of dense ones, against each other over what all routers' runs
    held out: sizes, or where these are few tokens or compute.
    `approaches`: IsoFLOP profiles of the dense runs beside the law `tokens`, where it was fitted and some budgets have a minimum.
    """

    runs: Runs
    options: Options
    results: tuple[Result, ...]
    skipped: tuple[Skipped, ...]
    ranking: Ranking | None
    approaches: Comparison | None = None

    def __repr__(self) -> str:
        laws = ", ".join(dict.fromkeys(result.law.name for result in self.results))
        return (
            f"Analysis({len(self.results)} fits of {laws} to {len(self.runs)} runs; {len(self.skipped)} not fitted; quoted: {self.quoted})"
        )

    def _repr_html_(self) -> str:
        table: Any = self.parameters()
        return table._repr_html_()

    def result(self, router: str, law: str) -> Result:
        """The result of this law on this router; `InputError` with the names there are, or with why it was not fitted."""
        if one := self.find(router, law):
            return one
        why = next((f": {one.reason}" for one in self.skipped if (one.router, one.law) == (router, law)), "")
        there = "; ".join(f"{name}: {', '.join(r.law.name for r in self.results if r.router == name)}" for name in self.routers)
        raise InputError(f"no fit of law {law!r} to router {router!r}{why}; there are {there}")

    def find(self, router: str, law: str) -> Result | None:
        """The same, or None."""
        return next((one for one in self.results if (one.router, one.law.name) == (router, law)), None)

    @property
    def routers(self) -> tuple[str, ...]:
        """The routers that something was fitted to."""
        return tuple(dict.fromkeys(result.router for result in self.results))

    @cached_property
    def quoted(self) -> str:
        """The law that the first screen quotes: the one that predicts held-out sizes best, else that of least residual standard error.

        Both are means over the routers' fits, dense runs only where there is nothing else.
        """
        if self.ranking is not None:
            return self.ranking.best
        fitted = {result.law.name for result in self.results if result.router not in (DENSE_ROUTER, POOLED)}
        errors = {law: error for law, error in self.residual_errors.items() if law in fitted or not fitted}
        return min(errors, key=lambda law: errors[law])

    @cached_property
    def residual_errors(self) -> Mapping[str, float]:
        """The mean residual standard error of each law, of log10 loss, over the routers' fits; of the dense ones where it has no other."""
        errors: dict[str, list[float]] = {}
        for result in sorted(self.results, key=lambda result: result.router in (DENSE_ROUTER, POOLED)):
            spare = result.fit.degrees / result.fit.num_runs
            if result.router not in (DENSE_ROUTER, POOLED) or result.law.name not in errors:
                errors.setdefault(result.law.name, []).append(result.fit.rmse_log10 / np.sqrt(spare) if spare > 0 else np.inf)
        return {law: float(np.mean(values)) for law, values in errors.items()}

    @property
    def held_out_by(self) -> str:
        """The column that laws are ranked by: size, or tokens or compute where too few sizes can be held out."""
        there = {step.by for result in self.results for step in result.steps}
        return self.ranking.by if self.ranking else min(there, key=AXES.index, default=N)

    def of_law(self, law: str) -> list[Result]:
        """The results of a law, a router each."""
        return [result for result in self.results if result.law.name == law and result.router != POOLED]

    def difference(self, law: str, first: str, second: str, point: Point) -> Estimate | None:
        """Loss of one router less that of another at a point (nats per token), shared dense runs resampled together; None without draws."""
        one, other = self.find(first, law), self.find(second, law)
        if one is None or other is None or one.draws is None or other.draws is None:
            return None
        data = point.columns(one.law)
        if data is None:
            return None
        return difference(one.draws, other.draws, loss_quantity(one.law, data), loss_quantity(other.law, data), self.options.level)[0]

    def parameters(self) -> "pl.DataFrame":
        """Every reported parameter, a row each: router, law, parameter, value, low, high, status, se, unit."""
        return frame([row for result in self.results for row in result.rows("parameter")])

    def derived(self) -> "pl.DataFrame":
        """Every derived figure, a row each."""
        return frame([row for result in self.results for row in result.rows("figure")])

    def draws(self) -> "pl.DataFrame":
        """The parameters of every usable draw, a row each; empty where a law has none of that name."""
        rows: list[dict[str, Any]] = []
        for result in self.results:
            if result.draws is not None:
                values = result.law.parameter_values(result.draws.theta, result.draws.beta).tolist()
                names = result.law.parameter_names
                rows += [
                    {"router": result.router, "law": result.law.name, "draw": k, **dict(zip(names, row, strict=True))}
                    for k, row in enumerate(values, start=1)
                ]
        return frame(rows)

    def scores(self) -> "pl.DataFrame":
        """How each fit predicts: runs, parameters, RMSE, R2 and the held-out sizes' CRPS and coverage."""
        rows: list[dict[str, Any]] = []
        for result in self.results:
            cells = [value for value in cells_of({result.router: result.steps}, self.held_out_by).values() if np.isfinite(value)]
            steps = [step for step in result.steps if step.following and step.by == self.held_out_by]
            covered = [(s.covered, s.runs) for step in steps if (s := step.score) and s.covered is not None]
            rows.append(
                {
                    "router": result.router, "law": result.law.name, "runs": result.fit.num_runs, "parameters": result.fit.problem.num_free,
                    "rmse_log10": result.fit.rmse_log10, "r_squared": result.fit.r_squared,
                    "held_out_crps": float(np.mean(cells)) if cells else None,
                    "covered": sum(c for c, _ in covered) if covered else None,
                    "held_out_runs": sum(n for _, n in covered) if covered else None,
                }
            )  # fmt: skip
        return frame(rows)


def analyse(runs: Runs, options: Options | None = None, progress: Callable[[int, int, str], None] | None = None) -> Analysis:
    """Fit every law asked for to every router's runs, rank them, and resample.

    `progress(done, all, name)` is called as parts finish. A law that the runs do not identify is listed under `skipped` with the
    reason. Raises `InputError` for an unknown router, and `NotIdentifiedError` where no law at all can be fitted.
    """
    options = options or Options()
    if options.shared and (options.fixed or options.bounds or options.weights):
        raise InputError("parameters that routers share go with no fixed ones, bounds or weights: leave out --share or these")
    work: list[tuple[str, Runs, str, str | Law]] = []
    skipped, outcomes = list[Skipped](), list[Result | Skipped]()
    for group, part in _groups(runs, options.group).items():
        try:
            own, left = jobs(part, options.laws, options.routers, options.shared)
        except InputError as error:
            raise InputError(f"{options.group} {group}: {error}" if group else str(error)) from error
        work += [(group, part, router, law) for router, law in own]
        skipped += [replace(one, router=_named(group, one.router, part)) for one in left]
    for group, part, router, law in work:
        outcomes.append(replace(_fit_job(part, options, router, law), router=_named(group, router, part)))
        if progress:
            progress(len(outcomes), 2 * len(work), "fits")
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    skipped += [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
    if not results:
        raise NotIdentifiedError(_why_none(runs, skipped))
    _refuse_unused(results, skipped, options)
    bare = Analysis(runs, options, tuple(results), tuple(skipped), _ranking(results))
    shown = {bare.quoted, PAPER_LAW, *(result.law.name for result in results if result.law.dense)}
    # One scheme for a law on all routers, so that the draws of two routers can be subtracted.
    schemes = _schemes(results, options)
    finished: list[Result] = []
    for result in results:
        quoted, drawn = result.law.name == bare.quoted, options.draw_all or result.law.name in shown
        wanted = options.draws if quoted else options.fewer_draws if drawn else 0
        finished.append(_finished(runs, result, wanted, schemes[result.law.name]))
        if progress:
            progress(len(work) + len(finished), len(work) + len(results), "intervals")
    return replace(bare, results=tuple(finished), approaches=_approaches(bare.find(DENSE_ROUTER, "tokens"), options))


def _groups(runs: Runs, column: str) -> dict[str, Runs]:
    """The runs of each value of a column, in order of appearance; all as one, without a name, where routers are the groups."""
    if column == ROUTER:
        return {"": runs}
    values = np.array([str(value) for value in runs[column].tolist()])
    return {str(value): runs.keep(values == value, f"{column} {value}") for value in dict.fromkeys(values.tolist())}


def _named(group: str, router: str, runs: Runs) -> str:
    """What a fit to a group's runs is called: by the group alone where it has one router."""
    one = router in (DENSE_ROUTER, ALL_ROUTERS) or len(routers(runs)) == 1
    return router if not group else group if one else f"{group}, {router}"


def _approaches(result: Result | None, options: Options) -> Comparison | None:
    """Both ways to the best N and D of the largest budget; None where fewer than two budgets have a minimum."""
    if result is None:
        return None
    try:
        profiles = isoflop(result.runs, draws=options.draws, seed=options.seed, level=options.level)
    except InputError:
        return None
    largest = max(options.budgets, default=max(one.flops for one in profiles.budgets))
    return compare_approaches(profiles, largest, options.loss) if len(profiles.budgets) > 1 else None


def _parameters(law: Law) -> set[str]:
    """What of a law can be fixed or bounded."""
    return {*law.coefficients, *(shape.name for shape in law.shapes), *law.ratios}


def _refuse_unused(results: Sequence[Result], skipped: Sequence[Skipped], options: Options) -> None:
    """Raises `InputError` for what was asked for and no law here can use, which would otherwise be passed over in silence."""
    laws = list({result.law.name: result.law for result in results}.values())
    known = {name for law in laws for name in _parameters(law)}
    for name in (*options.fixed, *options.bounds):
        if name not in known:
            having = [one for one in skipped if one.law in CATALOGUE and name in _parameters(CATALOGUE[one.law])]
            why = "".join(f"\n{one.law} has, and was not fitted: {one.reason}" for one in having[-1:])
            raise InputError(f"no law fitted here has a parameter {name!r}; they have: {', '.join(sorted(known))}{why}")
    if options.budgets and not any(has_allocation(law) for law in laws):
        raise InputError(
            "no law fitted here has a best size and tokens for a budget\nthat takes runs of several tokens, and a law such as --law tokens"
        )
    for point in options.points:
        if all(point.columns(law) is None or law.sizes for law in laws):
            wanted = listed(dict.fromkeys(short(name) for law in laws for name in law.columns))
            raise InputError(
                f"{point.label}: no law fitted here predicts from what this says; they need {wanted}\nsuch as --at N=70B,D=1.4T"
            )


def _fit_job(runs: Runs, options: Options, router: str, law: str | Law) -> Result | Skipped:
    """The fit of a law to a router's runs, rolled out by size, without draws; or why it has none."""
    name = law if isinstance(law, str) else law.name
    try:
        reads = () if law == "per-size" else (law if isinstance(law, Law) else law_named(law)).columns
        chosen = runs if router == POOLED else runs_for(runs, router, name, reads)
        if law == "per-size":
            chosen = chosen.keep(with_slope(chosen), "sizes with more than one number of experts")
        if router == POOLED and name != "utilisation":
            return _fit_together(runs, options, law if isinstance(law, Law) else law_named(law))
        found = law if isinstance(law, Law) else per_size(chosen.numeric(N)) if law == "per-size" else law_named(law)
        return fit_runs(found, chosen, router, options)
    except InputError as error:
        # A column that is not there, or runs that say too little: either way this law is not for these runs.
        return Skipped(router, name, str(error))


def _fit_together(runs: Runs, options: Options, law: Law) -> Result:
    """One fit to the runs of all routers, each with the dense ones, with the parameters of `options.shared` the same in all."""
    parts = {name: canonical(runs, name) for name in routers(runs, options.routers)}
    columns = {name: np.concatenate([part.columns[name] for part in parts.values()]) for name in runs.columns}
    together = replace(
        runs, columns=columns, file_of=np.concatenate([part.file_of for part in parts.values()]),
        line_of=np.concatenate([part.line_of for part in parts.values()]),
    )  # fmt: skip
    groups = {name: ({column: part.numeric(column) for column in law.columns}, part.loss) for name, part in parts.items()}
    fit = fit_shared(law, groups, options.shared, options.loss, unbounded=options.unbounded)
    if not fit.certificate.identified:
        raise NotIdentifiedError(f"{why_not_identified(fit.problem)} (condition number {fit.certificate.condition:.1e})")
    sizes = together.numeric(N) if together.has(N) else None
    return Result(POOLED, fit.law, together, fit, options, (), misfit(fit, sizes))


def fit_runs(law: Law, runs: Runs, router: str, options: Options) -> Result:
    """Fit one law to these runs and roll it out by size. Raises `NotIdentifiedError` where they do not identify it."""
    known = _parameters(law)
    fixed = {key: value for key, value in options.fixed.items() if key in known}
    bounds = {key: value for key, value in options.bounds.items() if key in known}
    if options.weights and np.any(there := runs.numeric(options.weights) != 0) and not there.all():
        runs = runs.keep(there, f"{options.weights} other than 0")
    weights = runs.numeric(options.weights) if options.weights else None
    runs = with_columns(runs, law.columns)
    data = {name: runs.numeric(name) for name in law.columns}
    if not fixed and (why := cause(law, data)):
        raise NotIdentifiedError(f"law {law.name} is not identified: {why}")
    fit = fit_law(law, data, runs.loss, options.loss, fixed=fixed, bounds=bounds, weights=weights, unbounded=options.unbounded)
    if not fit.certificate.identified:
        raise NotIdentifiedError(
            f"{why_not_identified(fit.problem, fit.certificate.at_bounds)} (condition number {fit.certificate.condition:.1e})"
        )
    sizes = runs.numeric(N) if runs.has(N) else None
    steps = () if law.sizes else roll_outs(fit, runs.columns, level=options.level)
    found = misfit(fit, sizes, seed_noise(runs.columns, runs.loss))
    return Result(router, law, runs, fit, options, steps, found)


def _why_none(runs: Runs, skipped: Sequence[Skipped]) -> str:
    """Why no law has a fit: the reason of one for routed runs stands for all, with the law that one size allows."""
    if not skipped:
        return "no law can be fitted to these runs: no law was asked for"
    first = min(skipped, key=lambda one: one.router in (DENSE_ROUTER, POOLED, ALL_ROUTERS) or one.law == "utilisation")
    text = (
        first.reason
        if len({one.law for one in skipped}) == 1
        else f"none of {len({one.law for one in skipped})} laws can be fitted: {first.reason}"
    )
    if runs.has(N) and len(np.unique(runs.numeric(N))) == 1 and runs.has(E) and len(np.unique(runs.numeric(E))) > 1:
        text += "\nfor a slope of the only size: --law per-size"
    return text


def _ranking(results: Sequence[Result]) -> Ranking | None:
    """Laws of routed runs ranked over all routers together."""
    routed = [result for result in results if result.router not in (DENSE_ROUTER, POOLED)] or list(results)
    laws: dict[str, dict[str, tuple[RollOutStep, ...]]] = {}
    for result in routed:
        laws.setdefault(result.law.name, {})[result.router] = result.steps
    # By size, or where too few can be held out by tokens or compute.
    return next((found for by in AXES if (found := rank({law: cells_of(steps, by) for law, steps in laws.items()}, by))), None)


def _keys(base: Runs, runs: Runs) -> Int[np.ndarray, "runs"]:
    """The place of each run among all: what its random numbers belong to."""
    place = {(int(file), int(line)): k for k, (file, line) in enumerate(zip(base.file_of, base.line_of, strict=True))}
    return np.array([place[int(file), int(line)] for file, line in zip(runs.file_of, runs.line_of, strict=True)], dtype=np.int64)


def _schemes(results: Sequence[Result], options: Options) -> dict[str, Scheme]:
    """The scheme of each law, one on all routers, so that the draws of two can be subtracted: what its residuals ask for."""
    if options.scheme != "auto":
        return {result.law.name: options.scheme for result in results}
    asked: dict[str, list[Scheme]] = {}
    for result in results:
        asked.setdefault(result.law.name, []).append(result.misfit.scheme)
    order: tuple[Scheme, ...] = ("wild-clusters", "wild", "residuals")
    return {law: next(scheme for scheme in order if scheme in own) for law, own in asked.items()}


def _finished(base: Runs, result: Result, wanted: int, scheme: Scheme) -> Result:
    """The result with its draws, figures and warnings."""
    fit, runs, options = result.fit, result.runs, result.options
    sizes, keys = runs.numeric(N) if runs.has(N) else None, _keys(base, runs)
    # Dense runs that several routers share err together, which the draws know and formulas for independent residuals do not.
    once = len(np.unique(keys)) == len(keys)
    draws = None
    if wanted and fit.degrees > 0:
        draws = resample(fit, scheme, wanted, options.seed, sizes, keys)
    names = fit.law.parameter_names
    units = [fit.law.units.get(name, "") for name in names]
    found = estimates(fit, draws, fit.law.parameter_values, options.level, unit=units, errors=once, exact=once)
    coefficients = _in_unit(dict(zip(names, found, strict=True)), runs.unit)
    derived = _in_unit(derived_figures(fit, draws, _points(base, result), options.level, options.budgets), runs.unit)
    about = f"{result.router} {result.law.name}"
    warnings = warnings_for(
        fit, about, draws=draws, found=result.misfit, figures={**coefficients, **derived}, steps=result.steps, level=options.level,
        tokens=runs.columns[D] if runs.has(D) else None,
    )  # fmt: skip
    return replace(result, draws=draws, coefficients=coefficients, derived=derived, warnings=warnings)


def _points(base: Runs, result: Result) -> tuple[Point, ...]:
    """The models that figures are given for: those asked for, or the ends of all runs; a dense law knows those of its own runs' E alone."""
    data, asked = known_places(result.runs if result.law.dense else base), result.options.points
    if not data:
        return asked
    return tuple(point for point in asked if not result.law.dense or point.e in data[E]) if asked else default_points(data)


def _in_unit(figures: Mapping[str, Estimate], unit: str) -> dict[str, Estimate]:
    """The figures with those that are losses in the unit of the runs' own."""
    return {name: replace(figure, unit=unit) if figure.unit == NATS else figure for name, figure in figures.items()}
