"""Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts (arXiv 2402.07871): Table 2 from its coefficients alone.

A model of width d has d/64 blocks, N_a = 12 d^2 blocks active parameters, N = d^2 (8 E + 4) blocks in all (no embeddings), and takes
(12 d^2 c_f + d E G c_r) blocks FLOPs a token, c_f = 6 and c_r = 14: the second term is the router's. E = 64.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

import fit
from common.document.numbers import count
from fit.papers.paper import Figure, Group, Paper, Statement, crossing, judged, least, rises, values
from fit.runs.schema import D, G, P

NUM_EXPERTS, FORWARD, ROUTING, HEAD = 64, 6, 14, 64
"""E, c_f, c_r, and the width of a model for each of its blocks."""

GRANULARITIES = 2.0 ** np.arange(10)
"""G that are tried."""

NEAR = 0.03
"""How far, relatively, our best N_a may be from a printed one: the rounding of the coefficients alone moves it by -5 to 10 %."""

FIXED_TOKENS, PER_PARAMETER, WIDE = 130e9, 20.0, 16.0
"""Clark et al.'s tokens; tokens for each active parameter where they grow with it, and G there."""

SIZES = np.geomspace(3e7, 3e10, 4)
"""Active parameters of models at these tokens."""


@dataclass(frozen=True)
class Model:
    """A model at a budget of `flops`: active parameters, tokens, granularity and loss."""

    flops: float
    active: float
    tokens: float
    granularity: float
    loss: float


TABLE_2 = (
    Model(2.95e18, 100e6, 4.37e9, 8.0, 3.133), Model(1.93e20, 1e9, 28.94e9, 16.0, 2.491), Model(6.46e21, 7e9, 137.6e9, 32.0, 2.076),
    Model(5.69e24, 300e9, 2.96e12, 64.0, 1.503),
)  # fmt: skip
"""Table 2, as printed: its compute-optimal models."""

