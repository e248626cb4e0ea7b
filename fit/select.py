"""Which law to believe: how each predicts runs that its fit did not see.

A fit's own residuals say nothing of extrapolation, which is what scaling laws are for. `roll_out` fits all runs up to a size (or a number
of tokens) and predicts the larger ones, as a user would. Laws are ranked by the continuous ranked probability score (CRPS; Gneiting &
Raftery 2007) of ln loss, which is proper: it is least in expectation for the true distribution, and is the absolute error where a
prediction claims no spread. Errors are predicted minus observed loss: negative where the law promises a lower loss than training then
reached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from common.errors import InputError
from fit.causes import tokens_by_size
from fit.engine.losses import squared_log
from fit.engine.refit import refit
from fit.engine.solve import Fit, certified, solve, why_not_identified
from fit.errors import NotIdentifiedError
from fit.quantities import log10_loss_quantity
from fit.runs.schema import C, D, N
from fit.uncertainty.delta import prediction_sd
from fit.uncertainty.distributions import f_tail, t_quantile

LN10 = float(np.log(10))

LEAST_SIZES = 3
"""Sizes that a fit sees before it predicts the next: the fewest that show a bend (our choice)."""

ROUNDING = 1e-6
"""Errors of log10 loss up to here are those of losses without noise, written with six digits or more (our choice)."""

LEAST_HELD_OUT = 2
"""Laws are ranked by the sizes held out where there are at least this many; one alone is one accident of its runs."""

WORSE = 0.95
"""One-sided confidence at which a law is called worse than the best (our choice)."""

AXES = (N, D, C)
"""What runs are held out by, best first: their size, their tokens, and their compute where they name no size."""

_MOST_LEVELS = 12
"""Sizes, or numbers of tokens, held out one by one; of more, neighbours are held out together (our choice: 240 sizes took 100 s)."""


def crps(error: Float[np.ndarray, "runs"], sd: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "runs"]:
    """CRPS of normal predictions with these errors and standard deviations, in their unit (Gneiting & Raftery 2007, Eq. 21)."""
    normal = NormalDist()
    safe = np.maximum(sd, 1e-150)
    z = error / safe
    pdf, cdf = np.exp(-z * z / 2) / np.sqrt(2 * np.pi), np.array([normal.cdf(float(one)) if np.isfinite(one) else np.nan for one in z])
    return np.where(sd > 0, safe * (z * (2 * cdf - 1) + 2 * pdf - 1 / np.sqrt(np.pi)), np.abs(error))


@dataclass(frozen=True)
class Score:
    """How well losses were predicted that the fit did not see.

    `crps` of ln loss, mean over runs; `rmse_log10`: root mean square of log10 predicted over observed; `rmse_percent`: of the error as a
    share of the observed loss; `mean_error`: nats per token, predicted minus observed; `too_low`: runs predicted below their observed
    loss. `r2`: one minus the squared error over the variance of these runs' own losses, in nats: negative where their mean would have
    predicted better; None for runs of one loss. `covered`: observed losses within their prediction interval; None without intervals.
    """

    runs: int
    crps: float | None
    rmse_log10: float
    rmse_percent: float
    mean_error: float
    too_low: int
    r2: float | None
    covered: int | None


def score(
    predicted: Float[np.ndarray, "runs"],
    observed: Float[np.ndarray, "runs"],
    sd: Float[np.ndarray, "runs"] | None = None,
    low: Float[np.ndarray, "runs"] | None = None,
    high: Float[np.ndarray, "runs"] | None = None,
) -> Score | None:
    """The score of predicted against observed losses (nats per token); `sd` of log10 loss.

    Runs without a prediction (NaN) are left out; None where there is none left.
    """
    known = np.isfinite(predicted)
    if not known.any():
        return None
    there, error = observed[known], (predicted - observed)[known]
    spread = float(np.sum((there - there.mean()) ** 2))
    covered = None
    if low is not None and high is not None and np.isfinite(low[known]).all() and np.isfinite(high[known]).all():
        covered = int(np.sum((low[known] <= there) & (there <= high[known])))
    ratio = np.log10(predicted[known] / there)
    proper = None if sd is None or not np.isfinite(sd[known]).all() else float(crps(ratio * LN10, sd[known] * LN10).mean())
    return Score(
        runs=len(there),
        crps=proper,
        rmse_log10=float(np.sqrt(np.mean(ratio**2))),
        rmse_percent=float(100 * np.sqrt(np.mean((error / there) ** 2))),
        mean_error=float(error.mean()),
        too_low=int(np.sum(error < 0)),
        r2=1 - float(np.sum(error**2)) / spread if spread > 0 else None,
        covered=covered,
    )


@dataclass(frozen=True, eq=False)
class RollOutStep:
    """The runs of one size, predicted by the fit to all runs up to a smaller one.

    `trained_up_to` and `size` are values of the column that is rolled out, `by`; `fitted` runs went into the fit; `runs` are the
    predicted ones, as indices into the data. `sd` is that of a new run's log10 loss; `low` and `high` bound its loss (nats per token).
    `reason`: why there is no prediction, in one line; None where there is one. `following`: the size is the next one, not one further.
    """

    law: str
    trained_up_to: float
    size: float
    fitted: int
    runs: Int[np.ndarray, "held_out"]
    predicted: Float[np.ndarray, "held_out"]
    observed: Float[np.ndarray, "held_out"]
    sd: Float[np.ndarray, "held_out"]
    low: Float[np.ndarray, "held_out"]
    high: Float[np.ndarray, "held_out"]
    reason: str | None
    following: bool
    by: str = N

    @property
    def distance(self) -> float:
        """How far the prediction reaches: the ratio of the two sizes."""
        return self.size / self.trained_up_to

    @property
    def score(self) -> Score | None:
        """Errors and coverage over these runs; None where there is no prediction, or no run."""
        return pooled((self,))

    def only(self, chosen: Bool[np.ndarray, "all_runs"]) -> "RollOutStep":
        """The same step for the chosen runs of the data alone, such as the routed ones."""
        kept = chosen[self.runs]
        names = ("runs", "predicted", "observed", "sd", "low", "high")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def pooled(steps: Sequence[RollOutStep]) -> Score | None:
    """One score over the runs of several steps, such as one for each router; None where none of them has a prediction."""
    if not steps:
        return None
    names = ("predicted", "observed", "sd", "low", "high")
    return score(*(np.concatenate([getattr(step, name) for step in steps]) for name in names))


def furthest(steps: Sequence[RollOutStep], by: str) -> tuple[RollOutStep, ...]:
    """The step that predicts the largest size, or number of tokens, from the next one below; none where none was held out."""
    own = [step for step in steps if step.by == by]
    return tuple(step for step in own if step.following and step.size == max(one.size for one in own))


def missed(found: Score | None) -> bool:
    """Whether prediction intervals hold fewer than half of the runs held out, and errors are more than the rounding of exact losses."""
    return found is not None and found.covered is not None and found.covered < found.runs / 2 and found.rmse_log10 > ROUNDING


def roll_outs(fit: Fit, columns: Mapping[str, Shaped[np.ndarray, "runs"]], *, level: float = 0.95) -> tuple[RollOutStep, ...]:
    """The roll-out by size, and that by tokens: of laws with tokens, and of all where there are too few sizes to rank laws by.

    `columns` are those of the runs fitted. Tokens that go with size are held out with it; runs without a size are held out by compute.
    """
    there = {name: column.astype(np.float64) for name in AXES if (column := columns.get(name)) is not None}
    there = {name: column for name, column in there.items() if np.isfinite(column).all()}
    few = N not in there or len(np.unique(there[N])) < LEAST_SIZES + LEAST_HELD_OUT
    if D in there and ((N in there and tokens_by_size(there[N], there[D])) or not (few or D in fit.law.columns)):
        del there[D]
    if C in there and {N, D} & set(there):
        del there[C]
    return tuple(replace(step, by=name) for name, column in there.items() for step in roll_out(fit, _levels(column), level=level))


def _levels(values: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "runs"]:
    """Each value, or where there are many the largest of the neighbours it is held out with."""
    distinct = np.unique(values)
    if len(distinct) <= _MOST_LEVELS:
        return values
    ends = np.array([part[-1] for part in np.array_split(distinct, _MOST_LEVELS)])
    return ends[np.searchsorted(ends, values)]


def roll_out(fit: Fit, sizes: Float[np.ndarray, "runs"], *, level: float = 0.95, least: int = LEAST_SIZES) -> tuple[RollOutStep, ...]:
    """Fit the runs up to a size and predict those of each larger one, for every split with at least `least` sizes below.

    `sizes` are what the runs are ordered by, such as N. Prediction intervals are Student's, to first order. A split whose fit is not
    identified gives its steps all the same, with the reason and no predictions.
    """
    if len(sizes) != fit.num_runs:
        raise InputError(f"a roll-out needs the size of each of {fit.num_runs} runs, and there are {len(sizes)}")
    values = np.unique(sizes)
    below = [sizes <= values[count - 1] for count in range(least, len(values))]
    steps: list[RollOutStep] = []
    for count, seen, found in zip(range(least, len(values)), below, _earlier_fits(fit, below), strict=True):
        steps.extend(_split(fit, found, sizes, seen, values[count:], level))
    return tuple(steps)


def _earlier_fits(whole: Fit, below: Sequence[Bool[np.ndarray, "runs"]]) -> list[Fit | str]:
    """The fits to the runs of each mask alone, or why there is none; all at once, but for those that a bound of the whole data holds."""
    if not below:
        return []
    refits = refit(whole, weights=np.array(below, dtype=np.float64))
    found: list[Fit | str] = []
    for k, seen in enumerate(below):
        problem, few = whole.problem.subset(seen), int(seen.sum())
        try:
            if few <= problem.num_free:
                raise NotIdentifiedError(f"{few} runs for {problem.num_free} parameters")
            inside = refits.converged[k] and not refits.at_bound[k]
            fit = certified(problem, refits.take(np.array([k]))) if inside else solve(problem, confirm=False)
            found.append(fit if fit.certificate.identified else why_not_identified(problem, fit.certificate.at_bounds))
        except NotIdentifiedError as error:
            found.append(str(error))
    return found


def _split(
    whole: Fit, found: Fit | str, sizes: Float[np.ndarray, "runs"], seen: Bool[np.ndarray, "runs"], beyond: Float[np.ndarray, "sizes"],
    level: float,
) -> list[RollOutStep]:  # fmt: skip
    """The steps of one split: `seen` are the runs fitted, `beyond` the sizes predicted."""
    above = np.flatnonzero(~seen)
    new = {name: column[above] for name, column in whole.problem.data.items()}
    predicted = sd = low = high = np.full(len(above), np.nan)
    if isinstance(found, Fit):
        predicted = 10 ** found.log10_loss(new)
        sd = prediction_sd(found, log10_loss_quantity(found.law, new))
        reach = t_quantile((1 + level) / 2, float(found.degrees)) * sd
        with np.errstate(over="ignore"):  # an end beyond the largest float is infinite: that the runs set none
            low, high = predicted / 10**reach, predicted * 10**reach
    reason, largest = (None if isinstance(found, Fit) else found), float(sizes[seen].max())
    everything = RollOutStep(
        whole.law.name, largest, float(beyond[-1]), int(seen.sum()), above, predicted, 10 ** whole.problem.observed[above], sd, low, high,
        reason, False,
    )  # fmt: skip
    return [replace(everything.only(sizes == size), size=float(size), following=bool(size == beyond[0])) for size in beyond]


Cells = Mapping[tuple[str, float], float]
"""Mean CRPS of one law's predictions by router and size held out."""


