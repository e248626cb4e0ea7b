"""What the layout of the runs cannot tell, known before any fit: columns of one value, and tokens that go with size.

Each cause names the remedy: the runs to add, or the law that such runs allow.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fit.laws import Law
from fit.laws.interface import Data
from fit.runs.schema import A, C, D, E, G, N, P, number, short

LOCKED = 1.1
"""Tokens count as a function of size where they differ from a power of it by less than this factor in every run (our choice)."""

VARY = 1.5
"""Tokens are called different where the largest number is more than this many times the smallest (our choice)."""

_REMEDY = {
    A: "E and k move together: add runs of another k for the same E",
    G: "granularity is constant: add runs with experts of another width",
    C: "add runs of another budget",
}
_INSTEAD = {E: "dense-floor", N: "per-size", D: "dense-floor"}


def cause(law: Law, data: Data) -> str | None:
    """Why runs laid out like these cannot identify the law, and what would, in one line; None where nothing is known against it."""
    for name in law.columns:
        values = np.unique(data[name])
        if len(values) == 1 and not law.sizes:
            instead = _INSTEAD.get(name, "") if name != N or (E in law.columns and len(np.unique(data[E])) > 1) else ""
            other = f", or fit --law {instead}" if instead not in ("", law.name) else ""
            return (
                f"{short(name)} is {number(float(values[0]))} in every run, and law {law.name} needs several; "
                f"{_REMEDY.get(name, 'add runs at another')}{other}"
            )
    size = next((name for name in (N, P) if name in law.columns), "")
    if size and D in law.columns:
        if relation := tokens_by_size(data[size], data[D]):
            return (
                f"D is {relation.replace('N', short(size))} in every run, so that what {short(size)} and what D explains cannot be told "
                "apart; add runs at another ratio, or fit --law dense-floor"
            )
        others = [name for name in law.columns if name not in (size, D)]
        if others and _on_rays(data, size, others):
            at = " and ".join(short(name) for name in others)
            return (
                f"at each {at} the runs lie on a ray, D a power of {short(size)}, so that exponents cannot be told apart; "
                f"add runs off it: other D at the same {short(size)} and {at}"
            )
    return _together(law, data)


def _on_rays(data: Data, size: str, others: Sequence[str]) -> bool:
    """Whether tokens follow size among the runs that share the values of the other columns, wherever these are three or more, and nowhere
    a size has two numbers of tokens."""
    places = np.stack([np.asarray(np.real(data[name]), dtype=np.float64) for name in others], axis=-1)
    _, group, counts = np.unique(places.round(12), axis=0, return_inverse=True, return_counts=True)
    found: list[bool] = []
    for k in np.flatnonzero(counts > 1).tolist():
        n, d = (np.real(data[name])[group.reshape(-1) == k] for name in (size, D))
        if counts[k] > 2:
            found.append(bool(tokens_by_size(n, d)))
        elif n[0] == n[1] and d[0] != d[1]:
            return False
    return bool(found) and all(found)


def _together(law: Law, data: Data) -> str | None:
    """Two columns of the law that are a power of each other in every run, such as experts that grow with size."""
    for k, first in enumerate(law.columns):
        for second in law.columns[k + 1 :]:
            x, y = (np.log(np.real(data[name])) for name in (first, second))
            many = len(np.unique(x)) > 2 and min(np.ptp(x), np.ptp(y)) > np.log(VARY)
            if many and np.ptp(y - np.polyval(np.polyfit(x, y, 1), x)) < np.log(LOCKED):
                one, other = short(first), short(second)
                return f"{one} and {other} move together in every run, each a power of the other; add other {other} at the same {one}"
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
