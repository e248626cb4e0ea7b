"""Text on a terminal: messages, no control characters, and no failure for an encoding."""

import io
import sys
from collections.abc import Callable

Say = Callable[[str], None]
"""Shows a message of one line."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` with control characters escaped, but for line ends and tabs: a sample or a file's name may hold any."""
    return text.translate(_CONTROLS)


def never_fail() -> None:
    """Let standard output show `?` for what its encoding lacks, instead of failing; standard error escapes it anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
