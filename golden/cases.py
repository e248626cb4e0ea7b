"""The golden cases as committed: their names, and one loaded. Needs nothing but NumPy (and jaxtyping for the shapes).

`outputs/index.json` holds each case's kind and configuration, `outputs/NAME.npz` its arrays. Weights and inputs are stored in float16,
which holds them exactly, so float32 and float64 start from the same numbers; outputs are float64, or integers, or bool. What is in a case
of each kind is said in `golden.recipes`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from golden.oracle.setting import Arrays

FOLDER = Path(__file__).with_name("outputs")
INDEX = FOLDER / "index.json"


@dataclass(frozen=True)
class Case:
    """What goes in and what must come out. `config` is plain: the fields of the oracle's settings, and what the case adds."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: Arrays
    weights: Arrays
    outputs: Arrays


@cache
def _index() -> dict[str, dict[str, Any]]:
    return json.loads(INDEX.read_text(encoding="utf-8"))


def cases(kind: str | None = None) -> list[str]:
    """Names of the cases, all or those of one kind: router, dispatch, attention, optimizer or model."""
    return [name for name, entry in _index().items() if kind in (None, entry["kind"])]


def load(name: str) -> Case:
    """One case, its float16 widened to float64. Raises `KeyError` for a name that `cases` does not list."""
    entry = dict(_index()[name])
    kind = str(entry.pop("kind"))
    parts: dict[str, Arrays] = {"inputs": {}, "weights": {}, "outputs": {}}
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        for key in file.files:
            part, _, rest = key.partition("/")
            array = file[key]
            parts[part][rest] = array.astype(np.float64) if array.dtype == np.float16 else array
    return Case(name, kind, entry, parts["inputs"], parts["weights"], parts["outputs"])
