"""Bare HTTP as no browser speaks it: Gradio's protocol, files, uploads, and the rest."""

import io
import json
import random
import zipfile
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

from tests.suites.fuzz.values import any_value, deep, few, objects, text

API = "/gradio_api"
AS_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Call:
    """One request, and how its answer is read.

    Attributes:
        kind: What is tried; failures are counted by it.
        method: Of HTTP.
        path: With its query.
        body: As it is sent.
        headers: Besides those that a client always sends.
        follow: Where the answer then comes as a stream, if the reply names an event: a path with
            a `{}` for it.
        endless: Whether the reply may have no end: its beginning is enough.
        cut: How many bytes more are announced than sent, before the line goes dead.
    """

    kind: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    follow: str = ""
    endless: bool = False
    cut: int = 0


Event = dict[str, Any]
"""One of the page's own events, from Gradio's config: `id`, `queue`, `inputs`."""


@dataclass(frozen=True)
class Page:
    """What a page knows of the server.

    Attributes:
        events: The private ones.
        components: Their type and first properties, by id.
    """

    events: tuple[Event, ...]
    components: dict[int, dict[str, Any]]

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Page":
        """From the reply of `/config`."""
        known = {one["id"]: {"type": one["type"], **one["props"]} for one in config["components"]}
        events = (one for one in config["dependencies"] if one["backend_fn"])
        return cls(tuple(one for one in events if one["api_visibility"] == "private"), known)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()  # lone surrogates and NaN as Python writes them


def protocol(chance: random.Random, page: Page, marker: str) -> Call:
    """Gradio's own protocol, with names and numbers that it never gave."""
    event = chance.choice((*(one["id"] for one in page.events), -1, 10**6, 2**70, "0", None, 1.5))
    odd = any_value(chance)
    body: dict[str, Any] = {
        "data": chance.choice(([], few(chance), odd, None)),
        "fn_index": chance.choice((event, event, any_value(chance))),
        "session_hash": chance.choice((marker, None, odd)),
        "event_id": chance.choice((None, "x", odd)),
        "trigger_id": chance.choice((None, 0, odd)),
        "event_data": chance.choice((None, objects(chance), odd)),
        "simple_format": chance.choice((None, True)),
    }
    if chance.random() < 0.5:
        body = {name: value for name, value in body.items() if chance.random() < 0.7}
    part = quote(text(chance)[:60], errors="replace", safe="")
    paths = (
        ("POST", "/queue/join"),
        ("POST", "/run/predict"),
        ("POST", f"/run/{part}"),
        ("POST", f"/api/{part}"),
        ("POST", f"/call/{part}"),
        ("POST", f"/call/v2/{part}"),
        ("POST", "/cancel"),
        ("POST", "/reset"),
        ("POST", "/component_server"),
        ("POST", f"/stream/{part}"),
        ("POST", f"/stream/{part}/close"),
        ("POST", "/process_recording"),
        ("POST", "/vibe-edit"),
        ("GET", f"/call/generate/{part}"),
        ("GET", f"/call/{part}/{part}"),
        ("GET", f"/queue/data?session_hash={part}"),
        ("GET", "/queue/data"),
        ("GET", "/queue/status"),
        ("GET", f"/info?all_endpoints={part}"),
        ("GET", f"/info?page={part}"),
        ("GET", "/openapi.json"),
        ("GET", f"/stream/{part}/1/2/playlist.m3u8"),
        ("GET", f"/custom_component/{part}/client/component/index.js"),
        ("GET", f"/deep_link?session_hash={part}"),
        ("GET", "/startup-events"),
        ("GET", "/token"),
        ("GET", "/app_id"),
        ("GET", "/dev/reload"),
        ("GET", "/runs"),
    )
    method, path = chance.choice(paths)
    if method == "GET":
        name = path.split("/")[1].partition("?")[0]
        return Call(
            f"protocol {name}", method, API + path, endless=name in ("dev", "queue", "call")
        )
    sent = as_json(body)
    if path in ("/cancel", "/reset", "/component_server") and chance.random() < 0.7:
        component = chance.choice((*page.components, -1, "x"))
        named = {"component_id": component, "fn_name": text(chance)[:20], "data": odd}
        sent = as_json({**named, "session_hash": marker, "fn_index": 3, "event_id": "x"})
    if chance.random() < 0.2:
        sent = _broken(chance, sent)
    headers = AS_JSON if chance.random() < 0.8 else _odd_headers(chance)
    return Call(f"protocol {path.split('/')[1]}", method, API + path, sent, headers)


def _broken(chance: random.Random, body: bytes) -> bytes:
    """A body cut short, or of other bytes, or too deep."""
    deepest = b"[" * 50_000 + b"]" * 50_000
    cut = body[: chance.randrange(len(body) + 1)]
    odd = bytes(chance.randrange(256) for _ in range(40))
    return chance.choice((cut, odd, deepest, b"", as_json(deep(chance)), b'{"data":[' * 9))


