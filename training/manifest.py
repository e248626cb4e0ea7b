"""`digests.json`: SHA-256 of a run's small files, which tells damage from a change of options.

A file that is not what the manifest says is written anew where the run's own command, its records
or its checkpoint give the very bytes of which the manifest has the digest, and named otherwise.
Without a manifest nothing is known of the files, and they are taken as they are.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import write_atomically
from common.terminal import Say

MANIFEST = "digests.json"


def read_manifest(folder: Path) -> dict[str, str]:
    """Digests by file name; none if there is no manifest that can be read."""
    try:
        found: Any = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_manifest(folder: Path, contents: dict[str, bytes]) -> None:
    """Enter the digests of files with these contents."""
    before = read_manifest(folder)
    digests = before | {name: _digest(content) for name, content in contents.items()}
    if digests != before:
        write_atomically(folder / MANIFEST, json.dumps(digests, indent=1) + "\n")


def differing(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of `names` in the manifest whose files are missing or have another digest."""
    known = read_manifest(folder)
    return [name for name in names if name in known and known[name] != _digest_of(folder / name)]


def check_file(folder: Path, name: str) -> None:
    """Raises `InputError` if a file is not what the manifest says."""
    if differing(folder, [name]):
        raise InputError(_message(folder / name))


def is_recorded(folder: Path, name: str, content: bytes) -> bool:
    """Whether the manifest, or else the file, has this content."""
    known = read_manifest(folder).get(name)
    return _digest(content) in (known, _digest_of(folder / name))


def mend(folder: Path, name: str, content: bytes, say: Say) -> None:
    """Write a damaged file anew if `content` is what was there.

    Raises `InputError` if it is damaged and `content` is not what was there.
    """
    if not differing(folder, [name]):
        return
    if _digest_of(folder / name) == _digest(content):
        # The manifest is what is damaged.
        write_manifest(folder, {name: content})
        return
    if read_manifest(folder)[name] != _digest(content):
        raise InputError(_message(folder / name))
    write_atomically(folder / name, content)
    say(f"{folder / name} was missing or damaged; it is written anew")


def _message(path: Path) -> str:
    return (
        f"{path} is missing or damaged: it is not what {MANIFEST} says. The very command that "
        "trained the run writes it anew; to take the file as it is, remove "
        f"{path.with_name(MANIFEST)}"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str | None:
    return _digest(path.read_bytes()) if path.is_file() else None
