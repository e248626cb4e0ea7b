"""Reading a run, or a file of its weights: its model, its loss on any text, and samples from it.

A run can be read during training. Only weights are restored, onto one device or a mesh, in any
dtype.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from common.errors import InputError
from common.terminal import Say
from reference.config import Dtype, ModelConfig, check_shape
from reference.errors import SEED, Range
from reference.mesh import DATA, EXPERT
from reference.objective import PADDING
from reference.transformer import Transformer
from training.config import TrainConfig
from training.evaluate import Sums, evaluate, sums_of
from training.folder import check_data, own_text, run_options, tokenizer_of
from training.placing import place_batch
from training.restore import CHECKPOINTS, read_weights
from training.sampling import sample
from training.start import kernel_refusal, model_shapes
from training.store import readable
from training.text.batches import Batch, EvaluationBatches, Sequences
from training.text.prepare import prepare, whole_text
from training.text.shards import TokenStream
from training.text.tokenizer import Tokenizer
from training.weights import is_weights_file, read_header, read_weights_file


@dataclass(frozen=True)
class LoadedRun:
    """A run at one of its checkpoints."""

    config: TrainConfig
    tokenizer: Tokenizer
    model: Transformer
    step: int
    """The step it was saved at."""
    mesh: Mesh | None = None
    """The model's mesh; None for one device."""

    def on_mesh(self) -> AbstractContextManager[object]:
        """The context in which to call the model."""
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


@dataclass(frozen=True)
class TextLoss:
    """Loss of a model on a text."""

    nats_per_token: float
    bits_per_byte: float
    """Comparable between tokenizers."""
    tokens: int
    """Number of predicted tokens, including each document's end token."""
    bytes: int
    """Bytes of UTF-8 text that these tokens decode to."""
    of_tokens: int
    """Number of tokens that the text has to predict."""


def load_run(
    folder: Path,
    step: int | None = None,
    *,
    mesh: Mesh | None = None,
    dtype: Dtype | None = None,
    say: Say = lambda message: None,
) -> LoadedRun:
    """The run in `folder` at `step` (None: its newest intact checkpoint), without optimizer state.

    `folder` may also be a file that `weights.write_weights` wrote, which has one step. Weights are
    sharded over `mesh`, or placed on one device. `dtype`: dtype of weights and activations; None:
    the run's. `say` names damaged checkpoints that are passed over. Raises `InputError` if there is
    no such checkpoint, `ConfigError` if the mesh does not divide the model's dimensions.
    """
    folder = readable(folder)
    file = read_header(folder) if is_weights_file(folder) else None
    config = file.config if file else run_options(folder)
    tokenizer = file.tokenizer if file else tokenizer_of(folder, config)
    if dtype is not None:
        config = replace(config, model=replace(config.model, dtype=dtype))
    model = config.model_config(tokenizer.vocabulary)
    platform = (jax.devices() if mesh is None else mesh.devices.flat)[0].platform
    if model.attention == "kernel" and kernel_refusal(model, platform):
        model = replace(model, attention="chunked")
    if mesh is not None:
        check_shape(model, mesh.shape, _batch(config.data.batch, model, mesh))
    shapes = model_shapes(model, mesh, dtype)
    if file:
        return LoadedRun(config, tokenizer, read_weights_file(folder, shapes), file.step, mesh)
    weights, step = read_weights(folder / CHECKPOINTS, step, shapes, say)
    return LoadedRun(config, tokenizer, weights, step, mesh)


