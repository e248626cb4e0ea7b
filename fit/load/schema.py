"""The columns of a curves file: the release's names, shorter ones for them, and which values each may hold.

One row of the file is one evaluation of one run. The names are those of the release
(github.com/google-deepmind/scaling_laws_for_routing, `data/curves.csv.gz`); the notation is the paper's, section 2.
"""

import csv
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError

RUN, STEP = "hyper_id", "step"
ROUTER, SEED, SIZE_LABEL = "router_type", "seed", "model_size_label"
N, P, F = "dense_parameter_count", "total_parameter_count", "flops_per_step"
E, K, R, M = "num_experts", "k", "routing_frequency", "flop_increase"
D = "tokens_seen"

LOSSES = (
    "loss_validation",
    "loss_c4",
    "loss_curation_corpus",
    "loss_lambada",
    "loss_pile",
    "loss_wikitext103",
)
# Numbers in every row of the file. The losses are numbers too, but those not fitted are read only where a run is taken.
NUMBERS = frozenset({STEP, SEED, N, P, F, E, K, R, M, D, "d_model", "num_blocks", "num_heads", "kqv_size"})
# Text even when every cell looks like a number: a size may be labelled "370".
TEXTS = frozenset({ROUTER, SIZE_LABEL})
ALIASES: Mapping[str, str] = {"N": N, "E": E, "P": P, "F": F, "R": R, "D": D, "router": ROUTER, "run": RUN}


@dataclass(frozen=True)
class Rule:
    """What the numbers of a column must satisfy (no NaN does); `wanted` completes "must be ..."."""

    wanted: str
    holds: Callable[[Float[np.ndarray, "rows"]], Bool[np.ndarray, "rows"]]


ANY = Rule("a finite number", np.isfinite)
_POSITIVE = Rule("a finite number above 0", lambda x: np.isfinite(x) & (x > 0))
_RULES = {
    E: Rule("a whole number of experts, at least 1", lambda x: np.isfinite(x) & (x >= 1) & (x == np.floor(x))),
    K: Rule("at least 1", lambda x: np.isfinite(x) & (x >= 1)),
    N: _POSITIVE,
    P: _POSITIVE,
    F: _POSITIVE,
    D: _POSITIVE,
}


def rule_for(column: str, target: str) -> Rule:
    """The rule that the numbers in `column` obey; the target and the other losses must be positive: laws fit log L."""
    return _POSITIVE if column == target or column in LOSSES else _RULES.get(column, ANY)


def quoted(text: str) -> str:
    """`text` in quotes, on one line, and short, whatever is in it."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names or values in one short line: the first `most`, then how many more."""
    names = list(names)
    shown = ", ".join(name if name.isprintable() and len(name) <= 60 else quoted(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def number(value: float) -> str:
    """A number as a person would write it: whole ones without a point, others with all their digits."""
    return str(int(value)) if np.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(float(value))


def full_name(name: str, target: str, present: Collection[str] = ()) -> str:
    """The column that `name` stands for: itself if it is `present`, else what it is short for (`loss`, `N`, ...)."""
    if name in present:
        return name
    return target if name == "loss" else ALIASES.get(name, name)


def no_such_column(name: str, present: Collection[str]) -> InputError:
    """The error for a column that is not there, with those most like it and all that are there."""
    near = get_close_matches(name, list(present), n=3)
    hint = f"; did you mean {listed(near)}?" if near else ""
    return InputError(f"no column {quoted(name)}{hint} (columns there: {listed(present, most=30)})")


def parse_columns(text: str) -> dict[str, str]:
    """Read `"loss=val_loss,N=params"` into `{"loss": "val_loss", "N": "params"}`: our name, or a short one = theirs.

    A header with a comma is written `"loss=val, loss"`, in double quotes. Raises `InputError` on anything else.
    """
    try:
        parts = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise InputError(f"--columns {quoted(text)}: {error}; write it like loss=val_loss,N=params") from None
    columns: dict[str, str] = {}
    for part in parts:
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise InputError(f"--columns: {quoted(part)} is not of the form name=header, as in loss=val_loss,N=params")
        if ours in columns:
            raise InputError(f"--columns: {quoted(ours)} is given twice")
        columns[ours] = theirs
    if not columns:
        raise InputError("--columns is empty; write it like loss=val_loss,N=params")
    return columns
