"""Host settings: the memory allocator on CPU, and the cache of compiled programs."""

import ctypes
import hashlib
import platform
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from common.errors import WorkError

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""glibc's options for `mallopt` (malloc.h)."""


def keep_freed_memory() -> bool:
    """Keep freed memory for reuse instead of returning it to the system (glibc only).

    Returns whether it took effect. XLA on CPU allocates a program's temporary memory as one block
    per call. glibc maps a block above 32 MiB and unmaps it when freed, so that every step faults
    and clears each page again: a fifth of a small model's step (`docs/LOG.md`). Call this before
    the first computation; the process then keeps its peak memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No separate mappings, no trimming, and a single arena: only the first has no size limit.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def keep_compiled(folder: Path) -> bool:
    """Cache compiled programs in `folder`, small ones too.

    Returns whether it took effect: not if the user has set JAX's own `jax_compilation_cache_dir`.
    Caches are separated by processor, because home folders are shared between machines. Several
    processes may share the folder: JAX's entries are named by a hash of the program, so concurrent
    writers write the same bytes, and an entry that a killed process left incomplete is recompiled
    with a warning.
    """
    # JAX defines its options at import, so they are untyped.
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return False
    jax.config.update("jax_compilation_cache_dir", str(folder / f"xla-{_processor()}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return True


@contextmanager
def cache_faults(folder: Path) -> Generator[None]:
    """Errors of the cache folder as `WorkError`s with the variable by which another is taken."""
    try:
        yield
    except OSError as error:
        path = None if error.filename is None else Path(str(error.filename))
        if path is None or not (path.is_relative_to(folder) or folder.is_relative_to(path)):
            raise
        raise WorkError(
            f"the cache {folder} cannot be used ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def _processor() -> str:
    """A short hash of the processor model and its features."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256(
        "\n".join([platform.machine(), platform.processor(), *sorted(features)]).encode()
    ).hexdigest()[:12]
