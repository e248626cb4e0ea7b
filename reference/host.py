"""What the host's C library does with the memory of a step on CPU."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Options of glibc's `mallopt` (malloc.h)."""


def keep_freed_memory() -> bool:
    """Keep what a program frees for the next one instead of giving it back to the system. Says whether that was done: on glibc only.

    XLA on CPU allocates the temporary memory of a program as one block, anew at each call. glibc takes a block of more than 32 MiB
    from the system and gives it back when it is freed, so that each step has each of its pages cleared and mapped again: a fifth
    of a small model's step (`docs/LOG.md`). Call it before the first computation; the process then keeps its largest size.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block is mapped on its own, freed ones are never given back, and one heap for all threads: only the first one has no size limit.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])
