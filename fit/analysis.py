"""From runs to results: every law asked for, on every router, with intervals, derived figures and warnings.

An `Analysis` is all that a report shows; `fit.report` turns it into terminal tables, JSON, Markdown, HTML and LaTeX.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError
from fit.assess.identify import FitWarning, warnings_for
from fit.epc import cutoff_quantity, epc_quantity, expert_slope, has_cutoff, has_epc, size_slope
from fit.errors import NotIdentifiedError
from fit.intervals.bootstrap import Draws, Interval, Method, Quantity, Scheme, interval, new_run_loss, predicted_loss, resample
from fit.laws import CATALOGUE, DENSE_LAWS, TOKENS, Law, law_named, per_size
from fit.load.grid import canonical, routers
from fit.load.runs import Runs
from fit.solver.losses import Loss, SquaredLog
from fit.solver.solve import Fit, fit_law

PAPER_LAWS = ("dense", "per-size", "separable", "bilinear", "bounded", "utilisation")
"""The laws of the paper, in its order: what a plain `fit` fits."""

ALL_LAWS = (*DENSE_LAWS, "per-size", *(name for name in CATALOGUE if name not in DENSE_LAWS))
"""Every law there is."""

COMPARED_LAWS = tuple(name for name in ALL_LAWS if name != TOKENS.name)
"""What a plain `compare` fits: all of them at one number of tokens."""

DENSE_ROUTER = "Dense"
POOLED = "pooled"
"""The router column of a fit to the runs of every router together (Eq. 2)."""


@dataclass(frozen=True)
class Point:
    """A model that a figure is asked for: its dense size (parameters, embeddings excluded) and number of experts."""

    n: float
    e: float

    @property
    def label(self) -> str:
        """Such as `1.3B/E=64`."""
        return f"{short_count(self.n)}/E={self.e:g}"


@dataclass(frozen=True)
class Options:
    """How to fit. `points` left empty are `default_points`; `routers` left empty are all there are."""

    laws: tuple[str, ...] = PAPER_LAWS
    routers: tuple[str, ...] = ()
    loss: Loss = field(default_factory=SquaredLog)
    scheme: Scheme = "residuals"
    method: Method = "percentile"
    draws: int = 1000
    seed: int = 0
    level: float = 0.95
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95, not {self.level:g}")
        if self.draws < 0:
            raise InputError(f"draws must be 0 (no intervals) or more, not {self.draws}")
        for name in self.laws:
            if name not in ALL_LAWS:
                law_named(name)


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval. `low` and `high` are None where no draws were made; `extrapolated` if it lies outside the data."""

    value: float
    low: float | None = None
    high: float | None = None
    extrapolated: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Result:
    """One law fitted to one router's runs."""

    router: str
    law: Law
    runs: Runs
    fit: Fit
    draws: Draws | None
    coefficients: dict[str, Estimate]
    derived: dict[str, Estimate]
    warnings: tuple[FitWarning, ...]


@dataclass(frozen=True)
class Skipped:
    """A law that these runs cannot identify, and why, in one line."""

    router: str
    law: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """Every result of one request, with the runs it started from and the options it was made with."""

    runs: Runs
    options: Options
    results: tuple[Result, ...]
    skipped: tuple[Skipped, ...]

    def result(self, router: str, law: str) -> Result | None:
        """The result of this law on this router, or None."""
        return next((r for r in self.results if r.router == router and r.law.name == law), None)


