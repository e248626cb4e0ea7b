"""Runs in an object store: Orbax writes the checkpoints there, and all other files are mirrored.

A run at gs://BUCKET/RUN is trained in a working copy in the cache, a folder like any other but for
its checkpoints, which Orbax writes to the store and reads from it. The other files are
uploaded before each checkpoint and at the end, each by one put, which a store makes atomic; a run
that is continued, on whichever machine, begins with those of the store. Orbax marks a complete
checkpoint by a file, since a store cannot rename a folder.

A store has no locks. The working copy's lock keeps a second process of the same machine out. A
process of another machine that starts the run takes it over: its token replaces the first one's in
the file `owner`, which is read before each upload, and the first process ends there.
"""

import atexit
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import fsspec
from etils import epath

from common.errors import InputError, WorkError, first_line
from common.files import store_url

REMOTE = "remote"
"""The file in a working copy that names the run's place in the store."""

OWNER = "owner"
"""The file in the store that names the process that trains the run."""

COMMITTED = "commit_success.txt"
"""Orbax's file in a complete checkpoint where folders cannot be renamed."""

LAST = "sample.txt"
"""Uploaded last, since it marks a finished run."""

_OWN = ("lock", REMOTE, "wandb/")
"""Files of a working copy that stay there, by the beginning of their names."""

_LARGE = ("checkpoints/", "set_aside/step_", OWNER)
"""Files of the store that no working copy has."""

Files = dict[str, tuple[int, int]]
"""Size and time of change of files, by name."""


def stored(folder: Path) -> Path | epath.Path:
    """Where the folder of a run's checkpoints is: as named, or in the store of a working copy."""
    remote = folder.parent / REMOTE
    if not remote.is_file():
        return folder.absolute()
    return epath.Path(remote.read_text(encoding="utf-8")) / folder.name


def listed(folder: Path, pattern: str) -> list[str]:
    """Names of the complete checkpoints in a run's folder of them, by a pattern."""
    place = stored(folder)
    if isinstance(place, Path):
        return [path.name for path in place.glob(pattern)]
    files = files_of(str(place))
    found = files.glob(f"{files._strip_protocol(str(place))}/{pattern}/{COMMITTED}")
    return [PurePath(name).parent.name for name in found]


def move(path: Path | epath.Path, target: Path | epath.Path) -> None:
    """Move a checkpoint into the folder `target`, in place of another of its name."""
    if isinstance(path, Path) and isinstance(target, Path):
        target.mkdir(exist_ok=True)
        shutil.rmtree(target / path.name, ignore_errors=True)
        path.rename(target / path.name)
        return
    files = files_of(str(path))
    if files.exists(str(target / path.name)):
        files.rm(str(target / path.name), recursive=True)
    files.mv(str(path), str(target / path.name), recursive=True)


class Mirror:
    """The files of a working copy in the store."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url, self._token = folder, url, secrets.token_hex(8)
        self._files = files_of(url)
        self._uploaded: Files = {}

    def download(self) -> None:
        """Make the working copy what the store has."""
        for name in _present(self._folder):
            (self._folder / name).unlink()
        root = self._files._strip_protocol(self._url)
        for found in self._files.find(root):
            name = found.removeprefix(f"{root}/")
            if not name.startswith(_LARGE):
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(found, str(self._folder / name))
        self._uploaded = _present(self._folder)

    def take(self) -> None:
        """Take the run over: another process that trains it ends at its next upload."""
        self._files.pipe_file(f"{self._url}/{OWNER}", self._signature)

    def upload(self) -> None:
        """Upload what has changed. Raises `WorkError` if another process has taken it over."""
        owner = self._files.cat_file(f"{self._url}/{OWNER}")
        if owner != self._signature:
            host = owner.decode(errors="replace").partition(" ")[2]
            raise WorkError(
                f"{self._url} is now trained by another process, on {host}; this one ends"
            )
        present = _present(self._folder)
        for name in sorted(present, key=lambda name: (name == LAST, name)):
            if self._uploaded.get(name) != present[name]:
                content = (self._folder / name).read_bytes()
                self._files.pipe_file(f"{self._url}/{name}", content)
        for name in self._uploaded.keys() - present.keys():
            self._files.rm_file(f"{self._url}/{name}")
        self._uploaded = present

    @property
    def _signature(self) -> bytes:
        return f"{self._token} {socket.gethostname()}".encode()


def check_store(url: str) -> None:
    """Raises `InputError` for a store in which no run can be, `WorkError` without its package."""
    if not url.startswith("gs://"):
        raise InputError(
            f"{url}: no run can be there, for Orbax writes checkpoints to folders and gs:// only;\n"
            "train in a local folder and copy it (`aws s3 cp --recursive`), or mount it"
        )
    files_of(url)


def mirror(url: str, cache: Path) -> tuple[Path, Mirror]:
    """The working copy of the run at `url` in the cache, and what brings it to the store."""
    check_store(url)
    folder = cache / f"run-{sha256(url.encode()).hexdigest()[:16]}" / PurePath(url).name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REMOTE).write_text(url, encoding="utf-8")
    return folder, Mirror(folder, url)


def readable(folder: Path) -> Path:
    """A run's folder to read from: itself, or a copy without checkpoints of one in a store.

    The copy is removed as the process ends. Raises `InputError` where there is no run.
    """
    url = store_url(folder)
    if url is None:
        return folder
    own = Path(tempfile.mkdtemp(prefix="routelaw-run-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    copy, store = mirror(url, own)
    store.download()
    if not (copy / "config.toml").exists():
        raise InputError(f"{url} has no run; name one that `cli.py train --out {url}` wrote")
    return copy


@contextmanager
def names_of(copy: Path, folder: Path) -> Generator[None]:
    """Errors name the run's place in the store in place of its working copy."""
    try:
        yield
    except (InputError, WorkError) as error:
        error.args = (named(str(error), copy, folder),)
        raise


def named(message: str, copy: Path, folder: Path) -> str:
    """The message with the run's place in the store in place of its working copy."""
    return message.replace(str(copy), store_url(folder) or str(folder))


def files_of(url: str) -> Any:
    """The store's files, by fsspec, listed anew: Orbax writes past its listings.

    Raises `WorkError` if the package for the store is missing.
    """
    scheme = url.partition("://")[0]
    try:
        files: Any = fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise WorkError(
            f"{url} needs a package for {scheme}:// ({first_line(error)}); "
            "uv sync --extra gcs, or --extra s3"
        ) from error
    files.invalidate_cache()
    return files


def _present(folder: Path) -> Files:
    found: Files = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            name = path.relative_to(folder).as_posix()
            if not name.startswith(_OWN) and path.suffix != ".tmp":
                stat = path.stat()
                found[name] = stat.st_size, stat.st_mtime_ns
    return found
