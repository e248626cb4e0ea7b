"""The download of the released runs, against a server on the loopback that misbehaves in every way asked of it."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import InputError, WorkError
from fit.load.fetch import RELEASE_SHA256, RELEASE_URL, fetch

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked: the Range header of each request."""

    url: str = ""
    ranges: bool = True
    cut_at: int | None = None
    status: int = 200
    wrong_range: bool = False
    says_length: bool = True
    content: bytes = CONTENT
    asked: list[str | None] = field(default_factory=list)


def answer(handler: BaseHTTPRequestHandler, server: Server) -> None:
    """One GET, as `server` says."""
    asked = handler.headers["Range"]
    server.asked.append(asked)
    if server.status != 200:
        handler.send_error(server.status)
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
    if start >= len(server.content):
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    if server.ranges:
        handler.send_header("Accept-Ranges", "bytes")
    if start:
        said = 0 if server.wrong_range else start
        handler.send_header("Content-Range", f"bytes {said}-{len(server.content) - 1}/{len(server.content)}")
    if server.says_length:
        handler.send_header("Content-Length", str(len(server.content) - start))
    handler.end_headers()
    handler.wfile.write(server.content[start : server.cut_at])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http_server.server_port}/curves.csv.gz"
        yield state
        http_server.shutdown()
        thread.join()


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "curves.csv.gz"


def partial(destination: Path, content: bytes | None = None) -> Path:
    """The partial file's path, written if `content` is given."""
    path = destination.with_name(f"{destination.name}.partial")
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return path


def assert_only_complete(destination: Path) -> None:
    assert destination.read_bytes() == CONTENT
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


def assert_nothing_left(destination: Path) -> None:
    assert not destination.parent.exists() or list(destination.parent.iterdir()) == []


def test_the_checksum_is_that_of_the_released_file(release: Path) -> None:
    assert hashlib.sha256(release.read_bytes()).hexdigest() == RELEASE_SHA256
    assert RELEASE_URL.startswith("https://")


def test_a_whole_file_is_fetched_and_its_progress_told(server: Server, destination: Path) -> None:
    told: list[tuple[int, int | None]] = []
    assert fetch(destination, server.url, SHA256, lambda done, total: told.append((done, total))) == destination
    assert_only_complete(destination)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_file_of_unsaid_length_is_fetched(server: Server, destination: Path) -> None:
    server.says_length = False
    told: list[int | None] = []
    fetch(destination, server.url, SHA256, lambda done, total: told.append(total))
    assert_only_complete(destination)
    assert set(told) == {None}


def test_a_file_that_is_there_is_not_fetched_again(server: Server, destination: Path) -> None:
    fetch(destination, server.url, SHA256)
    server.status = 500
    fetch(destination, server.url, SHA256)
    assert server.asked == [None]


def test_a_partial_file_is_continued(server: Server, destination: Path) -> None:
    partial(destination, CONTENT[:1000])
    told: list[tuple[int, int | None]] = []
    fetch(destination, server.url, SHA256, lambda done, total: told.append((done, total)))
    assert_only_complete(destination)
    assert server.asked == ["bytes=1000-"]
    assert told[0][0] > 1000
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_complete_partial_file_only_needs_its_name(server: Server, destination: Path) -> None:
    partial(destination, CONTENT)
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)
    assert server.asked == []


@pytest.mark.parametrize("wrong", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_a_partial_file_of_something_else_is_replaced(server: Server, destination: Path, wrong: bytes) -> None:
    partial(destination, wrong)
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)
    assert server.asked[-1] is None


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, destination: Path) -> None:
    server.ranges = False
    partial(destination, CONTENT[:1000])
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)


def test_a_part_that_was_not_asked_for_is_not_joined_on(server: Server, destination: Path) -> None:
    server.wrong_range = True
    partial(destination, CONTENT[:1000])
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)
    assert server.asked == ["bytes=1000-", None]


