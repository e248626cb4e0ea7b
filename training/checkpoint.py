"""Orbax checkpoints: written asynchronously, renamed when complete, the newest few kept.

A checkpoint holds parameters, optimizer state and step as named arrays, and the position in the
data. Random keys are not saved: a step's keys follow from the seed and the step.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import orbax.checkpoint as ocp

from common.errors import InputError
from reference.mesh import is_array
from reference.transformer import Transformer
from training.step import TrainState

STATE, DATA = "state", "data"
"""The two items of a checkpoint."""

PREFIX = "step"
"""A checkpoint's folder is `step_NUMBER`."""

Tree = TypeVar("Tree", TrainState, Transformer)


class Checkpoints:
    """The checkpoints of one run, in their own folder."""

    def __init__(self, folder: Path, keep: int, keep_every: int = 0) -> None:
        """Keep the newest `keep`, and those at multiples of `keep_every` steps.

        Removes incomplete checkpoints that a killed process left.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=True,
            step_prefix=PREFIX,
        )
        self._manager = _manager(folder, options)

    @property
    def latest(self) -> int | None:
        """The step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Start writing a checkpoint.

        The arrays are copied first, so that training can continue. Does nothing if `step` already
        has a checkpoint.
        """
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_named(state)), data=ocp.args.JsonSave(data)
        )
        self._manager.save(step, args=args, force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and the position in the data at `step`.

        `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct`). Raises `InputError` if
        the checkpoint's arrays have other names or shapes.
        """
        return restored(self._manager, step, like, self._manager.directory)

    def wait(self) -> None:
        """Wait until all checkpoints are written."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing and close.

        A process that has failed does not wait: finishing takes all processes.
        """
        if kind is None or jax.process_count() == 1:
            self._manager.close()


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending; empty if it does not exist."""
    names = (path.name.removeprefix(f"{PREFIX}_") for path in folder.glob(f"{PREFIX}_*"))
    return sorted(int(step) for step in names if step.isdigit())


def read_checkpoint(
    folder: Path, step: int | None, like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """`Checkpoints.restore` from a folder that another process may be writing to.

    The newest checkpoint if `step` is None. Raises `InputError` if there is none.
    """
    manager, step = _reader(folder, step)
    return restored(manager, step, like, folder)


def _reader(folder: Path, step: int | None) -> tuple[ocp.CheckpointManager, int]:
    """A read-only manager, and `step` or the newest. Raises `InputError` if there is none."""
    steps: list[int] = []
    if folder.is_dir():
        with _quiet():
            options = ocp.CheckpointManagerOptions(read_only=True, step_prefix=PREFIX)
            manager = _manager(folder, options)
        steps = sorted(manager.all_steps())
        if steps and (step is None or step in steps):
            return manager, steps[-1] if step is None else step
    found = f"only of steps {', '.join(map(str, steps))}" if steps else "none saved yet"
    wanted = "" if step is None else f" of step {step}"
    raise InputError(
        f"{folder} has no checkpoint{wanted}, {found}; train first, or keep more of them"
    )


def read_weights(folder: Path, step: int | None, like: Transformer) -> tuple[Transformer, int]:
    """The model of the checkpoint of `step` (None: the newest), and its step.

    No optimizer state is read. `like` gives the shapes, dtypes and shardings
    (`jax.ShapeDtypeStruct`) to restore to; weights are converted to its dtypes. Raises `InputError`
    if there is no such checkpoint, or its weights have other names or shapes.
    """
    manager, step = _reader(folder, step)
    prefix = "model."
    named = {prefix + name: array for name, array in _named(like).items()}
    stored = {
        name: array
        for name, array in manager.item_metadata(step)[STATE].items()
        if name.startswith(prefix)
    }
    _check_stored(named, stored, step, folder)
    args = ocp.args.PyTreeRestore(
        item=named,
        restore_args={
            name: ocp.ArrayRestoreArgs(dtype=array.dtype, sharding=array.sharding)
            for name, array in named.items()
        },
        partial_restore=True,
    )
    with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(folder.absolute() / f"{PREFIX}_{step}" / STATE, args=args)
    return _filled(like, [found[name] for name in named]), step


def restored(
    manager: ocp.CheckpointManager, step: int, like: TrainState, folder: Any
) -> tuple[TrainState, dict[str, Any]]:
    """`Checkpoints.restore`; `folder` is for the message."""
    named = _named(like)
    _check_stored(named, dict(manager.item_metadata(step)[STATE].items()), step, folder)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(named), data=ocp.args.JsonRestore())
    found = manager.restore(step, args=args)
    return _filled(like, [found[STATE][name] for name in named]), found[DATA]


def _filled(like: Tree, arrays: list[Any]) -> Tree:
    shapes, static = eqx.partition(like, is_array)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), arrays), static)


def _check_stored(
    named: Mapping[str, Any], stored: Mapping[str, Any], step: int, folder: Any
) -> None:
    """Raises `InputError` unless the checkpoint has the names and shapes of `named`."""
    for name in sorted({*named} ^ {*stored}):
        how = "lacks" if name in named else "has an extra array"
        raise InputError(f"{folder}: the checkpoint of step {step} {how} {name}; {_FIX}")
    for name, array in named.items():
        shape = tuple(stored[name].shape)
        if shape != array.shape:
            raise InputError(
                f"{folder}: {name} has shape {shape} in the checkpoint, "
                f"{array.shape} in the model; {_FIX}"
            )


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """A manager that knows both items before either has been saved."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays, place = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
    for item, handler, kinds in (
        (STATE, arrays, (ocp.args.StandardSave, ocp.args.StandardRestore)),
        (DATA, place, (ocp.args.JsonSave, ocp.args.JsonRestore)),
    ):
        for kind in kinds:
            registry.add(item, kind, handler)
    return ocp.CheckpointManager(folder.absolute(), options=options, handler_registry=registry)


@contextmanager
def _quiet() -> Generator[None]:
    """Suppresses Orbax's warnings about a read-only folder."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


_FIX = "use the options of its run"


def _named(tree: TrainState | Transformer) -> dict[str, Any]:
    """The arrays of `tree`, or their shapes, by path, in leaf order."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
