"""Setup of a run: mesh, text, model, batches, and the initial state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from common.errors import InputError
from common.terminal import Say
from reference.config import Dtype, ModelConfig, check_shape
from reference.errors import ConfigError, require
from reference.mesh import BATCH, make_mesh, parameter_specs
from reference.routers import Hash
from reference.routers.hash import balanced_table
from reference.transformer import Transformer
from training.config import RunOptions, TrainConfig, differences
from training.folder import AFTER_DECAY_BEGINS, MAY_DIFFER, run_options
from training.optimizer import make_optimizer
from training.placing import batch_rows, place_batch
from training.restore import CHECKPOINTS, checkpoint_steps, read_newest
from training.step import TrainState, init_state, state_specs
from training.text.batches import Batch, EvaluationBatches, Sequences, training_batches
from training.text.prepare import PreparedText
from training.text.shards import SHARD_TOKENS, TokenStream
from training.text.tokenizer import Tokenizer
from training.weights import read_header, read_weights_file


@dataclass(frozen=True)
class Setup:
    """The components of a run, validated."""

    config: TrainConfig
    mesh: Mesh
    model: ModelConfig
    text: PreparedText
    optimizer: optax.GradientTransformation
    batches: "grain.DatasetIterator[Batch]"
    """This process's rows of each batch."""
    held_out: EvaluationBatches
    """Held-out batches, sized like one gradient-accumulation microbatch."""
    others: dict[str, EvaluationBatches]
    """Batches of the other texts of every evaluation, by name: `test`, and those of `data.also`."""

    def place(self, rows: Batch) -> Int[Array, "..."]:
        """A training batch on the mesh; with `accumulate`, microbatches along a leading axis."""
        data = self.config.data
        if data.accumulate == 1:
            return place_batch(rows, self.mesh, data.batch)
        microbatches = rows.reshape(data.accumulate, -1, rows.shape[1])
        shape = (data.accumulate, data.batch // data.accumulate, rows.shape[1])
        return jax.make_array_from_process_local_data(
            NamedSharding(self.mesh, P(None, BATCH, None)), microbatches, shape
        )

    def place_held_out(self, rows: Batch) -> Int[Array, "batch context_and_one"]:
        """An evaluation batch on the mesh."""
        return place_batch(rows, self.mesh, self.config.data.batch // self.config.data.accumulate)


def set_up(config: TrainConfig, tokenizer: Tokenizer, text: PreparedText) -> Setup:
    """Raises `ConfigError` or `InputError` where options, text and devices do not fit together."""
    data, options = config.data, config.run
    mesh, model = run_mesh(options), config.model_config(tokenizer.vocabulary)
    micro = data.batch // data.accumulate
    check_shape(model, mesh.shape, micro)
    if model.attention == "kernel":
        refused = kernel_refusal(model, mesh.devices.flat[0].platform)
        require(refused is None, f"{refused}; use --attention chunked")
    rows = batch_rows(mesh, micro)
    rows_of_microbatches = np.concatenate([i * micro + rows for i in range(data.accumulate)])

    def _to_evaluate(streams: Streams) -> EvaluationBatches:
        parts, weights = _sequences(streams, model.context)
        tokens = options.evaluation_tokens
        return EvaluationBatches(parts, micro, tokens=tokens, weights=weights, rows=rows)

    others = {"test": _to_evaluate(text.streams("test"))} if data.test else {}
    for name, shards in text.others.items():
        others[name] = _to_evaluate([(1.0, TokenStream(shards, "held_out"))])
    parts, weights = _sequences(text.streams("train"), model.context)
    return Setup(
        config,
        mesh,
        model,
        text,
        make_optimizer(config.optimizer),
        training_batches(
            parts, data.batch, options.seed, weights=weights, rows=rows_of_microbatches
        ),
        _to_evaluate(text.streams("held_out")),
        others,
    )


Streams = Sequence[tuple[float, TokenStream]]
"""Token streams with weights."""


def _sequences(streams: Streams, context: int) -> tuple[list[Sequences], list[float]]:
    return [Sequences(stream, context) for _, stream in streams], [w for w, _ in streams]


def kernel_refusal(model: ModelConfig, platform: str) -> str | None:
    """Why the attention kernels cannot be used for a model on a platform; None if they can."""
    from reference.kernels.relative_attention import fits

    return fits(model.size.kqv_size, model.context, model.dtype, platform)


def run_mesh(options: RunOptions) -> Mesh:
    """The mesh that `options` ask for, of the first available devices.

    Raises `ConfigError` if there are too few, or a process has none.
    """
    shape = options.mesh_shape()
    requested, available, processes = (
        math.prod(shape.values()),
        jax.device_count(),
        jax.process_count(),
    )
    if requested > available:
        raise ConfigError(
            f"mesh {options.mesh} asks for {requested} devices, but {available} are available"
        )
    if processes > 1 and requested != available:
        raise ConfigError(
            f"mesh {options.mesh} asks for {requested} devices, "
            f"but {processes} processes have {available}; use them all"
        )
    return make_mesh(**shape, devices=jax.devices()[:requested])


def first_state(
    setup: Setup, key: PRNGKeyArray, say: Say
) -> tuple[TrainState, dict[str, Any] | None, int]:
    """The initial state of a run without a checkpoint, its position in the data and its step.

    Initialised from `key`, taken from another run (`begin_from`), or new but for the weights
    (`initial_weights`).
    """
    config = setup.config
    if config.run.begin_from:
        like = state_shapes(setup.model, setup.optimizer, setup.mesh, fsdp=config.run.fsdp)
        folder = Path(config.run.begin_from) / CHECKPOINTS
        return read_newest(folder, check_begin(config), like, say)
    make = partial(
        _initial_state,
        setup.model,
        optimizer=setup.optimizer,
        hash_tables=_hash_tables(setup.model, setup.text),
    )
    layout = _layout(jax.eval_shape(make, key), setup.mesh, setup.config.run.fsdp)
    if config.run.initial_weights:
        model = _initial_weights(setup)
        begin = partial(init_state, optimizer=setup.optimizer)
        return jax.jit(begin, out_shardings=layout)(model), None, 0
    return jax.jit(make, out_shardings=layout)(key), None, 0


def _initial_weights(setup: Setup) -> Transformer:
    """The weights that `initial_weights` names. Raises `InputError` for another tokenizer."""
    path = Path(setup.config.run.initial_weights)
    theirs, (_, own) = read_header(path).tokenizer, setup.text.parts[0]
    if theirs.fingerprint != own.tokenizer:
        raise InputError(
            f"{path} was trained with the tokenizer {theirs.name}, not {own.tokenizer_name}; "
            "train on with its own"
        )
    fsdp = setup.config.run.fsdp
    shapes = state_shapes(setup.model, setup.optimizer, setup.mesh, fsdp=fsdp)
    return read_weights_file(path, shapes.model)


def state_shapes(
    model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh, *, fsdp: bool = False
) -> TrainState:
    """Shapes, dtypes and shardings of a run's state over `mesh`, to restore a checkpoint to."""
    make = partial(_initial_state, model, optimizer=optimizer, hash_tables=_some_tables(model))
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(_with_sharding, shapes, _layout(shapes, mesh, fsdp))


def model_shapes(model: ModelConfig, mesh: Mesh | None, dtype: Dtype | None) -> Transformer:
    """Shapes, dtypes and shardings of a model: over `mesh`, or on this process's first device.

    `dtype`: dtype of the weights; None: the one in which they are trained.
    """
    make = partial(Transformer, model, hash_tables=_some_tables(model))
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(
            s.shape, dtype if dtype and jnp.issubdtype(s.dtype, jnp.inexact) else s.dtype
        ),
        eqx.filter_eval_shape(lambda key: make(key=key), jax.random.key(0)),
    )
    if mesh is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda s: _with_sharding(s, device), shapes)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), parameter_specs(shapes))
    return jax.tree.map(_with_sharding, shapes, shardings)


