"""Weights as a safetensors file, with all in its header that evaluating and sampling need.

A file has one tensor per weight of each block, named after the module's fields (`NAMES`), in
the dtype of the weights. Its header has the run's options, its step and the tokenizer itself.
Needs the optional dependency safetensors, imported lazily; nothing is pickled.
"""

import base64
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from common.errors import InputError, WorkError, first_line
from common.files import replaced
from reference.config import ModelConfig
from reference.mesh import is_array
from reference.transformer import Transformer
from training.config import TrainConfig
from training.restore import named_arrays
from training.text.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from
from training.toml import from_table

SUFFIX = ".safetensors"

FORMAT = "routelaw 1"
"""What the header's `format` says; the number is that of the name map."""


class Weight(NamedTuple):
    """A weight of the model."""

    field: str
    """Its path: within a block, or in the model."""
    axes: str


NAMES: dict[str, Weight] = {
    "embedding": Weight("embedding", "vocabulary d_model"),
    "final_norm.scale": Weight("final_norm.scale", "d_model"),
    "final_norm.offset": Weight("final_norm.offset", "d_model"),
    "blocks.N.attention_norm.scale": Weight("attention_norm.scale", "d_model"),
    "blocks.N.attention_norm.offset": Weight("attention_norm.offset", "d_model"),
    "blocks.N.attention.query": Weight("attention.query", "d_model heads kqv"),
    "blocks.N.attention.key": Weight("attention.key", "d_model heads kqv"),
    "blocks.N.attention.value": Weight("attention.value", "d_model heads kqv"),
    "blocks.N.attention.position": Weight("attention.position", "d_model heads kqv"),
    "blocks.N.attention.output": Weight("attention.output", "heads kqv d_model"),
    "blocks.N.feedforward_norm.scale": Weight("feedforward_norm.scale", "d_model"),
    "blocks.N.feedforward_norm.offset": Weight("feedforward_norm.offset", "d_model"),
    "blocks.N.feedforward.w_in": Weight("feedforward.w_in", "d_model hidden"),
    "blocks.N.feedforward.w_out": Weight("feedforward.w_out", "hidden d_model"),
    "blocks.N.experts.w_in": Weight("feedforward.experts.w_in", "experts d_model hidden"),
    "blocks.N.experts.w_out": Weight("feedforward.experts.w_out", "experts hidden d_model"),
    "blocks.N.shared.w_in": Weight("feedforward.shared.w_in", "d_model hidden"),
    "blocks.N.shared.w_out": Weight("feedforward.shared.w_out", "hidden d_model"),
    "blocks.N.router.weight": Weight("feedforward.router.weight", "d_model experts"),
    "blocks.N.router.bias": Weight("feedforward.router.bias.value", "experts"),
    "blocks.N.router.baseline_in": Weight("feedforward.router.baseline_in", "d_model hidden"),
    "blocks.N.router.baseline_out": Weight("feedforward.router.baseline_out", "hidden"),
    "blocks.N.router.table": Weight("feedforward.router.table", "vocabulary k"),
}
"""A file's names, N being a block's number from 0, and where the model has the weight.

The embedding has a row per token id: rows of padding, which are 0, are left out.
"""

_FIELDS = {weight.field: name for name, weight in NAMES.items()}

_BLOCK = re.compile(r"groups\.blocks\.(\d+)\.(.+)")

_PATHS = (
    ("data", "corpus"),
    ("data", "held_out_corpus"),
    ("data", "also"),
    ("run", "begin_from"),
    ("run", "initial_weights"),
)
"""Options that name files of the machine of the run, which a file leaves out."""


@dataclass(frozen=True)
class WeightsFile:
    """What the header of a file says."""

    path: Path
    config: TrainConfig
    """The run's options, but for the names of its files."""
    tokenizer: Tokenizer
    step: int
    """The step of the checkpoint."""


def is_weights_file(path: Path) -> bool:
    """Whether `path` names a safetensors file."""
    return path.suffix == SUFFIX


def write_weights(
    path: Path, model: Transformer, config: TrainConfig, tokenizer: Tokenizer, step: int
) -> list[str]:
    """Write a file, of a model on one host; returns the names of its tensors.

    Raises `InputError` for a path of another suffix, `WorkError` if the package is missing.
    """
    _require(path)
    if not is_weights_file(path):
        raise InputError(f"{path}: the file's name must end in {SUFFIX}")
    from safetensors.numpy import save_file

    named = {name: np.asarray(array) for name, array in named_arrays(model).items()}
    tensors = {
        name: _part(named[place], group, model.config, name)
        for name, (place, group) in _places(named, model.config).items()
    }
    with replaced(path) as temporary:
        save_file(tensors, temporary, metadata=_header(config, tokenizer, step))
    return list(tensors)


