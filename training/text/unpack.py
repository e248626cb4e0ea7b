"""Decompression, where data that was cut short is an error, never the end."""

import gzip
import io
import lzma
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import InputError
from training.text.files import CorpusFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 14
"""Compressed bytes read at a time."""


@contextmanager
def opened(file: CorpusFile) -> Generator[tuple[io.BufferedReader, io.BufferedReader]]:
    """The file's content as a stream, and the file itself, whose position is how much was read.

    Raises `InputError`, naming the file, if it is damaged or cut short.
    """
    from zstandard import ZstdError

    with file.path.open("rb") as raw:
        try:
            yield _stream(file, raw), raw
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, ZstdError, OSError) as error:
            if not file.packing:
                raise InputError(f"{file.path}: cannot be read ({error})") from error
            raise InputError(
                f"{file.path}: cannot be decompressed ({error}); it may be truncated: "
                "download or compress it again"
            ) from error


def _stream(file: CorpusFile, raw: io.BufferedReader) -> io.BufferedReader:
    if file.packing and not file.path.stat().st_size:
        raise EOFError("the file is empty")
    match file.packing:
        case ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=raw))
        case ".xz":
            return io.BufferedReader(lzma.LZMAFile(raw))
        case ".zst":
            return io.BufferedReader(_Zstandard(raw))
        case _:
            return raw


class _Zstandard(io.RawIOBase):
    """Zstandard frames in a row; the library's own reader takes a cut frame for the end."""

    def __init__(self, raw: io.BufferedReader) -> None:
        import zstandard

        self._raw, self._library = raw, zstandard.ZstdDecompressor()
        self._frame = None
        self._packed, self._ready = b"", b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` as far as there is data. Raises `EOFError` where a frame has no end."""
        while not self._ready:
            self._packed = self._packed or self._raw.read(CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return 0
            self._frame = self._frame or self._library.decompressobj()
            self._ready = self._frame.decompress(self._packed)
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        with memoryview(buffer).cast("B") as view:
            some = min(len(view), len(self._ready))
            view[:some] = self._ready[:some]
        self._ready = self._ready[some:]
        return some
