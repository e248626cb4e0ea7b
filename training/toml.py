"""A training run's configuration as TOML."""

import difflib
import re
import tomllib
import typing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from reference.config import routing_frequency
from reference.errors import LARGEST, ConfigError
from training.config import TrainConfig, small_recipe, toml_value


def to_toml(config: TrainConfig) -> str:
    """`config` as TOML, with every field."""
    return tomli_w.dumps({name: asdict(part) for name, part in config.sections().items()})


def from_toml(text: str, source: str) -> TrainConfig:
    """The configuration in `text`; missing fields have the defaults of its size.

    Where only `run.steps` is given, the learning rate's schedule is of that length.

    Raises `ConfigError` naming `source` and the field.
    """
    return from_table(toml_table(text, source), source)


def toml_table(text: str, source: str) -> dict[str, Any]:
    """Parsed TOML. Raises `ConfigError` naming `source` if `text` is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML ({error})") from error


def _recipe(size: object) -> TrainConfig:
    """The defaults for a size; what is none is refused with its section."""
    try:
        return small_recipe(size) if isinstance(size, str) else TrainConfig()
    except ConfigError:
        return TrainConfig()


def from_table(table: dict[str, Any], source: str) -> TrainConfig:
    """`from_toml`, of parsed TOML."""
    model = table.get("model")
    size = model.get("size") if isinstance(model, dict) else None
    defaults = _recipe(size).sections()
    _check_names(table, list(defaults), source, "section")
    made = dict(defaults)
    for name, values in ({"optimizer": {}} | table).items():
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {name} must be a section, [{name}]")
        fields = asdict(defaults[name])
        if name == "optimizer":
            fields |= _schedule(table.get("run"), fields["warmup_steps"])
        if isinstance(frequency := values.get("routing_frequency"), str):
            values = values | {"routing_frequency": routing_frequency(frequency)}
        _check_names(values, list(fields), source, f"[{name}] option")
        made[name] = _converted(fields | values, type(defaults[name]), f"{source}: {name}")
    return TrainConfig.from_sections(made)


def _schedule(run: Any, warmup: int) -> dict[str, int]:
    """The schedule of a run whose steps are given and its schedule's are not (`of_length`)."""
    steps = run.get("steps") if isinstance(run, dict) else None
    if type(steps) is not int or not 1 <= steps <= LARGEST:
        return {}
    return {"steps": steps, "warmup_steps": min(warmup, steps // 10)}


def read_toml(path: Path) -> TrainConfig:
    """The configuration in the file `path`. Raises `ConfigError` naming the file and the field."""
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration {path}; every run writes one, config.toml in its folder"
        )
    try:
        return from_toml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error


def _check_names(table: dict[str, Any], names: list[str], source: str, what: str) -> None:
    """Raises `ConfigError` if a key of `table` is none of `names`, suggesting the nearest.

    The message reads: `source` has no such `what`.
    """
    for name in table:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            nearest = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{source}: there is no {what} {name!r}; there are {', '.join(names)}{nearest}"
            )


def _converted(value: Any, kind: Any, where: str) -> Any:
    """`value` converted to the type `kind` by msgspec, strictly except for int to float.

    Raises `ConfigError` naming `where` and the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        fields = path.rstrip("`").split(".") if path else []
        place = ".".join([where, *fields])
        for name in fields:
            value, kind = value[name], typing.get_type_hints(kind)[name]
        if typing.get_origin(kind) is Literal:
            message = f"it must be one of {', '.join(map(toml_value, typing.get_args(kind)))}"
        elif expected := re.match("Expected `([a-z]+)`", message):
            message = f"it must be of type {expected[1]}"
        shown = ":" if isinstance(value, dict) else f" is {toml_value(value)};"
        raise ConfigError(f"{place}{shown} {message}") from error
