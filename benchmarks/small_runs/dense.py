"""The dense curve of the small runs: whether it is a power law, and what more tokens change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.small_runs.sources import Sources
from common.document import Table
from common.document.numbers import count, percent
from fit.analysis import DENSE_ROUTER, Result, analyse
from fit.engine.solve import Fit, fit_law
from fit.laws import DENSE, DENSE_FLOOR, TOKENS
from fit.report import cell
from fit.runs import Runs

DRAWS_OF_FEW = 2000
"""Draws of dense laws at least: three degrees of freedom, six runs of a law with three parameters, need 1,370 at 95%."""


@dataclass(frozen=True)
class Curve:
    """Dense losses by size at one number of tokens, with both laws fitted."""

    name: str
    tokens: float | None
    """That every run read, where it is a curve of `dense.toml`."""
    plain: Result
    floor: Result

    def exponents(self) -> Float[np.ndarray, "sizes_less_one"]:
        """The slope of -ln L over ln N from each size to the next; of several runs of a size their mean loss."""
        n, loss = self.plain.runs.numeric("dense_parameter_count"), self.plain.runs.loss
        sizes = np.unique(n)
        means = np.array([loss[n == size].mean() for size in sizes])
        return -np.diff(np.log(means)) / np.diff(np.log(sizes))


def curves(sources: Sources) -> list[Curve]:
    """One for each number of tokens, then the grid's own with all of its seeds, then the release's."""
    found = [
        Curve(f"ours, {tokens / 1e6:.1f}M bytes", tokens, *_fitted(runs, sources, DENSE.name, DENSE_FLOOR.name))
        for tokens, runs in _by_tokens(sources.dense)
    ]
    return found + [
        Curve(name, None, scale.dense(), scale.dense(DENSE_FLOOR.name))
        for name, scale in (("ours, the grid's, all seeds", sources.ours), ("release", sources.release))
    ]


def _fitted(runs: Runs, sources: Sources, *laws: str) -> Iterator[Result]:
    """Laws fitted to dense runs, with the options of all other laws of the page."""
    options = sources.ours.analysis.options
    found = analyse(runs, replace(options, laws=laws, points=(), draws=max(options.draws, DRAWS_OF_FEW)))
    return (found.result(DENSE_ROUTER, law) for law in laws)


def _by_tokens(runs: Runs) -> Iterator[tuple[float, Runs]]:
    for tokens in np.unique(runs.numeric("tokens_seen")).tolist():
        yield tokens, runs.keep(runs["tokens_seen"] == tokens, f"{tokens:.0f} tokens")


def losses_by_tokens(sources: Sources) -> Table:
    """The runs themselves."""
    sizes = np.unique(sources.dense.numeric("dense_parameter_count"))
    rows = [
        (f"{tokens / 1e6:.1f}M", *(f"{runs.loss[runs['dense_parameter_count'] == n].mean():.4f}" for n in sizes))
        for tokens, runs in _by_tokens(sources.dense)
    ]
    note = "Loss on the test split, nats per byte. Seed 0."
    return Table("Dense loss by bytes read and N", ("bytes", *map(count, sizes)), tuple(rows), note)


def laws_by_tokens(found: Sequence[Curve]) -> Table:
    """How well a power law describes each curve, with a floor and without."""
    rows: list[tuple[str, ...]] = []
    for curve in found:
        steps = curve.exponents()
        plain, floor = curve.plain.coefficients, curve.floor.coefficients
        ends = (f"{steps[0]:.3f}", f"{steps[-1]:.3f}")
        fits = (cell(plain["alpha_N"]), off(curve.plain.fit), cell(floor["L_0"]), cell(floor["a"]), off(curve.floor.fit))
        rows.append((curve.name, *ends, *fits))
    heads = ("runs", "slope, smallest", "slope, largest", "alpha_N", "RMSE", "L_0", "a", "RMSE with floor")
    note = (
        "Slope of -ln L over ln N between the two smallest and the two largest sizes: one number for a power law. Then "
        "L = (N_c/N)^alpha_N and L = L_0 + C N^-a, intervals at 95%; RMSE of ln L."
    )
    return Table("The dense curve with a floor and without", heads, tuple(rows), note)


def off(fit: Fit) -> str:
    """Root mean square error of ln L, in percent."""
    return percent(fit.rmse_log10 * np.log(10))


def numbers(sources: Sources, found: Sequence[Curve], grids_tokens: float) -> dict[str, Any]:
    """The page's numbers on the dense curve: one law for the runs that read at least as much as the grid's, and for all of them."""
    runs, at_least = sources.dense, f"{grids_tokens:.0f} tokens or more"
    (long,) = _fitted(runs.keep(runs["tokens_seen"] >= grids_tokens, at_least), sources, TOKENS.name)
    (every,) = _fitted(runs, sources, TOKENS.name)
    of_length = [curve for curve in found if curve.tokens is not None]
    return {
        "long_runs": str(len(long.runs)),
        "in_tokens": SimpleNamespace(rmse=off(long.fit), **{name: cell(value) for name, value in long.coefficients.items()}),
        "in_all_tokens": off(every.fit),
        "without_end": off_without_end(long),
        "shortest": f"{float(runs['tokens_seen'].min()) / 1e6:.1f}",
        "fewest": off(of_length[0].plain.fit),
        "most": off(of_length[-1].plain.fit),
    }


def off_without_end(lengths: Result) -> str:
    """By how much a power law would miss these sizes if they read without end, by the law in N and tokens: in percent."""
    n = np.unique(lengths.runs.numeric("dense_parameter_count"))
    law = {name: found.value for name, found in lengths.coefficients.items()}
    fit = fit_law(DENSE, {"dense_parameter_count": n}, law["L_0"] + law["A"] * n ** -law["a"])
    return off(fit)
