"""Made-up runs: a small design and a truth for every law of the catalogue, and laws of one's own that tests are about."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Inexact

from fit.estimate import Estimate
from fit.laws import CATALOGUE, Law, Roles, Shape, stack_features
from fit.laws.interface import Data, Theta
from fit.runs.schema import A, C, D, E, F, G, N, P

Columns = dict[str, Float[np.ndarray, "runs"]]
Sample = tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]

NOISE = 0.002
"""Standard deviation of log10 loss about the truth."""

TRUTH: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "dense": ((), (0.08, 1.08)),
    "dense-floor": ((1.6,), (0.3, 5.2)),
    "tokens": ((0.34, 0.3), (1.7, 110.0, 600.0)),
    "tokens-experts": ((0.34, 0.08, 0.3), (1.7, 110.0, 600.0)),
    "bounded-tokens": ((0.34, 0.2, 0.3, 2.0, 0.01), (1.7, 110.0, 600.0)),
    "bounded-tokens-interaction": ((0.34, 0.3, 0.3, 2.0, 0.01, 0.004), (1.7, 110.0, 600.0)),
    "granularity": ((0.58, 0.115, 0.147), (0.47, 2.1, 18.1, 30.8)),
    "sparsity": ((0.5962, 0.3954, -0.1666, 0.1603, 0.1595), (16612.5, 5455.67, 0.4598, 17.26, 0.94)),
    "sparsity-dense": ((0.34, 0.3, 0.05), (1.7, 110.0, 40.0, 600.0)),
    "joint": ((-0.1889, -0.2285, 0.0098, -0.1775, 0.5529, -0.0259, 2.0732, 2.0732 / 290.4521), (35.91, 35.98, 1.3637)),
    "saturating-tokens": ((0.3, 0.5, 0.3, -0.0005, 2.0, 0.01), (60.0, 0.5, 500.0, 1.5)),
    "leverage": ((0.0163, 0.01), (1.23, -0.0761, 0.0167, -0.117)),
    "data-constrained": ((0.35, 0.31, 15.0, 5.0, 6e7), (1.8, 617.0)),
    "frontier": ((1.6,), (0.1, 4.6)),
    "separable": ((), (-0.08, -0.04, 1.1)),
    "bilinear": ((), (-0.08, -0.1, 0.008, 1.1)),
    "bounded": ((2.0, 0.01), (-0.08, -0.1, 0.008, 1.1)),
    "utilisation": ((1.2, 0.05), (-0.08, -0.4, 0.02, 1.6)),
    "floor": ((1.5,), (0.25, 0.08, 4.5)),
    "bounded-floor": ((1.5, 2.0, 0.01), (0.25, 0.1, 4.5)),
    "floor-interaction": ((1.5,), (0.25, 0.12, 0.002, 4.5)),
    "bounded-floor-interaction": ((1.5, 2.0, 0.01), (0.25, 0.12, 0.002, 4.5)),
}
"""Shape parameters and coefficients."""


def e_hat(
    e: Float[np.ndarray, "*#batch runs"], start: Float[np.ndarray, "*#batch 1"] | float, end: Float[np.ndarray, "*#batch 1"] | float
) -> Float[np.ndarray, "*batch runs"]:
    """Ê as the paper writes it (Eq. 1), of E_start and E_max."""
    return 1 / (1 / (e - 1 + 1 / (1 / start - 1 / end)) + 1 / end)


def grid(sizes: int = 5, counts: int = 5) -> Columns:
    """Every one of `sizes` sizes from 10^7 to 10^9 with 1, 4, 16 ... experts."""
    n, e = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, sizes), 4.0 ** np.arange(counts)))
    return {N: n, E: e}


def design(law: Law) -> Columns:
    """Runs that tell every parameter of a law of the catalogue apart."""
    if law.name == "tokens":
        n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 5)))
        return {N: n, D: d}
    if {N, E, D} == set(law.columns):
        counts = [1.0, 8.0, 64.0] if not law.ratios else [1.0, 2.0, 4.0, 16.0, 64.0, 256.0]
        n, e, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 4), counts, np.geomspace(1e9, 1e11, 4)))
        return {N: n, E: e, D: d}
    if set(law.columns) & {A, G}:
        third = {G: [1.0, 2.0, 4.0, 8.0, 16.0], A: [1.0, 0.3, 0.1, 0.03, 0.01]}
        first, second = law.columns[0], law.columns[1]
        ranges = {P: np.geomspace(1e7, 1e12, 5), D: np.geomspace(1e8, 1e12, 4), A: third[A], C: np.geomspace(1e18, 1e22, 4)}
        x, y, z = (axis.ravel() for axis in np.meshgrid(ranges[first], ranges[second], third[law.columns[2]]))
        return {first: x, second: y, law.columns[2]: z}
    if law.name == "data-constrained":
        n, u, epochs = (axis.ravel() for axis in np.meshgrid(np.geomspace(3e7, 1e10, 6), [1e8, 1e9, 1e10], [0.5, 3.0, 10.0, 40.0]))
        return {N: n, D: u * epochs, "unique_tokens": u}
    if law.name == "frontier":
        return {"training_flops": np.geomspace(1e18, 1e22, 14)}
    if law.dense:
        return {N: np.geomspace(1e7, 1e9, 14)}
    columns = grid(5, 6)
    k = np.tile([1.0, 2.0], len(columns[N]) // 2)
    # Two FLOPs a parameter and token, a third of the parameters in experts; with two of them at work for every other run.
    columns[P], columns[F] = columns[N] * (1 + 0.5 * (columns[E] - 1)), 2.0**20 * columns[N] * (1 + 0.5 * (k - 1))
    return {name: columns[name] for name in law.columns}


def made_up(law: Law, seed: int = 0, noise: float = NOISE) -> Sample:
    """The design's runs with losses of the truth and normal noise."""
    data = design(law)
    theta, beta = (np.array(values) for values in TRUTH[law.name])
    curve = law.log10_loss(theta, beta, data)
    return data, 10 ** (curve + noise * np.random.default_rng(seed).standard_normal(len(curve)))


