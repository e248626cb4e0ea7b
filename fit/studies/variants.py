"""k and R under Eq. 2: what the runs with more than one expert per token, or with other fractions of routed blocks, say.

The paper advises k = 1 and R of 1/2 to 1. A variant changes FLOPs and parameters at once, so it is held against the plain setting
(k = 1, R = 1/2) of the same router, number of experts and FLOPs: the plain runs say how P and the loss go with F at that E, and
the line through them, in logarithms, is read off at the variant's F.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fit.analysis import DENSE_ROUTER, Result
from fit.intervals.student import t_quantile
from fit.load.runs import Runs
from fit.load.schema import ROUTER, SIZE_LABEL, E, F, K, M, N, P, R
from fit.show.document import Table
from fit.studies.published import Line

NEEDED = (K, R, ROUTER, N, E, P, F)


@dataclass(frozen=True)
class Variant:
    """One run of another k or R.

    `residual`: ln of observed over predicted loss under Eq. 2. Against the plain setting at the same FLOPs and E, ln of loss over loss,
    negative where the variant is better: `gain_law` as Eq. 2 predicts both, `gain_runs` as measured, the plain loss read between plain
    runs; None where they do not reach its FLOPs.
    """

    router: str
    size: str
    e: float
    k: float
    r: float
    residual: float
    gain_law: float | None
    gain_runs: float | None

    @property
    def setting(self) -> str:
        """Such as `k = 2` or `R = 1/4`."""
        return f"k = {self.k:g}" if self.k != 1 else f"R = 1/{1 / self.r:g}" if self.r < 1 else "R = 1"


def plain(runs: Runs) -> Bool[np.ndarray, "runs"]:
    """Which runs are of the plain setting."""
    widened = runs.numeric(M) != 1 if runs.has(M) else np.zeros(len(runs), dtype=bool)
    return (runs.numeric(K) == 1) & (runs.numeric(R) == 0.5) & ~widened


def variants(result: Result) -> list[Variant]:
    """Every routed run of another k or R among those that Eq. 2 is fitted to."""
    runs, fit = result.runs, result.fit
    if not all(runs.has(name) for name in NEEDED):
        return []
    usual = plain(runs)
    routed = runs.numeric(E) > 1
    residuals = fit.residuals * np.log(10)
    found: list[Variant] = []
    for i in np.flatnonzero(~usual & routed & (runs[ROUTER] != DENSE_ROUTER)).tolist():
        same = usual & (runs[ROUTER] == runs[ROUTER][i]) & (runs.numeric(E) == runs.numeric(E)[i])
        law, measured = _against(result, same, i)
        size = str(runs[SIZE_LABEL][i]) if runs.has(SIZE_LABEL) else f"{runs.numeric(N)[i]:.3g}"
        k, r = float(runs.numeric(K)[i]), float(runs.numeric(R)[i])
        found.append(Variant(str(runs[ROUTER][i]), size, float(runs.numeric(E)[i]), k, r, float(residuals[i]), law, measured))
    return found


def _against(result: Result, same: Bool[np.ndarray, "runs"], run: int) -> tuple[float | None, float | None]:
    """The variant's loss over that of the plain setting at its FLOPs: under Eq. 2, and as measured."""
    flops, held = np.log(result.runs.numeric(F)), np.log(result.runs.numeric(P))
    order = np.flatnonzero(same)[np.argsort(flops[same], kind="stable")]
    if len(order) < 2 or not flops[order[0]] <= flops[run] <= flops[order[-1]]:
        return None, None
    at = flops[run]
    there = {F: np.exp(np.array([at, at])), P: np.exp(np.array([held[run], np.interp(at, flops[order], held[order])]))}
    predicted = result.fit.log10_loss(there) * np.log(10)
    observed = np.log(result.runs.loss)
    return float(predicted[0] - predicted[1]), float(observed[run] - np.interp(at, flops[order], observed[order]))


def variant_table(found: Sequence[Variant]) -> Table:
    """Setting by setting and router by router: how Eq. 2 describes the variants, and what they gain at equal FLOPs."""
    rows: list[tuple[str, ...]] = []
    for router, setting in dict.fromkeys((v.router, v.setting) for v in sorted(found, key=lambda v: (v.router, v.k, -v.r))):
        mine = [v for v in found if (v.router, v.setting) == (router, setting)]
        rows.append((f"{router}, {setting}", str(len(mine)), _mean([v.residual for v in mine]), *_gains(mine)))
    return Table(
        "Other k and R",
        ("Setting", "Runs", "Residual", "Eq. 2 at equal F", "Measured at equal F"),
        tuple(rows),
        "Means over runs, in percent of the loss. Residual: observed over predicted by Eq. 2, fitted to the router's runs of every k "
        "and R. At equal F: loss over that of k = 1, R = 1/2 at the same E and FLOPs, negative where the variant is better, by Eq. 2 "
        "and as measured; the plain setting is read between its own runs in log F.",
    )


def _gains(mine: Sequence[Variant]) -> tuple[str, str]:
    return _mean([v.gain_law for v in mine]), _mean([v.gain_runs for v in mine])


def _known(values: Sequence[float | None]) -> Float[np.ndarray, "known"]:
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _mean(values: Sequence[float | None]) -> str:
    known = _known(values)
    return f"{100 * known.mean():+.2f}%" if len(known) else ""


def variant_lines(found: Sequence[Variant], level: float) -> list[Line]:
    """k = 1 and R of 1/2 to 1, by the measured loss at equal FLOPs. Advice is borne out where the mean's t interval lies on its side."""
    groups = {
        ("k = 1", "k = 2 against k = 1", "worse"): [v for v in found if v.k == 2],
        ("k = 1", "k = 4 against k = 1", "worse"): [v for v in found if v.k == 4],
        ("R of 1/2 to 1", "R below 1/2 against R = 1/2", "worse"): [v for v in found if v.k == 1 and v.r < 0.5],
        ("R of 1/2 to 1", "R = 1 against R = 1/2", "no worse"): [v for v in found if v.k == 1 and v.r == 1],
    }
    lines: list[Line] = []
    for (place, name, claim), mine in groups.items():
        gains = _known([v.gain_runs for v in mine])
        if len(gains) < 2:
            continue
        mean, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
        reach = error * t_quantile((1 + level) / 2, float(len(gains) - 1))
        text = f"loss {100 * mean:+.2f}% [{100 * (mean - reach):+.2f}, {100 * (mean + reach):+.2f}]"
        why = f"at equal FLOPs and E; higher in {int(np.sum(gains > 0))} of {len(gains)} runs; {_gains(mine)[0]} by Eq. 2{_missed(mine)}"
        lines.append(Line(f"variants/{name}", place, name, claim, None, None, text, _verdict(claim, mean, reach), why))
    return lines


def _verdict(claim: str, mean: float, reach: float) -> bool | None:
    if claim == "worse":
        return True if mean - reach > 0 else False if mean + reach < 0 else None
    return False if mean - reach > 0 else True if mean + reach < 0 else None


def _missed(mine: Sequence[Variant]) -> str:
    rms = float(np.sqrt(np.mean(np.square([v.residual for v in mine]))))
    return f", which misses these runs by {100 * rms:.2f}% (root mean square; {_mean([v.residual for v in mine])} on average)"
