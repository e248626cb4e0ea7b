"""A grid of runs in a TOML file.

    [[grid]]                        # as many as there are; every combination of a grid's lists is a run
    size = ["27K", "60K"]
    router = ["dense", "s-base", "hash"]
    experts = [4, 16]               # likewise k, routing_frequency, seed; a list of one may be its only value
    seed = [0, 1]

    [[grid]]                        # knobs of this grid's runs alone come under a name, which ends theirs and is a column of the curves
    variant = "bonus"
    router = "rl-r"
    [grid.rl_r]
    entropy_weight = 1e-3
    [grid.learning_rate]            # likewise [grid.tokens]; goes before the file's
    "60K" = 4e-3

    [learning_rate]                 # peak learning rates of some sizes; the final ones are scaled alike
    "60K" = 2e-3

    [tokens]                        # tokens to train some sizes for
    "60K" = 16e6

    [model]                         # what all runs share: the sections and knobs of a run's config.toml
    context = 64

    [run]
    tokens = 8e6                    # or steps

A dense run has neither experts nor k nor a routing frequency, so there is one for each size and
seed; a routed run of one expert is no routed run, and is left out. A run that several grids ask for
is made once.

The schedule ends with the run, and warms up for a tenth of it at most, unless [optimizer] has
`steps` or `warmup_steps` (our choice, as of `cli.py train`).
"""

import itertools
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from reference.errors import ConfigError
from sweep.run import A_VOCABULARY, Run
from training.config import (
    LADDER,
    ModelOptions,
    RunOptions,
    TrainConfig,
    from_table,
    known,
    toml_table,
    typed,
)

AXES = ("size", "router", "experts", "k", "routing_frequency", "seed")
"""What a grid may have lists of, the slowest to change first."""

SECTIONS = tuple(field.name for field in fields(TrainConfig))

BY_SIZE = ("learning_rate", "tokens")
"""Sections that give some sizes a number each."""

OF_ROUTERS = {"s-base": "s_base", "hash": "hash", "rl-r": "rl_r", "switch": "switch"}
"""The section of each router:
only its runs have what a grid's file says there, so that others stay what they are if that changes.
"""


def read_grid(path: Path, out: Path) -> list[Run]:
    """The runs that the file `path` asks for, with their folders in `out`.

    Raises `ConfigError` naming file and key.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no grid {path}; give a TOML file with a section [grid], as the README shows"
        )
    return runs_of(path.read_text(encoding="utf-8"), str(path), out)


def runs_of(text: str, source: str, out: Path) -> list[Run]:
    """The runs that `text` asks for, in the order of its grids and of `AXES`, each once.

    Raises `ConfigError` naming `source` and the key.
    """
    table = toml_table(text, source)
    known(table, ["grid", *BY_SIZE, *SECTIONS], source, "section")
    grids = table.get("grid")
    if not grids:
        raise ConfigError(
            f"{source}: there is no [grid]; it lists sizes, routers, experts and seeds"
        )
    by_size = {name: _by_size(table.get(name, {}), f"{source}: {name}") for name in BY_SIZE}
    shared = {name: dict(_section(table.get(name, {}), f"{source}: {name}")) for name in SECTIONS}
    for section, axis in itertools.product(("model", "run"), AXES):
        if axis in shared[section]:
            raise ConfigError(
                f"{source}: {section}.{axis} is one of a grid's lists; put it into [grid]"
            )
    from_table({name: shared[name] for name in OF_ROUTERS.values()}, source)
    runs: dict[str, Run] = {}
    for grid in grids if isinstance(grids, list) else [grids]:
        part = _part(_section(grid, f"{source}: grid"), source)
        sections = {name: shared[name] | part.sections.get(name, {}) for name in SECTIONS}
        numbers = {name: by_size[name] | part.by_size.get(name, {}) for name in BY_SIZE}
        configs = [
            _config(point, sections, numbers, source) for point in _points(part.axes, source)
        ]
        _check_sizes(part.by_size, {config.model.size for config in configs}, f"{source}: grid")
        for config in configs:
            run = Run(
                "-".join(filter(None, (name_of(config), part.variant))), config, out, part.variant
            )
            runs.setdefault(run.name, run)
    if not runs:
        raise ConfigError(f"{source}: the grid has no run; a routed one needs 2 experts or more")
    _check_sizes(by_size, {run.config.model.size for run in runs.values()}, source)
    return list(runs.values())


def name_of(config: TrainConfig) -> str:
    """A run's name: what tells it from all others of its sweep."""
    model = config.model
    parts = [model.size, model.router]
    if model.router != "dense":
        parts += [f"e{model.experts}"]
        parts += [f"k{model.k}"] if model.k != 1 else []
        parts += (
            [f"r{model.routing_frequency:.6g}"]
            if model.routing_frequency != ModelOptions.routing_frequency
            else []
        )
    return "-".join([*parts, f"seed{config.run.seed}"])


@dataclass(frozen=True)
class _Part:
    """One [grid]."""

    axes: dict[str, Any]
    """Its lists."""
    sections: dict[str, dict[str, Any]]
    """Knobs that are its own."""
    by_size: dict[str, dict[str, float]]
    """The same of learning rates and tokens."""
    variant: str
    """What all that is its own is called."""


