"""The bytes of a curves file: from a path or standard input, plain or gzip (told apart by content), with their sha256."""

import gzip
import hashlib
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """A file as it was read: its path (`-` for standard input), its rows below the header, and the sha256 of its bytes.

    The sha256 is that of the file as it is stored: compressed, if it is.
    """

    path: str
    sha256: str
    rows: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.path == "-" else self.path if self.path.isprintable() else repr(self.path)


def read_text(path: str | Path) -> tuple[Source, bytes]:
    """The file and its text, decompressed but not yet decoded. Raises `InputError` for what is not comma-separated text.

    Whether all of it decodes shows only when the rows are read; NUL bytes, UTF-16 and other separators are refused here.
    """
    stored = _stored_bytes(path)
    source = Source(str(path), hashlib.sha256(stored).hexdigest(), 0)
    data = _plain_bytes(stored, source)
    _refuse_other_formats(data, source)
    return source, data


def _stored_bytes(path: str | Path) -> bytes:
    if str(path) == "-":
        return _standard_input()
    shown = Source(str(path), "", 0).name
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{shown}: is a directory; give a .csv or .csv.gz file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{shown}: cannot be read: {reason}") from None


def _standard_input() -> bytes:
    # Under some launchers there is no standard input, and in notebooks it has no bytes.
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise InputError("standard input is closed; give the name of a .csv or .csv.gz file")
    try:
        return bytes(stream.read())
    except (OSError, ValueError) as error:
        raise InputError(f"standard input: cannot be read: {error}") from None


def _plain_bytes(stored: bytes, source: Source) -> bytes:
    if not stored:
        raise InputError(f"{source.name}: the file is empty; it should begin with a header line")
    if not stored.startswith(_GZIP_MAGIC):
        if source.path.endswith(".gz"):
            raise InputError(f"{source.name}: named .gz but its content is not gzip; rename it if it is plain text")
        return stored
    try:
        return gzip.decompress(stored)
    except EOFError:
        raise InputError(f"{source.name}: the gzip data is cut off; fetch or copy the file again") from None
    except (OSError, zlib.error) as error:
        raise InputError(f"{source.name}: the gzip data is corrupt ({error}); fetch or copy the file again") from None
    except MemoryError:
        raise InputError(f"{source.name}: decompresses to more than fits into memory") from None


def _refuse_other_formats(data: bytes, source: Source) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{source.name}: encoded as UTF-16; save it as UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise InputError(f"{source.name}, row {line_of(data, nul)}: a NUL byte; this is not a text file")
    head = data[:65536].decode("utf-8-sig", errors="replace").strip("\r\n").splitlines()
    if not head:
        raise InputError(f"{source.name}: the file has only empty lines; it should begin with a header line")
    for name, delimiter in (("semicolons", ";"), ("tabs", "\t"), ("vertical bars", "|")):
        if delimiter in head[0] and "," not in head[0]:
            raise InputError(f"{source.name}, row 1: columns are separated by {name}; separate them by commas")


def line_of(data: bytes, offset: int) -> int:
    """The line, counted from 1, that the byte at `offset` is in."""
    return len(data[: offset + 1].splitlines())
