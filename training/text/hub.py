"""Hugging Face: data sets and tokenizers by hub name, and folders that `save_to_disk` wrote.

A data set is its Arrow files, which are read as any others (`read.py`): what a text is, and the
SHA-256 by which it is known, does not depend on where it came from. Needs the optional
dependencies datasets and tokenizers, imported lazily.
"""

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError, WorkError, first_line

HUB = "hf:"
"""Prefix of a data set or a tokenizer by its name on the hub."""

_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""Files of `save_to_disk`: of a data set, and of several splits of one."""


class HubName(NamedTuple):
    """A data set: hf:NAME[@REVISION][:CONFIG][:SPLIT]."""

    name: str
    """On the hub, or a local folder of data files."""
    revision: str | None
    config: str | None
    split: str


def hub_name(source: str) -> HubName:
    """The parts of `source`; the split is train where there is none. Raises `InputError`."""
    name, *parts = source.removeprefix(HUB).split(":")
    name, _, revision = name.partition("@")
    # A slice of a split would be all of its files.
    plain = all(re.fullmatch(r"[\w.-]+", part) for part in parts)
    if not name or len(parts) > 2 or not plain:
        raise InputError(
            f"corpus {source}: give hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, such as "
            "hf:Salesforce/wikitext:wikitext-2-raw-v1:train"
        )
    split = parts[-1] if parts else "train"
    return HubName(name, revision or None, parts[0] if len(parts) == 2 else None, split)


def hub_files(source: str) -> list[Path]:
    """The Arrow files of the data set `source`, from Hugging Face's cache, or fetched into it.

    Raises `InputError` for a data set, configuration or split that does not exist, `WorkError` if
    it cannot be fetched or the package is missing.
    """
    asked = hub_name(source)
    _require("datasets", f"corpus {source}")
    datasets: Any = importlib.import_module("datasets")
    try:
        found = datasets.load_dataset(
            asked.name, asked.config, split=asked.split, revision=asked.revision
        )
    except ValueError as error:
        raise InputError(f"corpus {source}: {first_line(error)}") from error
    except Exception as error:
        raise WorkError(
            _unreachable(f"corpus {source}", error, "a folder of save_to_disk")
        ) from error
    files = [Path(file["filename"]) for file in found.cache_files]
    if not files:
        raise InputError(f"corpus {source} has no records in its split {asked.split}")
    return files


def saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a data set that `save_to_disk` wrote to `folder`; None for other folders.

    Raises `InputError` for one with several splits, or whose list of files is damaged.
    """
    if (folder / _SPLITS).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{_STATE}"))
        raise InputError(
            f"corpus {folder} has the splits {', '.join(splits)}; name one, such as {folder}/train"
        )
    if not (folder / _STATE).is_file():
        return None
    try:
        listed: Any = json.loads((folder / _STATE).read_bytes())
        names = [file["filename"] for file in listed["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / _STATE}: not what save_to_disk writes ({first_line(error)})"
        ) from error
    return [folder / name for name in names]


def hub_tokenizer(name: str) -> bytes:
    """The tokenizer.json of hf:NAME[@REVISION], from Hugging Face's cache, or fetched into it.

    Raises `WorkError` if it cannot be fetched or the package is missing.
    """
    _require("huggingface_hub", f"tokenizer {name}", "tokenizers")
    hub: Any = importlib.import_module("huggingface_hub")
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        path = hub.hf_hub_download(repository, "tokenizer.json", revision=revision or None)
    except Exception as error:
        raise WorkError(_unreachable(f"tokenizer {name}", error, "its tokenizer.json")) from error
    return Path(path).read_bytes()


def _unreachable(what: str, error: Exception, other: str) -> str:
    reason = f"{type(error).__name__}: {first_line(error)}"
    return (
        f"{what} cannot be had from the hub\n({reason});\n"
        f"check the name and the network, or give {other} instead"
    )


def _require(package: str, what: str, extra: str = "") -> None:
    if importlib.util.find_spec(package) is None:
        raise WorkError(
            f"{what} needs the package {package}, which is not installed: "
            f"uv sync --extra {extra or package}"
        )
