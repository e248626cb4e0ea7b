"""Which of a stranger's headers is which column: recognised by name, or written as `--columns N=params,D=flops/(6*N)`.

A header is compared without case, dots, slashes, blanks and underscores. Ours come first, then the names below, which are those met in
public files of runs. Where two headers could be the same column nothing is guessed.
"""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from common.errors import InputError
from fit.runs.cells import as_numbers
from fit.runs.schema import (
    ALIASES,
    LOSSES,
    NATS,
    NUMBERS,
    ROUTER,
    RUN,
    SEED,
    SHORT,
    SIZE_LABEL,
    STEP,
    C,
    D,
    E,
    F,
    K,
    N,
    P,
    R,
    U,
    full_name,
    listed,
    no_such_column,
    quoted,
)  # fmt: skip

_KNOWN: Mapping[str, str] = {
    N: "n params parameters nparams nparameters numparams numparameters paramcount parametercount modelsize modelparams modelparameters "
    "size nonembeddingparams nonembeddingparameters nonembparams nparamsnonembedding activeparams activeparameters nactive nactiveparams "
    "activatedparams activatedparameters denseparams denseparameters paramsactive paramsnonembedding",
    P: "totalparams totalparameters ntotal ntotalparams paramstotal totalparamcount totalparametercount",
    E: "e experts nexperts numexpert expertcount numlocalexperts nroutedexperts numroutedexperts moenumexperts numberofexperts "
    "totalexperts",
    D: "d tokens ntokens numtokens traintokens trainingtokens tokensseen tokenstrained totaltokens datasettokens tokencount "
    "datatokens tokensconsumed consumedtokens numtraintokens ntraintokens trainedtokens datasetsize tokenbudget",
    C: "flops flop compute trainflops trainingflops trainflop totalflops traincompute trainingcompute totalcompute computebudget "
    "flopbudget flopsbudget totaltrainflops",
    F: "flopsperstep",
    U: "uniquetokens nuniquetokens numuniquetokens uniquedatatokens",
    K: "k topk numexpertspertok numexpertspertoken expertspertoken expertspertok nactiveexperts activeexperts moetopk routertopk",
    R: "routingfrequency moefrequency",
    ROUTER: "router routertype routername routingmethod routing arch architecture modeltype modelarch architecturetype",
    RUN: "run runid runname hyperid experimentid experimentname expname wandbid",
    STEP: "step steps iter iteration iterations globalstep trainstep trainingstep trainerglobalstep stepnumber",
    SEED: "seed randomseed rngseed",
    SIZE_LABEL: "sizelabel",
}
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
_TIMES = {"thousand": "1e3", "million": "1e6", "billion": "1e9", "trillion": "1e12", "K": "1e3", "M": "1e6", "B": "1e9", "T": "1e12"}
_UNIT = re.compile(r"(?:[\W_]*(?:in[\W_]+)?(thousand|million|billion|trillion)s?|[\W_]*\(\s*([KMBT])\s*\)|\s*\[\s*([KMBT])\s*\])\s*$")
_COLUMN_OF = {name: full for full, names in _KNOWN.items() for name in names.split()}


def plain(header: str) -> str:
    """A header without case and without anything but letters and digits."""
    return re.sub(r"[\W_]+", "", header).lower()


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
        shown = {name: origin for name, origin in self.columns.items() if name in SHORT or name in (K, self.target) or name != origin}
        parts = [f"{'loss' if name == self.target else SHORT.get(name, name)} = {origin}" for name, origin in shown.items()]
        return f"columns: {', '.join(parts)} ({self.unit})"

    def with_target(self, target: str) -> "Naming":
        """The same for another loss."""
        columns = {name: origin for name, origin in self.columns.items() if name != self.target}
        return Naming({**columns, target: self.columns.get(target, target)}, target, _unit(target, target))


def naming(frame: pl.DataFrame, asked: Mapping[str, str], target: str | None, place: str) -> Naming:
    """What the headers are: first what is `asked` for (our names or short ones = header or expression), then what is recognised.

    `target` None: the loss is looked for. Raises `InputError` where two headers could be one column, or there is no loss.
    """
    headers = frame.columns
    if target is not None and (target in NUMBERS or target in (ROUTER, SIZE_LABEL, RUN)):
        raise InputError(f"{quoted(target)} is not a loss; the release's are {listed(LOSSES)}")
    loss = target or ("loss" if "loss" in asked and asked["loss"] not in headers else asked.get("loss"))
    found = {full_name(name, loss or "loss"): origin for name, origin in asked.items()}
    if len(found) < len(asked):
        full = [full_name(name, loss or "loss") for name in asked]
        twice = next(name for name, own in zip(asked, full, strict=True) if full.count(own) > 1)
        raise InputError(f"columns: {quoted(twice)}: a name and a header can be paired only once")
    used = set(found.values())
    for full in _KNOWN:
        if full not in found and full not in headers and (header := _recognised(full, frame, used, place)):
            found[full] = header
            used.add(header)
    if P in found and not {N, E} & {*found, *headers}:
        found[N] = found.pop(P)  # the total of a dense model is its size
    found.update({header: header for header in headers if (header in NUMBERS or header in _KNOWN) and header not in found})
    if loss is None:
        loss, origin = _loss(headers, used, place)
        found[loss] = origin
    elif loss not in found:
        if loss not in headers:
            there = [name for name in headers if "loss" in name.lower()]
            named = f"loss columns there: {listed(there)}" if there else f"columns there: {listed(headers, most=30)}"
            raise InputError(f"{place}, row 1: no column {quoted(loss)} to fit ({named})")
        found[loss] = loss
    order = [name for name in (*SHORT, K, STEP, SEED, SIZE_LABEL, loss) if name in found]
    return Naming({name: found[name] for name in (*order, *(n for n in found if n not in order))}, loss, _unit(loss, found[loss]))


