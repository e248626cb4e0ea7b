"""The download of the released runs, against a server on the loopback that misbehaves."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import InputError, WorkError
from fit.runs.fetch import RELEASE_SHA256, RELEASE_URL, fetch

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and how often it was asked."""

    url: str = ""
    cut_at: int | None = None
    status: int = 200
    sends_length: bool = True
    content: bytes = CONTENT
    asked: int = 0


def answer(handler: BaseHTTPRequestHandler, server: Server) -> None:
    """One GET, as `server` says."""
    server.asked += 1
    if server.status != 200:
        handler.send_error(server.status)
        return
    handler.send_response(200)
    if server.sends_length:
        handler.send_header("Content-Length", str(len(server.content)))
    handler.end_headers()
    handler.wfile.write(server.content[: server.cut_at])


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


def assert_only_complete(destination: Path) -> None:
    assert destination.read_bytes() == CONTENT
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


def assert_nothing_left(destination: Path) -> None:
    assert not destination.parent.exists() or list(destination.parent.iterdir()) == []


def test_the_checksum_is_that_of_the_released_file(release: Path) -> None:
    assert hashlib.sha256(release.read_bytes()).hexdigest() == RELEASE_SHA256
    assert RELEASE_URL.startswith("https://")


def test_a_whole_file_is_fetched_and_its_progress_reported(server: Server, destination: Path) -> None:
    reported: list[tuple[int, int | None]] = []
    assert fetch(destination, server.url, SHA256, lambda done, total: reported.append((done, total))) == destination
    assert_only_complete(destination)
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)


def test_a_file_of_unknown_length_is_fetched(server: Server, destination: Path) -> None:
    server.sends_length = False
    reported: list[int | None] = []
    fetch(destination, server.url, SHA256, lambda done, total: reported.append(total))
    assert_only_complete(destination)
    assert set(reported) == {None}


def test_a_file_that_is_there_is_not_fetched_again(server: Server, destination: Path) -> None:
    fetch(destination, server.url, SHA256)
    server.status = 500
    fetch(destination, server.url, SHA256)
    assert server.asked == 1


def test_a_wrong_checksum_leaves_nothing(server: Server, destination: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(WorkError, match=f"sha256 {hashlib.sha256(server.content).hexdigest()}, not {SHA256}"):
        fetch(destination, server.url, SHA256)
    assert_nothing_left(destination)


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_cut_connection_leaves_nothing(server: Server, destination: Path, sends_length: bool) -> None:
    server.cut_at, server.sends_length = 100_000, sends_length
    with pytest.raises(WorkError, match="broke off after 100000 of 256000 bytes" if sends_length else "has sha256"):
        fetch(destination, server.url, SHA256)
    assert_nothing_left(destination)
    server.cut_at = None
    fetch(destination, server.url, SHA256)
    assert_only_complete(destination)


@pytest.mark.parametrize("status", [404, 403, 503])
def test_an_answer_of_failure_is_one_line(server: Server, destination: Path, status: int) -> None:
    server.status = status
    with pytest.raises(WorkError, match=f"{status}.*nothing was kept") as raised:
        fetch(destination, server.url, SHA256)
    assert "\n" not in str(raised.value)
    assert_nothing_left(destination)


def test_a_server_that_is_not_there_is_one_line(server: Server, destination: Path) -> None:
    with pytest.raises(WorkError, match=r"cannot be read: .*refused.*nothing was kept"):
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
    destination.write_bytes(b"another")
    with pytest.raises(InputError, match="there already, with other content"):
        fetch(destination, server.url, SHA256)
    assert destination.read_bytes() == b"another"
    assert server.asked == 0


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
