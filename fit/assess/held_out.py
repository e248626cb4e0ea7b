"""Held-out honesty: how well a law predicts runs that its fit did not see, one at a time or every larger size at once.

A fit's own residuals say nothing of extrapolation, which is what scaling laws are for. `roll_out` fits all runs up to a size and predicts
the larger ones, as a user would; `leave_one_out` asks the same within the range. Errors are predicted minus observed loss:
negative where the law promises a lower loss than training then reached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from common.errors import InputError
from fit.errors import NotIdentifiedError
from fit.intervals.bootstrap import interval, new_run_loss, resample
from fit.laws.interface import Law
from fit.solver.losses import Loss
from fit.solver.refit import refit
from fit.solver.solve import Fit, fit_law

_SIZE = "dense_parameter_count"


_CELLS = 1_000_000
"""Weights of runs held at once when each is left out in turn: bounds memory."""


@dataclass(frozen=True)
class Score:
    """How well losses were predicted that the fit did not see.

    `rmse_log10`: root mean square of log10 predicted over observed; `rmse_percent`: of the error as a share of the observed
    loss; `mean_error`: nats per token, predicted minus observed; `too_low`: runs predicted below their observed loss.
    `r2`: one minus the squared error over the variance of these runs' own losses, in nats: negative where their mean would have
    predicted better; None for runs of one loss. `covered`: observed losses within their prediction interval; None without intervals.
    """

    runs: int
    rmse_log10: float
    rmse_percent: float
    mean_error: float
    too_low: int
    r2: float | None
    covered: int | None


def score(
    predicted: Float[np.ndarray, "runs"],
    observed: Float[np.ndarray, "runs"],
    low: Float[np.ndarray, "runs"] | None = None,
    high: Float[np.ndarray, "runs"] | None = None,
) -> Score | None:
    """The score of predicted against observed losses (nats per token), with prediction intervals where there are any.

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
    return Score(
        runs=len(there),
        rmse_log10=float(np.sqrt(np.mean(np.log10(predicted[known] / there) ** 2))),
        rmse_percent=float(100 * np.sqrt(np.mean((error / there) ** 2))),
        mean_error=float(error.mean()),
        too_low=int(np.sum(error < 0)),
        r2=1 - float(np.sum(error**2)) / spread if spread > 0 else None,
        covered=covered,
    )


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Every run's loss (nats per token) as predicted by the fit to all the others: NaN where they do not identify the law.

    `failed` counts those; they are not in the score.
    """

    predicted: Float[np.ndarray, "runs"]
    observed: Float[np.ndarray, "runs"]
    failed: int

    @property
    def errors_nats(self) -> Float[np.ndarray, "runs"]:
        """Predicted minus observed loss, nats per token."""
        return self.predicted - self.observed

    @property
    def errors_log10(self) -> Float[np.ndarray, "runs"]:
        """log10 of predicted over observed loss."""
        return np.log10(self.predicted / self.observed)

    @property
    def score(self) -> Score | None:
        """Errors over all runs that were predicted; None if none was."""
        return score(self.predicted, self.observed)


def leave_one_out(fit: Fit) -> LeaveOneOut:
    """Predict every run from a refit to all the others, each to its own optimum.

    The shape parameters keep the whole fit's bounds.
    """
    runs, at_once = np.arange(fit.num_runs), max(1, _CELLS // fit.num_runs)
    predicted = np.full(fit.num_runs, np.nan)
    for start in range(0, fit.num_runs, at_once):
        out = runs[start : start + at_once]
        refits = refit(fit, weights=(runs != out[:, None]).astype(np.float64))
        # Each refit's curve at all these runs, of which the one it left out is on the diagonal.
        curves = fit.law.log10_loss(refits.theta, refits.beta, {name: column[out] for name, column in fit.problem.data.items()})
        predicted[out] = np.where(refits.identified, 10 ** np.diagonal(curves), np.nan)
    return LeaveOneOut(predicted, 10**fit.problem.observed, int(np.sum(np.isnan(predicted))))


@dataclass(frozen=True, eq=False)
class RollOutStep:
    """The runs of one size, predicted by the fit to all runs up to a smaller one.

    `trained_up_to` and `size` in parameters; `fitted` runs went into the fit; `runs` are the predicted ones, as indices into
    the data. `low` and `high` bound a new run's loss: mean curve and noise; NaN where there are too few draws. `failed` draws did not
    identify the law. `reason`: why the fit was not identified, in one line; None where it was. Losses in nats per token.
    """

    law: str
    trained_up_to: float
    size: float
    fitted: int
    runs: Int[np.ndarray, "held_out"]
    predicted: Float[np.ndarray, "held_out"]
    observed: Float[np.ndarray, "held_out"]
    low: Float[np.ndarray, "held_out"]
    high: Float[np.ndarray, "held_out"]
    failed: int
    reason: str | None

    @property
    def distance(self) -> float:
        """How far the prediction reaches: the ratio of the two sizes."""
        return self.size / self.trained_up_to

    @property
    def score(self) -> Score | None:
        """Errors and coverage over these runs; None where the fit was not identified, or there is no run."""
        return pooled((self,))

    def only(self, chosen: Bool[np.ndarray, "all_runs"]) -> "RollOutStep":
        """The same step for the chosen runs of the data alone, such as the routed ones."""
        kept = chosen[self.runs]
        names = ("runs", "predicted", "observed", "low", "high")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def pooled(steps: Sequence[RollOutStep]) -> Score | None:
    """One score over the runs of several steps, such as one for each router; None where none of them was identified."""
    if not steps:
        return None
    names = ("predicted", "observed", "low", "high")
    return score(*(np.concatenate([getattr(step, name) for step in steps]) for name in names))


def roll_out(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    least_sizes: int = 3,
) -> tuple[RollOutStep, ...]:
    """Fit the runs up to a size and predict those of each larger one, for every split with at least `least_sizes` sizes below.

    `data` has the law's columns and `dense_parameter_count`, the size; `loss` in nats per token. Prediction intervals come from
    `draws` resamples of the residuals. Three sizes are the least that show a bend (our choice). A split whose fit is not
    identified gives its steps all the same, with the reason and no predictions. No steps where there are too few sizes.
    """
    if _SIZE not in data:
        raise InputError(f"a roll-out by size needs the column {_SIZE}, and there are: {', '.join(data)}")
    sizes = np.unique(data[_SIZE])
    steps: list[RollOutStep] = []
    for count in range(least_sizes, len(sizes)):
        steps.extend(_split(law, data, loss, objective, draws, seed, level, sizes[count - 1], sizes[count:]))
    return tuple(steps)


def _split(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None,
    draws: int,
    seed: int,
    level: float,
    largest: float,
    beyond: Float[np.ndarray, "sizes"],
) -> list[RollOutStep]:
    """The steps of one split: `largest` is the largest size fitted, `beyond` are those predicted."""
    below, above = data[_SIZE] <= largest, np.flatnonzero(data[_SIZE] > largest)
    new = {name: data[name][above] for name in law.columns}
    nothing = np.full(len(above), np.nan)
    predicted, low, high, failed, reason = nothing, nothing, nothing, 0, None
    try:
        fit = fit_law(law, {name: data[name][below] for name in law.columns}, loss[below], objective)
        predicted = 10 ** fit.log10_loss(new)
        # Without residual degrees of freedom the residuals, and so the intervals, are nought whatever the noise.
        if draws and fit.num_runs > law.num_parameters:
            sample = resample(fit, "residuals", draws, seed)
            found, failed = interval(sample, new_run_loss(sample, new), level), sample.failed
            low, high = found.low, found.high
    except NotIdentifiedError as error:
        reason = str(error)
    everything = RollOutStep(
        law.name, float(largest), float(beyond[-1]), int(below.sum()), above, predicted, loss[above], low, high, failed, reason
    )
    return [replace(everything.only(data[_SIZE] == size), size=float(size)) for size in beyond]
