"""One fitting problem: a law, the runs' columns and a loss, with exact derivatives, for one fit or a batch of resamples.

Axes: `batch` fits solved together; `runs`; `features` coefficients; `shapes` shape parameters; `unknowns` = features + shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError
from fit.engine.losses import LN10, Loss, squared_log
from fit.engine.rows import Betas, PerFit, PerRun, Picked, Thetas
from fit.laws.complex_step import STEP
from fit.laws.interface import IdentityLink, Law, Log10Link

_EPSILON = 1e-5
"""Step of the second derivative along eta, by central differences of the exact first one: right to about 1e-10."""


ROUNDING = 1e-18
"""An objective below this, residuals of 1e-9, is what rounding leaves of an exact fit: relative gains are of this at least."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The law to fit, to what.

    `observed` is log10 of each run's loss, `weights` what it counts, mean 1; resamples have a row of either for each. `measured` is
    log10 of the losses that resamples were drawn from. `limits` bound the shape parameters, `box` the coefficients; an unknown whose two
    bounds are equal is fixed.
    """

    law: Law
    data: Mapping[str, Float[np.ndarray, "runs"]]
    measured: Float[np.ndarray, "runs"]
    loss: Loss
    limits: Float[np.ndarray, "shapes 2"]
    box: Float[np.ndarray, "features 2"]
    weights: Float[np.ndarray, "*#batch runs"]
    observed: Float[np.ndarray, "*#batch runs"]

    @property
    def logarithmic(self) -> Bool[np.ndarray, "shapes"]:
        """Which shape parameters the polish moves on a log scale."""
        return np.array([shape.coordinate == "log" for shape in self.law.shapes], dtype=bool)

    @property
    def offsets(self) -> Float[np.ndarray, "shapes"]:
        """What is added to each shape parameter before its logarithm is taken."""
        return np.array([shape.offset for shape in self.law.shapes])

    @property
    def free_coefficients(self) -> Bool[np.ndarray, "features"]:
        """Which coefficients are fitted, not fixed."""
        return self.box[:, 0] < self.box[:, 1]

    @property
    def bounded(self) -> bool:
        """Whether a coefficient that is fitted has a bound."""
        return bool(np.isfinite(self.box[self.free_coefficients]).any())

    @property
    def free_shapes(self) -> Bool[np.ndarray, "shapes"]:
        """Which shape parameters are fitted, not fixed."""
        return self.limits[:, 0] < self.limits[:, 1]

    @property
    def num_free(self) -> int:
        """Number of parameters that are fitted."""
        return int(self.free_coefficients.sum() + self.free_shapes.sum())

    @property
    def linear(self) -> bool:
        """Whether residuals are linear in the coefficients."""
        return isinstance(self.law.link, IdentityLink if self.loss.scale == "nats" else Log10Link)

    @property
    def quadratic(self) -> bool:
        """Whether one projection solves for the coefficients."""
        return self.linear and bool(np.isinf(self.loss.delta))

    def to_coordinates(self, theta: Float[np.ndarray, "*batch shapes"]) -> Float[np.ndarray, "*batch shapes"]:
        """Shape parameters on the scale the polish moves on."""
        with np.errstate(divide="ignore"):
            return np.where(self.logarithmic, np.log(np.where(self.logarithmic, theta + self.offsets, 1.0)), theta)

    def from_coordinates(self, q: Float[np.ndarray, "*batch shapes"]) -> Float[np.ndarray, "*batch shapes"]:
        """Inverse of `to_coordinates`, kept within the limits against rounding."""
        return np.clip(self.unclipped(q), self.limits[:, 0], self.limits[:, 1])

    def unclipped(self, q: Float[np.ndarray, "*batch shapes"]) -> Float[np.ndarray, "*batch shapes"]:
        """The same a little beyond the limits too, where laws are as smooth as within."""
        return np.where(self.logarithmic, np.exp(np.where(self.logarithmic, q, 0.0)) - self.offsets, q)

    def resampled(self, weights: PerRun | None, observed: PerRun | None) -> "Problem":
        """The problems of a batch of resamples: `weights` are the runs' multiplicities, `observed` replaces their log10 losses."""
        return replace(
            self,
            weights=self.weights if weights is None else weights * self.weights,
            observed=self.observed if observed is None else observed,
        )

    def take(self, rows: Picked) -> "Problem":
        """Some of the resamples; what is no batch stays as it is."""
        weights, observed = (values if values.ndim == 1 else values[rows] for values in (self.weights, self.observed))
        return replace(self, weights=weights, observed=observed)

    def tiled(self, times: int) -> "Problem":
        """The batch so many times over."""
        weights, observed = (values if values.ndim == 1 else np.tile(values, (times, 1)) for values in (self.weights, self.observed))
        return replace(self, weights=weights, observed=observed)

    def residuals(self, theta: Thetas, beta: Betas) -> PerRun:
        """The loss's residual of every run."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return self.loss.residual(self.law.log10_loss(theta, beta, self.data), self.observed)

    def along_eta(self, eta: PerRun, theta: Thetas) -> tuple[PerRun, PerRun]:
        """Residuals at these linear predictors, and dr/deta."""
        if self.linear and self.loss.scale != "nats":
            scale = LN10 if self.loss.scale == "ln" else 1.0
            return (eta - self.observed) * scale, np.full_like(eta, scale)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            moved = self.loss.residual(self.law.link.log10_loss(eta + 1j * STEP, theta), self.observed)
            return np.real(moved), np.imag(moved) / STEP

    def curvature(self, eta: PerRun, r: PerRun, slope: PerRun, theta: Thetas, exact: bool) -> PerRun:
        """Half the second derivative of each run's cost along eta over (dr/deta)^2: the exact one, or one that always descends."""
        if not exact or self.linear:
            return self.loss.curvature(r, exact)
        above, below = (self.along_eta(eta + step, theta)[1] for step in (_EPSILON, -_EPSILON))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            bend = (above - below) / (2 * _EPSILON)
            return self.loss.curvature(r, exact=True) + self.loss.psi(r) * bend / (slope * slope)

    def shape_derivatives(self, theta: Thetas, beta: Betas, eta: PerRun, slope: PerRun) -> Float[np.ndarray, "batch shapes runs"]:
        """Exact derivatives of the residuals by the shape parameters' coordinates, coefficients held; zero for fixed shapes."""
        link, out = self.law.link, np.zeros((len(theta), theta.shape[-1], eta.shape[-1]))
        for k in np.flatnonzero(self.free_shapes).tolist():
            stepped = theta.astype(np.complex128)
            stepped[:, k] += 1j * STEP
            moved = np.imag(self.law.features(stepped, self.data))
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                out[:, k] = slope * np.einsum("brf,bf->br", moved, beta)
                if k < link.num_shapes:
                    out[:, k] += np.imag(self.loss.residual(link.log10_loss(eta + 0j, stepped), self.observed))
                out[:, k] *= (np.where(self.logarithmic[k], theta[:, k] + self.offsets[k], 1.0) / STEP)[:, None]
        return out

    def linearise(self, theta: Thetas, beta: Betas) -> tuple[PerRun, Float[np.ndarray, "batch runs unknowns"]]:
        """Residuals, and their exact derivatives by the coefficients and by the shape parameters' coordinates."""
        features = self.law.features(theta, self.data)
        eta = np.einsum("brf,bf->br", features, beta)
        r, slope = self.along_eta(eta, theta)
        along = self.shape_derivatives(theta, beta, eta, slope).swapaxes(-1, -2)
        return r, np.concatenate([slope[..., None] * features, along], axis=-1)

    def working_weights(self, theta: Thetas) -> PerRun:
        """dr/deta at the measured losses: makes a squared error of eta equal to the loss's to first order, hence the projection."""
        eta = np.broadcast_to(self.law.link.of_loss(10**self.measured, theta), (len(theta), len(self.measured)))
        return replace(self, observed=self.measured).along_eta(eta, theta)[1]

    def objective(self, r: PerRun) -> PerFit:
        """Weighted mean of rho over the runs; infinite where the law predicts no loss."""
        with np.errstate(invalid="ignore", over="ignore"):
            total = (self.weights * self.loss.rho(r)).sum(axis=-1) / self.weights.sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)

    def subset(self, mask: Bool[np.ndarray, "runs"]) -> "Problem":
        """The problem of some of the runs; bounds that follow from the runs are those of the chosen ones."""
        data = {name: column[mask] for name, column in self.data.items()}
        own, others = self.law.limits(data, 10 ** self.measured[mask]), self.law.limits(self.data, 10**self.measured)
        # But for rounding of the logarithm: a bound that all the runs set would tell a fit of some of them about the others.
        limits = np.where(np.isclose(self.limits, others, rtol=1e-12, atol=0), own, self.limits)
        weights = self.weights[mask] / self.weights[mask].mean()
        return replace(self, data=data, measured=self.measured[mask], limits=limits, weights=weights, observed=self.observed[mask])


