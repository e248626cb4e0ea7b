"""What a scaling law is: linear in its coefficients once its few shape parameters are fixed.

    link(L; theta) = sum_j beta_j * phi_j(theta; run)

`theta` are the shape parameters (such as E_start and E_max), `beta` the coefficients, `phi` the features. A `Law` is these pieces
and nothing else: the engine, the intervals and the report work for every law alike, a user's own included.

Axes: `runs` one entry per run; `features` one per coefficient; `shapes` one per shape parameter; `parameters` one per reported
parameter; leading `...` axes are batches (grid points, bootstrap draws).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Inexact

from fit.laws.complex_step import exp, log10

Data = Mapping[str, Inexact[np.ndarray, "*#batch runs"]]
"""The columns a law reads, by the release's names; with a batch axis where every draw is asked about its own runs."""

Theta = Inexact[np.ndarray, "*batch shapes"]
"""Shape parameters; complex where the engine differentiates."""

Beta = Float[np.ndarray, "*batch features"]
"""Coefficients of the features."""


@runtime_checkable
class Link(Protocol):
    """How the linear predictor eta and the loss L belong together, given the shape parameters.

    `num_shapes` says how many of these it reads: the first ones of the law.
    """

    @property
    def num_shapes(self) -> int:
        """How many shape parameters, from the law's first on, the link depends on."""
        ...

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The eta at which the law predicts `loss`."""
        ...

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """log10 of the loss predicted at `eta`. Analytic in both arguments, since the engine differentiates it."""
        ...


@dataclass(frozen=True)
class Log10Link:
    """eta = log10 L: the paper's laws."""

    num_shapes: int = 0

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """log10 of `loss`."""
        del theta
        return np.log10(loss)

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """`eta` itself."""
        del theta
        return eta


@dataclass(frozen=True)
class FloorLink:
    """eta = ln(L - L_0), with the irreducible floor L_0 as the first shape parameter."""

    num_shapes: int = 1

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """ln(loss - L_0); a loss at or below the floor counts as one part in 10^6 above it, so that a search survives it."""
        return np.log(np.maximum(loss - theta[..., :1], 1e-6 * loss))

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """log10(L_0 + e^eta)."""
        return log10(theta[..., :1] + exp(eta))


@dataclass(frozen=True)
class IdentityLink:
    """eta = L: laws that are sums of power laws, such as L = E + A N^-alpha + B D^-beta."""

    num_shapes: int = 0

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """`loss` itself."""
        del theta
        return loss

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """log10 of `eta`."""
        del theta
        return log10(eta)


@dataclass(frozen=True)
class Shape:
    """A shape parameter: its name, the interval it is searched in, and how many points of the global search lie along it.

    `spacing` is that of the search; `coordinate` the scale on which the polish moves: the parameter, or the logarithm of it and `offset`.
    A law of more than three shapes is searched by scattered starts, and `points` is not used.
    """

    name: str
    low: float
    high: float
    points: int = 14
    spacing: Literal["log", "linear"] = "log"
    coordinate: Literal["log", "linear"] = "log"
    offset: float = 0.0


@dataclass(frozen=True)
class Published:
    """Published values of a law's parameters: for one router, or one kind of model, called `name`.

    `source` says where they stand, `standing` how that was read: in the paper itself, or in other people's accounts of it. `ranges` are
    those of the runs behind them by column, as far as they are stated; predictions outside say so.
    """

    name: str
    values: Mapping[str, float]
    source: str
    standing: str = "read in the paper"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])


@dataclass(frozen=True)
class Roles:
    """Which coefficients belong to log Ê and to log N log Ê, the sign the first enters with, and the base of their logarithm.

    With these, slopes and N_cutoff follow from the coefficients alike for every law that has them (Eq. 8). `sign` is -1 for laws
    written with exponents -a and -b. Without an interaction it is None.
    """

    base: float
    experts: int
    interaction: int | None = None
    sign: int = 1


Features = Callable[[Theta, Data], Inexact[np.ndarray, "*batch runs features"]]
Bounds = Callable[[Data, Float[np.ndarray, "runs"]], tuple[tuple[float, float], ...]]
Report = Callable[[Float[np.ndarray, "*batch shapes"], Beta], Float[np.ndarray, "*batch parameters"]]
Inverse = Callable[[Mapping[str, float]], tuple[Float[np.ndarray, "shapes"], Float[np.ndarray, "features"]]]


