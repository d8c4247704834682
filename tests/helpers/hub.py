"""A hub on loopback that holds one dataset repository: what its client asks of it, and no more."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        files: The repository's, by path; None until it is made.
        private: Whether it was made so.
        tokens: With which tokens it was written to.
        down: Whether it answers 503 to everything.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] | None = None
        self.private = False
        self.tokens: set[str] = set()
        self.down = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def revision(self) -> str:
        """Of what it holds now."""
        return hashlib.sha1(repr(self.files).encode(), usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.server.down:
            return self.reply(503, {})
        path = self.path.split("?")[0]
        if self.server.files is None:
            return self.reply(404, {}, {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/datasets/me/kept/revision/"):
            there = [{"rfilename": name} for name in self.server.files]
            facts = {"_id": "1", "id": "me/kept", "sha": self.server.revision, "siblings": there}
            return self.reply(200, facts)
        if path.startswith("/api/datasets/me/kept/tree/"):
            return self.reply(
                200,
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _mark(content)}
                    for name, content in self.server.files.items()
                ],
            )
        if path.startswith("/datasets/me/kept/resolve/"):
            name = path.split("/", 6)[6]
            if (content := self.server.files.get(name)) is not None:
                marks = {"ETag": f'"{_mark(content)}"', "X-Repo-Commit": self.server.revision}
                return self.reply(200, content, marks)
        return self.reply(404, {}, {"X-Error-Code": "EntryNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.down:
            return self.reply(503, {})
        self.server.tokens.add(str(self.headers["Authorization"]))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            made = self.server.files is None
            if made:
                self.server.private = json.loads(body)["visibility"] == "private"
                self.server.files = {}
            url = f"{self.server.address}/datasets/me/kept"
            return self.reply(200 if made else 409, {"url": url})
        if path.startswith("/api/datasets/me/kept/preupload/"):
            wanted = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in wanted
            ]
            return self.reply(200, {"files": modes})
        if path.startswith("/api/datasets/me/kept/commit/") and self.server.files is not None:
            for operation in map(json.loads, body.splitlines()):
                if operation["key"] == "file":
                    file = operation["value"]
                    self.server.files[file["path"]] = base64.b64decode(file["content"])
            url = f"{self.server.address}/datasets/me/kept/commit/{self.server.revision}"
            return self.reply(200, {"commitUrl": url, "commitOid": self.server.revision})
        return self.reply(404, {"error": path})

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def _mark(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub, without any repository."""
    with Hub() as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()
