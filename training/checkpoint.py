"""Orbax checkpoints: written asynchronously, renamed when complete, the newest few kept.

A checkpoint holds parameters, optimizer state and step as named arrays; and, as JSON, the position
in the data with each array's shape, dtype and digest, by which `restore.py` knows damage. Random
keys are not saved: a step's keys follow from the seed and the step.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import Array, Shaped

from common.errors import InputError, WorkError, first_line
from common.terminal import Say
from training.digests import digests
from training.distributed import decided
from training.machine import full_disk, kept
from training.restore import (
    DATA,
    PREFIX,
    SET_ASIDE,
    STATE,
    DamagedError,
    checkpoint_steps,
    named_arrays,
    none_intact,
    quiet,
    read_state,
)
from training.step import TrainState
from training.store import move, stored


class Checkpoints:
    """The checkpoints of one run, in their own folder."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        keep_every: int = 0,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the newest `keep`, and those at multiples of `keep_every` steps.

        `before` is called, in process 0, before each is written: it needs the records up to it.
        Removes incomplete checkpoints that a killed process left.
        """
        self._folder, self._before, self._quiet = folder, before, ExitStack()
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

    @property
    def kept(self) -> str:
        """Which checkpoint there is, in words."""
        return kept(self._folder.parent)

    def save(self, step: int, state: TrainState, place: dict[str, Any]) -> None:
        """Start writing a checkpoint with the position `place` in the data.

        The arrays are copied first, so that training can continue. Does nothing if `step` already
        has a checkpoint. Raises `WorkError` if this one or the previous one cannot be written.
        """
        if step in self._manager.all_steps():
            return
        if jax.process_index() == 0:
            self._before()
        named = named_arrays(state)
        about = {"place": place, "arrays": _described(named)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(named), data=ocp.args.JsonSave(about))
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def restore(
        self, like: TrainState, unusable: Callable[[int], str | None], say: Say
    ) -> tuple[TrainState, dict[str, Any], int] | None:
        """The newest intact state, its position in the data and its step; None without checkpoints.

        `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct`). `unusable` says why the
        run's other files do not let it continue from a step; it is called in process 0. Newer
        checkpoints are moved aside, each named by `say`. Raises `InputError` if there are
        checkpoints, but none can be used, or their arrays have other names or shapes.
        """
        steps = decided(lambda: checkpoint_steps(self._folder))
        reasons: dict[int, str] = {}
        for step in reversed(steps):
            reason = decided(lambda step=step: unusable(step))
            if reason is None:
                try:
                    state, place = read_state(self._folder, step, like)
                except DamagedError as error:
                    reason = f"the checkpoint of step {step} is damaged: {error}"
                else:
                    self._set_aside(reasons, say)
                    return state, place, step
            reasons[step] = reason
        if not steps:
            return None
        raise InputError(none_intact(self._folder, reasons))

    def _set_aside(self, reasons: dict[int, str], say: Say) -> None:
        """Move the checkpoints of the steps in `reasons` out of the way."""
        target = stored(self._folder.parent / SET_ASIDE)
        for step, reason in reasons.items():
            decided(lambda step=step: move(stored(self._folder) / f"{PREFIX}_{step}", target))
            say(f"{reason}; it is now in {target}, and an older one is taken")
        if reasons:
            with quiet():
                self._manager.reload()

    def wait(self) -> None:
        """Wait until all checkpoints are written. Raises `WorkError` if one cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        # Orbax passes on what any of its threads met: of the file system, of tensorstore.
        except Exception as error:
            run = self._folder.parent
            if "No space left" in str(error) or "File too large" in str(error):
                raise WorkError(full_disk(run)) from error
            raise WorkError(
                f"a checkpoint cannot be written ({first_line(error)}); {kept(run)}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        # Orbax reports what fails in its threads, and raises it too.
        self._quiet.enter_context(quiet())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish writing and close.

        A process that has failed does not wait for others, and reports its first failure only.
        """
        with self._quiet:
            if kind is None:
                with self._writing():
                    self._manager.close()
            elif jax.process_count() == 1:
                with suppress(Exception):
                    self._manager.close()


def _described(named: Mapping[str, Shaped[Array, "..."]]) -> dict[str, dict[str, Any]]:
    """Shape, dtype and digest of each array."""
    return {
        name: {"shape": list(named[name].shape), "dtype": str(named[name].dtype), "digest": digest}
        for name, digest in digests(named).items()
    }


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """A manager that knows both items before either has been saved."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(STATE, ocp.args.StandardSave, ocp.StandardCheckpointHandler())
    registry.add(DATA, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    with quiet():
        return ocp.CheckpointManager(stored(folder), options=options, handler_registry=registry)
