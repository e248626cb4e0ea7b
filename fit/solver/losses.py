"""What a fit minimises: the mean over runs of rho(r), with r the residual of one run.

Every loss sees log10 of the predicted and of the measured loss (nats per token). rho is scaled so that it is r^2 near nought.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp

LN10 = float(np.log(10))


@runtime_checkable
class Loss(Protocol):
    """A residual and what it costs. `residual` must be analytic in `predicted`: the solver differentiates it."""

    @property
    def name(self) -> str:
        """The loss with its unit and settings, as the report prints it."""
        ...

    def residual(
        self, predicted: Inexact[np.ndarray, "*batch runs"], observed: Float[np.ndarray, "*#batch runs"]
    ) -> Inexact[np.ndarray, "*batch runs"]:
        """r, from log10 of the predicted and of the observed loss."""
        ...

    def rho(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """What the residual costs."""
        ...

    def psi(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """rho'(r)/2."""
        ...

    def curvature(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """A weight per run with which Gauss-Newton steps descend: psi(r)/r, so rho''/2 where rho is quadratic."""
        ...


@dataclass(frozen=True)
class SquaredLog:
    """Squared error of log10 loss: the default, and what the released notebook minimises."""

    @property
    def name(self) -> str:
        """The loss with its unit."""
        return "squared error of log10 loss"

    def residual(
        self, predicted: Inexact[np.ndarray, "*batch runs"], observed: Float[np.ndarray, "*#batch runs"]
    ) -> Inexact[np.ndarray, "*batch runs"]:
        """log10 of predicted over observed."""
        return predicted - observed

    def rho(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """r^2."""
        return r * r

    def psi(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """r."""
        return r

    def curvature(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """1."""
        return np.ones_like(r)


@dataclass(frozen=True)
class Squared(SquaredLog):
    """Squared error of the loss itself, in nats per token."""

    @property
    def name(self) -> str:
        """The loss with its unit."""
        return "squared error of loss (nats per token)"

    def residual(
        self, predicted: Inexact[np.ndarray, "*batch runs"], observed: Float[np.ndarray, "*#batch runs"]
    ) -> Inexact[np.ndarray, "*batch runs"]:
        """Predicted minus observed loss."""
        return exp(predicted * LN10) - 10**observed


@dataclass(frozen=True)
class Huber:
    """Huber's loss of the natural log of predicted over observed loss, as Hoffmann et al. 2022 use it, there with delta 1e-3.

    Quadratic within `delta`, linear beyond: rho = r^2, then 2 delta |r| - delta^2.
    """

    delta: float = 1e-3

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Huber's delta must be positive, not {self.delta}")

    @property
    def name(self) -> str:
        """The loss with its delta."""
        return f"Huber's loss of ln loss, delta {self.delta:g}"

    def residual(
        self, predicted: Inexact[np.ndarray, "*batch runs"], observed: Float[np.ndarray, "*#batch runs"]
    ) -> Inexact[np.ndarray, "*batch runs"]:
        """Natural log of predicted over observed."""
        return (predicted - observed) * LN10

    def rho(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """r^2 within delta, 2 delta |r| - delta^2 beyond."""
        size = np.abs(r)
        return np.where(size <= self.delta, r * r, self.delta * (2 * size - self.delta))

    def psi(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """r, cut at delta."""
        return np.clip(r, -self.delta, self.delta)

    def curvature(self, r: Float[np.ndarray, "*batch runs"]) -> Float[np.ndarray, "*batch runs"]:
        """1 within delta, delta/|r| beyond: the majorising weights, with which every full step descends."""
        return self.delta / np.maximum(np.abs(r), self.delta)


def loss_named(name: str) -> Loss:
    """`log` (squared error of log10 loss), `squared`, or `huber:DELTA`. Raises `ValueError` with what is allowed."""
    kind, _, value = name.partition(":")
    if kind == "log" and not value:
        return SquaredLog()
    if kind == "squared" and not value:
        return Squared()
    if kind == "huber":
        try:
            return Huber(float(value)) if value else Huber()
        except ValueError as error:
            raise ValueError(f"huber takes a positive delta, such as huber:1e-3, not {value!r}") from error
    raise ValueError(f"no loss is called {name!r}; there are: log, squared, huber:DELTA")
