"""The columns of a table of runs: the release's names, shorter ones for them, and which values each may hold.

One row is one evaluation of one run. The names are those of the release (github.com/google-deepmind/scaling_laws_for_routing,
`data/curves.csv.gz`); the notation is the paper's, section 2. What other people call them is in `names.py`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from common.errors import InputError

RUN, STEP, ROUTER, SEED, SIZE_LABEL = "hyper_id", "step", "router_type", "seed", "model_size_label"
N, P, F, D = "dense_parameter_count", "total_parameter_count", "flops_per_step", "tokens_seen"
E, K, R, M = "num_experts", "k", "routing_frequency", "flop_increase"
C, U = "training_flops", "unique_tokens"
A, G = "activation_ratio", "granularity"
WIDTH, EXPERT_WIDTH = "d_ff", "d_expert"

LOSSES = ("loss_validation", "loss_c4", "loss_curation_corpus", "loss_lambada", "loss_pile", "loss_wikitext103")
NATS = "nats per token"

NEEDED = frozenset({STEP, N, P, F, D, C, U, E, K, R, M, A, G})
"""Numbers that laws and selection rest on: a row in which one of them is no such number is left out."""

# Numbers wherever they are filled.
NUMBERS = NEEDED | {SEED, WIDTH, EXPERT_WIDTH, "d_model", "num_blocks", "num_heads", "kqv_size"}
# Text even when every cell looks like a number: a size may be labelled "370".
TEXTS = frozenset({ROUTER, SIZE_LABEL})
OURS = NUMBERS | TEXTS | {RUN}
ALIASES: Mapping[str, str] = {"N": N, "E": E, "P": P, "F": F, "R": R, "D": D, "C": C, "U": U, "G": G, "router": ROUTER, "run": RUN}
SHORT: Mapping[str, str] = {full: short for short, full in ALIASES.items()}
_WRITTEN: Mapping[str, str] = {A: "k/E", K: "k"}


class Rule(NamedTuple):
    """What the numbers of a column must satisfy, beside being finite; `wanted` completes "must be ..."."""

    wanted: str
    holds: Callable[[Float[np.ndarray, "rows"]], Bool[np.ndarray, "rows"]]


_POSITIVE = Rule("a finite number above 0", lambda x: x > 0)
_RULES = {
    E: Rule("a whole number of experts, at least 1", lambda x: (x >= 1) & (x == np.floor(x))),
    K: Rule("at least 1", lambda x: x >= 1),
    A: Rule("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
    **dict.fromkeys((N, P, F, D, C, U, G, WIDTH, EXPERT_WIDTH, *LOSSES), _POSITIVE),  # laws fit the logarithm of the loss
}


def rule_for(column: str, target: str) -> Rule | None:
    """The rule that the numbers in `column` obey, None if it may hold anything."""
    if column in NUMBERS or column in LOSSES or column == target:
        return _POSITIVE if column == target else _RULES.get(column, Rule("a finite number", np.isfinite))
    return None


@dataclass(frozen=True)
class Source:
    """A file as it was read: its path (`-` for standard input, empty for a table in memory), the sha256 of its stored bytes, its rows."""

    path: str
    sha256: str
    rows: int

    @property
    def name(self) -> str:
        """What messages call it."""
        names = {"-": "standard input", "": "table in memory"}
        return names.get(self.path, self.path if self.path.isprintable() else repr(self.path))


def short(column: str) -> str:
    """What messages call a column: N, k/E, or the name itself."""
    return _WRITTEN.get(column) or SHORT.get(column, column)


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


def count(many: int, what: str = "run") -> str:
    """`1 run`, `2 runs`."""
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def no_such_column(name: str, present: Collection[str]) -> InputError:
    """The error for a column that is not there, with those most like it and all that are there."""
    near = get_close_matches(name, list(present), n=3)
    hint = f"; did you mean {listed(near)}?" if near else ""
    return InputError(f"no column {quoted(name)}{hint} (columns there: {listed(present, most=12)})")
