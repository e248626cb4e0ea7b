"""What a fit leaves over: against the noise between seeds, against the number of its parameters, and whether it has a shape.

Held-out errors, which matter more, are in `fit.assess.held_out` and can be had from here too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from fit.assess.held_out import LeaveOneOut, RollOutStep, Score, leave_one_out, pooled, roll_out, score
from fit.load.schema import NUMBERS, SEED, STEP, TEXTS
from fit.solver.losses import SquaredLog
from fit.solver.solve import Fit

__all__ = [
    "LackOfFit",
    "LeaveOneOut",
    "ResidualTrend",
    "RollOutStep",
    "Score",
    "SeedNoise",
    "aicc",
    "lack_of_fit",
    "leave_one_out",
    "pooled",
    "residual_trends",
    "roll_out",
    "score",
    "seed_noise",
]


@dataclass(frozen=True)
class SeedNoise:
    """How much runs differ that differ in the seed alone: pooled standard deviation over groups of them.

    `sd_log10` of log10 loss, `sd_nats` of the loss in nats per token; `runs` in `groups` leave `degrees` = runs - groups
    degrees of freedom.
    """

    sd_log10: float
    sd_nats: float
    degrees: int
    groups: int
    runs: int


def _same(columns: Collection[Shaped[np.ndarray, "runs"]], runs: int) -> Int[np.ndarray, "runs"]:
    """A number for every run, the same for runs equal in all columns. Empty cells (NaN) are equal to each other."""
    group = np.zeros(runs, dtype=np.int64)
    for column in columns:
        _, code = np.unique(column, return_inverse=True)
        _, group = np.unique(np.stack([group, code]), axis=1, return_inverse=True)
        group = group.reshape(runs)
    return group


def seed_noise(
    columns: Mapping[str, Shaped[np.ndarray, "runs"]], loss: Float[np.ndarray, "runs"], also: Collection[str] = ()
) -> SeedNoise | None:
    """Noise between seeds, from the groups of runs whose settings are equal in everything but `seed`.

    Settings are the release's columns, and those named in `also` (another column may be a setting or a measurement: only you
    know). Of runs alike in the seed too the first counts: what makes them differ is not known. `loss` in nats per token. None
    without replicates, or where they agree to the last digit: copies, that is.
    """
    if SEED not in columns:
        return None
    settings = [column for name, column in columns.items() if name in also or name in (NUMBERS | TEXTS) - {STEP, SEED}]
    group = _same(settings, len(loss))
    _, first = np.unique(_same([group, columns[SEED]], len(loss)), return_index=True)
    members = np.bincount(group[first])
    taken = first[members[group[first]] > 1]
    groups = int(np.sum(members > 1))
    degrees = len(taken) - groups
    if degrees < 1:
        return None
    sd = {}
    for name, values in (("log10", np.log10(loss[taken])), ("nats", loss[taken])):
        index = np.unique(group[taken], return_inverse=True)[1]
        mean = np.bincount(index, values) / np.bincount(index)
        sd[name] = float(np.sqrt(np.sum((values - mean[index]) ** 2) / degrees))
    if sd["nats"] == 0:
        return None
    return SeedNoise(sd["log10"], sd["nats"], degrees, groups, len(taken))


@dataclass(frozen=True)
class LackOfFit:
    """What the law misses, against what no law could catch.

    `ratio`: RMSE of the fit's residuals over the noise between seeds, both of log10 loss. `f` and `p_value`: the F test of lack of fit,
    on (`degrees_fit`, `degrees_noise`) degrees of freedom: a small p says that the law is not the whole truth, not that it is useless.
    None where there are no degrees of freedom, or the loss minimised is not the squared error of log10 loss.
    """

    ratio: float
    f: float | None
    degrees_fit: int
    degrees_noise: int
    p_value: float | None


def lack_of_fit(fit: Fit, noise: SeedNoise, *, among_fitted: bool = True) -> LackOfFit:
    """Residuals against seed noise.

    `among_fitted`: whether the replicates that `noise` was measured on are among the runs fitted; their sum of squares is then taken out of
    the residuals', the textbook's decomposition. A law that bends in its parameters makes the test approximate.
    """
    from scipy.special import fdtrc

    left, degrees = float(np.sum(fit.residuals**2)), fit.num_runs - fit.law.num_parameters
    if among_fitted:
        left, degrees = max(left - noise.degrees * noise.sd_log10**2, 0.0), degrees - noise.degrees
    ratio = fit.rmse_log10 / noise.sd_log10
    if degrees < 1 or not _squared_log(fit):
        return LackOfFit(ratio, None, max(degrees, 0), noise.degrees, None)
    f = left / degrees / noise.sd_log10**2
    return LackOfFit(ratio, f, degrees, noise.degrees, float(fdtrc(degrees, noise.degrees, f)))


def _squared_log(fit: Fit) -> bool:
    # Squared error of the loss itself is a subclass: its residuals are in nats.
    return type(fit.problem.loss) is SquaredLog


def aicc(fit: Fit) -> float | None:
    """Akaike's information criterion corrected for few runs, for Gaussian log10 loss: smaller is better (Hurvich & Tsai 1989).

        n (ln(2 pi RSS/n) + 1) + 2 K + 2 K (K + 1) / (n - K - 1),   K the law's parameters and the variance

    Compares laws fitted to the same runs, and nothing else. It believes residuals independent, which lack of fit makes them not,
    so it favours larger laws more than held-out error does. None for another loss than squared error of log10 loss, whose
    likelihood would be of another variable or of no Gaussian, and where n <= K + 1 or the fit is exact.
    """
    n, k = fit.num_runs, fit.law.num_parameters + 1
    if not _squared_log(fit) or n <= k + 1 or fit.certificate.objective <= 0:
        return None
    return n * (np.log(2 * np.pi * fit.certificate.objective) + 1) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


@dataclass(frozen=True)
class ResidualTrend:
    """A parabola through the residuals, r = constant + slope x + curvature x^2, x = log10 of a column about its mean.

    r is log10 of observed over predicted loss: a positive curvature says that observed losses bend upwards from the law's
    curve. `share`: of the residuals' variance, how much the parabola explains; `p_value` of both its terms being nought (F test:
    it takes residuals for independent, and those of a fit for raw data, so it is a guide).
    """

    column: str
    slope: float
    curvature: float
    share: float
    p_value: float


def residual_trends(fit: Fit, columns: Mapping[str, Float[np.ndarray, "runs"]] | None = None) -> tuple[ResidualTrend, ...]:
    """The residuals' parabola along each column: the law's own, or those given (positive numbers).

    A column with fewer than three values has no parabola and is left out.
    """
    from scipy.special import fdtrc

    r = fit.residuals
    total, freedom = float(np.sum((r - r.mean()) ** 2)), len(r) - 3
    found: list[ResidualTrend] = []
    for name, column in (fit.problem.data if columns is None else columns).items():
        x = np.log10(column)
        if len(np.unique(x)) < 3 or freedom < 1 or total == 0:
            continue
        x = x - x.mean()
        basis = np.stack([np.ones_like(x), x, x * x], axis=-1)
        line = np.linalg.lstsq(basis, r)[0]
        left = float(np.sum((r - basis @ line) ** 2))
        f = (total - left) / 2 / max(left / freedom, 1e-300)
        found.append(ResidualTrend(name, float(line[1]), float(line[2]), 1 - left / total, float(fdtrc(2, freedom, f))))
    return tuple(found)
