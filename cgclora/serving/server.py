"""The routes of the server: OpenAI's API, and vLLM's to load and unload adapters."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.inference.engine import Engine
from cgclora.inference.request import Answer, DecodingError, Piece
from cgclora.inference.request_queue import Call, QueueFullError
from cgclora.serving import models as api_models
from cgclora.serving.chat import Chat, ChatRequest
from cgclora.serving.completions import Completion, CompletionRequest, usage
from cgclora.serving.fields import ApiError, text_field
from cgclora.serving.token_text import TokenTexts
from cgclora.storage.adapter_dir import AdapterError

MAX_BODY_BYTES = 4 << 20

# HTTP status and code by type of error.
_ERROR_STATUS: Mapping[type[Exception], tuple[int, str | None]] = {
    ClientDisconnect: (499, None),  # within its body: the response is not read
    ConfigError: (400, None),
    DataError: (400, None),
    DecodingError: (400, None),
    QueueFullError: (503, "queue_full"),
}
_log = logging.getLogger(__name__)

_READ_METHODS = ["GET", "HEAD"]


def application(
    engine: Engine,
    *,
    key: str | None = None,
    adapters_folder: Path | None = None,
    allow_origins: Collection[str] = (),
) -> ASGIApp:
    """The server's routes.

    Args:
        engine: With clusters; the caller enters its context.
        key: Bearer token that clients must send; None requires none.
        adapters_folder: Folder of the adapters that may be loaded at run time; None allows none.
        allow_origins: Origins of web pages that may send requests (CORS, without cookies); `*` is
            any.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    routes = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(key))])
    facts = {"object": "model", "created": int(time.time()), "owned_by": "cgclora"}
    texts = TokenTexts(engine.backbone.tokenizer)

    @app.api_route("/health", methods=_READ_METHODS)
    async def health() -> Response:
        return Response()

    @routes.api_route("/models", methods=_READ_METHODS)
    async def models() -> dict[str, Any]:
        names = api_models.model_names(engine.clusters)
        return {"object": "list", "data": [{"id": name, **facts} for name in names]}

    @routes.api_route("/models/{model:path}", methods=_READ_METHODS)
    async def retrieve(model: str) -> dict[str, Any]:
        api_models.check_model(model, engine.clusters)
        return {"id": model, **facts}

    @routes.post("/completions")
    async def complete(http: Request) -> Response:
        request = CompletionRequest.parse(await _body(http))
        return await _complete(engine, texts, request, http)

    @routes.post("/chat/completions")
    async def chat(http: Request) -> Response:
        request = ChatRequest.parse(await _body(http))
        return await _complete(engine, texts, request, http)

    @routes.post("/load_lora_adapter")
    async def load(http: Request) -> Response:
        body = await _body(http)
        name, path = text_field(body, "lora_name"), text_field(body, "lora_path")
        folder = _allowed(adapters_folder, path)
        await asyncio.to_thread(_add, engine, name, path, folder)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @routes.post("/unload_lora_adapter")
    async def unload(http: Request) -> Response:
        name = text_field(await _body(http), "lora_name")
        _allowed(adapters_folder, ".")
        try:
            await asyncio.to_thread(engine.clusters.remove, name)
        except ConfigError as error:
            raise ApiError(404, str(error), param="lora_name") from error
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    app.include_router(routes)
    _handle_errors(app)
    return _cross_origin(_without_slash(app), allow_origins)


def _without_slash(app: ASGIApp) -> ASGIApp:
    """Ignore a slash at the end of a path; not every client follows a redirect."""

    async def without_slash(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await app(scope, receive, send)

    return without_slash


def _cross_origin(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Allow CORS requests from these origins, also for error responses."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=[*_READ_METHODS, "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )


def _key_check(key: str | None) -> Any:
    async def check(http: Request) -> None:
        # Starlette reads a header's bytes as Latin-1, clients write the key as UTF-8.
        sent = http.headers.get("authorization", "").encode("latin-1")
        scheme, _, token = sent.partition(b" ")
        expected = (key or "").encode("utf-8", "surrogateescape")  # as in the environment
        is_valid = hmac.compare_digest(token, expected) and scheme.lower() == b"bearer"
        if key is not None and not is_valid:
            raise ApiError(
                401, "this server requires its API key as a bearer token.", code="invalid_api_key"
            )

    return check


def _handle_errors(app: FastAPI) -> None:
    """Return every error in OpenAI's format; internal errors reveal nothing of this machine."""

    async def respond(_: Request, error: Exception) -> Response:
        api_error = _api_error(error)
        headers = {"WWW-Authenticate": "Bearer"} if api_error.status == 401 else {}
        if isinstance(error, QueueFullError):
            headers["Retry-After"] = str(error.seconds)
        return JSONResponse(api_error.body(), api_error.status, headers=headers)

    kinds: tuple[type[Exception], ...] = (ApiError, *_ERROR_STATUS, Exception)
    for kind in kinds:
        app.exception_handler(kind)(respond)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def no_route(_: Request, error: HTTPException) -> Response:
        body = ApiError(error.status_code, error.detail).body()
        return JSONResponse(body, error.status_code, headers=error.headers)


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    for kind, (status, code) in _ERROR_STATUS.items():
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code)
    return ApiError(500, "the server failed: its log says why.", code="internal_error")