@dataclass(frozen=True, eq=False)
class Law:
    """A scaling law.

    `features(theta, data)` must be elementwise in the columns and analytic in `theta` and in them (no `abs`, `max` or comparison): the
    engine takes exact derivatives by complex steps. `parameters` names the reported values in the order in which `report` gives them;
    left out, they are the coefficients, then the shape parameters. `signs` gives the expected sign of a parameter (+1, -1); a fit that
    has another is warned about, never forced. `nonnegative` coefficients are at least 0, unless a
    fit is asked for without bounds. `bounds(data, loss)` replaces the static bounds of `shapes`
    where they depend on the runs. `ratios` names the reported parameters that are one shape parameter over another, such as
    E_max = E_start/rho. `dense` laws are fitted to the dense runs alone; `sizes` are the only values of N that a law speaks of, left out
    for a curve in N. `conventions` says whose N, S or G the law means, where papers differ. `inverse` gives shape parameters and
    coefficients from the reported ones, where their names do not. Functions at module level make fits that can be pickled.
    """

    name: str
    title: str
    formula: str
    source: str
    columns: tuple[str, ...]
    coefficients: tuple[str, ...]
    features: Features
    shapes: tuple[Shape, ...] = ()
    link: Link = field(default_factory=Log10Link)
    parameters: tuple[str, ...] = ()
    report: Report | None = None
    units: Mapping[str, str] = field(default_factory=dict[str, str])
    signs: Mapping[str, int] = field(default_factory=dict[str, int])
    nonnegative: tuple[str, ...] = ()
    bounds: Bounds | None = None
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    roles: Roles | None = None
    dense: bool = False
    sizes: tuple[float, ...] = ()
    published: tuple[Published, ...] = ()
    conventions: str = ""
    inverse: Inverse | None = None

    def __post_init__(self) -> None:
        if bool(self.parameters) != bool(self.report):
            raise ValueError(f"law {self.name!r}: give `parameters` and `report` together, or neither")

    def __repr__(self) -> str:
        return f"Law({self.name}: {self.formula})"

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the reported parameters, in the order of `parameter_values`."""
        return self.parameters or (*self.coefficients, *(shape.name for shape in self.shapes))

    def parameter_values(self, theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
        """The reported parameters, from shape parameters and coefficients."""
        if self.report is not None:
            return self.report(theta, beta)
        return np.concatenate([beta, theta], axis=-1)

    def limits(self, data: Data, loss: Float[np.ndarray, "runs"]) -> Float[np.ndarray, "shapes 2"]:
        """Lower and upper bound of each shape parameter for these runs."""
        pairs = self.bounds(data, loss) if self.bounds else tuple((s.low, s.high) for s in self.shapes)
        return np.array(pairs, dtype=np.float64).reshape(len(self.shapes), 2)

    def eta(self, theta: Theta, beta: Beta, data: Data) -> Inexact[np.ndarray, "*batch runs"]:
        """The linear predictor of each run."""
        return np.einsum("...rf,...f->...r", self.features(theta, data), beta)

    def log10_loss(self, theta: Theta, beta: Beta, data: Data) -> Inexact[np.ndarray, "*batch runs"]:
        """log10 of the predicted loss of each run; NaN where the law predicts none."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return self.link.log10_loss(self.eta(theta, beta, data), theta)

    def published_for(self, name: str) -> Published | None:
        """The published row for the router, or the kind of model, `name`, or None."""
        return next((row for row in self.published if row.name == name), None)

    def at(self, values: Mapping[str, float]) -> tuple[Float[np.ndarray, "shapes"], Float[np.ndarray, "features"]]:
        """Shape parameters and coefficients from reported parameters, such as published ones. Raises `KeyError` for one that is missing."""
        if self.inverse is not None:
            return self.inverse(values)
        known = {part: values[over] / values[name] for name, (over, part) in self.ratios.items() if name in values} | dict(values)
        return np.array([known[shape.name] for shape in self.shapes]), np.array([known[name] for name in self.coefficients])


def stack_features(theta: Theta, terms: tuple[Inexact[np.ndarray, "*#batch runs"], ...]) -> Inexact[np.ndarray, "*batch runs features"]:
    """Features with their batch axes alike: each term broadcast to the batch of `theta`, stacked along a new last axis."""
    *batch, runs = np.broadcast_shapes(*(term.shape for term in terms), (*theta.shape[:-1], 1))
    # In memory the runs lie together, feature by feature: twice as fast to write and to multiply.
    features = np.empty((*batch, len(terms), runs), dtype=np.result_type(theta, *terms))
    for row, term in enumerate(terms):
        features[..., row, :] = term
    return features.swapaxes(-1, -2)
