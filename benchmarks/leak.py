"""How much a later token changes what earlier ones get, in training: `docs/causality.md` says why and what follows.

    uv run --group bench python -m benchmarks.leak

Two tables. S-BASE's choice alone, one group of random tokens: how many earlier tokens go to another expert when the last token is
another one, and which fraction does when the later half is. Then a whole model with each router: how many earlier positions get
another output when the last token is another one, and by how much the log-probability of their next token changes.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: where there is an accelerator, too, figures are a CPU's

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int

from benchmarks.common import save, show
from reference.config import ModelConfig, RouterConfig, Size
from reference.objective import target_log_prob
from reference.routers import ROUTERS
from reference.routers.sinkhorn_base import balanced_top_k, rounding, sinkhorn
from reference.transformer import Transformer

Count = Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...")]
Scale = Annotated[tuple[float, ...], tyro.conf.arg(metavar="NUMBER ...")]


@dataclass(frozen=True)
class Options:
    """Later tokens changed, earlier ones compared; weights as they are drawn."""

    experts: Count = (2, 8, 32, 128, 512)
    """Experts, for S-BASE alone."""
    scale: Scale = (1.0, 10.0)
    """Standard deviations of the router's logits; 1 is how they start."""
    tokens: int = 2048
    """Tokens of a group, for S-BASE alone."""
    context: int = 256
    """Tokens of a group, for whole models."""
    draws: int = 20
    """Random groups and weights to average over."""
    seed: int = 0
    """Of everything random."""
    json: Path | None = None
    """A file for the figures."""


@dataclass(frozen=True)
class OfChoice:
    """What a change of later tokens does to S-BASE's choice; means over draws."""

    scale: float
    experts: int
    by_last: float
    """Earlier tokens, in number, that go to another expert when the last token is another one."""
    by_half: float
    """Fraction of the first half that does when the second half is other tokens of the same kind."""
    by_equal_half: float
    """The same when the second half is one token over and over."""


def of_choice(options: Options) -> Iterator[OfChoice]:
    """S-BASE alone, with 10 iterations, at each scale and number of experts."""

    @jax.jit
    def _choose(logits: Float[Array, "tokens experts"]) -> Int[Array, "tokens"]:
        return balanced_top_k(sinkhorn(logits, 10), 1, rounding(logits))[:, 0]

    half = options.tokens // 2
    for scale in options.scale:
        for experts in options.experts:
            generator = np.random.default_rng(options.seed)
            changes: list[tuple[float, float, float]] = []
            for _ in range(options.draws):
                logits, others = scale * generator.normal(size=(2, options.tokens, experts)).astype(np.float32)
                last, later, equal = logits.copy(), logits.copy(), logits.copy()
                last[-1], later[half:], equal[half:] = others[-1], others[half:], others[-1]
                before, *after = (np.asarray(_choose(jnp.asarray(changed))) for changed in (logits, last, later, equal))
                by_last, by_half, by_equal = (new != before for new in after)
                changes.append((float(by_last[:-1].sum()), float(by_half[:half].mean()), float(by_equal[:half].mean())))
            yield OfChoice(scale, experts, *np.mean(changes, axis=0).tolist())


@dataclass(frozen=True)
class OfModel:
    """What another last token does to a model's outputs before it; means over draws."""

    technique: str
    experts: int
    positions: float
    """Fraction of earlier positions whose logits change at all."""
    mean_change: float
    """Mean absolute change of the log-probability of an earlier position's next token, in nats."""
    largest_change: float
    """The largest, of all positions and draws."""


def of_model(options: Options, technique: str, experts: int, *, inference: bool) -> OfModel:
    """Four blocks of width 64, two of them routed, capacity as it is by default; the last token's own prediction is left out."""
    router = RouterConfig(ROUTERS[technique](), experts)
    config = ModelConfig(Size(64, 4, 4, 16), router, vocabulary=512, context=options.context)

    @eqx.filter_jit
    def _run(
        model: Transformer, tokens: Int[Array, "batch context"]
    ) -> tuple[Float[Array, "batch earlier vocabulary"], Float[Array, "batch targets"]]:
        logits, _ = model(tokens, key=jax.random.key(1), inference=inference)
        return logits[:, :-1], target_log_prob(logits[:, :-2], tokens[:, 1:-1])

    draw, generator = eqx.filter_jit(Transformer), np.random.default_rng(options.seed)
    changed: list[float] = []
    by: list[Float[np.ndarray, "batch targets"]] = []
    for i in range(options.draws):
        model = draw(config, key=jax.random.key(options.seed + i))
        tokens = jnp.asarray(generator.integers(512, size=(1, options.context)))
        (before, log_prob), (after, other) = _run(model, tokens), _run(model, tokens.at[0, -1].set((tokens[0, -1] + 1) % 512))
        changed.append(float(jnp.mean(jnp.any(before != after, axis=-1))))
        by.append(np.abs(np.asarray(log_prob - other)))
    return OfModel(technique, experts, float(np.mean(changed)), float(np.mean(by)), float(np.max(by)))


def main(options: Options) -> None:
    """Print both tables."""
    choices = list(of_choice(options))
    rows = [
        [f"{c.scale:g}", str(c.experts), f"{c.by_last:.1f}", f"{100 * c.by_half:.1f} %", f"{100 * c.by_equal_half:.1f} %"] for c in choices
    ]
    heads = ("logits' SD", "experts", "by the last token", "by the later half", "by a later half all equal")
    show(f"S-BASE in training: earlier tokens that go to another expert, of a group of {options.tokens}", heads, rows)
    others = [(technique, 8) for technique in ROUTERS]
    models: dict[str, list[OfModel]] = {}
    for where, cases in (("training", [*(("s-base", e) for e in (2, 32, 128)), *others]), ("evaluation", others)):
        models[where] = [of_model(options, technique, experts, inference=where == "evaluation") for technique, experts in cases]
        of = f"Models in {where}: earlier positions, of {options.context - 1}, when the last token is another one"
        show(of, ("", "experts", "positions changed", "mean change, nats", "largest"), [_cells(m) for m in models[where]])
    of_models = {where: [asdict(m) for m in found] for where, found in models.items()}
    save(options.json, {"draws": options.draws, "seed": options.seed, "choice": [asdict(c) for c in choices], "models": of_models})


def _cells(m: OfModel) -> list[str]:
    return [m.technique, str(m.experts), f"{100 * m.positions:.1f} %", f"{m.mean_change:.1e}", f"{m.largest_change:.1e}"]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
