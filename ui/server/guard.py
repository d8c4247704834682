"""Refuses requests that Gradio would process before any handler could: bodies and odd paths."""

import json
import re

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.server.files import UploadQuota

_API = "/gradio_api/"
_UPLOAD = f"{_API}upload"

_UNUSED = tuple(
    _API + name
    for name in ("component_server", "custom_component", "deep_link", "process_recording", "proxy=")
)
"""Paths of Gradio that this page never requests."""

_NAMELESS = re.compile(rb'"session_hash"\s*:\s*""')
_MAX_BYTES = 4 * 1024 * 1024  # of a body; the longest prompt fits
_MAX_CHARACTERS = 2000  # of a path


class Guard:
    """Middleware that passes on what a page or a client may send."""

    def __init__(self, app: ASGIApp, uploads: UploadQuota) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, refusal = scope["path"], None
        if path.startswith(_UNUSED) or not _is_path(path):
            refusal = _refuse(404, "Not found.")
        elif scope["method"] == "POST" and path.startswith(_UPLOAD):  # files have other limits
            if self._uploads.is_full:
                refusal = _refuse(429, "The upload limit is reached: try again in an hour.")
            receive = self._uploads.counted(receive)
        elif scope["method"] == "POST":
            body = await _body(Request(scope, receive))
            if body is None:
                refusal = _refuse(413, "The body is too large.")
            elif not _is_sound(body):
                refusal = _refuse(400, "The body is invalid.")
            else:
                receive = _again(body, receive)
        await (refusal or self._app)(scope, receive, send)


def _is_path(path: str) -> bool:
    """Whether a path is valid: some file systems fail at invalid ones."""
    name = path.removeprefix(_API)
    is_remote = name.startswith(("file=", "file/")) and "://" in name  # Gradio would fetch it
    return path.isprintable() and len(path) <= _MAX_CHARACTERS and not is_remote


async def _body(request: Request) -> bytes | None:
    """The body, or None if it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _is_sound(body: bytes) -> bool:
    r"""Whether Gradio's queue can process a JSON body.

    A lone surrogate such as `\ud800` ends the queue, and an empty session hash makes it wait for
    another session's messages. Inside a text, the quotes of the name would be escaped.
    """
    if _NAMELESS.search(body):
        return False
    if b"\\u" not in body:
        return True
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except (ValueError, RecursionError):  # reported where it is parsed
        return True
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """Replays a body that was read, then continues."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


def _refuse(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status)
