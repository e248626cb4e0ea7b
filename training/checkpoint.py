"""Checkpoints by Orbax: written in the background and renamed when they are whole, the newest few
kept.

A checkpoint holds weights, optimizer state and step number as arrays by name, the place in the
data, and nothing else: the random keys of a step follow from the seed and its number.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import orbax.checkpoint as ocp

from common.errors import InputError
from reference.mesh import is_array
from training.step import TrainState

STATE, DATA = "state", "data"
"""The two parts of a checkpoint."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path, keep: int, keep_every: int = 0) -> None:
        """Keep the newest `keep`, and those of every `keep_every` steps;
        clear away what a kill has left half-written."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=True,
            step_prefix="step",
        )
        self._manager = _manager(folder, options)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Begin to write a checkpoint;
        the arrays are copied first, so that training may go on. A step that has one is left alone.
        """
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_named(state)), data=ocp.args.JsonSave(data)
        )
        self._manager.save(step, args=args, force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and place in the data at `step`; `like` gives shapes, types and layout over devices
        (`jax.ShapeDtypeStruct`).

        Raises `InputError` if the checkpoint's arrays are others.
        """
        return restored(self._manager, step, like, self._manager.directory)

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing and let go of the folder;
        of several processes one that failed cannot, since that takes all of them."""
        if kind is None or jax.process_count() == 1:
            self._manager.close()


def read_checkpoint(
    folder: Path, step: int | None, like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """As `Checkpoints.restore`, from a folder that another process may be writing to; the newest if
    `step` is None.

    Raises `InputError` if there is none.
    """
    steps: list[int] = []
    if folder.is_dir():
        with _quiet():
            manager = _manager(
                folder, ocp.CheckpointManagerOptions(read_only=True, step_prefix="step")
            )
        steps = sorted(manager.all_steps())
        if steps and (step is None or step in steps):
            return restored(manager, steps[-1] if step is None else step, like, folder)
    found = f"only of steps {', '.join(map(str, steps))}" if steps else "none at all"
    raise InputError(
        f"{folder} has no checkpoint{'' if step is None else f' of step {step}'}, {found}; train first, or keep more of them"
    )


def restored(
    manager: ocp.CheckpointManager, step: int, like: TrainState, folder: Any
) -> tuple[TrainState, dict[str, Any]]:
    """As `Checkpoints.restore`; `folder` is for the message."""
    named = _named(like)
    stored = manager.item_metadata(step)[STATE]
    for name in sorted({*named} ^ {*stored}):
        raise InputError(
            f"{folder}: the checkpoint of step {step} {'lacks' if name in named else 'has besides'} {name}; {_FIX}"
        )
    for name, array in named.items():
        if tuple(stored[name].shape) != array.shape:
            raise InputError(
                f"{folder}: {name} has shape {tuple(stored[name].shape)} in the checkpoint, {array.shape} in the model; {_FIX}"
            )
    args = ocp.args.Composite(state=ocp.args.StandardRestore(named), data=ocp.args.JsonRestore())
    found = manager.restore(step, args=args)
    arrays, static = eqx.partition(like, is_array)
    return eqx.combine(
        jax.tree.unflatten(jax.tree.structure(arrays), [found[STATE][name] for name in named]),
        static,
    ), found[DATA]


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """A manager that knows what the two parts are before it has seen them saved."""
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
    """Without Orbax's warnings that a folder which is to be read only will be."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


_FIX = "use the options of its run"


def _named(state: TrainState) -> dict[str, Any]:
    """The arrays of `state`, or their shapes, by their path, in the order of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
