"""Writing files so that nothing half-written is ever left behind."""

import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePath

from common.errors import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it onto `path`.

    Text is written as UTF-8 with `\\n` line ends on every platform, so that the same content is the same bytes.
    Raises `OSError` as the file system does; the temporary file is removed then.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(data)


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A temporary name beside `path` to write to, which is renamed onto `path` at the end, and removed if that fails."""
    if url := store_url(path):
        raise InputError(f"{url} is in an object store, where only runs are written (train --out); name a local file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes the file private; a finished result is as readable as any other file of the user's.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A write does not know its file.
            error.filename = str(path)
        raise


def store_url(path: PurePath | str) -> str | None:
    """The URL that `path` is; None if it is local. `pathlib` writes gs://bucket as gs:/bucket."""
    # hf:NAME is a data set of Hugging Face's, not a place.
    match = re.fullmatch("(?!hf:)([a-z][a-z0-9+.-]+):/+(.+)", str(path))
    return None if match is None else f"{match[1]}://{match[2]}"