def short_count(n: float) -> str:
    """A number of parameters as people write it: 5M, 16.5M, 1.31B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= unit * 0.9995:
            return f"{n / unit:.3g}{name}"
    return f"{n:.3g}"


def analyse(runs: Runs, options: Options, progress: Callable[[int, int, str], None] | None = None) -> Analysis:
    """Fit every law asked for to every router's runs.

    `progress(done, all, name)` is called as fits finish. A law that the runs cannot identify is listed under `skipped` with the
    reason. Raises `InputError` for an unknown router, and `NotIdentifiedError` where no law at all can be fitted.
    """
    jobs = _jobs(runs, options)
    outcomes: list[Result | Skipped] = []
    # Two laws are fitted at once where there are two cores: the numerics let go of the interpreter. The longest come first, the
    # results in the jobs' order.
    with ThreadPoolExecutor(max_workers=min(len(jobs), os.cpu_count() or 1)) as pool:
        waiting = {job: pool.submit(_run_job, runs, options, *job) for job in sorted(jobs, key=_work, reverse=True)}
        for done, job in enumerate(jobs):
            outcomes.append(waiting[job].result())
            if progress:
                progress(done + 1, len(jobs), f"{job[0]} {job[1]}")
    results = tuple(outcome for outcome in outcomes if isinstance(outcome, Result))
    skipped = tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped))
    if not results:
        reasons = "; ".join(dict.fromkeys(s.reason for s in skipped))
        raise NotIdentifiedError(f"no law can be fitted to these runs: {reasons}. {_what_can_be_fitted(runs, options)}")
    return Analysis(runs, options, results, skipped)


def _jobs(runs: Runs, options: Options) -> list[tuple[str, str]]:
    """Router and law of every fit, those of one router together; the dense laws stand on their own, the pooled one last."""
    there = routers(runs)
    for name in options.routers:
        if name not in there:
            raise InputError(f"no runs of router {name!r}; the routers there: {', '.join(there) or 'none'}")
    chosen = options.routers or there
    jobs = router_jobs(chosen, options.laws)
    if "utilisation" in options.laws and len(chosen) > 1:
        jobs.append((POOLED, "utilisation"))
    if not jobs:
        raise InputError(
            f"nothing to fit: the runs are all dense, and of the laws asked for ({', '.join(options.laws)}) none is of dense runs"
        )
    return jobs


def router_jobs(chosen: Sequence[str], laws: Sequence[str]) -> list[tuple[str, str]]:
    """Router and law of every fit: the dense laws once, on the dense runs, and the others for each router of `chosen`."""
    jobs = [(DENSE_ROUTER, law) for law in laws if law in DENSE_LAWS]
    return jobs + [(router, law) for router in chosen for law in laws if law not in DENSE_LAWS]


def _what_can_be_fitted(runs: Runs, options: Options) -> str:
    """The laws that were not asked for and that these runs do identify, as a sentence."""
    others = replace(options, draws=0, laws=tuple(name for name in ALL_LAWS if name not in options.laws))
    try:
        jobs = _jobs(runs, others) if others.laws else []
    except InputError:
        jobs = []
    can = dict.fromkeys(law for router, law in jobs if isinstance(_run_job(runs, others, router, law), Result))
    return f"They can identify: {', '.join(can)}" if can else "They can identify no other law either"


def _work(job: tuple[str, str]) -> tuple[int, bool]:
    """Sorts jobs by how long they take: by their shape parameters, then those on all runs at once."""
    router, law = job
    return (len(CATALOGUE[law].shapes) if law in CATALOGUE else 0, router == POOLED)


def runs_for(runs: Runs, router: str, law: str) -> Runs:
    """The runs that `law` is fitted to for `router`: the canonical ones, or for Eq. 2 those of every k and R, dense runs included."""
    if law != "utilisation":
        return canonical(runs, router)
    if router == POOLED or not runs.has("router_type"):
        return runs
    labels = runs["router_type"]
    others = sorted({str(name) for name in labels} - {router, DENSE_ROUTER})
    return runs.keep(
        (labels == router) | (labels == DENSE_ROUTER), f"{router} and dense runs, every k and R", [f"router {n}" for n in others]
    )


def law_for(name: str, runs: Runs) -> Law:
    """The law of this name; `per-size` is made for the sizes met with more than one number of experts."""
    if name != "per-size":
        return law_named(name)
    sizes = runs.numeric("dense_parameter_count")[_with_slope(runs)]
    if not len(sizes):
        raise NotIdentifiedError("law 'per-size' needs a size met with more than one num_experts, and there is none")
    return per_size(sizes.tolist())


def _run_job(runs: Runs, options: Options, router: str, name: str) -> Result | Skipped:
    try:
        chosen = runs_for(runs, router, name)
        law = law_for(name, chosen)
        if name == "per-size" and not (sloped := _with_slope(chosen)).all():
            chosen = chosen.keep(sloped, "sizes with more than one number of experts")
        return fit_runs(law, chosen, router, options)
    except InputError as error:
        # A column that is not there, or runs that say too little: either way this law is not for these runs.
        return Skipped(router, name, str(error))


def _with_slope(runs: Runs) -> Bool[np.ndarray, "runs"]:
    """Which runs are of a size met with more than one number of experts."""
    n, e = runs.numeric("dense_parameter_count"), runs.numeric("num_experts")
    return np.array([len(np.unique(e[n == size])) > 1 for size in n], dtype=bool)


def fit_runs(law: Law, runs: Runs, router: str, options: Options) -> Result:
    """Fit one law to these runs, with its intervals, derived figures and warnings.

    Raises `NotIdentifiedError` where they cannot identify it.
    """
    data = {name: runs.numeric(name) for name in law.columns}
    fit = fit_law(law, data, runs.loss, options.loss)
    draws = None
    if options.draws:
        clusters = runs.numeric("dense_parameter_count") if runs.has("dense_parameter_count") else None
        draws = resample(fit, options.scheme, options.draws, options.seed, clusters)
    coefficients = _estimates(fit, draws, fit.law.parameter_values, law.parameter_names, options, units=law.units)
    points = (options.points or default_points(runs)) if has_epc(law) else ()
    derived = _derived(fit, draws, runs, points, options)
    warnings = warnings_for(fit, draws, coefficients, derived, points=points, level=options.level)
    return Result(router, law, runs, fit, draws, coefficients, derived, warnings)


def _estimates(
    fit: Fit, draws: Draws | None, quantity: Quantity, names: Sequence[str], options: Options, *, units: Mapping[str, str] | None = None
) -> dict[str, Estimate]:
    units = dict(units or {})
    if draws is None:
        values = quantity(fit.theta[None], fit.beta[None])[0]
        return {name: Estimate(float(value), unit=units.get(name, "")) for name, value in zip(names, values, strict=True)}
    found: Interval = interval(draws, quantity, options.level, options.method)
    return {
        name: Estimate(float(value), float(low), float(high), unit=units.get(name, ""))
        for name, value, low, high in zip(names, found.value, found.low, found.high, strict=True)
    }


def default_points(runs: Runs) -> tuple[Point, ...]:
    """The smallest and largest size of the runs at E = 64, or at their largest E below it; before them the paper's worked example.

    That is 5M/E=128; it is left out where it lies further than ten times from all sizes (our choice: nobody asked to extrapolate that far).
    """
    n, e = runs.numeric("dense_parameter_count"), runs.numeric("num_experts")
    experts = min(64.0, float(e.max()))
    example = (Point(5e6, 128.0),) if n.min() / 10 <= 5e6 <= n.max() * 10 else ()
    return (*example, Point(float(n.min()), experts), Point(float(n.max()), experts))


def _derived(fit: Fit, draws: Draws | None, runs: Runs, points: Sequence[Point], options: Options) -> dict[str, Estimate]:
    law = fit.law
    found: dict[str, Estimate] = {}
    if has_cutoff(law):
        name, unit, column = (
            ("f_cutoff", "FLOPs", "flops_per_step") if law.name == "utilisation" else ("n_cutoff", "parameters", law.columns[0])
        )
        found |= _estimates(fit, draws, cutoff_quantity(law), [name], options, units={name: unit})
        beyond = found[name].value > float(runs.numeric(column).max())
        found[name] = replace(found[name], extrapolated=beyond)
    if not points:
        return found
    n, e = np.array([point.n for point in points]), np.array([point.e for point in points])
    sizes, counts = runs.numeric("dense_parameter_count"), runs.numeric("num_experts")
    outside = (n < sizes.min()) | (n > sizes.max()) | (e < counts.min()) | (e > counts.max())
    data = {"dense_parameter_count": n, "num_experts": e}
    labels = [point.label for point in points]

    def _at_points(name: str, quantity: Quantity, unit: str) -> dict[str, Estimate]:
        names = [f"{name}({label})" for label in labels]
        rows = _estimates(fit, draws, quantity, names, options, units=dict.fromkeys(names, unit))
        return {key: replace(row, extrapolated=bool(far)) for (key, row), far in zip(rows.items(), outside, strict=True)}

    found |= _at_points("epc", epc_quantity(law, n, e), "parameters")
    found |= _at_points("loss", predicted_loss(fit, data), "nats per token")
    if draws is not None:
        found |= _at_points("new_run_loss", new_run_loss(draws, data), "nats per token")
    return found | _slopes(fit, draws, sizes, counts, options)


def _slopes(
    fit: Fit, draws: Draws | None, sizes: Float[np.ndarray, "runs"], counts: Float[np.ndarray, "runs"], options: Options
) -> dict[str, Estimate]:
    """a(E) at the fewest and most experts of the runs, b(N) at their smallest and largest size (Eq. 8)."""
    law = fit.law
    experts, ends = np.array([counts.min(), counts.max()]), np.array([sizes.min(), sizes.max()])
    found = _estimates(fit, draws, lambda t, b: size_slope(law, t, b, experts), [f"a(E={e:g})" for e in experts], options)
    if law.roles is not None and law.roles.experts is not None:
        names = [f"b(N={short_count(n)})" for n in ends]
        found |= _estimates(fit, draws, lambda t, b: expert_slope(law, b, ends), names, options)
    return found
