"""How far a fit's figures move with choices that are not the law's: the step, the loss column, the loss minimised, the runs.

Beside an interval, which says how far noise could move them: a choice that moves a figure out of its interval has to be named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.errors import InputError
from fit.analysis import law_for
from fit.epc import cutoff, has_cutoff
from fit.load.csv_reader import read_table
from fit.load.grid import canonical
from fit.load.runs import Runs, SelectionStep
from fit.load.schema import LOSSES, RUN, SEED, SIZE_LABEL, STEP, N, number
from fit.load.selection import joined_columns, select
from fit.show.display import count, plain
from fit.show.document import Table
from fit.solver.losses import Huber, Loss, Squared, SquaredLog
from fit.solver.solve import fit_law

MOST_STEPS = 30
"""Where there are more steps than this, as many of them are taken, evenly: a table of hundreds of rows shows no more."""

DELTAS = (1e-4, 1e-3, 1e-2)
"""Huber deltas tried, in ln loss: Hoffmann et al.'s 1e-3, and a tenth and ten times of it."""


@dataclass(frozen=True)
class Variant:
    """A fit under another choice.

    `values`: the law's parameters, and N_cutoff where it has one; empty if it is not identified, and `reason` says why. `rmse` of ln loss.
    """

    choice: str
    runs: int
    rmse: float | None
    values: Mapping[str, float]
    reason: str = ""


def refitted(choice: str, runs: Runs, router: str, law: str, objective: Loss | None = None) -> Variant:
    """Fit `law` to the canonical runs of `router` among `runs`. `rmse` is of ln loss, whatever is minimised."""
    try:
        chosen = canonical(runs, router)
        form = law_for(law, chosen)
        fit = fit_law(form, {name: chosen.numeric(name) for name in form.columns}, chosen.loss, objective)
    except InputError as error:
        return Variant(choice, len(runs), None, {}, str(error))
    values = dict(fit.parameters)
    if has_cutoff(form):
        values["N_cutoff"] = float(cutoff(form, fit.beta))
    return Variant(choice, fit.num_runs, fit.rmse_log10 * float(np.log(10)), values)


def by_choice(runs: Runs, router: str, law: str = "bounded", objective: Loss | None = None) -> tuple[Variant, ...]:
    """The fit as it is, then: other losses, the most common seed alone, each model size left out.

    `runs` are those that were loaded; `router` as in the data.
    """
    found = [refitted("as fitted", runs, router, law, objective)]
    losses: list[Loss] = [SquaredLog(), Squared(), *map(Huber, DELTAS)]
    asked = (objective or SquaredLog()).name
    found += [refitted(loss.name, runs, router, law, loss) for loss in losses if loss.name != asked]
    if (alone := seed_alone(runs, router, law, objective)) is not None:
        found.append(alone)
    chosen = canonical(runs, router)
    for size in np.unique(chosen.numeric(N)).tolist():
        without = chosen.numeric(N) != size
        if without.any():
            label = str(chosen[SIZE_LABEL][~without][0]) if chosen.has(SIZE_LABEL) else count(size)
            found.append(refitted(f"without {label}", chosen.keep(without, f"without {label}"), router, law, objective))
    return tuple(found)


def seed_alone(runs: Runs, router: str, law: str = "bounded", objective: Loss | None = None) -> Variant | None:
    """The fit to the most common seed's runs alone, as the release's notebook has it with seed 42; None where there is one seed only."""
    chosen = canonical(runs, router)
    if not chosen.has(SEED):
        return None
    seeds, counts = np.unique(chosen.numeric(SEED), return_counts=True)
    if len(seeds) < 2:
        return None
    seed = float(seeds[counts.argmax()])
    kept = chosen.keep(chosen.numeric(SEED) == seed, f"seed == {number(seed)}")
    return refitted(f"seed {number(seed)} alone", kept, router, law, objective)


def by_target(runs: Runs, router: str, law: str = "bounded", objective: Loss | None = None) -> tuple[Variant, ...]:
    """The fit to every loss column there is, at the evaluations of `runs`; a run without that loss there is left out."""
    found: list[Variant] = []
    own = [name for name in runs.columns if name.startswith("loss_")]
    for target in dict.fromkeys((runs.target, *(name for name in LOSSES if name in runs.columns), *own)):
        values = runs.columns[target]
        if values.dtype.kind != "f" or not np.isfinite(values).any():
            continue
        there = replace(runs, target=target)
        finite = np.isfinite(values)
        found.append(refitted(target, there if finite.all() else there.keep(finite, f"finite {target}"), router, law, objective))
    return tuple(found)


