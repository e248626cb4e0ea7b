"""IsoFLOP profiles (Hoffmann et al. 2022, approach 2): a parabola of loss in ln N for each training budget, the line through their minima.

    L(N) = u + v z + w z^2 at each budget C, z = (ln N - centre)/width;   ln N_opt = const + exponent_n ln C, ln D_opt likewise

All parabolas together are one law, linear in its coefficients, so that draws, intervals and statuses are those of every other fit. Draws
are of residuals of log loss, of all budgets together (our choice): of draws of runs with replacement, 4 to 47 % were measured to leave some
budget without a minimum, at 5 to 7 sizes a budget, and so no exponent an interval. As random numbers belong to runs, a law fitted to the
same runs moves with the profiles, and the two are compared draw by draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Inexact, Int

from fit.budget.allocate import Allocation, allocate, figure_row, optimum_quantity
from fit.diagnose import misfit
from fit.engine.losses import Loss, squared
from fit.engine.solve import Fit, fit_law
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate, frame
from fit.laws import TOKENS
from fit.laws.interface import Data, IdentityLink, Law, Theta, stack_features
from fit.quantities import FLOPS_PER_TOKEN, beyond
from fit.runs import Runs
from fit.runs.schema import C, D, N
from fit.uncertainty.delta import Quantity, evaluate
from fit.uncertainty.draws import Draws, resample
from fit.uncertainty.intervals import difference, estimates

if TYPE_CHECKING:
    import polars as pl

SAME_BUDGET = 0.1
"""Runs are of one budget whose compute is at most this much, relatively, above the least among them (our choice)."""

LEAST_SIZES = 4
"""Sizes that a budget needs: one more than a parabola has coefficients, so that its error is known (our choice)."""

_FIGURES = {"exponent_n": "", "exponent_d": "", "n": "parameters", "d": "tokens"}


@dataclass(frozen=True, eq=False)
class Budget:
    """Runs of one budget: their places in the table, their compute C and N D (geometric means), centre and width of their ln N."""

    flops: float
    place: Int[np.ndarray, "own"]
    product: float
    centre: float
    width: float


@dataclass(frozen=True)
class Profile:
    """A budget with a minimum: its compute (FLOPs), how many runs it has, and N, D and loss of the minimum."""

    flops: float
    runs: int
    n: Estimate
    d: Estimate
    loss: Estimate


@dataclass(frozen=True)
class LeftOut:
    """A budget without a minimum, and why."""

    flops: float
    runs: int
    reason: str


def _features(theta: Theta, data: Data, budgets: tuple[Budget, ...]) -> Inexact[np.ndarray, "*batch runs features"]:
    x = np.log(data[N])
    here = [np.where(data[C] == one.flops, 1.0, 0.0) for one in budgets]
    scaled = [(x - one.centre) / one.width for one in budgets]
    return stack_features(theta, tuple(own * z**power for own, z in zip(here, scaled, strict=True) for power in range(3)))


def _law(budgets: tuple[Budget, ...]) -> Law:
    return Law(
        name="isoflop",
        title="IsoFLOP profiles",
        formula="L = u + v z + w z^2 at each C, z = (ln N - centre)/width",
        source="Hoffmann et al. 2022, approach 2",
        columns=(N, C),
        coefficients=tuple(f"{name}({one.flops:.4g})" for one in budgets for name in "uvw"),
        features=partial(_features, budgets=budgets),
        link=IdentityLink(),
        dense=True,
    )


def _quantity(budgets: tuple[Budget, ...], flops: float) -> Quantity:
    """Both exponents and N and D at a budget, by the lines; then N, D and loss of every minimum. NaN where a parabola opens downward."""
    log_c, log_product = np.log([one.flops for one in budgets]), np.log([one.product for one in budgets])
    x, (centre, width) = log_c - log_c.mean(), np.array([(one.centre, one.width) for one in budgets]).T

    def figures(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "draws quantities"]:
        """A row of them for each draw."""
        del theta
        u, v, w = np.moveaxis(beta.reshape(len(beta), -1, 3), -1, 0)
        z = np.where(w > 0, -v / np.where(w > 0, 2 * w, 1.0), np.nan)
        log_n = centre + width * z
        logs = np.stack([log_n, log_product - log_n], axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            slopes = logs @ x / (x @ x) if len(x) > 1 else np.full(logs.shape[:2], np.nan)
            at = np.exp(logs.mean(axis=-1) + slopes * (np.log(flops) - log_c.mean()))
            return np.concatenate([slopes, at, np.exp(logs).reshape(len(beta), -1), u + v * z / 2], axis=-1)

    return figures


@dataclass(frozen=True, eq=False)
class IsoFLOP:
    """The profiles of a table of runs, the budgets left out, and the exponents of the lines through the minima.

    `fit` are the parabolas of the `budgets`, three coefficients each, and `draws` their refits.
    """

    runs: Runs
    profiles: tuple[Profile, ...]
    left_out: tuple[LeftOut, ...]
    exponent_n: Estimate
    exponent_d: Estimate
    budgets: tuple[Budget, ...]
    fit: Fit
    draws: Draws | None
    level: float

    def __repr__(self) -> str:
        return (
            f"IsoFLOP({len(self.profiles)} budgets, {len(self.left_out)} left out: N ~ C^{self.exponent_n.value:.3f}, "
            f"D ~ C^{self.exponent_d.value:.3f}; {self.draws or 'no draws'})"
        )

    def optimum(self, flops: float) -> tuple[Estimate, Estimate]:
        """N and D that the lines give for a budget of `flops`; `distance`: how far outside the profiles' budgets it lies."""
        units = [*_FIGURES.values(), *[""] * (3 * len(self.budgets))]
        found = estimates(self.fit, self.draws, _quantity(self.budgets, flops), self.level, unit=units)
        far = beyond(np.array([one.flops for one in self.budgets]), flops)
        return replace(found[2], distance=far), replace(found[3], distance=far)

    def table(self) -> "pl.DataFrame":
        """A row for each figure, as of `Allocation.table`, and one for each budget left out, with the reason as its status."""
        rows = [figure_row(None, name, getattr(self, name)) for name in ("exponent_n", "exponent_d")]
        rows += [figure_row(one.flops, name, getattr(one, name)) for one in self.profiles for name in ("n", "d", "loss")]
        return frame(rows + [{"flops": one.flops, "figure": "left out", "status": one.reason} for one in self.left_out])


