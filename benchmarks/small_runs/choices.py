"""How much a router's choice says of the byte that is read, and of the one to be predicted: writes `golden/small_choices.json`.

    uv run --extra texts python -m benchmarks.small_runs.choices runs/small

Reads the runs of `golden/grid.toml` at E = 8 and 64 (their last checkpoints) and sends their held-out text through each. Mutual
information is counted, in bits; with the next byte, where the byte read is known, there are so many cells that chance alone gives
some: what is left when the choices of equal bytes are shuffled is taken off.
"""

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Float, Int

from benchmarks.common import ROOT, show
from common.errors import InputError
from common.files import write_atomically
from reference.objective import PADDING, objective
from reference.transformer import Transformer
from training.cache import cache_folder
from training.evaluate import evaluate, sums_of
from training.load import load_run
from training.text.batches import EvaluationBatches, Sequences
from training.text.prepare import prepare

TOKENS = 1 << 18
"""Of the held-out text, from the beginning."""


@dataclass(frozen=True)
class Arguments:
    """What choices say."""

    runs: Annotated[Path, tyro.conf.Positional]
    """The folder of the sweep."""
    routers: tuple[str, ...] = ("s-base", "hash", "rl-r")
    sizes: tuple[str, ...] = ("60K", "240K")
    experts: tuple[int, ...] = (8, 64)
    out: Path = field(default=ROOT / "golden" / "small_choices.json")


def main(arguments: Arguments) -> None:
    """Measure every run, print, and write."""
    found = [
        {"router": router, "size": size, "experts": experts, **measured(arguments.runs / f"{size}-{router}-e{experts}-seed0")}
        for router in arguments.routers
        for size in arguments.sizes
        for experts in arguments.experts
    ]
    heads = list(found[0])
    show("Bits", heads, [[f"{one[name]:.3f}" if isinstance(one[name], float) else str(one[name]) for name in heads] for one in found])
    write_atomically(arguments.out, json.dumps({"runs": found}, indent=1) + "\n")


def measured(folder: Path) -> dict[str, Any]:
    """Losses on held-out text; entropy of the last routed layer's choices there, their information on what is read and what follows."""
    run = load_run(folder)
    data, context = run.config.data, run.model.config.context
    _, text = prepare(data, cache_folder())
    parts = [Sequences(stream, context) for _, stream in text.streams("held_out")]
    batches = EvaluationBatches(parts, data.batch, tokens=TOKENS)
    found = evaluate(batches, partial(jax.jit(sums_of), run.model), keep_choices=True)
    choices = found.choices
    assert choices is not None
    rows = np.concatenate(list(batches))
    real = rows[:, 1:].ravel() != PADDING
    token, following, expert = (ids[real] for ids in (rows[:, :-1].ravel(), rows[:, 1:].ravel(), choices[-1, :, 0].astype(np.int64)))
    given = conditional(expert, following, token)
    shuffled = conditional(shuffled_within(expert, token), following, token)
    return {
        "loss": found.loss,
        "loss_as_trained": _loss_as_trained(run.model, batches),
        "entropy": entropy(expert),
        "of_token": mutual(expert, token),
        "of_next": mutual(expert, following),
        "of_next_given_token": given - shuffled,
    }


def _loss_as_trained(model: Transformer, batches: EvaluationBatches) -> float:
    """The held-out loss where tokens go as they do in training: by the balanced plan, or by a draw from the policy (seed 0)."""
    on_batch = jax.jit(lambda model, tokens, key: objective(model, tokens, key=key)[1].loss)
    total, targets = 0.0, 0
    for number, batch in enumerate(batches):
        real = int(np.sum(batch[:, 1:] != PADDING))
        total += real * float(on_batch(model, batch, jax.random.key(number)))
        targets += real
    return total / targets


def entropy(values: Int[np.ndarray, "tokens"]) -> float:
    """Of the values' frequencies, in bits."""
    counts = np.unique(values, return_counts=True)[1] / len(values)
    return float(-np.sum(counts * np.log2(counts)))


def mutual(one: Int[np.ndarray, "tokens"], other: Int[np.ndarray, "tokens"]) -> float:
    """Mutual information of the two, in bits."""
    return entropy(one) + entropy(other) - entropy(_paired(one, other))


def conditional(one: Int[np.ndarray, "tokens"], other: Int[np.ndarray, "tokens"], given: Int[np.ndarray, "tokens"]) -> float:
    """Mutual information of `one` and `other` where `given` is known."""
    with_one, with_other = _paired(one, given), _paired(other, given)
    return entropy(with_one) + entropy(with_other) - entropy(_paired(with_one, other)) - entropy(given)


def _paired(one: Int[np.ndarray, "tokens"], other: Int[np.ndarray, "tokens"]) -> Int[np.ndarray, "tokens"]:
    """A number for each pair of values."""
    return one.astype(np.int64) * (int(other.max()) + 1) + other


def shuffled_within(values: Int[np.ndarray, "tokens"], classes: Int[np.ndarray, "tokens"]) -> Int[np.ndarray, "tokens"]:
    """`values`, those of equal class in another order (seed 0)."""
    noise: Float[np.ndarray, "tokens"] = np.random.default_rng(0).random(len(values))
    by_class, by_chance = np.argsort(classes, kind="stable"), np.lexsort((noise, classes))
    shuffled = np.empty_like(values)
    shuffled[by_class] = values[by_chance]
    return shuffled


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except InputError as error:
        sys.exit(f"error: {error}")
