"""Download the released runs from where they are published, and make sure that they are what was published.

The release is `data/curves.csv.gz` of github.com/google-deepmind/scaling_laws_for_routing (CC-BY 4.0). It is written to
`<name>.partial` beside the destination, checked by its sha256, and only then given its name: a file of that name is
complete and right. A download that breaks off is continued where it stopped, if the server can do that.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import InputError, WorkError

RELEASE_URL = "https://raw.githubusercontent.com/google-deepmind/scaling_laws_for_routing/main/data/curves.csv.gz"
RELEASE_SHA256 = "c03e7531add85e594f368d33bac4a0220280be858a7ed12d147cf73af6a3819f"

_CHUNK = 1 << 16
_SECONDS = 30.0
# The answer to a request for the bytes from the end of the file on.
_RANGE_NOT_SATISFIABLE = 416

Progress = Callable[[int, int | None], None]


def fetch(destination: Path, url: str = RELEASE_URL, sha256: str = RELEASE_SHA256, progress: Progress | None = None) -> Path:
    """Download `url` to `destination`, unless the file with this `sha256` is there already; returns `destination`.

    `progress(done, total)` is told the bytes that are there and the bytes there will be, None if the server does not say.
    `<name>.partial` of an earlier call is continued; one is left only where a later call can continue it: after a broken
    connection or Ctrl-C, if the server sends parts of files. The message says so.
    Raises `InputError` if the destination is a directory or another file, or the address is no http(s) address, and
    `WorkError` if the download fails or is not the file that the sha256 is of.
    """
    _refuse_bad_address(url)
    try:
        if _is_there(destination, sha256):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = destination.with_name(f"{destination.name}.partial")
        try:
            _fill(partial, url, sha256, progress)
            partial.replace(destination)
        except OSError:
            partial.unlink(missing_ok=True)  # a full disk, say: its space is given back
            raise
    except OSError as error:
        raise WorkError(f"{destination}: cannot be written: {error.strerror or error}; nothing was kept") from None
    return destination


def _refuse_bad_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{url!r} is not an http or https address")


def _is_there(destination: Path, sha256: str) -> bool:
    if "\0" in str(destination):
        raise InputError(f"{str(destination)!r} is not a file name")
    if destination.is_dir():
        raise InputError(f"{destination}: is a directory; give the name of the file to write")
    if not destination.exists():
        return False
    if (found := _sha256(destination)) != sha256:
        raise InputError(f"{destination}: there already, with other content (sha256 {found}); move it or name another")
    return True


def _fill(partial: Path, url: str, sha256: str, progress: Progress | None) -> None:
    """Bring `partial` to the file with this `sha256`, or remove it and raise `WorkError`."""
    continued = partial.exists()
    if continued and _sha256(partial) == sha256:
        return
    _download(partial, url, progress)
    if continued and _sha256(partial) != sha256:
        # What was there was part of another file, or of an older version of this one: once more from the start.
        partial.unlink()
        _download(partial, url, progress)
    if (found := _sha256(partial)) != sha256:
        partial.unlink()
        raise WorkError(f"{url}: what came has sha256 {found}, not {sha256}; nothing was kept")


def _download(partial: Path, url: str, progress: Progress | None) -> None:
    """Write what `url` holds to `partial`, continuing what is there if the server sends the rest alone."""
    there = partial.stat().st_size if partial.exists() else 0
    response = _open(url, there, partial)
    with response:
        offset = _offset(response, there)
        if there and offset is None:  # a part, but not the one that is missing
            response.close()
            partial.unlink()
            return _download(partial, url, progress)
        done = offset or 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        resumable = response.status == http.HTTPStatus.PARTIAL_CONTENT or response.headers["Accept-Ranges"] == "bytes"
        with partial.open("ab" if done else "wb") as file:
            try:
                while chunk := _read(response):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
                if total is not None and done < total:
                    raise http.client.IncompleteRead(b"", total - done)
                return None
            except http.client.HTTPException:
                of = "" if total is None else f" of {total}"
                failure: BaseException = WorkError(f"{url}: the connection broke off after {done}{of} bytes")
            except KeyboardInterrupt:
                failure = KeyboardInterrupt("stopped")
    raise _with_what_is_left(failure, partial, resumable)


def _open(url: str, there: int, partial: Path) -> http.client.HTTPResponse:
    """Ask for the bytes from `there` on; raises `WorkError` if the server does not answer with any."""
    headers = {"Range": f"bytes={there}-"} if there else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if there and error.code == _RANGE_NOT_SATISFIABLE:
            partial.unlink()
            return _open(url, 0, partial)
        failure = WorkError(f"{url}: the server answers {error.code} {error.reason}")
        raise _with_what_is_left(failure, partial, error.code >= 500) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # What an earlier call left stays: nothing is known against it.
        raise _with_what_is_left(WorkError(f"{url}: cannot be reached: {reason}"), partial, True) from None


def _offset(response: http.client.HTTPResponse, there: int) -> int | None:
    """Where in the file the answer begins; None if it is a part other than the one from `there` on."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    return there if (response.headers["Content-Range"] or "").startswith(f"bytes {there}-") else None


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except OSError as error:  # told apart from an error of the disk
        raise http.client.HTTPException(str(error)) from None


def _with_what_is_left(failure: BaseException, partial: Path, resumable: bool) -> BaseException:
    """The failure, saying what is left: the partial file if it can be continued, else nothing."""
    if resumable and partial.exists() and partial.stat().st_size > 0:
        kept = f"{partial.stat().st_size} bytes are kept in {partial}, and the same command continues them"
    else:
        partial.unlink(missing_ok=True)
        kept = "nothing was kept"
    return type(failure)(f"{failure}; {kept}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