def _columns(runs: Runs) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "runs"], Float[np.ndarray, "runs"]]:
    """N, D and C of every run, D and C from each other by C = 6 N D where only one of them is there."""
    n = runs.numeric(N)
    c = runs.numeric(C) if runs.has(C) else FLOPS_PER_TOKEN * n * runs.numeric(D)
    return n, runs.numeric(D) if runs.has(D) else c / (FLOPS_PER_TOKEN * n), c


def _budgets(runs: Runs) -> tuple[tuple[Budget, ...], tuple[LeftOut, ...]]:
    """The budgets that have a minimum between their sizes, and the others."""
    n, d, c = _columns(runs)
    kept, left, order = list[Budget](), list[LeftOut](), np.argsort(c, kind="stable")
    while len(order):
        many = int(np.sum(c[order] <= c[order[0]] * (1 + SAME_BUDGET)))
        place, order = order[:many], order[many:]
        x, flops, sizes = np.log(n[place]), float(np.exp(np.log(c[place]).mean())), len(np.unique(n[place]))
        if sizes < LEAST_SIZES:
            left.append(LeftOut(flops, many, f"{sizes} sizes, and a parabola and its error take {LEAST_SIZES}"))
            continue
        one = Budget(flops, place, float(np.exp(np.log(n[place] * d[place]).mean())), float(x.mean()), float(x.std()))
        w, v, _ = np.polyfit((x - one.centre) / one.width, runs.loss[place], 2)
        least = one.centre - one.width * v / (2 * w) if w > 0 else np.nan
        if x.min() < least < x.max():
            kept.append(one)
            continue
        lowest = f"the minimum, {np.exp(least):.3g} parameters, lies outside the runs, {n[place].min():.3g} to {n[place].max():.3g}"
        left.append(LeftOut(flops, many, lowest if w > 0 else "the parabola opens downward"))
    return tuple(kept), tuple(left)