async def _body(http: Request) -> Any:
    """The JSON of a body; other types are refused, since any web page can send them (CSRF)."""
    kind, _, _ = http.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise ApiError(415, "send Content-Type: application/json.")
    received = bytearray()
    async for chunk in http.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES >> 20} MiB.")
    try:
        body = json.loads(received)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body contains half of a surrogate pair.") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not valid JSON.") from error
    return body


async def _complete(
    engine: Engine, texts: TokenTexts, request: CompletionRequest | ChatRequest, http: Request
) -> Response:
    """Answer a completion; its requests are cancelled when the client disconnects."""
    completion: Completion | Chat = await asyncio.to_thread(request.prepare, engine, texts)
    queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(piece: Piece | Exception) -> None:
        with suppress(RuntimeError):  # the event loop has ended, so the client has left
            loop.call_soon_threadsafe(queue.put_nowait, piece)

    call = Call(tell)
    try:
        await asyncio.to_thread(engine.submit, call, completion.requests)
    except BaseException:
        call.cancelled = True
        raise
    pieces = _pieces(call, queue, len(completion.requests))
    if completion.settings.stream:
        return StreamingResponse(_events(completion, pieces), media_type="text/event-stream")
    body = asyncio.ensure_future(_whole(completion, pieces))
    disconnected = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({body, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(await body) if body.done() else Response(status_code=499)
    finally:
        call.cancelled = True
        body.cancel()
        disconnected.cancel()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _pieces(
    call: Call, queue: asyncio.Queue[Piece | Exception], unfinished: int
) -> AsyncGenerator[Piece]:
    """The pieces of a call until no request is unfinished; closing it early cancels the call."""
    try:
        while unfinished:
            piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            unfinished -= piece.answer is not None
            yield piece
    finally:
        call.cancelled = True


async def _whole(completion: Completion | Chat, pieces: AsyncGenerator[Piece]) -> dict[str, Any]:
    answers = {piece.index: piece.answer async for piece in pieces if piece.answer is not None}
    return {
        **completion.envelope(chunk=False),
        **await asyncio.to_thread(completion.whole, answers),
        "usage": usage(answers, completion.settings.n),
    }


async def _events(
    completion: Completion | Chat, pieces: AsyncGenerator[Piece]
) -> AsyncGenerator[str]:
    """Server-sent events: those of each piece, or an error, then `[DONE]`."""
    answers: dict[int, Answer] = {}
    settings, envelope = completion.settings, completion.envelope(chunk=True)
    if settings.include_usage:
        envelope["usage"] = None
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                if piece.answer is not None:
                    answers[piece.index] = piece.answer
                for choice in completion.chunks(piece):
                    yield _event({**envelope, "choices": [choice]})
        except Exception as error:  # the HTTP status has been sent already
            api_error = _api_error(error)
            if api_error.status >= 500:
                _log.error("an answer failed in its stream", exc_info=error)
            yield _event(api_error.body())
            return
    if settings.include_usage:
        yield _event({**envelope, "choices": [], "usage": usage(answers, settings.n)})
    yield "data: [DONE]\n\n"


def _event(body: Mapping[str, Any]) -> str:
    """An event in ASCII, since many clients split lines as `str.splitlines`, such as at U+2028."""
    return f"data: {json.dumps(body)}\n\n"


def _allowed(adapters_folder: Path | None, path: str) -> Path:
    """The folder of an adapter, which must lie in the adapters folder."""
    if adapters_folder is None:
        message = "adapters cannot be loaded: the server was started without --adapters-folder."
        raise ApiError(403, message)
    with suppress(ValueError, OSError):  # such as a NUL in the path
        folder = (adapters_folder / path).resolve()
        if folder.is_relative_to(adapters_folder.resolve()):
            return folder
    raise ApiError(403, "lora_path must lie in the server's adapters folder.", param="lora_path")


def _add(engine: Engine, name: str, path: str, folder: Path) -> None:
    if "/" in name:
        raise ApiError(400, "lora_name must not contain a slash.", param="lora_name")
    try:
        engine.clusters.add(name, folder)
    except AdapterError as error:
        message = str(error).replace(str(folder), path)
        raise ApiError(400, message, param="lora_path") from error
    except OSError as error:
        raise ApiError(400, f"{path} cannot be read.", param="lora_path") from error
