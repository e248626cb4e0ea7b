"""What people call the columns of a table of runs: the names met in public files, compared without case, dots, slashes and blanks."""

import re
from collections.abc import Mapping

from fit.runs.schema import ALIASES, EXPERT_WIDTH, ROUTER, RUN, SEED, SIZE_LABEL, STEP, WIDTH, A, C, D, E, F, G, K, N, P, R, U

KNOWN: Mapping[str, str] = {
    N: "n params parameters nparams nparameters numparams numparameters paramcount parametercount modelsize modelparams modelparameters "
    "size nonembeddingparams nonembeddingparameters nonembparams nparamsnonembedding activeparams activeparameters nactive nactiveparams "
    "activatedparams activatedparameters denseparams denseparameters paramsactive paramsnonembedding",
    P: "totalparams totalparameters ntotal ntotalparams paramstotal totalparamcount totalparametercount",
    E: "e experts nexperts numexpert expertcount numlocalexperts nroutedexperts numroutedexperts moenumexperts numberofexperts "
    "totalexperts",
    D: "d tokens ntokens numtokens traintokens trainingtokens tokensseen tokenstrained totaltokens datasettokens tokencount "
    "datatokens tokensconsumed consumedtokens numtraintokens ntraintokens trainedtokens datasetsize datasize tokenbudget",
    C: "flops flop compute trainflops trainingflops trainflop trainingflop totalflops totalflop traincompute "
    "trainingcompute totalcompute computebudget flopbudget flopsbudget totaltrainflops",
    F: "flopsperstep",
    U: "uniquetokens nuniquetokens numuniquetokens uniquedatatokens",
    K: "k topk numexpertspertok numexpertspertoken expertspertoken expertspertok nactiveexperts activeexperts moetopk routertopk",
    R: "routingfrequency moefrequency",
    A: "activationratio expertactivationratio",
    G: "g granularity moegranularity",
    WIDTH: "dff ffndim ffnhiddensize intermediatesize feedforwardwidth",
    EXPERT_WIDTH: "dexpert expertwidth expertdim moeintermediatesize expertffndim",
    ROUTER: "router routertype routername routingmethod routing arch architecture modeltype modelarch architecturetype",
    RUN: "run runid runname hyperid experimentid experimentname expname wandbid",
    STEP: "step steps iter iteration iterations globalstep trainstep trainingstep trainerglobalstep stepnumber",
    SEED: "seed randomseed rngseed",
    SIZE_LABEL: "sizelabel",
}
_COLUMN_OF = {name: full for full, names in KNOWN.items() for name in (full.replace("_", ""), *names.split())}
_WRAPPERS = frozenset((
    "config", "cfg", "conf", "summary", "hparams", "hyperparameters", "hyperparams", "args", "arguments", "settings", "metric",
    "metrics", "result", "results", "model", "meta", "metadata", "info", "stats", "run", "runs", "data", "final",
))  # fmt: skip
"""Parts before a dot or slash that say where a value was kept and not what it is, as in `config.n_params`."""
_SYMBOL = re.compile(r"\s*[(\[]\s*(?:[NDCEPFL]|FLOPs?|tokens|params|parameters|nats(?:\s*(?:/|per)\s*token)?)\s*[)\]]\s*$", re.IGNORECASE)
"""A symbol or a base unit after a header, as in `Model Size (N)` and `Loss [nats]`: it changes nothing."""


def plain(header: str) -> str:
    """A header without case and without anything but letters and digits."""
    return re.sub(r"[\W_]+", "", header).lower()


def plain_names(header: str) -> tuple[str, ...]:
    """The header, and what is left of it without the parts that say where it was kept: `config.n_params`, `summary.val/loss`."""
    bare = _SYMBOL.sub("", header)
    parts = [part for part in re.split(r"[./:]", bare) if part]
    if len(parts) > 2 and plain(parts[-1]) == "value":
        parts = parts[:-1]
    first = 0
    while first < len(parts) - 1 and plain(parts[first]) in _WRAPPERS:
        first += 1
    return tuple(dict.fromkeys([plain(header), plain(bare), plain("/".join(parts[first:]))]))


def column_of(header: str) -> str:
    """Our column for a header as people write it, empty where it is none."""
    return next((_COLUMN_OF[name] for name in plain_names(header) if name in _COLUMN_OF), "")


def known_as(name: str) -> str:
    """Our column for a name that people use, such as `params` or `top_k`; the name itself where it is none of these."""
    return ALIASES.get(name) or column_of(name) or name