def isoflop(runs: Runs, *, draws: int = 1000, seed: int = 0, level: float = 0.95) -> IsoFLOP:
    """Approach 2 on these runs, all taken for dense ones: N, loss, and `training_flops` (FLOPs of the whole run) or D, with C = 6 N D.

    Draws are wild where the residuals' spread is uneven, else of residuals, as for every law. Raises `InputError` for a column that is
    missing, and `NotIdentifiedError` where no budget has a minimum.
    """
    budgets, left = _budgets(runs)
    if not budgets:
        most = max(left, key=lambda one: one.runs, default=LeftOut(0.0, 0, "no runs"))
        why = f"that of most runs, {most.flops:.3g} FLOPs: {most.reason}"
        raise NotIdentifiedError(f"none of {len(left)} training budgets has a minimum of loss in N; {why}")
    place = np.concatenate([one.place for one in budgets])
    data = {N: runs.numeric(N)[place], C: np.repeat([one.flops for one in budgets], [len(one.place) for one in budgets])}
    fit = fit_law(_law(budgets), data, runs.loss[place], squared())
    drawn = resample(fit, misfit(fit).scheme, draws, seed, keys=place) if draws else None
    units = ["", "", "", "", *(unit for unit in ("parameters", "tokens", runs.unit) for _ in budgets)]
    found = estimates(fit, drawn, _quantity(budgets, budgets[0].flops), level, unit=units)
    profiles = tuple(Profile(one.flops, len(one.place), *found[4 + k :: len(budgets)]) for k, one in enumerate(budgets))
    return IsoFLOP(runs, profiles, left, found[0], found[1], budgets, fit, drawn, level)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Approach 2 beside approach 3, the law `tokens`, on the same runs: exponents, and the best N and D of one budget.

    `differences`: approach 2 less approach 3 for `exponent_n` and `exponent_d`, approach 2 over approach 3 for `n` and `d`.
    """

    profiles: IsoFLOP
    allocation: Allocation
    flops: float
    differences: Mapping[str, Estimate]

    def __repr__(self) -> str:
        return f"Comparison(at {self.flops:.3g} FLOPs; disagree about: {', '.join(self.disagree) or 'nothing'})"

    @property
    def disagree(self) -> tuple[str, ...]:
        """What the two disagree about: the figures whose difference has an interval without 0, or whose ratio one without 1."""
        equal = dict(zip(_FIGURES, (0.0, 0.0, 1.0, 1.0), strict=True))
        known = [(name, one.low, one.high) for name, one in self.differences.items() if one.low is not None and one.high is not None]
        return tuple(name for name, low, high in known if not low <= equal[name] <= high)

    def table(self) -> "pl.DataFrame":
        """A row for each figure by each approach, and for what they differ by: approach, and the columns of `Allocation.table`."""
        law, best = self.allocation, self.allocation.optima[0]
        ours = (self.profiles.exponent_n, self.profiles.exponent_d, *self.profiles.optimum(self.flops))
        kinds = {"2": ours, "3": (law.exponent_n, law.exponent_d, best.n, best.d), "2 and 3": tuple(self.differences.values())}
        return frame(
            [{"approach": kind, **figure_row(self.flops, *row)} for kind, own in kinds.items() for row in zip(_FIGURES, own, strict=True)]
        )


def compare_approaches(profiles: IsoFLOP, flops: float, objective: Loss | None = None) -> Comparison:
    """Fit `tokens` to all runs that the profiles were made of, and compare the two at a budget of `flops`, draw by draw.

    `objective` of that fit: squared error of log10 loss, if left out. Raises `NotIdentifiedError` for fewer runs than parameters.
    """
    runs, ours = profiles.runs, profiles.draws
    n, d, _ = _columns(runs)
    fit = fit_law(TOKENS, {N: n, D: d}, runs.loss, objective)
    draws = resample(fit, ours.scheme, len(ours), ours.seed) if ours is not None and fit.degrees > 0 else None
    pair = _logged(_quantity(profiles.budgets, flops)), _logged(optimum_quantity(TOKENS, [flops]))
    if ours is not None and draws is not None:
        found = difference(ours, draws, *pair, profiles.level)
    else:
        found = [Estimate(float(one)) for one in evaluate(profiles.fit, pair[0]) - evaluate(fit, pair[1])]
    differences = dict(zip(_FIGURES, (*found[:2], *map(_ratio, found[2:])), strict=True))
    return Comparison(profiles, allocate(fit, flops, draws=draws, level=profiles.level), flops, differences)


def _logged(quantity: Quantity) -> Quantity:
    """The first four figures of a quantity, N and D as logarithms, so that their differences are those of ratios."""

    def figures(
        theta: Float[np.ndarray, "draws shapes"], beta: Float[np.ndarray, "draws features"]
    ) -> Float[np.ndarray, "draws quantities"]:
        """Exponents, ln N and ln D."""
        found = quantity(theta, beta)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.concatenate([found[:, :2], np.log(found[:, 2:4])], axis=-1)

    return figures


def _ratio(one: Estimate) -> Estimate:
    """The ratio whose logarithm this is."""
    low, high = (None if end is None else float(np.exp(end)) for end in (one.low, one.high))
    return Estimate(float(np.exp(one.value)), low, high, one.status)