def load_steps(
    source: str | Path | Sequence[str | Path],
    steps: Sequence[int] | None = None,
    *,
    target: str = LOSSES[0],
    columns: Mapping[str, str] | None = None,
) -> dict[int, Runs]:
    """The runs at each step, the files read once. Without `steps`: every one above 0 at which at least 90 % of the runs were evaluated.

    Arguments as for `load_runs`. Raises `InputError` as it does, and where a file has no column of steps. A step at which there is no
    run is left out.
    """
    paths = [source] if isinstance(source, str | Path) else list(source)
    tables = [read_table(path, target, columns or {}) for path in paths]
    if any(STEP not in table.numbers for table in tables):
        raise InputError(f"{listed_names(paths)}: no column {STEP!r}, so runs cannot be taken at different steps")
    found: dict[int, Runs] = {}
    for step in steps if steps is not None else _common_steps([t.numbers[STEP][np.isfinite(t.numbers[target])] for t in tables]):
        selections = [select(table, target, step) for table in tables]
        kept = sum(len(selection.rows) for selection in selections)
        if not kept:
            continue
        log = (SelectionStep(f"evaluation at step {step}", kept, sum(s.runs for s in selections) - kept),)
        file_of = np.repeat(np.arange(len(tables)), [len(selection.rows) for selection in selections])
        line_of = np.concatenate([table.lines[s.rows] for table, s in zip(tables, selections, strict=True)])
        sources = tuple(table.source for table in tables)
        found[step] = Runs(joined_columns(tables, selections, target), target, step, sources, log, (), file_of, line_of)
    return found


def listed_names(paths: Sequence[str | Path]) -> str:
    """The files, for a message."""
    return ", ".join(str(path) for path in paths)


def _common_steps(evaluated: Sequence[Float[np.ndarray, "evaluations"]]) -> list[int]:
    steps, counts = np.unique(np.concatenate(evaluated), return_counts=True)
    common = steps[(counts >= 0.9 * counts.max()) & (steps > 0)].astype(np.int64).tolist()
    if len(common) <= MOST_STEPS:
        return common
    return [common[round(place)] for place in np.linspace(0, len(common) - 1, MOST_STEPS)]


def steps_again(runs: Runs) -> tuple[dict[int, Runs], str]:
    """The runs at every training step, from the files that `runs` came from; or why that cannot be had."""
    paths = [source.path for source in runs.sources]
    if not paths or "-" in paths:
        return {}, "the runs were not read from files that can be read again"
    try:
        steps = load_steps(paths, target=runs.target)
    except InputError as error:
        return {}, str(error)
    if len(steps) < 2:
        return {}, "every run was evaluated at one step only"
    if not _followed(steps, runs):
        return {}, "the files, read again, do not show which rows are these runs (it takes hyper_id, and the release's column names)"
    return steps, ""


def _followed(steps: Mapping[int, Runs], runs: Runs) -> bool:
    """Whether the runs read again are these: the same losses where a run's own step is among `steps`."""
    if not (runs.has(RUN) and runs.has(STEP) and all(again.has(RUN) for again in steps.values())):
        return False
    there = {
        (step, file, run): loss
        for step, again in steps.items()
        for file, run, loss in zip(again.file_of.tolist(), again[RUN].tolist(), again.loss.tolist(), strict=True)
    }
    own = zip(runs.numeric(STEP).tolist(), runs.file_of.tolist(), runs[RUN].tolist(), runs.loss.tolist(), strict=True)
    both = [(there[key], loss) for step, file, run, loss in own if (key := (int(step), file, run)) in there]
    return bool(both) and all(again == loss for again, loss in both)


def by_step(steps: Mapping[int, Runs], like: Runs, router: str, law: str = "bounded", objective: Loss | None = None) -> tuple[Variant, ...]:
    """The fit at each training step (`load_steps`), then at the evaluations of `like`: the same runs, whatever filters chose them.

    Runs are matched by file and `hyper_id`; without that column all of a step's runs are taken.
    """
    found = [refitted(f"step {step:,}", _the_same(runs, like), router, law, objective) for step, runs in sorted(steps.items())]
    return (*found, refitted("as fitted", like, router, law, objective))


def _the_same(runs: Runs, like: Runs) -> Runs:
    if not (runs.has(RUN) and like.has(RUN)):
        return runs
    chosen = set(zip(like.file_of.tolist(), like[RUN].tolist(), strict=True))
    kept = np.array([pair in chosen for pair in zip(runs.file_of.tolist(), runs[RUN].tolist(), strict=True)], dtype=bool)
    return runs.keep(kept, "the runs chosen")


def sensitivity_table(title: str, variants: Sequence[Variant], note: str = "", *, on_terminal: bool = True) -> Table:
    """The variants as a table: choice, runs, error of the fit (percent of the loss), and every figure."""
    names = list(dict.fromkeys(name for variant in variants for name in variant.values))
    rows = tuple(
        (variant.choice, str(variant.runs), _percent(variant.rmse), *(_figure(variant, name) for name in names)) for variant in variants
    )
    reasons = [f"{variant.choice}: {variant.reason}" for variant in variants if variant.reason]
    return Table(title, ("Choice", "Runs", "Fit", *names), rows, " ".join(filter(None, [note, *reasons])), on_terminal)


def _percent(rmse: float | None) -> str:
    return "" if rmse is None else f"{100 * rmse:.2f}%"


def _figure(variant: Variant, name: str) -> str:
    if name not in variant.values:
        return ""
    value = variant.values[name]
    return count(value) if name in ("N_cutoff", "N_c") else plain(float(f"{value:.3g}"))
