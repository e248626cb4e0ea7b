"""Which of a stranger's headers is which column: recognised by name, or written as `--columns N=params,D=flops/(6*N)`.

Ours come first, then the names of `names.py`. Where two headers could be the same column nothing is guessed.
"""

import csv
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from common.errors import InputError
from fit.runs.cells import UNITS, as_numbers
from fit.runs.names import KNOWN, column_of, known_as, plain, plain_names
from fit.runs.schema import (
    LOSSES,
    NATS,
    NUMBERS,
    OURS,
    ROUTER,
    RUN,
    SEED,
    SHORT,
    SIZE_LABEL,
    STEP,
    D,
    E,
    K,
    N,
    P,
    U,
    listed,
    no_such_column,
    quoted,
)  # fmt: skip

_LOSSES = (
    ("valloss", "validationloss", "evalloss", "testloss", "heldoutloss", "devloss", "lossval", "losseval", "losstest", "lossvalidation",
     "finalvalloss", "finalevalloss", "finalvalidationloss", "finaltestloss", "valce", "evalce", "valnll", "testnll", "valcrossentropy",
     "evalcrossentropy", "validationcrossentropy", "vallossfinal", "bestvalloss", "minvalloss"),
    ("loss", "finalloss", "lmloss", "lossfinal", "crossentropy", "crossentropyloss", "ce", "celoss", "nll", "lossnats", "losslm"),
    ("trainloss", "trainingloss", "losstrain", "finaltrainloss", "finaltrainingloss", "traince", "smoothtrainloss"),
    ("valbpb", "validationbpb", "evalbpb", "testbpb", "bpb", "bitsperbyte", "valbitsperbyte", "finalbpb", "lossbpb"),
    ("valppl", "valperplexity", "validationperplexity", "validationppl", "evalperplexity", "evalppl", "testppl", "testperplexity",
     "perplexity", "ppl", "finalppl", "finalperplexity"),
)  # fmt: skip
"""Losses, the better kinds first: of held-out text, of no kind, of training, in bits per byte, as perplexity."""

_PERPLEXITIES = frozenset(_LOSSES[-1])
_UNIT = re.compile(
    r"""(?:
      [\W_]* (?:(?:in|of)[\W_]+)? (thousand|million|billion|trillion)s?  # params_millions, tokens [in billions]
    | \W+ ([KMBT])                                                       # Params (M)
    | (?<=[a-z]{2}) ([MB])                                               # tokensB
    | (?<=[a-z]{3}) _([kmbtKMBT])                                        # n_params_b
    )[\W_]*$""",
    re.VERBOSE,
)
"""The unit at the end of a header."""
_OF_OTHER_KINDS = re.compile(r"aux|balanc|router|z[\W_]*loss|spik|std|stderr|variance|scale|initial|delta|diff|pred|fit", re.IGNORECASE)
"""What the names of losses contain that are no language-model loss of a run."""


def parse_columns(text: str) -> dict[str, str]:
    """Read `"loss=val_loss,N=params*1e6"` into `{"loss": "val_loss", "N": "params*1e6"}`: our name, or a short one = theirs.

    A header with a comma is written `"loss=val, loss"`, in double quotes. Raises `InputError` on anything else.
    """
    columns: dict[str, str] = {}
    try:
        for part in next(csv.reader([text], strict=True), []) or [""]:
            ours, _, theirs = (piece.strip() for piece in part.partition("="))
            if not (ours and theirs) or ours in columns:
                raise csv.Error(f"{quoted(ours)} is given twice" if ours in columns else f"{quoted(part)} is not of the form name=header")
            columns[ours] = theirs
    except csv.Error as error:
        raise InputError(f"--columns {quoted(text)}: {error}; write it like loss=val_loss,N=params") from None
    return columns


