"""What is fitted to which runs: the laws that a table can be asked about, router by router."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from common.errors import InputError
from fit.causes import tokens_by_size, vary
from fit.laws import CATALOGUE, Law
from fit.runs import Runs, canonical, routers
from fit.runs.grid import ALL_ROUTERS, dense_runs
from fit.runs.schema import ROUTER, D, E, K, N, R, U

DEFAULT_LAWS = (
    "dense", "dense-floor", "separable", "bilinear", "bounded", "utilisation", "floor", "bounded-floor", "floor-interaction",
    "bounded-floor-interaction",
)  # fmt: skip
"""The laws that a plain `fit` fits: the paper's, and the same with a floor. Eq. 2 only where k or R vary; with runs of several lengths
those with tokens too."""

DENSE_ROUTER, POOLED = "Dense", "pooled"
"""The router of a fit to the dense runs, and of one to the runs of every router together (Eq. 2, and laws with shared parameters)."""


@dataclass(frozen=True)
class Skipped:
    """A law that was not fitted or that the runs do not identify, and why, in one line."""

    router: str
    law: str
    reason: str


def jobs(
    runs: Runs, asked: Sequence[str | Law] = (), names: Sequence[str] = (), shared: Sequence[str] = ()
) -> tuple[list[tuple[str, str | Law]], list[Skipped]]:
    """Router and law of every fit, those of one router together, dense laws once; and the laws that are left out by default.

    `asked` are laws, `names` routers: all there are, if left out. With `shared` parameters every law is fitted to all routers together as
    well. A router whose routed runs all have one number of experts is one architecture: the laws of dense runs are for it too. Raises
    `InputError` for an unknown router, and where nothing is left to fit.
    """
    chosen = routers(runs, names)
    laws, skipped = list(asked or _default_laws(runs)), list[Skipped]()
    if "utilisation" in laws and not asked and (held := _same_throughout(runs)):
        laws.remove("utilisation")
        if chosen:
            reason = f"{held} in all routed runs, so P/F has nothing of its own to explain; --law utilisation fits it"
            skipped.append(Skipped(ALL_ROUTERS, "utilisation", reason))
    dense = [law for law in laws if _is_dense(law)]
    has_dense = bool(dense_runs(runs.columns).any())
    found: list[tuple[str, str | Law]] = [(DENSE_ROUTER, law) for law in dense if has_dense or not chosen]
    for router in chosen:
        one = not has_dense and len(np.unique(canonical(runs, router).numeric(E))) == 1 if runs.has(E) else False
        found += [(router, law) for law in laws if law not in dense or one]
    if shared:
        if len(chosen) < 2:
            raise InputError(f"--share {','.join(shared)}: there is one router only, {', '.join(chosen) or 'dense runs'}")
        found += [(POOLED, law) for law in laws if law not in (*dense, "utilisation", "per-size")]
    if "utilisation" in laws and len(chosen) > 1:
        found.append((POOLED, "utilisation"))
    if not found:
        which = ", ".join(law if isinstance(law, str) else law.name for law in laws)
        raise InputError(
            f"nothing to fit: the runs are all dense, and of {which} none is a law of dense runs\nthose are --law "
            + ", ".join(name for name, law in CATALOGUE.items() if law.dense)
        )
    return found, skipped


def _default_laws(runs: Runs) -> tuple[str, ...]:
    """The laws that these runs can be asked about: those with tokens or compute where these vary, the paper's but for dense runs alone."""
    routed = [law for law in DEFAULT_LAWS if not _is_dense(law)] if routers(runs) else []
    dense = [law for law in DEFAULT_LAWS if _is_dense(law)]
    if runs.has(D) and runs.has(N) and vary(runs.columns[D]):
        known = np.isfinite(runs.columns[D]) & np.isfinite(runs.columns[N])
        locked = tokens_by_size(runs.columns[N][known], runs.columns[D][known])
        by_tokens = ["data-constrained", "tokens"] if runs.has(U) else ["tokens"]
        dense, routed = (["frontier", *dense] if locked else [*by_tokens, *dense]), (["tokens-experts", *routed] if routed else [])
    return (*dense, *routed) if runs.has(N) else ("frontier",)


def _is_dense(law: str | Law) -> bool:
    return law.dense if isinstance(law, Law) else law in CATALOGUE and CATALOGUE[law].dense


def _same_throughout(runs: Runs) -> str:
    """`k = 1 and routing_frequency = 0.5` where k and R take one value in the routed runs; empty where one of them varies."""
    routed = runs.columns[E] > 1 if runs.has(E) else np.ones(len(runs), dtype=bool)
    parts: list[str] = []
    for name in (K, R):
        values = np.unique(runs.columns[name][routed]) if runs.has(name) else np.empty(0)
        if len(values[~np.isnan(values)]) > 1:
            return ""
        parts += [f"{name} = {value:g}" for value in values[~np.isnan(values)].tolist()]
    return f"{' and '.join(parts)}" if parts else "k and R are the same"


def runs_for(runs: Runs, router: str, law: str, reads: Collection[str] = ()) -> Runs:
    """The runs that `law`, which `reads` these columns, is fitted to for `router`: the canonical ones, or for Eq. 2 those of every k and R,
    dense runs included."""
    if law != "utilisation" or not routers(runs):
        return canonical(runs, router, reads)
    if router == POOLED or not runs.has(ROUTER):
        return runs
    labels = runs[ROUTER]
    others = sorted({str(name) for name in labels} - {router, DENSE_ROUTER})
    return runs.keep(
        (labels == router) | (labels == DENSE_ROUTER), f"{router} and dense runs, every k and R", [f"router {n}" for n in others]
    )


def with_slope(runs: Runs) -> Bool[np.ndarray, "runs"]:
    """Which runs are of a size met with more than one number of experts."""
    n, e = runs.numeric(N), runs.numeric(E)
    return np.array([len(np.unique(e[n == size])) > 1 for size in n], dtype=bool)
