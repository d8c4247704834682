"""Health, response headers, request ids and graceful shutdown.

GET /health   200 while the process answers
GET /ready    200 while prompts are answered; 503 before, during shutdown, and if the model could
              not be loaded
"""

import logging
import signal
import threading
import time
from collections.abc import Sequence
from functools import cache, partial
from importlib import metadata
from types import FrameType
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cgclora import __version__
from evals.jobs.queue import Jobs
from ui.engine.engine import AppEngine
from ui.server.files import UploadQuota
from ui.server.guard import Guard
from ui.server.log import new_request_id, note, request_id

_PACKAGES = ("torch", "transformers", "gradio", "safetensors")
_COMPRESSION = 5  # of gzip; higher levels take longer and save little
_POLL_SECONDS = 0.2  # of running jobs during the shutdown
_log = logging.getLogger(__name__)


def around(
    engine: AppEngine, *, routes: Sequence[Route] = (), embedded_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Routes and middleware for Gradio's application, as `gr.Blocks.launch(app_kwargs=...)`.

    `routes` are further ones. The origins `embedded_by`, besides its own, may embed the app in a
    frame.
    """
    return {
        "routes": [
            Route("/health", partial(_health, engine), methods=["GET"]),
            Route("/ready", partial(_ready, engine), methods=["GET"]),
            *routes,
        ],
        "middleware": [
            Middleware(_Observer, engine=engine, policy=_policy(embedded_by)),
            # Gradio compresses its scripts alone: the page and the figures are most of the rest.
            Middleware(
                GZipMiddleware,
                compresslevel=_COMPRESSION,
                exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream"),
            ),
            Middleware(Guard, uploads=UploadQuota(engine.limits.uploads_mb * 1_000_000)),
        ],
        "exception_handlers": {RequestValidationError: _invalid},
    }


def state(engine: AppEngine) -> dict[str, Any]:
    """What is loaded, the length of the queue, and versions of packages."""
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


async def _health(engine: AppEngine, _: Request) -> JSONResponse:
    return JSONResponse(state(engine))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Errors of a request without its values, which JSON may not be able to hold."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    wrong = [{"loc": [*map(str, one["loc"])], "msg": one["type"]} for one in error.errors()]
    return JSONResponse({"detail": wrong}, 422)


async def _ready(engine: AppEngine, _: Request) -> JSONResponse:
    now = state(engine)
    ready = now["model"] == "ready" and now["status"] == "ok"
    return JSONResponse(now, 200 if ready else 503)


@cache
def _versions() -> dict[str, str]:
    return {"cgclora": __version__, **{name: metadata.version(name) for name in _PACKAGES}}


def _policy(embedded_by: Sequence[str]) -> str:
    """The content security policy. Gradio's page has inline scripts and styles."""
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


_START = "http.response.start"
_BAD_REQUEST = JSONResponse({"detail": "The request is invalid."}, 400)


class _Observer:
    """Middleware that adds request ids and response headers, and logs requests.

    Gradio answers the errors of handlers. Errors of Gradio itself come from invalid requests, such
    as a call of an unknown endpoint, and are answered with 400.
    """

    def __init__(self, app: ASGIApp, engine: AppEngine, policy: str) -> None:
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
        name = new_request_id(Headers(scope=scope))
        scope["headers"] = [
            *(pair for pair in scope["headers"] if pair[0] != b"x-request-id"),
            (b"x-request-id", name.encode()),  # for handlers, which run in other threads
        ]
        token = request_id.set(name)
        started = time.monotonic()
        begun = ended = False

        async def reply(message: Message) -> None:
            nonlocal begun, ended
            begun, ended = True, not message.get("more_body", message["type"] == _START)
            if message["type"] == _START:
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                for header, value in self._headers.items():
                    headers.setdefault(header, value)
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
            if ended:  # from work after the response
                raise
            note(_log, "invalid request", path=scope["path"], error=type(error).__name__)
            if begun:
                await reply({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await _BAD_REQUEST(scope, receive, reply)
        finally:
            request_id.reset(token)


def shut_down_on_sigterm(
    page: gr.Blocks, engine: AppEngine, seconds: float, queues: Sequence[Jobs] = ()
) -> None:
    """On SIGTERM refuse new requests, wait for answers, and stop serving.

    A second SIGTERM kills the process. The running jobs of `queues` end with the server and can be
    resumed; those of other queues outlive it.
    """

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=end, name="end").start()  # a signal handler must not block

    def end() -> None:
        note(_log, "ending", waiting=engine.waiting)
        deadline = time.monotonic() + seconds
        for jobs in queues:
            for job in _running(jobs):
                jobs.stop(job)
        engine.end(seconds)
        while any(map(_running, queues)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        page.close(verbose=False)

    signal.signal(signal.SIGTERM, handle)


def _running(jobs: Jobs) -> list[str]:
    return [job.id for job in jobs.all() if job.state == "running"]
