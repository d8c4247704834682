"""What stands around the page for whoever runs it: health, headers, request ids.

GET /health   200 as long as the process answers
GET /ready    200 once questions are answered, 503 before, when the end is near, and if the
model could not be loaded
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cache, partial
from importlib import metadata
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.engine.engine import Engine
from ui.server.files import UploadQuota
from ui.server.guard import Guard
from ui.server.log import new_request_id, note, request_id

_PACKAGES = ("torch", "transformers", "gradio", "safetensors")
_log = logging.getLogger(__name__)


def around(engine: Engine, *, embedded_by: Sequence[str] = ()) -> dict[str, Any]:
    """Routes and middleware for Gradio's application, as `gr.Blocks.launch(app_kwargs=...)`.

    Args:
        engine: Whose state is told.
        embedded_by: Origins of pages that may show the app in a frame, besides its own.
    """
    return {
        "routes": [
            Route("/health", partial(_health, engine), methods=["GET"]),
            Route("/ready", partial(_ready, engine), methods=["GET"]),
        ],
        "middleware": [
            Middleware(_Around, engine=engine, policy=_policy(embedded_by)),
            Middleware(Guard, uploads=UploadQuota(engine.limits.uploads_mb * 1_000_000)),
        ],
        "exception_handlers": {RequestValidationError: _invalid},
    }


def state(engine: Engine) -> dict[str, Any]:
    """What is loaded, how many questions wait, and the versions of what answers them."""
    now = engine.status
    model = "failed" if now.problem else "ready" if now.ready else "loading"
    return {
        "status": "ending" if engine.ending else "ok",
        "model": model,
        "loaded": round(now.fraction, 3),
        "waiting": engine.waiting,
        "adapters": len(engine.adapters()),
        "versions": _versions(),
    }


async def _health(engine: Engine, _: Request) -> JSONResponse:
    return JSONResponse(state(engine))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without what it said: that may be more than JSON can say."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    wrong = [{"loc": [*map(str, one["loc"])], "msg": one["type"]} for one in error.errors()]
    return JSONResponse({"detail": wrong}, 422)


async def _ready(engine: Engine, _: Request) -> JSONResponse:
    told = state(engine)
    ready = told["model"] == "ready" and told["status"] == "ok"
    return JSONResponse(told, 200 if ready else 503)


@cache
def _versions() -> dict[str, str]:
    from cgclora import __version__  # noqa: PLC0415 - as all of it, on the first look

    return {"cgclora": __version__, **{name: metadata.version(name) for name in _PACKAGES}}


def _policy(embedded_by: Sequence[str]) -> str:
    """The content security policy. Gradio's page has scripts and styles of its own in it."""
    return "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            " ".join(("frame-ancestors 'self'", *embedded_by)),
        )
    )


_BEGINNING = "http.response.start"
_NONSENSE = JSONResponse({"detail": "This request means nothing here."}, 400)


class _Around:
    """Gives each request an id, each reply its headers, and the log a line.

    What our handlers raise, Gradio answers. What it raises itself is about requests that no page
    and no client of it sends, such as a call of an endpoint that is not there, and gets a 400.
    """

    def __init__(self, app: ASGIApp, engine: Engine, policy: str) -> None:
        self._app = app
        self._engine = engine
        self._headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = new_request_id(Headers(scope=scope))
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name != b"x-request-id"),
            (b"x-request-id", given.encode()),  # for the handlers, which run elsewhere
        ]
        mark = request_id.set(given)
        started = time.monotonic()
        begun = ended = False

        async def reply(message: Message) -> None:
            nonlocal begun, ended
            begun, ended = True, not message.get("more_body", message["type"] == _BEGINNING)
            if message["type"] == _BEGINNING:
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = given
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if message["status"] == 503:
                    headers.setdefault("Retry-After", str(self._engine.seconds_until_room))
                note(
                    _log,
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=message["status"],
                    milliseconds=round(1000 * (time.monotonic() - started), 1),
                )
            await send(message)

        try:
            await self._app(scope, receive, reply)
        except Exception as error:
            if ended:  # of work that goes on after the reply
                raise
            note(_log, "nonsense", path=scope["path"], error=type(error).__name__)
            if begun:
                await reply({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await _NONSENSE(scope, receive, reply)
        finally:
            request_id.reset(mark)
