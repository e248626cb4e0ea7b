"""The machine's limits: a step's memory before the first one, and what ran out in one line."""

import errno
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jax

from common.errors import WorkError, first_line
from common.terminal import Say
from plan.memory import Step, step_memory
from training.config import TrainConfig
from training.restore import CHECKPOINTS, checkpoint_steps

CLOSE = 0.8
"""The share of the memory from which on a step is called close to it: what the closed form leaves
out is a tenth to a fifth of it in small models (`docs/plan.md`). Our choice."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_memory(config: TrainConfig, vocabulary: int, say: Say, *, ignore: bool) -> None:
    """Compare a step's memory by closed form with what the devices have.

    Tells `say` if it is close. Raises `WorkError` if it is more, unless `ignore`.
    """
    shape = config.run.mesh_shape()
    step = Step(
        config.model_config(vocabulary),
        config.data.batch,
        config.data.accumulate,
        (shape["data"], shape["expert"], shape["model"]),
        config.run.fsdp,
        config.optimizer.first_moment,
    )
    local = min(jax.local_device_count(), math.prod(shape.values()))
    need, have = step_memory(step).peak, available_memory(local)
    if have is None or need < CLOSE * have:
        return
    text = f"a step needs about {_gb(need)} on each device, which has {_gb(have)}"
    fix = "use a smaller --batch, more --accumulate, --remat selective, or more devices (--mesh)"
    if need > have and not ignore:
        raise WorkError(f"{text}: {fix}; --ignore-memory tries all the same")
    say(f"{text}: if it fails, {fix}")


def available_memory(devices: int) -> int | None:
    """Bytes of each of this process's `devices`; None if that is unknown.

    Of a CPU, whose devices share it: what the system has available, within the limits of the
    process and its control group.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else int(limit)
    limits = [limit for limit in (_available(), _address_space(), _group()) if limit is not None]
    return min(limits) // devices if limits else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) << 10 if "MemAvailable" in fields else None


def _address_space() -> int | None:
    """What the process may still map (`ulimit -v`)."""
    try:
        import resource
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except OSError:
        return soft
    return max(soft - used * resource.getpagesize(), 0)


def _group() -> int | None:
    """What the control group leaves (version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current")
        )
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None


@contextmanager
def one_line_faults(folder: Path) -> Generator[None]:
    """A full disk and exhausted memory as `WorkError`s that name the checkpoint that is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # Orbax leaves the writes it had not begun, and Python would warn of each beside our line.
        warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)
        raise WorkError(full_disk(folder)) from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        exhausted = any(text in str(error) for text in ("RESOURCE_EXHAUSTED", "Out of memory"))
        if not (isinstance(error, MemoryError) or exhausted):
            raise
        raise WorkError(
            f"memory ran out ({first_line(error)}); {kept(folder)}: use a smaller --batch, more "
            "--accumulate, or --remat selective"
        ) from error


def full_disk(folder: Path) -> str:
    """The message if there is no room in `folder`."""
    return f"the file system of {folder} is full; {kept(folder)}: make room, and repeat the command"


def kept(folder: Path) -> str:
    """Which checkpoint of the run in `folder` is kept."""
    newest = max(checkpoint_steps(folder / CHECKPOINTS), default=None)
    return (
        "there is no checkpoint" if newest is None else f"the checkpoint of step {newest} is kept"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