def _recognised(full: str, frame: pl.DataFrame, used: Collection[str], place: str) -> str:
    """The header of one of our columns, with the factor that its unit says; empty where there is none."""
    short, candidates = SHORT.get(full, full), dict[str, str]()
    for header in frame.columns:
        unit = _UNIT.search(header) if full in (N, P, D, U) else None
        known = header == short or _COLUMN_OF.get(plain(header[: unit.start()] if unit else header)) == full
        if known and header not in used and _may_be(full, header, frame[header]):
            candidates[header] = f"{header}*{_TIMES[unit[1] or unit[2] or unit[3]]}" if unit else header
    if short in candidates:
        return candidates[short]
    if len(candidates) > 1:
        names = list(candidates)
        raise InputError(
            f"{place}, row 1: {' and '.join(map(quoted, names[:4]))} could each be {short} ({full})\n"
            f"say which, such as --columns {short}={names[0]}"
        )
    return next(iter(candidates.values()), "")


def _may_be(full: str, header: str, cells: pl.Series) -> bool:
    """Whether a column holds what its header promises: numbers in most filled cells, or for an architecture some dense model."""
    if full in NUMBERS:
        return 2 * (len(cells) - as_numbers(cells).null_count()) > len(cells) - cells.null_count()
    if full == ROUTER and "rout" not in header.lower():
        return bool((cells.cast(pl.String).str.to_lowercase() == "dense").any())
    return True


def _loss(headers: Sequence[str], used: Collection[str], place: str) -> tuple[str, str]:
    """The column to fit, and where it comes from."""
    if LOSSES[0] in headers:
        return LOSSES[0], LOSSES[0]
    for kind in _LOSSES:
        found = [header for header in headers if header not in used and plain(header) in kind]
        if len(found) > 1 and "loss" in found:
            found = ["loss"]
        if len(found) > 1:
            raise InputError(
                f"{place}, row 1: {' and '.join(map(quoted, found[:4]))} could each be the loss\nsay which, such as --target {found[0]!r}"
            )
        if found and plain(found[0]) in _PERPLEXITIES:
            return "loss", f"ln({found[0]})"
        if found:
            return found[0], found[0]
    near = [header for header in headers if any(word in header.lower() for word in ("loss", "ppl", "perplex", "nll", "entropy"))]
    there = f"likely: {listed(near)}" if near else f"columns there: {listed(headers, most=30)}"
    option = f"--target {near[0]!r}" if near else "--target HEADER"
    raise InputError(f"{place}, row 1: no column is known for the loss ({there})\nsay which with {option}, or as --columns loss=HEADER")


def _unit(loss: str, origin: str) -> str:
    """The unit that a loss's header tells; a header of no known kind is its own unit."""
    name = plain(origin)
    if "bpb" in name or "bitsperbyte" in name:
        return "bits per byte"
    if "bits" in name or "bpt" in name:
        return "bits per token"
    if loss != origin and origin.startswith("ln("):
        return NATS
    if name in _PERPLEXITIES:
        return "perplexity"
    known = any(word in name for word in ("loss", "nll", "entropy", "nats")) or name in {"ce", "valce", "evalce"}
    return NATS if known else f"unit of {origin}"


def run_parts(origin: str, headers: Collection[str]) -> tuple[str, ...]:
    """The headers that together name a run, of `run=a+b`; `@row` and `@file` stand for themselves. `InputError` where one is not there."""
    if origin in headers or origin in ("@row", "@file"):
        return (origin,)
    parts = tuple(part.strip() for part in origin.split("+"))
    for part in parts:
        if part not in headers and part != "@file":
            raise no_such_column(part, headers)
    return parts


def known_as(name: str) -> str:
    """Our column for a name that people use, such as `params` or `top_k`; the name itself where it is none of these."""
    return ALIASES.get(name) or _COLUMN_OF.get(plain(name), name)