def cells_of(steps: Mapping[str, Sequence[RollOutStep]], by: str = N) -> dict[tuple[str, float], float]:
    """A law's scores at each next size, or number of tokens, by router; NaN where it made no prediction."""
    found: dict[tuple[str, float], float] = {}
    for router, own in steps.items():
        for step in own:
            if step.following and step.by == by:
                found[router, step.size] = step.score.crps if step.score is not None and step.score.crps is not None else np.nan
    return found


@dataclass(frozen=True)
class Ranking:
    """Laws by their mean CRPS over the same held-out sizes, best first.

    `behind` gives each law's mean difference to the best one and its standard error over these sizes, paired size by size; `equal` are
    those not shown to be worse (one-sided, 95 %). `cells` says how many sizes, each of one router's runs, this rests on; `by` the column
    that was held out, if not size.
    """

    scores: Mapping[str, float]
    behind: Mapping[str, tuple[float, float]]
    equal: tuple[str, ...]
    cells: int
    by: str = N

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws, best first."""
        return tuple(self.scores)

    @property
    def best(self) -> str:
        """The law with the least score."""
        return self.laws[0]


def rank(laws: Mapping[str, Cells], by: str = N) -> Ranking | None:
    """Rank laws by their scores in the cells that they share, of runs held out `by` this column.

    Laws with more parameters predict fewer cells. Of the sets of cells that the laws with the most of them share, and in which no router
    is missing, the one with the most scores in all is taken; a law that made no prediction in one of its cells has no place.
    """
    predicted = {law: {key for key, value in cells.items() if np.isfinite(value)} for law, cells in laws.items()}
    by_cells = sorted(predicted, key=lambda law: -len(predicted[law]))
    sets = [set[tuple[str, float]].intersection(*(predicted[law] for law in by_cells[:many])) for many in range(1, len(by_cells) + 1)]
    all_routers = {router for router, _ in sets[0]} if sets else set[str]()
    whole = [(many * len(keys), many, keys) for many, keys in enumerate(sets, 1) if {router for router, _ in keys} == all_routers]
    keys = max(whole, key=lambda one: one[:2])[2] if whole else set[tuple[str, float]]()
    if len(keys) < LEAST_HELD_OUT:
        return None
    order = sorted(keys)
    table = {law: np.array([laws[law][key] for key in order]) for law in laws if keys <= predicted[law]}
    means = {law: float(row.mean()) for law, row in table.items()}
    scores = dict(sorted(means.items(), key=lambda item: item[1]))
    best = table[next(iter(scores))]
    behind = {law: (float((table[law] - best).mean()), float((table[law] - best).std(ddof=1) / np.sqrt(len(keys)))) for law in scores}
    limit = t_quantile(WORSE, float(len(keys) - 1))
    equal = tuple(law for law, (mean, error) in behind.items() if mean <= limit * error)
    return Ranking(scores, behind, equal, len(keys), by)


@dataclass(frozen=True)
class Criteria:
    """Information criteria of a fit with Gaussian log10 loss, smaller is better; they compare laws on the same runs and nothing else.

    They take residuals for independent, which lack of fit makes them not, and so favour larger laws more than held-out error does.
    """

    aic: float
    aicc: float | None
    bic: float


def criteria(fit: Fit) -> Criteria | None:
    """AIC, AICc (Hurvich & Tsai 1989) and BIC: n (ln(2 pi RSS/n) + 1) + penalty, K the law's parameters and the variance.

    None for another loss than squared error of log10 loss, whose likelihood would be of another variable or of no Gaussian, and where
    the fit is exact.
    """
    n, k = fit.num_runs, fit.problem.num_free + 1
    if fit.problem.loss != squared_log() or fit.certificate.objective <= 0:
        return None
    deviance = n * (np.log(2 * np.pi * fit.certificate.objective) + 1)
    aicc = deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None
    return Criteria(float(deviance + 2 * k), aicc, float(deviance + k * np.log(n)))


@dataclass(frozen=True)
class NestedTest:
    """F test of a law against one that contains it: a small p says that what the larger one adds is not noise."""

    f: float
    degrees: int
    residual_degrees: int
    p_value: float


def nested_test(small: Fit, large: Fit) -> NestedTest:
    """F test of `small` within `large`, fitted to the same runs by squared error of log10 loss (exact for linear laws).

    Raises `InputError` where the fits are not of the same runs, or `large` has no more parameters or no degrees of freedom.
    """
    same = np.array_equal(small.problem.observed, large.problem.observed)
    more = large.problem.num_free - small.problem.num_free
    if not same or not small.problem.loss == large.problem.loss == squared_log():
        raise InputError("a nested test takes two fits of the same runs by squared error of log10 loss")
    if more < 1 or large.degrees < 1:
        raise InputError(f"{large.law.name!r} adds {more} parameters to {small.law.name!r} and leaves {large.degrees} degrees of freedom")
    rss = [float(np.sum(fit.problem.weights * fit.residuals**2)) for fit in (small, large)]
    f = max(rss[0] - rss[1], 0.0) / more / (rss[1] / large.degrees)
    return NestedTest(float(f), more, large.degrees, f_tail(f, more, large.degrees))


def akaike_weights(fits: Sequence[Fit]) -> list[float]:
    """Weights of laws fitted to the same runs, by AICc (Burnham & Anderson 2002): for averages over laws. Raises where one has none."""
    found = [criteria(fit) for fit in fits]
    values = [one.aicc for one in found if one is not None and one.aicc is not None]
    if len(values) < len(fits) or any(not np.array_equal(fit.problem.observed, fits[0].problem.observed) for fit in fits):
        raise InputError("weights of laws need AICc of each, on the same runs by squared error of log10 loss")
    raw = np.exp(-(np.array(values) - min(values)) / 2)
    return (raw / raw.sum()).tolist()
