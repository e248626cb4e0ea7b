"""What the host keeps:
the memory of a step on CPU, which its C library would give back, and compiled programs, for the
next run."""

import ctypes
import hashlib
import platform
from pathlib import Path
from typing import Any

import jax

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Options of glibc's `mallopt` (malloc.h)."""


def keep_freed_memory() -> bool:
    """Keep what a program frees for the next one instead of giving it back to the system.
    Returns whether it took effect: on glibc only.

    XLA on CPU allocates the temporary memory of a program as one block, anew at each call. glibc
    takes a block of more than 32 MiB from the system and gives it back when it is freed, so that
    each step has each of its pages cleared and mapped again: a fifth of a small model's step
    (`docs/LOG.md`). Call it before the first computation; the process then keeps its largest size.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block is mapped on its own, freed ones are never given back, and one heap for all threads:
    # only the first one has no size limit.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def keep_compiled(folder: Path) -> bool:
    """Keep compiled programs in `folder`, small ones too, and take them from there in later runs.
    Returns whether it took effect.

    Not if the user has set JAX's own `jax_compilation_cache_dir`. Programs are kept apart by
    processor, since home folders are shared between machines. Several processes may use the folder
    at once: JAX's entries are named by the whole of what was compiled, so that two writers write
    the same, and one that cannot be read, half-written by a process that was killed, is compiled
    anew with a warning.
    """
    # JAX defines its options as it starts, so that no type has them.
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder / f"xla-{_processor()}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return True


def _processor() -> str:
    """Short for the kind of processor and what it can do."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    said = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256(
        "\n".join([platform.machine(), platform.processor(), *sorted(said)]).encode()
    ).hexdigest()[:12]