def make_problem(
    law: Law,
    data: Mapping[str, Float[np.ndarray, "runs"]],
    loss: Float[np.ndarray, "runs"],
    objective: Loss | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    weights: Float[np.ndarray, "runs"] | None = None,
    unbounded: bool = False,
) -> Problem:
    """The problem of fitting `law` to runs with these columns and losses (nats per token).

    `fixed` gives values, `bounds` intervals, of coefficients and shape parameters by name. `weights` are relative, and runs of weight 0
    are left out. `unbounded` lifts the law's own bounds of coefficients. Raises `InputError` for columns that are missing, of other
    lengths, or hold what no run has (NaN, infinity, a loss that is not positive), and for a parameter or a range that no search has.
    """
    columns = {name: _column(law, name, data, len(loss)) for name in law.columns}
    loss = np.asarray(loss, dtype=np.float64)
    if bad := int(np.sum(~(np.isfinite(loss) & (loss > 0)))):
        raise InputError(f"losses must be finite and above 0, and {bad} of {len(loss)} are not; drop these runs")
    own = np.ones(len(loss)) if weights is None else np.asarray(weights, dtype=np.float64)
    if own.shape != loss.shape or not (np.isfinite(own) & (own >= 0)).all() or own.sum() <= 0:
        raise InputError(f"weights must be {len(loss)} finite numbers of at least 0, and not all 0")
    least = [0.0 if name in law.nonnegative and not unbounded else -np.inf for name in law.coefficients]
    # Left out here, so that nothing after counts, raises or draws a residual that no fit has seen.
    columns, loss, own = {name: column[own > 0] for name, column in columns.items()}, loss[own > 0], own[own > 0]
    box = np.stack([least, np.full(len(least), np.inf)], axis=-1)
    limits = law.limits(columns, loss)
    places = {name: box[j] for j, name in enumerate(law.coefficients)} | {shape.name: limits[k] for k, shape in enumerate(law.shapes)}
    for name, (low, high) in {**{key: (value, value) for key, value in (fixed or {}).items()}, **(bounds or {})}.items():
        if name not in places:
            raise InputError(f"law {law.name!r} has no parameter {name!r} to fix or bound; it has: {', '.join(places)}")
        _check_range(law, name, low, high)
        places[name][:] = low, high
    return Problem(law, columns, np.log10(loss), objective or squared_log(), limits, box, own / own.mean(), np.log10(loss))