def bilinear_losses(
    data: Mapping[str, Float[np.ndarray, "runs"]], *, b: float = -0.03, c: float = 0.0, noise: float = 0.001
) -> Float[np.ndarray, "runs"]:
    """Losses of the bilinear law, centred at N = 10^8, with noise."""
    x, e = np.log10(data[N]) - 8, np.log10(data[E])
    return 10 ** (0.5 - 0.07 * x + b * e + c * x * e + noise * np.random.default_rng(0).standard_normal(len(x)))


def _curved(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 5"]:
    x, e = np.log10(data[N]), np.log10(data[E])
    return stack_features(theta, (x, x**2, e, x * e, np.ones_like(x)))


CURVED = Law(
    name="curved",
    title="Bilinear law, curved in N",
    formula="log L = a log N + q (log N)^2 + b log E + c log N log E + d",
    source="the README's law of one's own",
    columns=(N, E),
    coefficients=("a", "q", "b", "c", "d"),
    features=_curved,
    roles=Roles(base=10.0, experts=2, interaction=3),
)
"""The README's own law, with roles."""


CONSTANT = Law(
    name="constant", title="A constant", formula="log L = d", source="a test's own", columns=("x",), coefficients=("d",),
    features=lambda theta, data: stack_features(theta, (np.ones_like(data["x"]),)),
)  # fmt: skip
"""A law of one coefficient."""


def _wave(theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs 3"]:
    phase = theta[..., 0:1] * data["x"]
    return stack_features(theta, (np.sin(phase), np.cos(phase), np.ones_like(data["x"])))


WAVE = Law(
    name="wave",
    title="A wave",
    formula="log L = u sin(w x) + v cos(w x) + d",
    source="a law with a local minimum at every frequency of the data",
    columns=("x",),
    coefficients=("u", "v", "d"),
    features=_wave,
    shapes=(Shape("w", low=0.5, high=12.0, points=28, spacing="linear", coordinate="linear"),),
)
"""A law with many local minima."""


def waves(seed: int = 0) -> Sample:
    """Three frequencies of nearly the same strength, in noise that decides between them: the best wave differs from draw to draw."""
    x = np.linspace(0.05, 6, 40)
    curve = 0.4 + 0.020 * np.sin(2.1 * x) + 0.0196 * np.cos(5.3 * x) + 0.0192 * np.sin(9.2 * x)
    return {"x": x}, 10 ** (curve + 0.006 * np.random.default_rng(seed).standard_normal(len(x)))


def least_wave(
    data: Mapping[str, Float[np.ndarray, "runs"]], observed: Float[np.ndarray, "draws runs"], weights: Float[np.ndarray, "draws runs"]
) -> tuple[Float[np.ndarray, "draws"], Float[np.ndarray, "draws"]]:
    """By brute force, the frequency of least mean square for every row, on a grid of 4,000, and that mean square."""
    frequencies = np.linspace(0.5, 12.0, 4000)
    phase = frequencies[:, None] * data["x"]
    x = np.stack([np.sin(phase), np.cos(phase), np.ones_like(phase)], axis=-1)
    best, least = np.empty(len(observed)), np.empty(len(observed))
    for i, (y, weight) in enumerate(zip(observed, weights, strict=True)):
        root = np.sqrt(weight)
        basis, _ = np.linalg.qr(root[:, None] * x)
        squares = (root * y) @ (root * y) - np.sum(np.einsum("prf,r->pf", basis, root * y) ** 2, axis=-1)
        best[i], least[i] = frequencies[squares.argmin()], squares.min() / weight.sum()
    return best, least


LAWS = tuple(CATALOGUE.values())


def ends(found: Sequence[Estimate]) -> Float[np.ndarray, "2 figures"]:
    """Both ends of figures that have them."""
    pairs = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    assert len(pairs) == len(found), found
    return np.array(pairs).T
