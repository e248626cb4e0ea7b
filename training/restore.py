"""Reading checkpoints: whatever happened to the files, an array is as saved, or called damaged.

A checkpoint's JSON has the position in the data and each array's shape, dtype and digest
(`digests.py`), which are compared with what is read.
"""

import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from common.errors import InputError, first_line
from common.terminal import Say
from reference.mesh import is_array
from reference.transformer import Transformer
from training.digests import digests
from training.step import TrainState
from training.store import listed, stored

STATE, DATA = "state", "data"
"""The two items of a checkpoint: arrays, and JSON."""

CHECKPOINTS = "checkpoints"
"""Their folder within a run's."""

SET_ASIDE = "set_aside"
"""The folder within a run's to which what it cannot be continued from is moved."""

PREFIX = "step"
"""A checkpoint's folder is `step_NUMBER`."""

Named = dict[str, Any]
"""Arrays, or their shapes, by name."""

Folder = Path | epath.Path
"""A folder that may be in an object store."""

Tree = TypeVar("Tree", TrainState, Transformer)
Read = TypeVar("Read")

_FIX = "use the options of its run"


class DamagedError(Exception):
    """A checkpoint's files are not what was written: what is wrong with them."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending; empty if it does not exist."""
    names = (name.removeprefix(f"{PREFIX}_") for name in listed(folder, f"{PREFIX}_*"))
    return sorted(int(step) for step in names if step.isdecimal())


def read_newest(
    folder: Path, steps: Iterable[int], like: TrainState, say: Say
) -> tuple[TrainState, dict[str, Any], int]:
    """The newest intact state of `steps`, its position in the data and its step.

    `say` names the damaged ones. Raises `InputError` if none is intact.
    """

    def _read(step: int) -> tuple[TrainState, dict[str, Any]]:
        return read_state(folder, step, like)

    (state, place), step = _newest(folder, steps, _read, say)
    return state, place, step


def read_weights(
    folder: Path, step: int | None, like: Transformer, say: Say
) -> tuple[Transformer, int]:
    """The model of the checkpoint of `step` (None: the newest intact one), and its step.

    No optimizer state is read. `like` gives the shapes, dtypes and shardings
    (`jax.ShapeDtypeStruct`) to restore to; weights are converted to its dtypes. `say` names damaged
    checkpoints that are passed over. Raises `InputError` if there is no such checkpoint, or its
    weights have other names or shapes.
    """
    steps = checkpoint_steps(folder)
    if not steps or step not in (None, *steps):
        found = f"only of steps {', '.join(map(str, steps))}" if steps else "none saved yet"
        wanted = "" if step is None else f" of step {step}"
        raise InputError(
            f"{folder} has no checkpoint{wanted}, {found}; train first, or keep more of them"
        )
    named = {f"model.{name}": array for name, array in named_arrays(like).items()}

    def _read(step: int) -> Transformer:
        arrays, _ = _read_arrays(folder, step, named, "model.")
        return _filled(like, [arrays[name] for name in named])

    return _newest(folder, steps if step is None else [step], _read, say)


def read_state(folder: Path, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state and the position in the data at `step`.

    Raises `DamagedError`; and `InputError` if the arrays have other names or shapes than `like`.
    """
    named = named_arrays(like)
    arrays, place = _read_arrays(folder, step, named)
    return _filled(like, [arrays[name] for name in named]), place


def _newest(
    folder: Path, steps: Iterable[int], read: Callable[[int], Read], say: Say
) -> tuple[Read, int]:
    reasons: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        try:
            found = read(step)
        except DamagedError as error:
            reasons[step] = f"the checkpoint of step {step} is damaged: {error}"
        else:
            for reason in reasons.values():
                say(f"{folder}: {reason}; that of step {step} is taken")
            return found, step
    raise InputError(none_intact(folder, reasons))


def none_intact(folder: Path, reasons: dict[int, str]) -> str:
    """The message if no checkpoint can be used, with the newest one's reason."""
    return (
        f"{folder}: {reasons[max(reasons)]}; and no older checkpoint can be used. "
        f"Restore it from a backup, or remove {folder} to train from the start"
    )


def _read_arrays(
    folder: Path, step: int, named: Named, prefix: str = ""
) -> tuple[Named, dict[str, Any]]:
    """The arrays whose names begin with `prefix`, as `named`, and the position in the data.

    Raises `DamagedError`, in all processes if in one.
    """
    path = stored(folder) / f"{PREFIX}_{step}"
    place, saved = _in_all_processes(lambda: _read_about(path, step))
    saved = {name: about for name, about in saved.items() if name.startswith(prefix)}
    _check_stored(named, saved, step, folder)
    same = all(saved[name]["dtype"] == str(array.dtype) for name, array in named.items())
    arrays = Named()
    # Converted one by one: all of them in both dtypes might not fit.
    for names in [list(named)] if same else [[name] for name in named]:
        some = {name: (saved[name], named[name].sharding) for name in names}
        found = _in_all_processes(lambda some=some: _restored(path / STATE, some))
        for name, digest in digests(found).items():
            if digest != saved[name]["digest"]:
                raise DamagedError(f"{name} is not what was saved")
        arrays |= {name: found[name].astype(named[name].dtype) for name in names}
    return arrays, place


def _in_all_processes(read: Callable[[], Read]) -> Read:
    """What `read` returns; `DamagedError` in all processes if one raises it."""
    found, reason = None, None
    try:
        found = read()
    except DamagedError as error:
        reason = str(error)
    if jax.process_count() > 1:
        failed = np.asarray(multihost_utils.process_allgather(np.int32(reason is not None)))
        if np.any(failed) and reason is None:
            reason = f"process {np.flatnonzero(failed)[0]} cannot read it"
    if reason is not None or found is None:
        raise DamagedError(reason)
    return found


@contextmanager
def _reading(path: PurePath) -> Generator[None]:
    """Orbax's and tensorstore's errors about unreadable files as `DamagedError`.

    Errors of the machine stay what they are: memory, permissions, input and output.
    """
    try:
        with quiet():
            yield
    except (MemoryError, jax.errors.JaxRuntimeError, InputError, DamagedError):
        raise
    except Exception as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError) and not missing:
            raise
        raise DamagedError(f"{path} cannot be read ({first_line(error)})") from error