def _check_range(law: Law, name: str, low: float, high: float) -> None:
    """Raises `InputError` for what no parameter can be held in: shape parameters are searched between finite bounds."""
    if not low <= high:
        raise InputError(f"bounds of {name} must rise, and are {low:g} to {high:g}")
    shape = next((one for one in law.shapes if one.name == name), None)
    positive = shape is not None and shape.spacing == "log"
    if (positive and low <= 0) or ((shape is not None or low == high) and not np.isfinite([low, high]).all()):
        asked = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise InputError(f"{name} of law {law.name!r} must be finite{' and above 0' if positive else ''}, not {asked}")


def _column(law: Law, name: str, data: Mapping[str, Float[np.ndarray, "runs"]], runs: int) -> Float[np.ndarray, "runs"]:
    if name not in data:
        raise InputError(f"law {law.name!r} reads the column {name!r}, and there are: {', '.join(data)}")
    column = np.asarray(data[name], dtype=np.float64)
    if column.shape != (runs,):
        raise InputError(f"column {name!r} has shape {column.shape}, and there are {runs} losses")
    if bad := int(np.sum(~(np.isfinite(column) & (column > 0)))):
        raise InputError(f"column {name!r} must be finite and above 0, and {bad} of its {runs} values are not; drop these runs")
    return column