def _with_sharding(
    shape: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _some_tables(model: ModelConfig) -> Int[np.ndarray, "layers vocabulary k"] | None:
    """HASH tables of the right shape, if the model has any: a checkpoint has the run's own."""
    router = model.router
    if router is None or not isinstance(router.technique, Hash):
        return None
    some = (np.arange(model.vocabulary)[:, None] + np.arange(router.k)) % router.num_experts
    return np.stack([some.astype(np.int32)] * model.routed_layers)


def check_begin(config: TrainConfig) -> list[int]:
    """The steps at which `begin_from` has checkpoints from before the decay of either run.

    Empty without `begin_from`. Raises `InputError` if the run cannot begin from it, or from its
    `initial_weights`.
    """
    if config.run.initial_weights:
        read_header(Path(config.run.initial_weights))
        if config.run.begin_from:
            raise InputError(
                "begin_from and initial_weights both say what a run begins from; leave one out"
            )
    if not config.run.begin_from:
        return []
    source, optimizer = Path(config.run.begin_from), config.optimizer
    if optimizer.schedule != "stable":
        raise InputError(
            f"begin_from needs the stable schedule, not {optimizer.schedule}: "
            "only its runs share a stable phase"
        )
    theirs = run_options(source)
    allowed = (*MAY_DIFFER, *AFTER_DECAY_BEGINS, "run.begin_from")
    different = differences(config, theirs, except_for=allowed)
    if different:
        raise InputError(f"this run cannot begin from {source}: {'; '.join(different)}")
    shared = min(optimizer.decay_begins, theirs.optimizer.decay_begins)
    steps = [step for step in checkpoint_steps(source / CHECKPOINTS) if step <= shared]
    if not steps:
        raise InputError(
            f"{source} has no checkpoint of step {shared} or before, where both runs have the same "
            "learning rates; set keep_every in the run to begin from"
        )
    return steps


def _initial_state(
    model: ModelConfig,
    key: PRNGKeyArray,
    *,
    optimizer: optax.GradientTransformation,
    hash_tables: Int[np.ndarray, "layers rows choices"] | None,
) -> TrainState:
    return init_state(Transformer(model, key=key, hash_tables=hash_tables), optimizer)


def _layout(shapes: TrainState, mesh: Mesh, fsdp: bool) -> PyTree[NamedSharding]:
    specs = state_specs(shapes, mesh, fsdp=fsdp)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def _hash_tables(
    model: ModelConfig, text: PreparedText
) -> Int[np.ndarray, "layers vocabulary k"] | None:
    """Tables balanced by the training text's token counts, if "balanced"; otherwise None."""
    router = model.router
    if (
        router is None
        or not isinstance(router.technique, Hash)
        or router.technique.table != "balanced"
    ):
        return None
    counts = _token_counts(text, model.vocabulary)
    return np.stack([balanced_table(counts, router.num_experts, router.k)] * model.routed_layers)


def _token_counts(text: PreparedText, vocabulary: int) -> Int[np.ndarray, "vocabulary"]:
    """How often the training text has each token; of a mixture, in proportion to its weights."""
    total = np.zeros(vocabulary)
    for weight, stream in text.streams("train"):
        counts = np.zeros(vocabulary, np.int64)
        for start in range(0, len(stream), SHARD_TOKENS):
            some = stream.read(start, start + SHARD_TOKENS)
            counts += np.bincount(some, minlength=vocabulary)
        total += weight * (text.tokens("train") / len(stream)) * counts
    return np.rint(total).astype(np.int64)