@contextmanager
def quiet() -> Generator[None]:
    """Orbax's and tensorstore's own reports of what is damaged are left out."""
    _ignore_late_ends()
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _read_about(path: Folder, step: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The position in the data, and shape, dtype and digest of each array."""
    with _reading(path / DATA):
        about = json.loads((path / DATA / "metadata").read_bytes())
        place, saved = about["place"], about["arrays"]
        if place != {"next_index": step}:
            raise DamagedError(f"its position in the data is {place}, not batch {step}")
        names = {name: (tuple(of["shape"]), of["dtype"]) for name, of in saved.items()}
    with _reading(path / STATE):
        tree: Any = _handler().metadata(path / STATE).tree
        found = {name: (tuple(of.shape), str(np.dtype(of.dtype))) for name, of in tree.items()}
        if found != names:
            raise DamagedError(f"{path / STATE} has other arrays than were saved")
    return place, saved


def _restored(path: Folder, arrays: Mapping[str, tuple[dict[str, Any], Any]]) -> Named:
    """The arrays as they were saved, by name: of what shape and dtype, and in which sharding."""
    item = {
        name: jax.ShapeDtypeStruct(tuple(of["shape"]), np.dtype(of["dtype"]), sharding=sharding)
        for name, (of, sharding) in arrays.items()
    }
    as_saved = {
        name: ocp.ArrayRestoreArgs(dtype=a.dtype, sharding=a.sharding) for name, a in item.items()
    }
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_saved, partial_restore=True)
    with _reading(path):
        return _handler().restore(path, args=args)


def _ignore_late_ends() -> None:
    """Leave out what fails in tensorstore too, or ends after a failure has ended the loop.

    Each would be printed with a traceback. This stays: they may end at any time.
    """
    logging.getLogger("asyncio").addFilter(_is_no_late_end)
    if not isinstance(sys.unraisablehook, _WithoutLateEnds):
        sys.unraisablehook = _WithoutLateEnds(sys.unraisablehook)


class _WithoutLateEnds:
    """`sys.unraisablehook` for all but these."""

    def __init__(self, before: Callable[[Any], object]) -> None:
        self._before = before

    def __call__(self, found: Any) -> None:
        if not any(text in str(found.exc_value) for text in _LATE_ENDS):
            self._before(found)


_LATE_ENDS = ("Event loop is closed", "reading array index", "writing array index")


def _is_no_late_end(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _handler() -> Any:
    """Reads without Orbax's barriers, at which a process would wait for one that has failed.

    Untyped, because Orbax names its own kind of path.
    """
    return ocp.PyTreeCheckpointHandler()


def _filled(like: Tree, arrays: list[Any]) -> Tree:
    shapes, static = eqx.partition(like, is_array)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), arrays), static)


def _check_stored(
    named: Named, saved: Mapping[str, dict[str, Any]], step: int, folder: Path
) -> None:
    """Raises `InputError` unless the checkpoint has the names and shapes of `named`."""
    for name in sorted({*named} ^ {*saved}):
        how = "lacks" if name in named else "has an extra array"
        raise InputError(f"{folder}: the checkpoint of step {step} {how} {name}; {_FIX}")
    for name, array in named.items():
        shape = tuple(saved[name]["shape"])
        if shape != array.shape:
            raise InputError(
                f"{folder}: {name} has shape {shape} in the checkpoint, "
                f"{array.shape} in the model; {_FIX}"
            )


def named_arrays(tree: TrainState | Transformer) -> Named:
    """The arrays of `tree`, or their shapes, by path, in leaf order."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
