"""Output of `cli.py count`: parameters and FLOPs of models, as tables or JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from reference.config import ModelConfig, model_config, routing_frequency
from reference.count import dense_parameter_count, flops_per_step, flops_per_token, parameters, total_parameter_count
from reference.errors import ConfigError
from reference.routers import ROUTERS
from reference.sizes import SIZES

_TOTALS = ("dense_parameter_count", "total_parameter_count", "flops_per_token", "flops_per_step")


def combinations(
    sizes: Sequence[str],
    routers: Sequence[str],
    experts: Sequence[str],
    ks: Sequence[str],
    routing_frequencies: Sequence[str],
    **shared: int,
) -> dict[str, ModelConfig]:
    """The models of all combinations of the arguments, by name; dense models once. `shared`: options of `model_config`.

    An empty list means every size of the paper, dense, or the defaults of a routed layer (E = 64, k = 1, R = 1/2). Raises `ConfigError`.
    """
    routers = routers or ("dense",)
    if set(routers) == {"dense"} and (experts or ks or routing_frequencies):
        raise ConfigError("--experts, --k and --routing-frequency are for routed models; add a router, such as --router s-base")
    models: dict[str, ModelConfig] = {}
    for size, router, e, k, r in product(sizes or SIZES, routers, experts or ("64",), ks or ("1",), routing_frequencies or ("1/2",)):
        config = model_config(size, router, _whole("--experts", e), _whole("--k", k), routing_frequency(r), **shared)
        models[name(size, router, config)] = config
    return models


def record(models: dict[str, ModelConfig], sequences: int) -> dict[str, Any]:
    """All counts, for JSON: totals by the release's column names, and their components (FLOPs per token)."""
    return {"models": [{"model": name, **_settings(config), **_counts(config, sequences)} for name, config in models.items()]}


def text(models: dict[str, ModelConfig], sequences: int) -> str:
    """Tables for a terminal: rounded counts, exact counts, and the components of a single model."""
    counts = {name: _counts(config, sequences) for name, config in models.items()}
    context = next(iter(models.values())).context
    heads = ("", "N", "P", "F per token", "F per step")
    totals = {name: [count[column] for column in _TOTALS] for name, count in counts.items()}
    blocks = [
        _table(heads, [(name, *map(_short, values)) for name, values in totals.items()]),
        _table(heads, [(name, *(f"{value:,}" for value in values)) for name, values in totals.items()]),
    ]
    if len(counts) == 1:
        weights, flops = (next(iter(counts.values()))[of] for of in ("parameters", "flops"))
        parts = dict.fromkeys((*weights, *flops))
        rows = [(part.replace("_", " "), *(f"{of[part]:,}" if part in of else "-" for of in (weights, flops))) for part in parts]
        blocks.append(_table(("", "parameters", "FLOPs per token"), rows))
    blocks.append(
        "N: parameters of the dense model of that size; P: all parameters; both without\n"
        "embedding and final norm. F: FLOPs of a forward pass, per token and per step of\n"
        f"{sequences:,} sequences of {context:,} tokens. Counted as in the release of the\n"
        "paper's runs: docs/counts.md."
    )
    return "\n\n".join(blocks)


def _settings(config: ModelConfig) -> dict[str, Any]:
    settings = {**asdict(config.size), "context": config.context, "vocabulary": config.vocabulary, "router": "dense"}
    if config.router is None:
        return settings
    technique = next(name for name, technique in ROUTERS.items() if isinstance(config.router.technique, technique))
    routed = {"num_experts": config.router.num_experts, "k": config.router.k, "routing_frequency": config.routing_frequency}
    own = {name: getattr(config.router, name) for name in ("granularity", "shared_experts")}
    return {**settings, "router": technique, **routed, **own}


def _counts(config: ModelConfig, sequences: int) -> dict[str, Any]:
    flops = flops_per_token(config)
    totals = (dense_parameter_count(config), total_parameter_count(config), flops.total, flops_per_step(config, sequences))
    return {
        **dict(zip(_TOTALS, totals, strict=True)),
        "parameters": asdict(parameters(config)),
        "flops": asdict(flops),
    }


def name(size: str, router: str, config: ModelConfig) -> str:
    """A model in words, without what has its default."""
    if config.router is None:
        return f"{size} {router}"
    own = config.router
    parts = (("k", own.k, 1), ("G", own.granularity, 1), ("shared", own.shared_experts, 0))
    k = "".join(f" {name}={value}" for name, value, default in parts if value != default)
    frequency = "" if config.period == 2 else f" R=1/{config.period}" if config.period > 1 else " R=1"
    return f"{size} {router} E={config.router.num_experts}{k}{frequency}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in (heads, *rows)
    )
    return "\n".join(lines)


def _short(n: int) -> str:
    """Three significant digits: 16.5M, 1.31B, 7.76e15."""
    if n >= 9.995e14:
        return f"{n:.2e}".replace("e+", "e")
    scale, letter = next(((x, c) for x, c in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if n >= x * 0.9995), (1.0, ""))
    return f"{n / scale:#.3g}".rstrip(".") + letter


def _whole(option: str, typed: str) -> int:
    try:
        return int(typed)
    except ValueError:
        raise ConfigError(f"{option} {typed}: must be a whole number") from None