def _batch(batch: int, model: ModelConfig, mesh: Mesh | None) -> int:
    """Sequences per evaluation batch: `batch`, rounded up to whole groups on every device."""
    if mesh is None:
        return batch
    group = 1 if model.router is None else model.router.sequences_per_group or 1
    multiple = mesh.shape[DATA] * mesh.shape[EXPERT] * group
    return -(-batch // multiple) * multiple


def evaluate_run(
    folder: Path,
    corpus: str | None,
    cache: Path,
    *,
    tokens: int | None = None,
    text_field: str | None = None,
    step: int | None = None,
    mesh: Mesh | None = None,
    dtype: Dtype | None = None,
    say: Say = lambda message: None,
) -> TextLoss:
    """Loss of the run's model on a corpus; None: the run's own held-out text.

    `tokens` to predict, in sequences spread evenly over the text (None: the run's
    `evaluation_tokens`, 0: all). `mesh`, `dtype` and `say` as in `load_run`. Raises
    `InputError` for text that cannot be read or has fewer than two bytes.
    """
    Range(0).check("tokens", tokens or 0)
    folder = readable(folder)
    run = load_run(folder, step, mesh=mesh, dtype=dtype, say=say)
    batch = _batch(run.config.data.batch, run.model.config, mesh)
    tokens = run.config.run.evaluation_tokens if tokens is None else tokens
    if corpus is None:
        weighted = _held_out(folder, run, cache)
    else:
        weighted = [(1.0, _other_text(corpus, run, cache, text_field))]
    parts = [Sequences(stream, run.model.config.context) for _, stream in weighted]
    weights = [weight for weight, _ in weighted]
    batches = EvaluationBatches(parts, batch, tokens=tokens, weights=weights)
    sizes, read = run.tokenizer.byte_lengths(), 0

    def _counted() -> Iterator[Batch]:
        nonlocal read
        for rows in batches:
            read += int(sizes[rows[:, 1:][rows[:, 1:] != PADDING]].sum())
            yield rows

    compiled = jax.jit(sums_of)

    def _on_batch(rows: Batch) -> Sums:
        return compiled(run.model, rows if mesh is None else place_batch(rows, mesh, batch))

    with run.on_mesh():
        found = evaluate(_counted(), _on_batch)
    name = "the held-out text" if corpus is None else f"corpus {corpus}"
    if not read:
        raise InputError(f"{name} has fewer than two bytes, so there is nothing to predict")
    bits = found.loss * found.targets / math.log(2) / read
    return TextLoss(found.loss, bits, found.targets, read, batches.of_tokens)


def _other_text(corpus: str, run: LoadedRun, cache: Path, text_field: str | None) -> TokenStream:
    data = replace(run.config.data, text_field=text_field or run.config.data.text_field)
    return TokenStream(whole_text(corpus, run.tokenizer, cache, data), "held_out")


def _held_out(folder: Path, run: LoadedRun, cache: Path) -> list[tuple[float, TokenStream]]:
    """The run's own held-out text: from the cache, wherever the corpus is now, or read again."""
    if is_weights_file(folder):
        raise InputError(f"{folder} has no text of its own; name one: --corpus TEXT")
    text = own_text(folder, cache)
    if text is None:
        text = prepare(run.config.data, cache, tokenizer=run.tokenizer)[1]
    check_data(folder, run.tokenizer, text)
    return text.streams("held_out")


@dataclass(frozen=True)
class Continued:
    """Texts that a run's model wrote."""

    texts: list[str]
    """Each begins with the prompt."""
    step: int
    """The step of the model's checkpoint."""


def sample_run(
    folder: Path,
    prompt: str,
    *,
    samples: int = 1,
    tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    step: int | None = None,
    mesh: Mesh | None = None,
    dtype: Dtype | None = None,
    say: Say = lambda message: None,
) -> Continued:
    """`prompt`, continued `samples` times by the run's model; an empty prompt starts a document.

    Text i has the key of `seed`, folded with i, however many there are. `mesh`, `dtype` and `say`
    as in `load_run`. Raises `InputError` for a negative temperature.
    """
    Range(1).check("samples", samples)
    Range(0).check("temperature", temperature)
    Range(0).check("tokens", tokens)
    SEED.check("seed", seed)
    run = load_run(folder, step, mesh=mesh, dtype=dtype, say=say)
    start = np.concatenate([np.array([run.tokenizer.end], np.int32), run.tokenizer.encode(prompt)])
    with run.on_mesh():
        keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(samples)]
        written = sample(run.model, [start] * samples, tokens, keys, temperature=temperature)
    return Continued([run.tokenizer.decode(text) for text in written], run.step)
