"""What a fit minimises: the mean over runs of rho(r), with r the residual of one run.

Every loss sees log10 of the predicted and of the measured loss (nats per token). rho is r^2 within `delta` and 2 delta |r| - delta^2
beyond: Huber's, twice the textbook's (which has a half in front); without a delta the square. Reports state the textbook's, by `stated`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp

LN10 = float(np.log(10))

_NAMES = {"log10": "squared error of log10 loss", "nats": "squared error of loss (nats per token)", "ln": "squared error of ln loss"}


@dataclass(frozen=True)
class Loss:
    """A residual, in log10 or ln of predicted over observed loss or in nats, and what it costs."""

    scale: Literal["log10", "ln", "nats"] = "log10"
    delta: float = np.inf

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Huber's delta must be positive, not {self.delta}")
        if np.isfinite(self.delta) and self.scale != "ln":
            raise ValueError(f"Huber's loss is one of ln loss, not of {self.scale}")

    @property
    def name(self) -> str:
        """The loss with its unit and settings, as reports print it."""
        return _NAMES[self.scale] if np.isinf(self.delta) else f"Huber's loss of {self.scale} loss, delta {self.delta:g}"

    @property
    def label(self) -> str:
        """What `loss_named` knows it by."""
        return {"log10": "log", "nats": "squared", "ln": f"huber:{self.delta!r}"}[self.scale]

    def stated(self, objective: float) -> float:
        """The mean of rho as the literature writes it: r^2/2 within delta and delta (|r| - delta/2) beyond (Huber 1964), or the square.

        Times the runs it is the sum that Hoffmann et al. 2022 and Besiroglu et al. 2024 minimise, over ln loss and with delta 1e-3.
        """
        return objective if np.isinf(self.delta) else objective / 2

    def residual(
        self, predicted: Inexact[np.ndarray, "*batch runs"], observed: Float[np.ndarray, "*#batch runs"]
    ) -> Inexact[np.ndarray, "*batch runs"]:
        """r, from log10 of the predicted and of the observed loss; analytic in `predicted`, since the engine differentiates it."""
        if self.scale == "nats":
            return exp(predicted * LN10) - 10**observed
        return (predicted - observed) * (LN10 if self.scale == "ln" else 1.0)

    def rho(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """What the residual costs."""
        size = np.abs(r)
        inside = np.minimum(size, self.delta)
        return inside * (2 * size - inside)

    def psi(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """rho'(r)/2: r, cut at delta."""
        return np.clip(r, -self.delta, self.delta)

    def curvature(self, r: Float[np.ndarray, "*batch runs"], exact: bool) -> Float[np.ndarray, "*batch runs"]:
        """rho''(r)/2: 1 within delta, 0 beyond; or the majorising weight psi(r)/r, with which every full step descends."""
        if exact:
            return (np.abs(r) <= self.delta).astype(np.float64)
        return np.ones_like(r) if np.isinf(self.delta) else self.delta / np.maximum(np.abs(r), self.delta)


def squared_log() -> Loss:
    """Squared error of log10 loss: the default, and what the released notebook minimises."""
    return Loss()


def squared() -> Loss:
    """Squared error of the loss itself, in nats per token."""
    return Loss("nats")


def huber(delta: float = 1e-3) -> Loss:
    """Huber's loss of the natural log of predicted over observed loss, as Hoffmann et al. 2022 use it, there with delta 1e-3."""
    return Loss("ln", delta)


def loss_named(name: str) -> Loss:
    """`log` (squared error of log10 loss), `squared`, or `huber:DELTA`. Raises `ValueError` with what is allowed."""
    kind, _, value = name.partition(":")
    if name in ("log", "squared"):
        return squared_log() if name == "log" else squared()
    if kind == "huber":
        try:
            return huber(float(value)) if value else huber()
        except ValueError as error:
            raise ValueError(f"huber takes a positive delta, such as huber:1e-3, not {value!r}") from error
    raise ValueError(f"no loss is called {name!r}; there are: log, squared, huber:DELTA")
