"""Texts and token shards in object stores (gs://, s3:// and others of fsspec): copied to the cache.

A copy is made once and read as any local text: what it has that the store no longer lists under the
same size and version is fetched anew. Its content is known by SHA-256 like all texts, so that every
process can tell whether it has the same one.
"""

import functools
import json
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import InputError, WorkError, first_line
from common.files import replaced, store_url, write_atomically
from training.cache import cache_folder

VERSIONS = "versions.json"
"""The file beside a copy with the version of each of its files."""


def local_path(source: str) -> str:
    """`source` itself, or where the copy of a text in a store is: a file or a folder.

    A pattern in a store is a folder of what it matches. Raises `InputError` if there is nothing,
    `WorkError` if it cannot be fetched.
    """
    url = store_url(source)
    return source if url is None else str(copy_of(url))


@functools.cache
def copy_of(url: str) -> Path:
    """The copy, brought up to date once in a process."""
    from training.store import files_of

    files = files_of(url)
    try:
        root, found = _listed(files, url)
        folder = cache_folder() / f"store-{sha256(url.encode()).hexdigest()[:32]}"
        known = _known(folder / VERSIONS)
        versions: dict[str, str] = {}
        for name in found:
            inside = PurePosixPath(name).relative_to(root).as_posix()
            versions[inside] = str(files.ukey(name))
            target = folder / "files" / inside
            if known.get(inside) != versions[inside] or not target.is_file():
                with replaced(target) as temporary:
                    files.get_file(name, str(temporary))
    except InputError:
        raise
    except Exception as error:
        # Each store has exceptions of its own.
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise WorkError(f"{url} cannot be read ({reason})") from error
    for gone in known.keys() - versions.keys():
        (folder / "files" / gone).unlink(missing_ok=True)
    write_atomically(folder / VERSIONS, json.dumps(versions, indent=1) + "\n")
    single = len(found) == 1 and found[0] == files._strip_protocol(url)
    return folder / "files" / (next(iter(versions)) if single else "")


def _listed(files: Any, url: str) -> tuple[str, list[str]]:
    """The files of a name, a folder or a pattern, and the folder that they are relative to."""
    path = files._strip_protocol(url)
    magic = any(sign in path for sign in "*?[")
    if magic:
        plain = path[: min(path.find(sign) for sign in "*?[" if sign in path)]
        root, found = plain.rpartition("/")[0], files.glob(path)
    elif files.isfile(path):
        root, found = path.rpartition("/")[0], [path]
    else:
        root, found = path, files.find(path)
    found = sorted(name for name in found if not name.endswith("/") and files.isfile(name))
    if not found:
        raise InputError(f"corpus {url} does not exist; name a file, a folder or a pattern there")
    return root, found


def _known(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
