"""A grid of runs in a TOML file.

    [[grid]]                   # one or several; every combination of a grid's lists is a run
    size = ["27K", "60K"]
    router = ["dense", "rl-r"]
    experts = [4, 16]          # also k, routing_frequency, seed; a scalar is a list of one
    variant = "bonus"          # suffix of these runs' names, and a column of the curves
    [grid.rl_r]                # any section: options of this grid's runs, overriding the file's
    entropy_weight = 1e-3

    [learning_rate]            # peak rate by size, the final one scaled alike; likewise [tokens]
    "60K" = 2e-3

    [run]                      # shared by all runs: the sections of a run's config.toml
    tokens = 8e6               # or steps

`recipe = "paper"` at the top of the file: defaults are the paper's instead of the small models'. A
dense run has no experts, k or routing frequency; a routed run with one expert is skipped; a run in
several grids is made once. The schedule ends with the run, and warm-up is at most a tenth of it,
unless [optimizer] has `steps` or `warmup_steps` (our choice, as in `cli.py train`).
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reference.errors import ConfigError
from reference.sizes import SIZES
from sweep.run import Run
from training.config import ModelOptions, TrainConfig, paper_recipe
from training.toml import from_table, toml_table

AXES = ("size", "router", "experts", "k", "routing_frequency", "seed")
"""A grid's lists, the slowest-varying first."""

BY_SIZE = ("learning_rate", "tokens")
SHARED = ("model", "data", "optimizer", "run")
"""Sections of every run; the others are routers' options."""

Table = dict[str, Any]


def read_grid(path: Path, out: Path) -> list[Run]:
    """The runs of the grid file `path`, with their folders in `out`.

    Raises `ConfigError` naming file and key.
    """
    if not path.is_file():
        raise ConfigError(f"there is no grid {path}; give a TOML file with a section [grid]")
    return runs_of(path.read_text(encoding="utf-8"), str(path), out)


def runs_of(text: str, source: str, out: Path) -> list[Run]:
    """The distinct runs of `text`, in the order of its grids and of `AXES`.

    Raises `ConfigError` naming `source` and the key.
    """
    table = toml_table(text, source)
    grids, runs, recipe = table.pop("grid", None), dict[str, Run](), table.pop("recipe", "")
    if recipe not in ("", "small", "paper"):
        raise ConfigError(f"{source}: recipe is {recipe!r}; it is 'small' or 'paper'")
    if not grids:
        raise ConfigError(f"{source}: there is no [grid]; it lists sizes, routers, experts, seeds")
    shared = _sections(table, source)
    base = paper_recipe() if recipe == "paper" else TrainConfig()
    if recipe == "paper":
        paper = {n: asdict(part) for n, part in base.sections().items()}
        if shared["tokens"] or "tokens" in shared["run"]:
            del paper["run"]["steps"]
        for name in ("steps", "warmup_steps"):
            del paper["optimizer"][name]
        shared = {n: paper.get(n, {}) | own for n, own in shared.items()}
    for grid in grids if isinstance(grids, list) else [grids]:
        for run in _runs_of_grid(grid, shared, base, source, out):
            if runs.setdefault(run.name, run).config != run.config:
                raise ConfigError(f"{source}: two grids have a run {run.name}; give one a variant")
    _check_sizes(table, runs.values(), source)
    large = sorted({run.config.model.size for run in runs.values()} & set(SIZES))
    if large and not recipe:
        raise ConfigError(
            f"{source}: {', '.join(large)} are sizes of the paper, but the defaults are for small "
            "models;\nput recipe = 'paper' or recipe = 'small' at the top of the file"
        )
    return list(runs.values())


def _runs_of_grid(
    grid: Any, shared: Table, base: TrainConfig, source: str, out: Path
) -> Iterator[Run]:
    where = f"{source}: grid"
    if not isinstance(grid, dict):
        raise ConfigError(f"{where} must be a section of lists, such as seed = [0, 1]")
    own = {name: value for name, value in grid.items() if name not in (*AXES, "variant")}
    sections = _sections(own, f"{where}, beside variant, {', '.join(AXES)}")
    merged = {name: shared[name] | options for name, options in sections.items()}
    variant = grid.get("variant", "")
    if not re.fullmatch("[a-z0-9_.-]*", str(variant)):
        raise ConfigError(f"{where}.variant is {variant!r}; use lower-case letters, digits and -_.")
    configs = [_config(point, merged, base, source) for point in _points(grid)]
    runs = [Run(_name(config, variant), config, out, variant) for config in configs]
    if not runs:
        raise ConfigError(f"{where} has no run; a routed run needs at least 2 experts")
    _check_sizes(own, runs, where)
    yield from runs