Sizes = Float[np.ndarray, "models"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The published law's two rows: routed models of E = 64, and dense ones."""

    routed: fit.PublishedLaw
    dense: fit.PublishedLaw

    def routed_loss(self, active: Sizes, tokens: Sizes, granularity: float) -> Sizes:
        """Of models with so many active parameters."""
        width = (HEAD * active / 12) ** (1 / 3)
        return self.routed.loss({P: width**3 / HEAD * (8 * NUM_EXPERTS + 4), D: tokens, G: np.full_like(active, granularity)})

    def dense_loss(self, n: Sizes, tokens: Sizes) -> Sizes:
        """Of dense models of size n."""
        return self.dense.loss({P: n, D: tokens, G: np.ones_like(n)})

    def best(self, flops: float, granularity: float) -> Model:
        """The routed model of least loss at this budget and granularity."""
        active, loss = least(lambda n: self.routed_loss(n, flops / flops_per_token(n, granularity), granularity), 1e6, 1e14)
        return Model(flops, active, flops / float(flops_per_token(np.array([active]), granularity)[0]), granularity, loss)

    def best_dense(self, flops: float) -> float:
        """The least loss of a dense model at this budget."""
        return least(lambda n: self.dense_loss(n, flops / flops_per_token(n, 0.0)), 1e6, 1e15)[1]


def flops_per_token(active: Sizes, granularity: float) -> Sizes:
    """Training FLOPs of a token; at a granularity of 0 those of a dense model."""
    width = (HEAD * active / 12) ** (1 / 3)
    return FORWARD * active + ROUTING * NUM_EXPERTS * granularity * width**2 / HEAD


def reproduce() -> Paper:
    """Table 2 from budgets alone, and what its rows give of its statements on dense and routed models."""
    rows = Rows(fit.published("granularity", "E=64"), fit.published("granularity", "dense"))
    ours = [min((rows.best(one.flops, g) for g in GRANULARITIES.tolist()), key=lambda model: model.loss) for one in TABLE_2]
    table = tuple(
        Figure(name, f"{count(printed.flops, 3)} FLOPs", getattr(mine, key), getattr(printed, key))
        for printed, mine in zip(TABLE_2, ours, strict=True)
        for key, name in (("active", "N_a*"), ("tokens", "D*"), ("granularity", "G*"), ("loss", "loss"))
    )
    counted = tuple(
        Figure(
            "FLOPs",
            f"N_a = {count(one.active)}",
            float(flops_per_token(np.array([one.active]), one.granularity)[0]) * one.tokens,
            one.flops,
        )
        for one in TABLE_2
    )
    groups = (
        Group("Table 2 from each budget alone: ours (printed)", table, "The printed coefficients are rounded, which moves the losses."),
        Group("FLOPs of the printed models: ours (printed)", counted, first=False),
    )
    statements = (_table(ours), _never_one(rows), *_gap(rows, ours), _fixed(rows))
    sources = tuple(f"Law, {one.row.name}: {one.law.formula}; {one.row.source}, {one.row.standing}." for one in (rows.routed, rows.dense))
    title = "Krajewski et al. 2024: Table 2 and its statements beside its law"
    return Paper("krajewski", title, (*sources, f"{rows.routed.law.conventions}."), statements, groups)


def _table(ours: list[Model]) -> Statement:
    off = np.array([abs(one.active / printed.active - 1) for one, printed in zip(ours, TABLE_2, strict=True)])
    same = [one.granularity == printed.granularity for one, printed in zip(ours, TABLE_2, strict=True)]
    why = f"N_a within {100 * off.max():.1f} %, G the same in {sum(same)} of {len(same)}"
    return Statement("Table 2: the best N_a and G", judged(*(off < NEAR).tolist(), *same), why)


def _never_one(rows: Rows) -> Statement:
    losses = [[rows.best(one.flops, g).loss for g in GRANULARITIES.tolist()] for one in TABLE_2]
    lost = np.array([row[0] - min(row) for row in losses])
    return Statement("experts as wide as the dense layer are not best", judged(*(lost > 0).tolist()), f"G = 1 costs {values(lost)} nats")


def _gap(rows: Rows, ours: list[Model]) -> list[Statement]:
    """How many times the FLOPs a dense model takes to the routed one's loss, and how much lower that is at its FLOPs."""
    times = np.array([crossing(lambda x, one=one: one.loss - rows.best_dense(x * one.flops), 1.0, 1e6) for one in ours])
    nats = np.array([rows.best_dense(one.flops) - one.loss for one in ours])
    return [
        Statement("the efficiency gap to dense widens (6.3)", judged(rises(times)), f"dense takes {values(times, 1)} times the FLOPs"),
        Statement("the gap in loss widens", judged(rises(nats)), f"{values(nats)} nats at its FLOPs", stated=False),
    ]


def _fixed(rows: Rows) -> Statement:
    """What experts gain at Clark et al.'s tokens and G = 1, and where both grow: in nats, and as EPC/N_a, the dense size of equal loss."""
    p, gains = rows.dense.row.values, list[tuple[Sizes, Sizes]]()
    for tokens, g in ((np.full_like(SIZES, FIXED_TOKENS), 1.0), (PER_PARAMETER * SIZES, WIDE)):
        loss = rows.routed_loss(SIZES, tokens, g)
        equal = (p["a"] / (loss - p["c"] - p["b"] * tokens ** -p["beta"])) ** (1 / p["alpha"])
        gains.append((rows.dense_loss(SIZES, tokens) - loss, equal / SIZES))
    parts = [rises(-fixed) and not rises(-growing) for fixed, growing in zip(*gains, strict=True)]
    there, grown = (f"{nats[0]:.2f} to {nats[-1]:.2f} nats (EPC/N_a {worth[0]:.0f} to {worth[-1]:.0f})" for nats, worth in gains)
    why = f"{there} from 30M to 30B; with D = 20 N_a and G = 16 {grown}"
    return Statement("gains shrink for 130B tokens and G = 1 alone (6.3)", judged(*parts), why)