@dataclass(frozen=True)
class Naming:
    """Where each of our columns comes from, a header or an expression over headers, and the name of the loss and its unit."""

    columns: Mapping[str, str]
    target: str
    unit: str

    @property
    def line(self) -> str:
        """What was taken for what, in one line."""
        shown = {name: origin for name, origin in self.columns.items() if name == self.target or name != origin}
        parts = [f"{'loss' if name == self.target else SHORT.get(name, name)} = {origin}" for name, origin in shown.items()]
        return f"columns: {', '.join(parts)} ({self.unit})"


def naming(frame: pl.DataFrame, asked: Mapping[str, str], target: str | None, place: str) -> Naming:
    """What the headers are: first what is `asked` for (our names or short ones = header or expression), then what is recognised.

    `target` None: the loss is looked for. Raises `InputError` where two headers could be one column, or there is no loss.
    """
    headers = frame.columns
    loss = target or ("loss" if "loss" in asked and asked["loss"] not in headers else asked.get("loss"))
    loss = LOSSES[0] if loss is None and LOSSES[0] in asked else loss
    if loss is not None and known_as(loss) in OURS:
        raise InputError(f"{quoted(loss)} is not a loss; the release's are {listed(LOSSES)}")
    full = [loss or "loss" if name == "loss" else known_as(name) for name in asked]
    found = dict(zip(full, asked.values(), strict=True))
    if len(found) < len(asked):
        twice = next(name for name, own in zip(asked, full, strict=True) if full.count(own) > 1)
        raise InputError(f"--columns: {quoted(twice)} is asked for twice, under two of its names")
    used = set(found.values())
    for name in KNOWN:
        if name not in found and name not in headers and (origin := _recognised(name, frame, used, place)):
            found[name] = origin
            used.add(origin)
    if P in found and not {N, E} & {*found, *headers}:
        found[N] = found.pop(P)  # the total of a dense model is its size
    # A header is one column, but may name the runs as well: run=seed.
    own = [header for header in headers if header in OURS and (header not in used or header == found.get(RUN))]
    found.update({header: header for header in own if header not in found})
    if STEP in found and RUN not in found and (origin := _run_by_name(frame, found[STEP], used)):
        found[RUN] = origin
    if loss is None:
        loss, origin = _loss(frame, used, place)
        found[loss] = origin
    elif loss not in found:
        if loss not in headers:
            raise InputError(f"{place}, row 1: no column {quoted(loss)} to fit ({_losses_there(headers)})")
        found[loss] = loss
    order = [name for name in (*SHORT, K, STEP, SEED, SIZE_LABEL, loss) if name in found]
    return Naming({name: found[name] for name in (*order, *(n for n in found if n not in order))}, loss, _unit(loss, found[loss]))


def columns_option(**columns: str) -> str:
    """`--columns` as it is written in a shell, for messages."""
    pairs = [f"{name}={origin}" for name, origin in columns.items()]
    return f"--columns {shlex.quote(','.join([f'{chr(34)}{pair}{chr(34)}' if ',' in pair else pair for pair in pairs]))}"


def _recognised(full: str, frame: pl.DataFrame, used: Collection[str], place: str) -> str:
    """The header of one of our columns, with the factor that its unit says; empty where there is none."""
    short, candidates = SHORT.get(full, full), dict[str, str]()
    for header in frame.columns:
        unit = _UNIT.search(header) if full in (N, P, D, U) and column_of(header) != full else None
        known = header == short or column_of(header[: unit.start()] if unit else header) == full
        if known and header not in used and _may_be(full, header, frame[header]):
            candidates[header] = f"{header}*1e{UNITS[next(filter(None, unit.groups())).lower()]}" if unit else header
    if short in candidates:
        return candidates[short]
    if not candidates and full in (N, E, D) and short in frame.columns and frame[short].null_count() < len(frame):
        return short  # though it holds no numbers: that is an error, and not another column
    if full == RUN:
        return "+".join(candidates)  # an identifier and a name: together they are no coarser than the runs
    if len(candidates) > 1:
        names, first = map(quoted, list(candidates)[:4]), next(iter(candidates.values()))
        raise InputError(
            f"{place}, row 1: {' and '.join(names)} could each be {short} ({full})\nsay which, such as {columns_option(**{short: first})}"
        )
    return next(iter(candidates.values()), "")


