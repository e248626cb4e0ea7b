"""One fitting problem: a law, the runs' columns and a loss, with exact derivatives, for one fit or a batch of resamples.

Axes: `batch` fits solved together; `runs`; `features` coefficients; `shapes` shape parameters; `unknowns` = features + shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fit.laws.interface import Law
from fit.losses import Loss

_STEP = 1e-100
"""Complex step: far below rounding, so that derivatives are exact, and far above underflow."""


@dataclass(frozen=True)
class Problem:
    """The law to fit, to what. `observed` is log10 of each run's loss; a batch may replace it, or weight the runs."""

    law: Law
    data: Mapping[str, Float[np.ndarray, "runs"]]
    observed: Float[np.ndarray, "runs"]
    loss: Loss
    limits: Float[np.ndarray, "shapes 2"]

    @property
    def logarithmic(self) -> Bool[np.ndarray, "shapes"]:
        """Which shape parameters the polish moves on a log scale."""
        return np.array([shape.coordinate == "log" for shape in self.law.shapes], dtype=bool)

    def to_coordinates(self, theta: Float[np.ndarray, "*batch shapes"]) -> Float[np.ndarray, "*batch shapes"]:
        """Shape parameters on the scale the polish moves on."""
        with np.errstate(divide="ignore"):
            return np.where(self.logarithmic, np.log(np.where(self.logarithmic, theta, 1.0)), theta)

    def from_coordinates(self, q: Float[np.ndarray, "*batch shapes"]) -> Float[np.ndarray, "*batch shapes"]:
        """Inverse of `to_coordinates`, kept within the limits against rounding."""
        theta = np.where(self.logarithmic, np.exp(np.where(self.logarithmic, q, 0.0)), q)
        return np.clip(theta, self.limits[:, 0], self.limits[:, 1])

    def residuals(
        self,
        theta: Float[np.ndarray, "batch shapes"],
        beta: Float[np.ndarray, "batch features"],
        observed: Float[np.ndarray, "#batch runs"],
    ) -> Float[np.ndarray, "batch runs"]:
        """The loss's residual of every run."""
        eta = (self.law.features(theta, self.data) @ beta[..., None])[..., 0]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return self.loss.residual(self.law.link.log10_loss(eta, theta), observed)

    def linearise(
        self,
        theta: Float[np.ndarray, "batch shapes"],
        beta: Float[np.ndarray, "batch features"],
        observed: Float[np.ndarray, "#batch runs"],
    ) -> tuple[Float[np.ndarray, "batch runs"], Float[np.ndarray, "batch runs unknowns"]]:
        """Residuals, and their exact derivatives by the coefficients and by the shape parameters' coordinates."""
        law, features = self.law, self.law.features(theta, self.data)
        eta = (features @ beta[..., None])[..., 0]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            along_eta = self.loss.residual(law.link.log10_loss(eta + 1j * _STEP, theta), observed)
            columns = [along_eta.imag[..., None] / _STEP * features]
            scale = np.where(self.logarithmic, theta, 1.0)
            for k in range(theta.shape[-1]):
                moved = theta.astype(np.complex128)
                moved[..., k] += 1j * _STEP
                eta_moved = (law.features(moved, self.data) @ beta[..., None])[..., 0]
                along_theta = self.loss.residual(law.link.log10_loss(eta_moved, moved), observed)
                columns.append((along_theta.imag / _STEP * scale[..., k : k + 1])[..., None])
        return along_eta.real, np.concatenate(columns, axis=-1)

    def working_weights(self, theta: Float[np.ndarray, "batch shapes"]) -> Float[np.ndarray, "batch runs"]:
        """dr/deta at the observed losses: makes a squared error of eta equal to the loss's to first order, hence the projection."""
        eta = self.law.link.of_loss(10**self.observed, theta)
        eta = np.broadcast_to(eta, (len(theta), len(self.observed)))
        along = self.loss.residual(self.law.link.log10_loss(eta + 1j * _STEP, theta), self.observed)
        return along.imag / _STEP

    def objective(
        self, r: Float[np.ndarray, "batch runs"], weights: Float[np.ndarray, "#batch runs"] | None
    ) -> Float[np.ndarray, "batch"]:
        """Weighted mean of rho over the runs; infinite where the law predicts no loss."""
        rho = self.loss.rho(r)
        total = rho.mean(axis=-1) if weights is None else (weights * rho).sum(axis=-1) / weights.sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)
