"""Turns away what Gradio would read before any handler of ours could: bodies, and odd addresses."""

from __future__ import annotations

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
"""What this page never asks for."""

_NAMELESS = re.compile(rb'"session_hash"\s*:\s*""')
_MOST_BYTES = 4 * 1024 * 1024  # of a body: the longest prompt and all else have room
_MOST_CHARACTERS = 2000  # of a path


class Guard:
    """Lets through what a page or a client may send.

    Args:
        app: Gets it.
        uploads: How much may be uploaded.
    """

    def __init__(self, app: ASGIApp, uploads: UploadQuota) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, refusal = scope["path"], None
        if path.startswith(_UNUSED) or not _is_path(path):
            refusal = _refuse(404, "There is nothing here.")
        elif scope["method"] == "POST" and path.startswith(_UPLOAD):  # files have other limits
            if self._uploads.is_full:
                refusal = _refuse(429, "Too much was uploaded of late: try again in an hour.")
            receive = self._uploads.counted(receive)
        elif scope["method"] == "POST":
            body = await _body(Request(scope, receive))
            if body is None:
                refusal = _refuse(413, "This is too much.")
            elif not _is_sound(body):
                refusal = _refuse(400, "This is no call.")
            else:
                receive = _again(body, receive)
        await (refusal or self._app)(scope, receive, send)


def _is_path(path: str) -> bool:
    """Whether a path can name something: some file systems fail at those that cannot."""
    named = path.removeprefix(_API)
    elsewhere = (
        named.startswith(("file=", "file/")) and "://" in named
    )  # Gradio would go and get it
    return path.isprintable() and len(path) <= _MOST_CHARACTERS and not elsewhere


async def _body(request: Request) -> bytes | None:
    """The body, or None if it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _is_sound(body: bytes) -> bool:
    r"""Whether Gradio's queue can work with JSON.

    It ends by half a character, as `\ud800`, and looks for the letter box of a page without a name
    under another one. In a text, the quotes of the name would be written otherwise.
    """
    if _NAMELESS.search(body):
        return False
    if b"\\u" not in body:
        return True
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except (ValueError, RecursionError):  # whoever reads it says so
        return True
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read once more, then what comes after it."""
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