def _run_by_name(frame: pl.DataFrame, step: str, used: Collection[str]) -> str:
    """A header such as `name` if it is that of a run: no two rows share it at one step."""
    for header in frame.columns:
        if plain_names(header)[-1] in ("name", "model", "modelname", "displayname") and header not in used and step in frame.columns:
            return header if frame.select(header, step).is_unique().all() else ""
    return ""


def _may_be(full: str, header: str, cells: pl.Series) -> bool:
    """Whether a column holds what its header promises: numbers in most filled cells, or for an architecture some dense model."""
    if full in NUMBERS:
        return 2 * (len(cells) - as_numbers(cells).null_count()) > len(cells) - cells.null_count()
    if full == ROUTER and "rout" not in header.lower():
        return bool((cells.cast(pl.String).str.to_lowercase() == "dense").any())
    return True


def _loss(frame: pl.DataFrame, used: Collection[str], place: str) -> tuple[str, str]:
    """The column to fit, and where it comes from."""
    headers = frame.columns
    if LOSSES[0] in headers:
        return LOSSES[0], LOSSES[0]
    numeric = [name for name in headers if name not in used and as_numbers(frame[name]).null_count() < len(frame)]
    for kind in _LOSSES:
        found = [header for header in numeric if any(name in kind for name in plain_names(header))]
        if len(found) > 1 and "loss" in found:
            found = ["loss"]
        if len(found) > 1:
            raise InputError(
                f"{place}, row 1: {' and '.join(map(quoted, found[:4]))} could each be the loss\n"
                f"say which, such as --target {shlex.quote(found[0])}"
            )
        if found:
            return ("loss", f"ln({found[0]})") if kind is _LOSSES[-1] else (found[0], found[0])
    if known := [
        header for header in headers if header not in used and any(name in kind for kind in _LOSSES for name in plain_names(header))
    ]:
        raise InputError(f"{place}, column {known[0]}: no number in any row; there is no loss to fit")
    likely = [header for header in numeric if _is_like_a_loss(header)]
    if len(likely) == 1:
        return likely[0], likely[0]
    option = f"--target {shlex.quote(likely[0])}" if likely else "--target HEADER"
    raise InputError(
        f"{place}, row 1: no column is known for the loss ({_losses_there(headers)})\nsay which with {option}, or as --columns loss=HEADER"
    )


def _is_like_a_loss(header: str) -> bool:
    """Whether a header of no known form speaks of a language model's loss."""
    return any(word in header.lower() for word in ("loss", "nll", "entropy")) and _OF_OTHER_KINDS.search(header) is None


def _losses_there(headers: Sequence[str]) -> str:
    near = [header for header in headers if any(word in header.lower() for word in ("loss", "ppl", "perplex", "nll", "entropy"))]
    return f"loss columns there: {listed(near)}" if near else f"columns there: {listed(headers, most=12)}"


def _unit(loss: str, origin: str) -> str:
    """The unit that a loss's header tells; a header of no known kind is its own unit."""
    name = plain(origin)
    if "bpb" in name or "bitsperbyte" in name:
        return "bits per byte"
    if "bits" in name or "bpt" in name:
        return "bits per token"
    if loss != origin and origin.startswith("ln("):
        return NATS
    if _PERPLEXITIES & {*plain_names(origin)}:
        return "perplexity"
    known = any(word in name for word in ("loss", "nll", "entropy", "nats")) or name.endswith("ce")
    return NATS if known else f"unit of {origin}"


def run_parts(origin: str, headers: Collection[str], ours: Collection[str]) -> tuple[str, ...]:
    """What together names a run, of `run=a+b`: headers, columns of `ours`, `@file`; `@row` alone. `InputError` where one is not there."""
    if origin in headers or origin == "@row":
        return (origin,)
    parts = tuple(part.strip() for part in origin.split("+"))
    for part in parts:
        if part not in headers and part != "@file" and known_as(part) not in {*ours} - {RUN}:
            raise no_such_column(part, headers)
    return parts