def _points(grid: Table) -> Iterator[Table]:
    """Every combination of the grid's lists that is a run."""
    lists = [values if isinstance(values := grid[a], list) else [values] for a in AXES if a in grid]
    for values in itertools.product(*lists):
        point = dict(zip((axis for axis in AXES if axis in grid), values, strict=True))
        if point.get("router") == "dense":
            yield {axis: point[axis] for axis in ("size", "router", "seed") if axis in point}
        elif point.get("experts") != 1:
            yield point


def _config(point: Table, merged: Table, base: TrainConfig, source: str) -> TrainConfig:
    router = str(point.get("router", ModelOptions.router)).replace("-", "_")
    sections = {n: dict(merged[n]) for n in merged if n in SHARED or n == router}
    seed = {axis: value for axis, value in point.items() if axis == "seed"}
    model = sections["model"] = sections["model"] | point
    run = sections["run"] = sections["run"] | seed
    model.pop("seed", None)
    size, tokens = model.get("size", ModelOptions.size), run.pop("tokens", None)
    if tokens is not None and "steps" in run:
        raise ConfigError(f"{source}: run.tokens and run.steps both give the length; keep one")
    tokens = merged["tokens"].get(size, tokens)
    if tokens is not None:
        config = from_table({"model": model, "data": sections["data"]}, source)
        batch = config.data.batch * config.model.context
        run["steps"] = math.ceil(_positive(tokens, f"{source}: tokens") / batch)
    steps = from_table({"run": run}, source).run.steps
    schedule = {"steps": steps, "warmup_steps": min(base.optimizer.warmup_steps, steps // 10)}
    config = from_table(sections | {"optimizer": schedule | sections["optimizer"]}, source)
    if (peak := merged["learning_rate"].get(size)) is not None:
        optimizer = config.optimizer
        final = optimizer.final_learning_rate * (peak / optimizer.peak_learning_rate)
        rates = replace(optimizer, peak_learning_rate=float(peak), final_learning_rate=final)
        config = replace(config, optimizer=rates)
    try:
        config.check()
    except ConfigError as error:
        raise ConfigError(f"{source}: {_name(config)} is invalid: {error}") from error
    return config


def _name(config: TrainConfig, variant: str = "") -> str:
    model, parts = config.model, [config.model.size, config.model.router]
    if model.router != "dense":
        parts.append(f"e{model.experts}")
        parts += [f"k{model.k}"] * (model.k != 1)
        if model.routing_frequency != ModelOptions.routing_frequency:
            parts.append(f"r{model.routing_frequency:.6g}")
    return "-".join([*parts, f"seed{config.run.seed}", *([variant] if variant else [])])


def _sections(table: Table, where: str) -> Table:
    """Every section of `table`, empty where missing, validated independently of the run."""
    for name, values in table.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {name} must be a section of keys and values")
    # Sections of every run are validated with the run.
    others = {n: values for n, values in table.items() if n not in (*SHARED, *BY_SIZE)}
    from_table(others, where)
    for name, size in ((n, size) for n in BY_SIZE for size in table.get(n, {})):
        _positive(table[name][size], f"{where}: {name}.{size}")
    names = (*BY_SIZE, *TrainConfig().sections())
    return {name: table.get(name, {}) for name in names}


def _check_sizes(table: Table, runs: Iterable[Run], where: str) -> None:
    """A size that no run has is more likely a mistake than intended."""
    sizes = {run.config.model.size for run in runs}
    for name, size in ((n, size) for n in BY_SIZE for size in table.get(n, {})):
        if size not in sizes:
            raise ConfigError(
                f"{where}: no run has the size of {name}.{size}; sizes: {', '.join(sorted(sizes))}"
            )


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where} is {value!r}; it must be a number above 0")
    return float(value)
