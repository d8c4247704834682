"""A hub on loopback that holds one repository: what its client asks of it, and no more.

It is the dataset `me/kept` or the model `me/mine`, by what its client makes.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest

from cgclora.storage import hub as storage

_REPO = "/api/(datasets/me/kept|models/me/mine)"


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        files: The repository's, by path; None until it is made.
        private: Whether it was made so.
        tokens: With which tokens it was written to.
        accepted: Tokens that may write; None takes any.
        branches: Made beside the main one.
        requests: Method and path of each, in their order.
        hidden: Whether the repository is private to others, and so not there for this client.
        down: Whether it answers 503 to everything.
        commits: The files of all that it was asked about, by revision.
        meanwhile: Files that it holds once it has been asked what it holds; None leaves those.
        full: Whether it refuses commits.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] | None = None
        self.private = False
        self.tokens: set[str] = set()
        self.accepted: set[str] | None = None
        self.branches: list[str] = []
        self.requests: list[str] = []
        self.hidden = False
        self.down = False
        self.commits: dict[str, dict[str, bytes]] = {}
        self.meanwhile: dict[str, bytes] | None = None
        self.full = False

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
        path = self.path.split("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if self.server.down:
            return self.reply(503, {})
        if path == "/api/whoami-v2":
            return self.reply(200, {"name": "me"})
        if self.server.files is None or self.server.hidden:
            return self.reply(404, {}, {"X-Error-Code": "RepoNotFound"})
        newest = self.server.revision
        self.server.commits[newest] = {**self.server.files}
        wanted = re.search("/(revision|tree|resolve)/([0-9a-f]{40})(/|$)", path)
        revision = wanted[2] if wanted else newest
        if revision not in self.server.commits:
            return self.reply(404, {}, {"X-Error-Code": "RevisionNotFound"})
        return self.read(path, revision, self.server.commits[revision])

    def read(self, path: str, revision: str, files: dict[str, bytes]) -> None:
        if re.fullmatch(f"{_REPO}(/revision/.*)?", path):
            there = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            facts = {"_id": "1", "id": path.split("/", 3)[3].split("/revision/", maxsplit=1)[0]}
            if self.server.meanwhile is not None:
                self.server.files, self.server.meanwhile = self.server.meanwhile, None
            return self.reply(
                200,
                {**facts, "sha": revision, "siblings": there, "private": self.server.private},
            )
        if re.match(f"{_REPO}/tree/", path):
            return self.reply(
                200,
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _mark(content)}
                    for name, content in files.items()
                ],
            )
        if resolved := re.match("/(datasets/me/kept|me/mine)/resolve/[^/]+/", path):
            name = path[resolved.end() :]
            if (content := files.get(name)) is not None:
                marks = {"ETag": f'"{_mark(content)}"', "X-Repo-Commit": revision}
                return self.reply(200, content, marks)
        return self.reply(404, {}, {"X-Error-Code": "EntryNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if self.server.down:
            return self.reply(503, {})
        token = str(self.headers["Authorization"])
        self.server.tokens.add(token)
        accepted = self.server.accepted
        if accepted is not None and token.removeprefix("Bearer ") not in accepted:
            return self.reply(401, {"error": f"Invalid credentials: {token}"})
        if re.match(_REPO, path):
            return self.write(path, body)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/repos/delete":
            self.server.files = None
        known = {"/api/repos/delete": {}, "/api/validate-yaml": {"errors": [], "warnings": []}}
        return self.reply(200 if path in known else 404, known.get(path, {"error": path}))

    def write(self, path: str, body: bytes) -> None:
        if re.match(f"{_REPO}/branch/", path):
            self.server.branches.append(path.rpartition("/")[2])
            return self.reply(200, {})
        if re.match(f"{_REPO}/preupload/", path):
            wanted = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in wanted
            ]
            return self.reply(200, {"files": modes})
        if self.server.full:
            return self.reply(413, {"error": "Private storage quota exceeded"})
        if re.match(f"{_REPO}/commit/", path) and self.server.files is not None:
            for operation in map(json.loads, body.splitlines()):
                file = operation["value"]
                if operation["key"] == "file":
                    self.server.files[file["path"]] = base64.b64decode(file["content"])
                elif operation["key"] == "deletedFile":
                    del self.server.files[file["path"]]
            url = f"{self.server.address}/datasets/me/kept/commit/{self.server.revision}"
            return self.reply(200, {"commitUrl": url, "commitOid": self.server.revision})
        return self.reply(404, {"error": path})

    def create(self, wanted: dict[str, Any]) -> None:
        if wanted["organization"] not in (None, "me"):
            return self.reply(403, {"error": "You don't have the rights to create a model there"})
        made = self.server.files is None
        if made:
            self.server.private = wanted.get("visibility") == "private"
            self.server.files = {}
        place = "datasets/" if wanted.get("type") == "dataset" else ""
        url = f"{self.server.address}/{place}me/{wanted['name']}"
        return self.reply(200 if made else 409, {"url": url})

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
def only_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub that this process takes for the real one, with an empty cache."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    storage._download.cache_clear()
    with hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield found
    storage._download.cache_clear()


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub, without any repository."""
    with Hub() as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()
