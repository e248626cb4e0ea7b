"""Published laws, usable without a fit: their coefficients with source and standing, and what they say outside the runs behind them.

fit.published("joint").predict(N=3e9, E=32, D=1e11)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from common.document import Document, Section, Table
from common.errors import InputError
from fit.estimate import frame
from fit.laws import CATALOGUE, Law, Published, law_named
from fit.quantities import outside
from fit.runs.schema import ALIASES, E, listed, short

if TYPE_CHECKING:
    import polars as pl

    from fit.derived import Point


@dataclass(frozen=True, eq=False)
class PublishedLaw:
    """A law at published coefficients: `row` says whose, from where, and from which runs."""

    law: Law
    row: Published

    def __repr__(self) -> str:
        return f"PublishedLaw({self.law.name}, {self.row.name}: {self.row.source}, {self.row.standing})"

    @property
    def theta(self) -> Float[np.ndarray, "shapes"]:
        """Shape parameters."""
        return self.law.at(self.row.values)[0]

    @property
    def beta(self) -> Float[np.ndarray, "features"]:
        """Coefficients."""
        return self.law.at(self.row.values)[1]

    @property
    def dense(self) -> bool:
        """Whether it speaks of dense models alone: nothing of a routed one."""
        return self.law.dense or self.row.ranges.get(E) == (1.0, 1.0)

    @property
    def called(self) -> str:
        """`joint`, or `granularity:E=64` where the law has several rows."""
        return self.law.name if len(self.law.published) == 1 else f"{self.law.name}:{self.row.name}"

    def loss(self, data: Mapping[str, Float[np.ndarray, "points"]]) -> Float[np.ndarray, "points"]:
        """What the law predicts from its columns: a loss in nats per token, or the efficiency leverage."""
        return 10 ** self.law.log10_loss(self.theta, self.beta, data)

    def outside(self, data: Mapping[str, float]) -> dict[str, float]:
        """How many times beyond the nearest of its runs each column is, for those that are outside; training FLOPs are 6 N D."""
        return outside(self.row.ranges, data)

    def predict(self, **columns: float | int | Sequence[float | int] | Float[np.ndarray, "points"]) -> "pl.DataFrame":
        """A row for each point: the columns, the predicted value, and what lies outside the published runs, in words.

        `columns` are the law's, by our names or short ones. Raises `InputError` for one that is missing, unknown or not above 0.
        """
        full = {ALIASES.get(name, name): np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in columns.items()}
        if set(full) != set(self.law.columns):
            wanted = ", ".join(short(name) for name in self.law.columns)
            raise InputError(f"law {self.law.name!r} predicts from {wanted}, and was given {', '.join(columns) or 'nothing'}")
        if not all(np.all(np.isfinite(values) & (values > 0)) for values in full.values()):
            raise InputError(f"what law {self.law.name!r} predicts from must be finite and above 0")
        data = dict(zip(full, np.broadcast_arrays(*full.values()), strict=True))
        values = self.loss(data)
        rows = [{name: float(column[i]) for name, column in data.items()} for i in range(len(values))]
        return frame([{**row, "value": float(value), "outside": words(self.outside(row))} for row, value in zip(rows, values, strict=True)])


def words(beyond: Mapping[str, float]) -> str:
    """`N 3.7 times`, for what lies outside; empty where nothing does."""
    return ", ".join(f"{short(name)} {times:.2g} times" for name, times in beyond.items())


def published(law: str, row: str = "") -> PublishedLaw:
    """The law of the catalogue at its published coefficients; `row` says whose, the first if left out.

    `law` may hold both, such as "granularity:dense". Raises `InputError` for a law or a row that is not there, with those that are.
    """
    name, _, inner = law.partition(":")
    found, row = law_named(name), row or inner
    if not found.published:
        there = listed([one.name for one in CATALOGUE.values() if one.published], most=20)
        raise InputError(f"law {name!r} has no published coefficients; those with some are {there}")
    chosen = found.published_for(row) if row else found.published[0]
    if chosen is None:
        raise InputError(f"law {name!r} has no published row {row!r}; it has: {'; '.join(one.name for one in found.published)}")
    return PublishedLaw(found, chosen)


def published_all() -> tuple[PublishedLaw, ...]:
    """Every published row of every law."""
    return tuple(PublishedLaw(law, row) for law in CATALOGUE.values() for row in law.published)


def published_rows(laws: Sequence[PublishedLaw], points: Sequence["Point"]) -> list[dict[str, Any]]:
    """A row for each law and point that it can be asked about: law, row, point, value, outside."""
    rows: list[dict[str, Any]] = []
    for one in laws:
        for point in points:
            data = point.columns(one.law)
            if data is None or (one.dense and point.e > 1):
                continue
            here = {name: float(values[0]) for name, values in data.items()} | point.known()
            far = one.outside(here)
            rows.append({"law": one.called, "point": point.label, "value": float(one.loss(data)[0]), "outside": far})
    if not rows:
        wanted = "; ".join(f"{one.called} reads {', '.join(short(name) for name in one.law.columns)}" for one in laws[:3])
        raise InputError(f"nothing to predict: no point says what these laws read\n{wanted}\nsuch as --at N=3e9,D=1e11,E=32")
    return rows


def published_document(laws: Sequence[PublishedLaw], points: Sequence["Point"]) -> Document:
    """Coefficients, where they stand, and the predictions asked for."""
    rows = published_rows(laws, points) if points else []
    about = tuple(
        f"{one.called}: {one.law.formula} ({one.row.source}, {one.row.standing}). {one.law.conventions or 'N: dense size, no embeddings'}."
        for one in laws
    )
    far = sum(bool(row["outside"]) for row in rows)
    verdict = (
        f"{far} of {len(rows)} predictions lie outside the published runs."
        if rows
        else "Coefficients as published; --at N=..,D=.. predicts."
    )
    values = Table(
        "Published coefficients", ("Law", "Parameter", "Value"),
        tuple((one.called, name, f"{value:.6g}") for one in laws for name, value in one.row.values.items()), first=not rows,
    )  # fmt: skip
    predictions = Table(
        "Predictions: loss in nats per token, for leverage how many times fewer FLOPs", ("Law", "Model", "Value", "Outside its runs"),
        tuple((row["law"], row["point"], f"{row['value']:.4f}", words(row["outside"])) for row in rows), first=True,
    )  # fmt: skip
    return Document("Published laws", verdict, about, (), (Section("", (predictions, values) if rows else (values,)),))


def published_json(laws: Sequence[PublishedLaw], points: Sequence["Point"]) -> dict[str, Any]:
    """The same at full precision."""
    return {
        "schema": "routelaw.published/1",
        "laws": [
            {
                "law": one.law.name, "row": one.row.name, "formula": one.law.formula, "conventions": one.law.conventions,
                "source": one.row.source, "standing": one.row.standing, "columns": list(one.law.columns),
                "values": dict(one.row.values), "ranges": {name: list(ends) for name, ends in one.row.ranges.items()},
            }
            for one in laws
        ],
        "predictions": published_rows(laws, points) if points else [],
    }  # fmt: skip
