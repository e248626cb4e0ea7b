"""A bucket of Google Cloud Storage on the loopback: as much of its JSON API as gcsfs and tensorstore use, with generations.

https://cloud.google.com/storage/docs/json_api: puts are atomic, `ifGenerationMatch` and `ifGenerationNotMatch` are kept, ranges are served.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"


@dataclass
class Bucket:
    """The objects, by name."""

    objects: dict[str, bytes] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    clock: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def put(self, name: str, content: bytes) -> None:
        """Replace an object."""
        self.clock += 1
        self.objects[name], self.generations[name] = content, self.clock

    def described(self, name: str) -> dict[str, Any]:
        """Its metadata."""
        about = {"kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(self.objects[name]))}
        times = dict.fromkeys(("updated", "timeCreated"), "2026-01-01T00:00:00.000Z")
        return about | times | {"generation": str(self.generations[name]), "metageneration": "1", "contentType": "application/octet-stream"}


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    protocol_version = "HTTP/1.1"
    # An answer is one packet, sent at once.
    wbufsize = -1
    disable_nagle_algorithm = True
    bucket: Bucket

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """List, describe or read."""
        path, query = self._asked()
        match = re.fullmatch(f"(?:/download)?/storage/v1/b/{BUCKET}/o(?:/(.+))?", path)
        with self.bucket.lock:
            if path == f"/storage/v1/b/{BUCKET}":
                self._send(200, {"kind": "storage#bucket", "name": BUCKET, "hierarchicalNamespace": {"enabled": False}})
            elif match is None:
                self._send(404, {"error": {"code": 404, "message": "Not Found"}})
            elif match[1] is None:
                self._send(200, self._listed(query))
            elif self._holds(name := unquote(match[1]), query):
                if query.get("alt") == "media":
                    self._send_part(self.bucket.objects[name], str(self.bucket.generations[name]))
                else:
                    self._send(200, self.bucket.described(name))

    def do_POST(self) -> None:
        """Upload, move, or delete a batch."""
        path, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.bucket.lock:
            if path == "/batch/storage/v1":
                self._batch(body.decode())
            elif moved := re.fullmatch(f"/storage/v1/b/{BUCKET}/o/(.+)/moveTo/o/(.+)", path):
                source, target = map(unquote, moved.groups())
                self.bucket.put(target, self.bucket.objects.pop(source))
                self._send(200, self.bucket.described(target))
            elif path.startswith("/resumable/"):
                assert not self.headers["Content-Range"].endswith("*"), "the test uploads more than a chunk"
                self.bucket.put(name := unquote(path.removeprefix("/resumable/")), body)
                self._send(200, self.bucket.described(name))
            elif query["uploadType"] == "resumable":
                self._send_bytes(200, b"", {"Location": f"http://{self.headers['Host']}/resumable/{json.loads(body)['name']}"})
            else:
                name, content = query.get("name", ""), body
                if query["uploadType"] == "multipart":
                    boundary = b"--==0=="
                    _, about, part, _ = body.split(boundary, 3)
                    name = json.loads(about.split(b"\n\n", 1)[1])["name"]
                    content = part.split(b"\n\n", 1)[1].removesuffix(b"\n")
                if self._holds(name, query, new=True):
                    self.bucket.put(name, content)
                    self._send(200, self.bucket.described(name))

    def do_DELETE(self) -> None:
        """Delete an object."""
        path, query = self._asked()
        name = unquote(path.rpartition("/o/")[2])
        with self.bucket.lock:
            if self._holds(name, query):
                del self.bucket.objects[name]
                self._send(204)

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}

    def _holds(self, name: str, query: dict[str, str], *, new: bool = False) -> bool:
        """Whether the request's conditions hold and, unless it is `new`, the object exists; otherwise this is answered."""
        own = self.bucket.generations[name] if name in self.bucket.objects else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != own:
            self._send(412)
        elif not own and not new:
            self._send(404, {"error": {"code": 404, "message": "Not Found"}})
        elif "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == own:
            self._send(304)
        else:
            return True
        return False

    def _listed(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names = sorted(name for name in self.bucket.objects if name.startswith(prefix) and name >= query.get("startOffset", ""))
        folded = {name: name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "") for name in names}
        items = [self.bucket.described(name) for name in names if not folded[name][1]]
        folders = sorted({prefix + part[0] + delimiter for part in folded.values() if part[1]})
        return {"kind": "storage#objects", "items": items, "prefixes": folders}

    def _batch(self, body: str) -> None:
        answers: list[str] = []
        for name in re.findall(rf"DELETE /storage/v1/b/{BUCKET}/o/([^ ?]+)", body):
            found = self.bucket.objects.pop(unquote(name), None)
            answers.append(f"\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {204 if found is not None else 404}\r\n\r\n")
        self._send_bytes(
            200, ("--batch" + "--batch".join(answers) + "--batch--").encode(), {"Content-Type": "multipart/mixed; boundary=batch"}
        )

    def _send(self, code: int, answer: dict[str, Any] | None = None) -> None:
        content = b"" if answer is None else json.dumps(answer).encode()
        self._send_bytes(code, content, {"Content-Type": "application/json"})

    def _send_part(self, content: bytes, generation: str) -> None:
        headers = {"x-goog-generation": generation, "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            self._send_bytes(200, content, headers)
            return
        size = len(content)
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(int(match[2]) if match[1] and match[2] else size - 1, size - 1)
        if first >= size:
            self._send(416)
            return
        self._send_bytes(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{size}"})

    def _send_bytes(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if code not in (204, 304):
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """A server for the many connections that tensorstore opens at once."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, such as one that was killed, is no error; any other one ends in no answer, which the test sees."""


def serve() -> tuple[ThreadingHTTPServer, Bucket]:
    """A server on a free port, running, and its bucket."""
    bucket = Bucket()
    server = Server(("127.0.0.1", 0), type("BucketHandler", (Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, bucket


def environment(server: ThreadingHTTPServer) -> dict[str, str]:
    """What a process needs to take the server for Google's."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return {
        **dict.fromkeys(("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), url),
        **{"GOOGLE_AUTH_TOKEN_FOR_TESTING": "x", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "FSSPEC_GS_TOKEN": "anon"},
        **{"FSSPEC_GCS_TOKEN": "anon", "NO_GCE_CHECK": "true"},
    }
