"""One fitting problem: a law, the runs' columns and a loss, with exact derivatives, for one fit or a batch of resamples.

Axes: `batch` fits solved together; `runs`; `features` coefficients; `shapes` shape parameters; `unknowns` = features + shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float

from fit.laws.complex_step import STEP
from fit.laws.interface import Law
from fit.solver.losses import Loss


def _combine(
    features: Float[np.ndarray, "batch features runs"], beta: Float[np.ndarray, "batch features"]
) -> Float[np.ndarray, "batch runs"]:
    """sum_j beta_j phi_j."""
    return np.einsum("bfr,bf->br", features, beta)


def _stepped(theta: Float[np.ndarray, "batch shapes"], k: int) -> Complex[np.ndarray, "batch shapes"]:
    """`theta` with a complex step along shape parameter `k`."""
    moved = theta.astype(np.complex128)
    moved[:, k] += 1j * STEP
    return moved


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
        eta = _combine(self.law.features(theta, self.data).swapaxes(-1, -2), beta)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return self.loss.residual(self.law.link.log10_loss(eta, theta), observed)

    def linearise(
        self,
        theta: Float[np.ndarray, "batch shapes"],
        beta: Float[np.ndarray, "batch features"],
        observed: Float[np.ndarray, "#batch runs"],
    ) -> tuple[Float[np.ndarray, "batch runs"], Float[np.ndarray, "batch runs unknowns"]]:
        """Residuals, and their exact derivatives by the coefficients and by the shape parameters' coordinates."""
        link, count = self.law.link, beta.shape[-1]
        derivatives = np.empty((len(theta), count + theta.shape[-1], len(self.observed)))
        features, along_shapes = derivatives[:, :count], derivatives[:, count:]
        if not self.law.shapes:
            features[:] = self.law.features(theta, self.data).swapaxes(-1, -2)
        for k in range(theta.shape[-1]):
            # One at a time and none kept, so that the next finds its memory warm.
            moved = self.law.features(_stepped(theta, k), self.data).swapaxes(-1, -2)
            if k == 0:
                features[:] = np.real(moved)
            along_shapes[:, k] = _combine(np.imag(moved), beta)
        eta = _combine(features, beta)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            along_eta = self.loss.residual(link.log10_loss(eta + 1j * STEP, theta), observed)
            derivatives *= (np.imag(along_eta) / STEP)[:, None]
            for k in range(link.num_shapes):
                along_shapes[:, k] += np.imag(self.loss.residual(link.log10_loss(eta + 0j, _stepped(theta, k)), observed))
            along_shapes *= np.where(self.logarithmic, theta, 1.0)[..., None] / STEP
        return np.real(along_eta), derivatives.swapaxes(-1, -2)

    def working_weights(self, theta: Float[np.ndarray, "batch shapes"]) -> Float[np.ndarray, "batch runs"]:
        """dr/deta at the observed losses: makes a squared error of eta equal to the loss's to first order, hence the projection."""
        eta = self.law.link.of_loss(10**self.observed, theta)
        eta = np.broadcast_to(eta, (len(theta), len(self.observed)))
        along = self.loss.residual(self.law.link.log10_loss(eta + 1j * STEP, theta), self.observed)
        return np.imag(along) / STEP

    def objective(self, r: Float[np.ndarray, "batch runs"], weights: Float[np.ndarray, "#batch runs"] | None) -> Float[np.ndarray, "batch"]:
        """Weighted mean of rho over the runs; infinite where the law predicts no loss."""
        rho = self.loss.rho(r)
        total = rho.mean(axis=-1) if weights is None else (weights * rho).sum(axis=-1) / weights.sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)
