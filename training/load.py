"""A run's folder, read again:
its model, its loss on any text, and text from it. Also while the run goes on."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from common.errors import InputError
from reference.mesh import make_mesh
from reference.objective import PADDING
from reference.transformer import Transformer
from training.batches import Batch, EvaluationBatches, Sequences
from training.checkpoint import read_checkpoint
from training.config import TrainConfig, read_toml
from training.corpus import documents
from training.evaluate import evaluate, sample, sums_of
from training.folder import CHECKPOINTS, CONFIG, check_data, tokenizer_of
from training.optimizer import make_optimizer
from training.prepare import prepare
from training.shards import TokenStream
from training.start import state_shapes
from training.texts import text_batches
from training.tokenizer import Tokenizer


class LoadedRun(NamedTuple):
    """A run as far as it has come."""

    config: TrainConfig
    tokenizer: Tokenizer
    model: Transformer
    step: int
    """Steps that the model has behind it."""


@dataclass(frozen=True)
class TextLoss:
    """The loss of a text."""

    nats_per_token: float
    bits_per_byte: float
    """Comparable between tokenizers."""
    tokens: int
    """That were predicted: all but the first, with one after each document that ends it."""
    bytes: int
    """Of text, in UTF-8, that these tokens are."""


def load_run(folder: Path, step: int | None = None) -> LoadedRun:
    """The run in `folder` at its newest checkpoint, or that of `step`, on one device.

    Raises `InputError` if there is none.
    """
    config = read_toml(folder / CONFIG)
    tokenizer = tokenizer_of(folder, config)
    mesh = make_mesh(devices=jax.local_devices()[:1])
    like = state_shapes(
        config.model_config(tokenizer.vocabulary), make_optimizer(config.optimizer), mesh
    )
    state, _ = read_checkpoint(folder / CHECKPOINTS, step, like)
    # Off the mesh: one device needs none, and the model can be called as it is.
    model = jax.tree.map(lambda array: jax.device_put(np.asarray(array)), state.model)
    return LoadedRun(config, tokenizer, model, int(state.step))


def evaluate_run(
    folder: Path, corpus: str | None, cache: Path, *, tokens: int = 0, step: int | None = None
) -> TextLoss:
    """The loss of the run's model on all documents of `corpus`, or on the run's own held-out text
    if that is None.

    The text is read as it is needed. `tokens`: only about so many, from the beginning; 0 for all.
    Raises `InputError` for text that cannot be read or has no two tokens.
    """
    run = load_run(folder, step)
    data, context = run.config.data, run.model.config.context
    if corpus is None:
        tokenizer, shards = prepare(data, cache)
        check_data(folder, tokenizer, shards)
        batches: Iterable[Batch] = EvaluationBatches(
            Sequences(TokenStream(shards, "held_out"), context), data.batch, tokens=tokens
        )
    else:
        limit = -(-tokens // (data.batch * context)) if tokens else None
        batches = islice(
            text_batches(documents(corpus or None), run.tokenizer, context, data.batch), limit
        )
    sizes, read = run.tokenizer.byte_lengths(), 0

    def _counted() -> Iterator[Batch]:
        nonlocal read
        for batch in batches:
            targets = batch[:, 1:]
            read += int(sizes[targets[targets != PADDING]].sum())
            yield batch

    compiled = jax.jit(sums_of)
    found = evaluate(_counted(), partial(compiled, run.model))
    if not found.targets:
        raise InputError(f"corpus {corpus} has no text of two tokens; give more")
    return TextLoss(
        found.loss, found.loss * found.targets / math.log(2) / read, found.targets, read
    )


def sample_run(
    folder: Path,
    prompt: str,
    *,
    tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    step: int | None = None,
) -> str:
    """`prompt` and what the run's model goes on with;
    an empty prompt begins a document. Raises `InputError` for a bad temperature."""
    if not temperature >= 0:
        raise InputError(
            f"temperature is {temperature}; it must be at least 0, which takes the most probable token each time"
        )
    run = load_run(folder, step)
    start = np.concatenate([np.array([run.tokenizer.end], np.int32), run.tokenizer.encode(prompt)])
    return run.tokenizer.decode(
        sample(run.model, start, tokens, jax.random.key(seed), temperature=temperature)
    )
