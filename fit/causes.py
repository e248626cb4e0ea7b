"""What the layout of the runs cannot tell, known before any fit: columns of one value, and tokens that go with size.

Each cause names the remedy: the runs to add, or the law that such runs allow.
"""

import numpy as np
from jaxtyping import Float

from fit.laws import Law
from fit.laws.interface import Data
from fit.runs.schema import SHORT, D, E, K, N, number

LOCKED = 1.1
"""Tokens count as a function of size where they differ from a power of it by less than this factor in every run (our choice)."""

VARY = 1.5
"""Tokens are called different where the largest number is more than this many times the smallest (our choice)."""

_INSTEAD = {E: "dense-floor", N: "per-size", D: "dense-floor"}


def cause(law: Law, data: Data) -> str | None:
    """Why runs laid out like these cannot identify the law, and what would, in one line; None where nothing is known against it."""
    for name in law.columns:
        values = np.unique(data[name])
        if len(values) == 1 and not law.sizes:
            instead = _INSTEAD.get(name, "") if name != N or (E in law.columns and len(np.unique(data[E])) > 1) else ""
            other = f", or fit --law {instead}" if instead not in ("", law.name) else ""
            return (
                f"{_short(name)} is {number(float(values[0]))} in every run, and law {law.name} needs several; add runs at another{other}"
            )
    if N in law.columns and D in law.columns and (relation := tokens_by_size(data[N], data[D])):
        return (
            f"D is {relation} in every run, so that what N and what D explains cannot be told apart; "
            "add runs at another ratio, or fit --law dense-floor"
        )
    return None


def tokens_by_size(n: Float[np.ndarray, "runs"], d: Float[np.ndarray, "runs"]) -> str:
    """`20 N` where tokens are that in every run, `a power of N` where they follow one; empty where they do not, or where D is constant."""
    x, y = np.log(n), np.log(d)
    if np.ptp(y) < np.log(VARY) or np.ptp(x) == 0:
        return ""
    ratio = y - x
    if np.ptp(ratio) < np.log(LOCKED):
        return f"{np.exp(ratio.mean()):.3g} N"
    slope, start = np.polyfit(x, y, 1)
    return "a power of N" if np.ptp(y - slope * x - start) < np.log(LOCKED) and len(np.unique(n)) > 2 else ""


def vary(tokens: Float[np.ndarray, "runs"]) -> float:
    """How many times the smallest number of tokens the largest is, where that is more than `VARY`; else 0."""
    known = tokens[np.isfinite(tokens)]
    times = float(known.max() / known.min()) if len(known) else 0.0
    return times if times > VARY else 0.0


def _short(name: str) -> str:
    return SHORT.get(name, name) if name != K else "k"