def _odd_headers(chance: random.Random) -> dict[str, str]:
    odd = (
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary=" + "x" * 300},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Accept-Language": "zh;q=NaN,,;;=,en-" + "x" * 500},
        {"Cookie": "a=" + "b" * 3000 + "; access-token=%00"},
        {"X-Forwarded-For": "../../x, 8.8.8.8", "X-Forwarded-Host": "<script>"},
        {"Host": "evil.example"},
        {"Origin": "https://evil.example", "Referer": "https://evil.example/?lang=%00"},
        {"Range": "bytes=-1-9999999999999999999999"},
        {"X-Request-ID": "a" * 4000},
        {"Transfer-Encoding": "gzip"},
        {"X-Long": "y" * 70_000},
    )
    return chance.choice(odd)


_WISHED = (
    "/etc/passwd",
    "etc/passwd",
    "../../../../../etc/passwd",
    "/proc/self/environ",
    "app.py",
    "./ui/api.py",
    "requirements.txt",
    ".git/config",
    "http://127.0.0.1:1/x",
    "https://localhost/x",
    "//etc/passwd",
    "/dev/zero",
    "\\..\\app.py",
    "",
)


def file(chance: random.Random, _: Page, marker: str) -> Call:
    """A file that is none of the visitor's business, by all that serves files."""
    wished = chance.choice((*_WISHED, text(chance)[:100]))
    for _ in range(chance.randint(0, 2)):
        wished = quote(wished, errors="replace", safe=chance.choice(("/", "")))
    wished = quote(wished, errors="replace", safe="/%:.")
    by = ("/file=", "/file/", "/proxy=", "/../", "/stream/")
    own = ("/static/", "/assets/", "/svelte/", "/theme.css/", "/config/", "/", "/?x=")
    base = chance.choice([*(API + one for one in by), *own])
    headers = {} if chance.random() < 0.8 else _odd_headers(chance)
    return Call("file", chance.choice(("GET", "GET", "HEAD")), base + wished, headers=headers)


@cache
def _bomb() -> bytes:
    """An archive that grows a thousandfold, beside the folder that it is unpacked in."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            zipfile.ZipInfo("../../bomb.jsonl"), b"0" * 5_000_000, zipfile.ZIP_DEFLATED
        )
    return packed.getvalue()


def upload(chance: random.Random, _: Page, marker: str) -> Call:
    """Files that claim to be something else, or to lie elsewhere, or are too large."""
    contents = (
        b"",
        b'{"input": "x", "target": "y", "type": "ner"}\n' * 30,
        b"[" * 100_000,
        _bomb(),
        bytes(range(256)) * 40,
        marker.encode(),
        b"x" * 1_500_000,
        b"<html><script>alert(1)</script>",
    )
    name = chance.choice(
        ("a.jsonl", "x.html", "a.zip", "../../app.py", text(chance)[:300], "a" * 300)
    )
    written = name.encode("utf-8", "replace").replace(b'"', b"%22")
    if chance.random() < 0.8:
        written = written.replace(b"\r", b"").replace(b"\n", b"")
    mark = b"----cut"
    body = (
        b"".join(
            b"--"
            + mark
            + b'\r\nContent-Disposition: form-data; name="files"; filename="'
            + written
            + b'"\r\nContent-Type: '
            + chance.choice((b"text/plain", b"application/zip", b"x"))
            + b"\r\n\r\n"
            + chance.choice(contents)
            + b"\r\n"
            for _ in range(chance.choice((0, 1, 1, 1, 3)))
        )
        + b"--"
        + mark
        + b"--\r\n"
    )
    if chance.random() < 0.2:
        body = body[: chance.randrange(len(body) + 1)]
    headers = {"Content-Type": "multipart/form-data; boundary=----cut"}
    if chance.random() < 0.15:
        headers = _odd_headers(chance)
    query = chance.choice(("", "", "?upload_id=x", "?upload_id=../../x"))
    return Call("upload", "POST", f"{API}/upload{query}", body, headers)


def bare(chance: random.Random, _: Page, marker: str) -> Call:
    """Paths, methods and headers of all kinds."""
    part = quote(text(chance)[:80], errors="replace", safe="/")
    query = quote(text(chance)[:60], errors="replace", safe="")
    paths = (
        "/",
        f"/?lang={query}&tab={query}",
        f"/?tab=leaderboard&board={query}&tasks={query}",
        f"/?cluster={query}&task={query}",
        "/health",
        "/ready",
        "/config",
        "/manifest.json",
        "/robots.txt",
        "/favicon.ico",
        "/pwa_icon/" + part,
        "/monitoring",
        "/monitoring/" + part,
        "/login",
        "/logout",
        f"{API}/heartbeat/" + query,
        f"{API}/" + part,
        f"{API}/mcp/",
        f"{API}/mcp/sse/" + part,
        f"{API}/mcp/schema",
        "/" + part,
    )
    method = chance.choice(
        ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "XX")
    )
    body = b"" if method in ("GET", "HEAD") else _broken(chance, as_json({"data": few(chance)}))
    headers = {} if chance.random() < 0.5 else _odd_headers(chance)
    path, cut = chance.choice(paths), chance.choice((0, 0, 0, 0, 1, 5000))
    return Call("bare", method, path, body, headers, endless="heartbeat" in path, cut=cut)
