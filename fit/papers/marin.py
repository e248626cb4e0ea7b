"""Marin's routed runs (github.com/marin-community/marin): does a frontier fitted to six budgets predict a run of 333 times the largest?

With a floor, L = L_0 + A C^-a, and without one, L_0 = 0.
"""

import tomllib
from dataclasses import replace
from pathlib import Path

import fit
from common.document.numbers import count
from fit.papers.paper import Figure, Group, Paper, Statement, judged
from fit.results import Result

LAW, FLOOR = "frontier", "L_0"
WITH, WITHOUT = "with a floor", "without a floor"

LEAST_DRAWS = 2000
"""Three degrees of freedom put the ends of a 95 % interval where one of 1,370 draws lies."""


def reproduce(points: Path, options: fit.Options | None = None) -> Paper:
    """Both fits to the points in `golden/public_points.toml`, and what they predict of the runs that were made afterwards.

    Of `options` loss, scheme, draws (2,000 at least), seed and level are used; the intervals are those of a new run, its noise included.
    Raises `InputError` where draws do not reach the ends of an interval of this level.
    """
    marin = tomllib.loads(points.read_text(encoding="utf-8"))["marin"]
    runs = fit.Runs.from_columns({"C": marin["flops"], "loss_validation": marin["loss"]})
    options = options or fit.Options()
    asked = replace(options, laws=(LAW,), draws=max(options.draws, LEAST_DRAWS))
    fits = {WITH: asked, WITHOUT: replace(asked, fixed={FLOOR: 0.0})}
    results = {name: fit.analyse(runs, one).result("Dense", LAW) for name, one in fits.items()}
    figures = {name: _predictions(name, result, marin["later_flops"], marin["later_loss"]) for name, result in results.items()}
    largest = max(marin["flops"])
    title = f"Marin: {len(runs)} routed IsoFLOP minima to {count(largest)} FLOPs, and runs made afterwards"
    note = f"In brackets the {asked.level:.0%} interval of a new run: {asked.loss.name}, {asked.draws:,} draws, seed {asked.seed}."
    coefficients = tuple(
        Figure(name, form, one.value, low=one.low, high=one.high)
        for form, result in results.items()
        for name, one in result.coefficients.items()
    )
    groups = (
        Group("Predicted (measured) loss, nats per token", tuple(one for rows in figures.values() for one in rows), note),
        Group("Coefficients", coefficients),
    )
    statements = tuple(_predicts(name, rows, marin["later_flops"][-1] / largest) for name, rows in figures.items())
    sources = (f"{marin['source']}: {marin['what']}.",)
    return Paper("marin", title, sources, statements, groups)


def _predictions(form: str, result: Result, flops: list[float], measured: list[float]) -> tuple[Figure, ...]:
    table = result.predict(kind="new run", C=flops)
    return tuple(
        Figure(f"at {count(c)} FLOPs", form, row["value"], loss, row["low"], row["high"])
        for c, loss, row in zip(flops, measured, table.iter_rows(named=True), strict=True)
    )


def _predicts(form: str, rows: tuple[Figure, ...], times: float) -> Statement:
    """Whether the last run, so many times the largest fitted, lies in its interval."""
    last = rows[-1]
    if last.low is None or last.high is None or last.printed is None:
        raise fit.InputError("too few draws for an interval of this level: --draws 20000, or a lower --level")
    inside = last.low <= last.printed <= last.high
    why = f"{last.value:.3f} {last.name}, measured {last.printed:g}: {'in' if inside else 'not in'} the interval"
    return Statement(f"a frontier {form} predicts a run {times:.0f} times larger", judged(inside), why)
