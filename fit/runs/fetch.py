"""Download the released runs: `data/curves.csv.gz` of github.com/google-deepmind/scaling_laws_for_routing (CC-BY 4.0), 0.3 MB."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError, WorkError

RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/scaling_laws_for_routing/main/data/curves.csv.gz"
RELEASE_SHA256 = "c03e7531add85e594f368d33bac4a0220280be858a7ed12d147cf73af6a3819f"


def fetch(
    destination: Path, url: str = RELEASE_URL, sha256: str = RELEASE_SHA256, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Download `url` to `destination`, unless the file with this `sha256` is there already; returns `destination`.

    `progress(done, total)` gets the bytes that are there and the bytes there will be, None if the server does not say.
    Raises `InputError` if the destination is no name for a new file or the address not an http(s) address, and
    `WorkError` if the download fails or is not the file that the sha256 is of; then nothing is left behind.
    """
    from http.client import HTTPException  # these two take longer to import than the runs to read
    from urllib.request import urlopen

    if not re.fullmatch(r"https?://[\w.-]+(:[0-5]?\d{1,4})?(/[!-~]*)?", url, re.ASCII):
        raise InputError(f"{url!r} is not an http or https address")
    if "\0" in str(destination) or destination.is_dir():
        raise InputError(f"{str(destination)!r} is a directory or not a file name; give the name of the file to write")
    if destination.exists():
        if (found := hashlib.sha256(destination.read_bytes()).hexdigest()) != sha256:
            raise InputError(f"{destination}: there already, with other content (sha256 {found}); move it or name another")
        return destination
    content, total = bytearray(), None
    try:
        with urlopen(url, timeout=30.0) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while chunk := response.read(1 << 16):
                content += chunk
                if progress is not None:
                    progress(len(content), total)
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        getattr(error, "close", lambda: None)()
        raise WorkError(f"{url}: cannot be read: {error}; nothing was kept") from None
    if total is not None and len(content) < total:
        raise WorkError(f"{url}: the connection broke off after {len(content)} of {total} bytes; nothing was kept, run it again")
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise WorkError(f"{url}: the download has sha256 {found}, not {sha256}; nothing was kept")
    partial = destination.with_name(f"{destination.name}.partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(destination)
    except OSError as error:
        if partial.is_file():
            partial.unlink()
        raise WorkError(f"{destination}: cannot be written: {error.strerror or error}; nothing was kept") from None
    return destination