def test_a_cut_connection_is_continued_by_the_same_command(server: Server, destination: Path) -> None:
    server.cut_at = 100_000
    with pytest.raises(WorkError, match=r"broke off after 100000 of 256000 bytes; 100000 bytes are kept in .*partial"):
        fetch(destination, server.url, SHA256)
    assert not destination.exists()
    assert partial(destination).read_bytes() == CONTENT[:100_000]
    server.cut_at = None
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)
    assert server.asked == [None, "bytes=100000-"]


def test_a_cut_connection_to_a_server_without_ranges_leaves_nothing(server: Server, destination: Path) -> None:
    server.cut_at, server.ranges = 100_000, False
    with pytest.raises(WorkError, match=r"broke off.*; nothing was kept"):
        fetch(destination, server.url, SHA256)
    assert_nothing_left(destination)


def test_ctrl_c_keeps_what_can_be_continued(server: Server, destination: Path) -> None:
    def press(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="are kept in"):
        fetch(destination, server.url, SHA256, press)
    assert not destination.exists()
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)
    server.ranges = False
    destination.unlink()
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        fetch(destination, server.url, SHA256, press)
    assert_nothing_left(destination)


def test_a_wrong_checksum_leaves_nothing(server: Server, destination: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(WorkError, match=f"sha256 {hashlib.sha256(server.content).hexdigest()}, not {SHA256}"):
        fetch(destination, server.url, SHA256)
    assert_nothing_left(destination)
    partial(destination, CONTENT[:10])
    with pytest.raises(WorkError, match="nothing was kept"):
        fetch(destination, server.url, SHA256)
    assert_nothing_left(destination)


@pytest.mark.parametrize(("status", "kept"), [(404, False), (403, False), (503, True)])
def test_an_answer_of_failure_is_one_line(server: Server, destination: Path, status: int, kept: bool) -> None:
    server.status = status
    with pytest.raises(WorkError, match=f"the server answers {status} .*nothing was kept") as raised:
        fetch(destination, server.url, SHA256)
    assert "\n" not in str(raised.value)
    assert_nothing_left(destination)
    partial(destination, CONTENT[:10])
    with pytest.raises(WorkError, match="10 bytes are kept" if kept else "nothing was kept"):
        fetch(destination, server.url, SHA256)
    assert partial(destination).exists() == kept


def test_a_server_that_is_not_there_is_one_line(server: Server, destination: Path) -> None:
    with pytest.raises(WorkError, match=r"cannot be reached: .*refused.*nothing was kept"):
        fetch(destination, "http://127.0.0.1:1/curves.csv.gz", SHA256)
    assert_nothing_left(destination)


def test_a_disk_that_takes_no_more_leaves_nothing(server: Server, destination: Path) -> None:
    resource = pytest.importorskip("resource", reason="only Unix can limit the size of a file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WorkError, match="cannot be written: File too large; nothing was kept"):
            fetch(destination, server.url, SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_nothing_left(destination)


def test_another_file_of_that_name_is_not_overwritten(server: Server, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(b"mine")
    with pytest.raises(InputError, match="there already, with other content"):
        fetch(destination, server.url, SHA256)
    assert destination.read_bytes() == b"mine"
    assert server.asked == []


def test_a_destination_that_cannot_be_a_file_is_refused(server: Server, destination: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        fetch(tmp_path, server.url, SHA256)
    with pytest.raises(InputError, match="not a file name"):
        fetch(tmp_path / "a\0b", server.url, SHA256)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="cannot be written"):
        fetch(tmp_path / "file" / "curves.csv.gz", server.url, SHA256)


@pytest.mark.parametrize(
    "url", ["", "curves.csv.gz", "file:///etc/hosts", "http://", "http://[", "http://h:99999/", "http://h/a b", "http://h/é"]
)
def test_an_address_that_is_none_is_refused(destination: Path, url: str) -> None:
    with pytest.raises(InputError, match="is not an http or https address"):
        fetch(destination, url, SHA256)
    assert_nothing_left(destination)