def _part(grid: dict[str, Any], source: str) -> _Part:
    """What one [grid] says."""
    known(grid, ["variant", *AXES, *BY_SIZE, *SECTIONS], source, "list, knob or section in [grid]")
    sections = {
        name: _section(grid[name], f"{source}: grid.{name}") for name in SECTIONS if name in grid
    }
    by_size = {
        name: _by_size(grid[name], f"{source}: grid.{name}") for name in BY_SIZE if name in grid
    }
    from_table(
        {name: sections[name] for name in OF_ROUTERS.values() if name in sections},
        f"{source}: grid",
    )
    variant = typed(grid.get("variant", ""), str, f"{source}: grid.variant")
    if not re.fullmatch("[a-z0-9_.-]*", variant):
        raise ConfigError(
            f"{source}: grid.variant is {variant!r}; it is part of a folder's name: small letters, digits and -_."
        )
    if (sections or by_size) and not variant:
        named = ", ".join((*sections, *by_size))
        raise ConfigError(
            f"{source}: a [grid] with a section of its own ({named}) needs a name for it: variant"
        )
    return _Part({axis: grid[axis] for axis in AXES if axis in grid}, sections, by_size, variant)


def _points(grid: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """Every combination of the grid's lists; of those that are the same run, the first."""
    kinds = get_type_hints(ModelOptions) | get_type_hints(RunOptions)
    lists: list[list[Any]] = [
        _list(grid[axis], kinds[axis], f"{source}: grid.{axis}") if axis in grid else [None]
        for axis in AXES
    ]
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in itertools.product(*lists):
        point = {axis: value for axis, value in zip(AXES, values, strict=True) if value is not None}
        if point.get("router") == "dense":
            for axis in ("experts", "k", "routing_frequency"):
                point.pop(axis, None)
        elif point.get("experts") == 1:
            continue
        points.setdefault(tuple(sorted(point.items())), point)
    return list(points.values())


def _list(values: Any, kind: Any, where: str) -> list[Any]:
    """`values`, each of its type; a single one is a list of one."""
    several = values if isinstance(values, list) else [values]
    if not several:
        raise ConfigError(f"{where} is empty; give it a value, or leave it out")
    return [typed(value, kind, where) for value in several]


def _config(
    point: dict[str, Any],
    shared: dict[str, dict[str, Any]],
    by_size: dict[str, dict[str, float]],
    source: str,
) -> TrainConfig:
    """The options of one run."""
    seed = {"seed": point["seed"]} if "seed" in point else {}
    model = shared["model"] | {axis: value for axis, value in point.items() if axis != "seed"}
    run = shared["run"] | seed
    size = model.get("size", ModelOptions.size)
    tokens = run.pop("tokens", None)
    if tokens is not None and "steps" in run:
        raise ConfigError(
            f"{source}: run.tokens and run.steps both say how long to train; give one of them"
        )
    tokens = by_size["tokens"].get(size, tokens)
    if tokens is not None:
        run["steps"] = _steps(tokens, shared["data"], model, source)
    steps = typed(run.get("steps", RunOptions.steps), int, f"{source}: run.steps")
    defaults = {
        "steps": steps,
        "warmup_steps": min(TrainConfig().optimizer.warmup_steps, steps // 10),
    }
    router = OF_ROUTERS.get(model.get("router", ModelOptions.router))
    sections = {
        name: table
        for name, table in shared.items()
        if name not in OF_ROUTERS.values() or name == router
    }
    config = from_table(
        sections | {"model": model, "optimizer": defaults | shared["optimizer"], "run": run}, source
    )
    peak = by_size["learning_rate"].get(size)
    if peak is not None:
        optimizer = config.optimizer
        final = optimizer.final_learning_rate * (peak / optimizer.peak_learning_rate)
        config = replace(
            config, optimizer=replace(optimizer, peak_learning_rate=peak, final_learning_rate=final)
        )
    try:
        config.model_config(A_VOCABULARY)
    except ConfigError as error:
        raise ConfigError(f"{source}: {name_of(config)} cannot be: {error}") from error
    return config


def _steps(tokens: Any, data: dict[str, Any], model: dict[str, Any], source: str) -> int:
    """The steps in which a run reads `tokens`, in whole batches."""
    options = from_table(
        {"data": data, "model": {"context": model["context"]} if "context" in model else {}}, source
    )
    wanted = typed(tokens, float, f"{source}: tokens")
    if not 0 < wanted < math.inf:
        raise ConfigError(f"{source}: tokens is {wanted:g}; it must be more than 0")
    return math.ceil(wanted / (options.data.batch * options.model.context))


def _by_size(table: Any, where: str) -> dict[str, float]:
    """A number for each of some sizes."""
    numbers = {
        size: typed(value, float, f"{where}.{size}")
        for size, value in _section(table, where).items()
    }
    for size, value in numbers.items():
        if size not in LADDER:
            raise ConfigError(f"{where}: no size is called {size!r}; there are {', '.join(LADDER)}")
        if not 0 < value < math.inf:
            raise ConfigError(f"{where}.{size} is {value:g}; it must be more than 0")
    return numbers


def _check_sizes(by_size: dict[str, dict[str, float]], sizes: set[str], source: str) -> None:
    """A size that no grid has is more likely a slip than a wish."""
    for name, table in by_size.items():
        for size in table:
            if size not in sizes:
                raise ConfigError(
                    f"{source}: {name}.{size} is of no run; the grid has {', '.join(sorted(sizes))}"
                )


def _section(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a section of keys and values")
    return table
