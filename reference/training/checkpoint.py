"""Checkpoints by Orbax: written in the background and renamed when they are whole, the newest few kept.

A checkpoint holds weights, optimizer state and step number as arrays by name, the place in the data, and nothing else: the random
keys of a step follow from the seed and its number.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import orbax.checkpoint as ocp
from jaxtyping import Array, Shaped

from common.errors import InputError
from reference.training.step import TrainState


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, step_prefix="step")
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Begin to write a checkpoint; the arrays are copied first, so that training may go on. A step that has one is left alone."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(_named(state)), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=args, force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and place in the data at `step`, laid out over devices as `like` is. Raises `InputError` if its arrays are others."""
        named = _named(like)
        stored = self._manager.item_metadata(step)["state"]
        for name in sorted({*named} ^ {*stored}):
            raise InputError(
                f"the checkpoint of step {step} {'lacks' if name in named else 'has besides'} {name}; use the options of its run"
            )
        for name, array in named.items():
            if tuple(stored[name].shape) != array.shape:
                raise InputError(
                    f"the checkpoint's {name} has shape {stored[name].shape}, the model's {array.shape}; use the options of its run"
                )
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), named)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=args)
        structure = jax.tree.structure(eqx.filter(like, eqx.is_array))
        return eqx.combine(jax.tree.unflatten(structure, [found["state"][name] for name in named]), like), found["data"]

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self._manager.close()


def _named(state: TrainState) -> dict[str, Shaped[Array, "..."]]:
    """The arrays of `state` by their path, in the order of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