def read_header(path: Path) -> WeightsFile:
    """What the file says of its model. Raises `InputError` if it is not one of ours."""
    with _opened(path) as file:
        header: dict[str, str] = file.metadata() or {}
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {header.get('format')!r} in its header, not {FORMAT!r}; "
            "write it with `cli.py export RUN --out FILE.safetensors`"
        )
    try:
        config = from_table(json.loads(header["config"]), str(path))
        name, model = header["tokenizer"], base64.b64decode(header.get("tokenizer_model", ""))
        step = int(header["step"])
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: its header is damaged ({first_line(error)}); export it again"
        ) from error
    tokenizer = tokenizer_from(model, name) if model else ByteTokenizer()
    return WeightsFile(path, config, tokenizer, step)


def read_weights_file(path: Path, like: Transformer) -> Transformer:
    """The model in the file; `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct`).

    Floating-point weights are converted to its dtypes. Each process reads the whole of one weight
    of all blocks at a time. Raises `InputError` if a tensor is missing, extra, or of another shape
    or kind of number.
    """
    named = named_arrays(like)
    places = _places(named, like.config)
    with _opened(path) as file:
        _check_names(path, set(places), set(file.keys()))
        found: dict[str, list[Any]] = {place: [] for place in named}
        for name, (place, _) in places.items():
            found[place].append(name)
        arrays = [_array(path, file, found[place], named[place], like.config) for place in named]
    shapes, static = eqx.partition(like, is_array)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), arrays), static)


def _header(config: TrainConfig, tokenizer: Tokenizer, step: int) -> dict[str, str]:
    sections = {name: asdict(part) for name, part in config.sections().items()}
    for section, option in _PATHS:
        sections[section][option] = ""
    sections["data"]["tokenizer"] = name = Path(tokenizer.name).name
    header = {
        "format": FORMAT,
        "version": importlib.metadata.version("routelaw"),
        "config": json.dumps(sections),
        "step": str(step),
        "tokenizer": name,
        "vocabulary": str(tokenizer.vocabulary),
    }
    if tokenizer.model is not None:
        header["tokenizer_model"] = base64.b64encode(tokenizer.model).decode()
    return header


def _places(named: dict[str, Any], config: ModelConfig) -> dict[str, tuple[str, int | None]]:
    """By a file's names, the array of the model and the group of blocks in it; None: all of it."""
    places: dict[str, tuple[str, int | None]] = {}
    for place in named:
        match = _BLOCK.fullmatch(place)
        name = _FIELDS.get(match[2] if match else place)
        if name is None:
            raise InputError(f"no name is known for the weight {place}; add it to NAMES")
        if match is None:
            places[name] = place, None
            continue
        for group in range(config.size.num_blocks // config.period):
            block = group * config.period + int(match[1])
            places[name.replace("N", str(block), 1)] = place, group
    return places


def _part(
    array: Shaped[np.ndarray, "..."], group: int | None, config: ModelConfig, name: str
) -> Shaped[np.ndarray, "..."]:
    """The weight of one block, or an array of no block."""
    if group is not None:
        return array[group]
    return array[: config.vocabulary] if name == "embedding" else array


def _array(
    path: Path, file: Any, names: list[str], like: jax.ShapeDtypeStruct, config: ModelConfig
) -> Shaped[Array, "..."]:
    """An array of the model, of the tensors of its blocks. Raises `InputError` for other shapes."""
    expected = like.shape[1:] if names[0].startswith("blocks.") else like.shape
    if names == ["embedding"]:
        expected = (config.vocabulary, *expected[1:])
    kind = jnp.inexact if jnp.issubdtype(like.dtype, jnp.inexact) else jnp.integer
    parts: list[Shaped[np.ndarray, "..."]] = []
    for name in names:
        part = file.get_tensor(name)
        if part.shape != expected or not jnp.issubdtype(part.dtype, kind):
            raise InputError(
                f"{path}: {name} is {part.dtype} {list(part.shape)}, the model's "
                f"{like.dtype} {list(expected)}; use the options of the model in the file"
            )
        parts.append(part)
    if names == ["embedding"]:
        parts = [np.pad(parts[0], ((0, like.shape[0] - config.vocabulary), (0, 0)))]
    return _placed(np.stack(parts).reshape(like.shape).astype(like.dtype), like)


def _placed(array: Shaped[np.ndarray, "..."], like: jax.ShapeDtypeStruct) -> Shaped[Array, "..."]:
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: array[index])


def _check_names(path: Path, expected: set[str], found: set[str]) -> None:
    for name in sorted(expected ^ found):
        how = "lacks" if name in expected else "has an extra tensor"
        raise InputError(f"{path} {how} {name}; use the options of the model in the file")


def _require(path: Path) -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise WorkError(
            f"{path} needs the package safetensors, which is not installed: "
            "uv sync --extra safetensors"
        )


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """The file, its tensors read one by one. Raises `InputError` if it cannot be read."""
    _require(path)
    import safetensors

    if not path.is_file():
        raise InputError(
            f"there is no file {path}; write one with `cli.py export RUN --out FILE.safetensors`"
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({first_line(error)}); export it again"
        ) from error
