"""What `benchmarks.coverage` simulates: a law with known parameters on a design, the noise about it, and the points asked about.

The released runs are one design, with our fit as the truth. The other two are made for law `tokens`, with the constants that
Hoffmann et al. (2022) print (Eq. 10) as the truth: `dense` has 60 runs, N from 1e8 to 1e10 and five numbers of tokens from 2 to 180 a
parameter, so that runs lie off the ray D = 20 N; `weak` has 16, N from 1e8 to 1e9 and D from 1e10 to 1e11: so little that the bound of
L_0 at zero holds in two fifths of the repetitions. `published` has published coefficients as the truth, on 144 runs that cross four sizes,
six numbers of tokens and six of experts, sparsities or granularities, which is what their papers ran, or more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from benchmarks.common import sample_for
from common.errors import InputError
from fit.engine.solve import fit_law
from fit.laws import Law
from fit.literature import published
from fit.runs.schema import A, D, E, G, N, P

Design = Literal["release", "dense", "weak", "published"]
Noise = Literal["independent", "clustered", "uneven"]

SHARED = 0.5
"""Part of the variance that runs of one size share when the noise is clustered."""

TIMES = 5.0
"""How many times larger the noise's SD is at the smallest size than at the largest when it is uneven (our choice)."""

PLACES = {"inside": (1.3e8, 32, 1), "edge": (1.3e9, 512, 1), "10x beyond": (1.3e9, 64, 10), "below": (1.6e7, 128, 0.3)}
"""Where EPC and losses are asked for: the run nearest this (N, E), its size (and FLOPs) then times the last figure."""

SIZES = ("dense_parameter_count", "total_parameter_count", "flops_per_step")

HOFFMANN = {"L_0": 1.69, "A": 406.4, "B": 410.7}, {"a": 0.34, "b": 0.28}
"""Coefficients and exponents of the made designs' truth (Hoffmann et al. 2022, Eq. 10)."""

SD = {"dense": 0.01, "weak": 0.02, "published": 0.005}
"""RMS of the noise of the made designs, in natural logarithms of the loss (our choice)."""


@dataclass(frozen=True)
class Truth:
    """A law with its true parameters, the runs it is fitted to, the noise's RMS (log10), and the points that are asked about."""

    law: Law
    theta: Float[np.ndarray, "shapes"]
    beta: Float[np.ndarray, "features"]
    data: dict[str, Float[np.ndarray, "runs"]]
    noise_sd: float
    points: dict[str, Float[np.ndarray, "points"]]

    def log10_loss(self, data: Mapping[str, Float[np.ndarray, "runs"]]) -> Float[np.ndarray, "runs"]:
        """log10 of the true loss."""
        return self.law.log10_loss(self.theta, self.beta, data)

    @property
    def sizes(self) -> Float[np.ndarray, "runs"]:
        """The runs' model sizes."""
        return self.data[self.law.columns[0]]

    def noise(self, generator: np.random.Generator, kind: Noise) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "points"]]:
        """log10 noise of the runs, and of a new run at each point.

        Clustered: a point of a new size has a shift of its own. Uneven: the SD is a power of N, and beyond the runs' sizes what it is at
        their end.
        """
        at = self.points[self.law.columns[0]]
        runs, points = generator.standard_normal(len(self.sizes)), generator.standard_normal(len(at))
        if kind == "clustered":
            distinct, place = np.unique(np.concatenate([self.sizes, at]), return_inverse=True)
            shift = generator.standard_normal(len(distinct))[place] * SHARED**0.5
            runs = shift[: len(runs)] + runs * (1 - SHARED) ** 0.5
            points = shift[len(runs) :] + points * (1 - SHARED) ** 0.5
        elif kind == "uneven":
            least, most = self.sizes.min(), self.sizes.max()
            power = -np.log(TIMES) / np.log(most / least)
            own = self.sizes**power
            rms = np.sqrt(np.mean(own**2))
            runs, points = runs * own / rms, points * np.clip(at, least, most) ** power / rms
        return runs * self.noise_sd, points * self.noise_sd


def make_truth(law: Law, design: Design, router: str, curves: Path) -> Truth:
    """The truth for one law; `router` and `curves` say whose runs the released design is.

    The released design's noise is as large as the fit's residuals, degrees of freedom accounted for.
    """
    if design == "published":
        return _published(law)
    if design != "release":
        return _made(law, design)
    data, loss = sample_for(law, router, curves)
    fit = fit_law(law, data, loss)
    picked = [_nearest(data, n, e) for n, e, _ in PLACES.values()]
    scale = np.array([times for _, _, times in PLACES.values()])
    points = {name: values[picked] * (scale if name in SIZES else 1.0) for name, values in data.items()}
    return Truth(law, fit.theta, fit.beta, data, fit.rmse_log10 * (len(loss) / fit.degrees) ** 0.5, points)


def _published(law: Law) -> Truth:
    """Published coefficients on a grid of every column that varies; points in the middle, at the far corner, ten times its size, below."""
    ranges = {
        N: np.geomspace(5e7, 3e9, 4), P: np.geomspace(3e8, 3e10, 4), D: np.geomspace(2e9, 2e11, 6), E: 2.0 ** np.arange(6),
        A: 2.0 ** -np.arange(6), G: np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
    }  # fmt: skip
    axes = [ranges[name] for name in law.columns]
    data = dict(zip(law.columns, (axis.ravel() for axis in np.meshgrid(*axes)), strict=True))
    theta, beta = published(law.name).theta, published(law.name).beta
    points = {name: np.array([axis[len(axis) // 2], axis[-1], axis[-1], axis[0]]) for name, axis in zip(law.columns, axes, strict=True)}
    points[law.columns[0]] = points[law.columns[0]] * np.array([1.0, 1.0, 10.0, 0.3])
    return Truth(law, theta, beta, data, SD["published"] / np.log(10), points)


def _nearest(data: dict[str, Float[np.ndarray, "runs"]], n: float, e: float) -> int:
    """The run of the size nearest to `n` whose number of experts is nearest to `e`, on log scales."""
    distance = 10 * np.abs(np.log(data["dense_parameter_count"] / n)) + np.abs(np.log(data["num_experts"] / e))
    return int(np.argmin(distance))


def _made(law: Law, design: Literal["dense", "weak"]) -> Truth:
    """A made design of law `tokens`, and points as far inside and outside it as those of the release."""
    if law.name != "tokens":
        raise InputError(f"the design {design!r} is made for law tokens, not {law.name}; --law tokens has it")
    if design == "dense":
        n = np.repeat(np.geomspace(1e8, 1e10, 12), 5)
        d = n * np.tile([2.0, 6.0, 20.0, 60.0, 180.0], 12)
    else:
        n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e8, 1e9, 4), np.geomspace(1e10, 1e11, 4), indexing="ij"))
    middle, least, most = (np.array([f(np.log(n)), f(np.log(d))]) for f in (np.mean, np.min, np.max))
    at = np.exp(np.stack([middle, most, most, least], axis=-1)) * np.array([1.0, 1.0, 10.0, 0.3])
    columns = law.columns
    coefficients, exponents = HOFFMANN
    return Truth(
        law, np.array([exponents[shape.name] for shape in law.shapes]), np.array([coefficients[name] for name in law.coefficients]),
        dict(zip(columns, (n, d), strict=True)), SD[design] / np.log(10), dict(zip(columns, at, strict=True)),
    )  # fmt: skip
