"""The routes of the completions server: OpenAI's API, and vLLM's for adapters that come and go."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
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
from cgclora.inference.request import DecodingError, Piece
from cgclora.inference.request import Request as Question
from cgclora.inference.request_queue import Call, QueueFullError
from cgclora.serving import openai_api
from cgclora.serving.openai_api import ApiError, Asked
from cgclora.storage.adapter_dir import AdapterError

MOST_BYTES = 4 << 20
"""Of a request's body."""

_REFUSALS: Mapping[type[Exception], tuple[int, str | None]] = {
    ClientDisconnect: (499, None),  # in the middle of its body: nobody reads this
    ConfigError: (400, None),
    DataError: (400, None),
    DecodingError: (400, None),
    QueueFullError: (503, "queue_full"),
}
"""Status and code of the errors that are not ours; `ApiError` has its own."""

_log = logging.getLogger(__name__)


_READING = ["GET", "HEAD"]


def application(
    engine: Engine,
    *,
    key: str | None = None,
    adapters_folder: Path | None = None,
    allow_origins: Collection[str] = (),
) -> ASGIApp:
    """The server's routes.

    Args:
        engine: Of resident clusters; the caller enters it.
        key: What clients must send as bearer token, if anything.
        adapters_folder: Where adapters may be loaded from at run time; None allows none.
        allow_origins: Origins of web pages whose scripts may ask; `*` stands for any. Browsers
            send them no cookies for it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    routes = APIRouter(prefix="/v1", dependencies=[Depends(_key_check(key))])
    facts = {"object": "model", "created": int(time.time()), "owned_by": "cgclora"}

    @app.api_route("/health", methods=_READING)
    async def health() -> Response:
        return Response()

    @routes.api_route("/models", methods=_READING)
    async def models() -> dict[str, Any]:
        names = openai_api.model_names(engine.clusters)
        return {"object": "list", "data": [{"id": name, **facts} for name in names]}

    @routes.api_route("/models/{model:path}", methods=_READING)
    async def retrieve(model: str) -> dict[str, Any]:
        openai_api.check_model(model, engine.clusters)
        return {"id": model, **facts}

    @routes.post("/completions")
    async def complete(http: Request) -> Response:
        asked = Asked.read(await _body(http))
        return await _complete(engine, asked, http)

    @routes.post("/load_lora_adapter")
    async def load(http: Request) -> Response:
        body = await _body(http)
        name, path = _field(body, "lora_name"), _field(body, "lora_path")
        folder = _allowed(adapters_folder, path)
        await asyncio.to_thread(_add, engine, name, path, folder)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @routes.post("/unload_lora_adapter")
    async def unload(http: Request) -> Response:
        name = _field(await _body(http), "lora_name")
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
    """A path means the same with a slash at its end; not every client follows a redirect."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].rstrip("/")}
        await app(scope, receive, send)

    return called


def _cross_origin(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Answers preflights, and lets pages of the origins read all replies, those of errors too."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=[*_READING, "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )


def _key_check(key: str | None) -> Any:
    async def check(http: Request) -> None:
        # Starlette reads a header's bytes as Latin-1, clients write the key as UTF-8.
        sent = http.headers.get("authorization", "").encode("latin-1")
        scheme, _, found = sent.partition(b" ")
        wanted = (key or "").encode("utf-8", "surrogateescape")  # as the environment had it
        same = hmac.compare_digest(found, wanted) and scheme.lower() == b"bearer"
        if key is not None and not same:
            raise ApiError(
                401, "this server wants its API key as a bearer token.", code="invalid_api_key"
            )

    return check


def _handle_errors(app: FastAPI) -> None:
    """Every error in OpenAI's format; one of ours tells the client nothing of this machine."""

    async def ours(_: Request, error: Exception) -> Response:
        found = _api_error(error)
        headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
        if isinstance(error, QueueFullError):
            headers["Retry-After"] = str(error.seconds)
        return JSONResponse(found.body(), found.status, headers=headers)

    kinds: tuple[type[Exception], ...] = (ApiError, *_REFUSALS, Exception)
    for kind in kinds:
        app.exception_handler(kind)(ours)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def no_route(_: Request, error: HTTPException) -> Response:
        body = ApiError(error.status_code, error.detail).body()
        return JSONResponse(body, error.status_code, headers=error.headers)


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    for kind, (status, code) in _REFUSALS.items():
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code)
    return ApiError(500, "the server failed: its log says why.", code="internal_error")


async def _body(http: Request) -> Any:
    """The JSON of a body. Other types are refused: a web page elsewhere could send them unasked."""
    kind, _, _ = http.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise ApiError(415, "send Content-Type: application/json.")
    received = bytearray()
    async for chunk in http.stream():
        received += chunk
        if len(received) > MOST_BYTES:
            raise ApiError(413, f"the body is larger than {MOST_BYTES >> 20} MiB.")
    try:
        body = json.loads(received)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ApiError(
            400, "the body has half of a surrogate pair, which is no character."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is no JSON.") from error
    return body


def _field(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"{name} must be a text.", param=name)
    return value


# Answers ----------------------------------------------------------------------------------


async def _complete(engine: Engine, asked: Asked, http: Request) -> Response:
    """Answer while the client is there; its requests stop when it goes away."""
    model, questions = await asyncio.to_thread(openai_api.requests, asked, engine.clusters)
    arrived: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(piece: Piece | Exception) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the client with it
            loop.call_soon_threadsafe(arrived.put_nowait, piece)

    call = Call(tell)
    try:
        await asyncio.to_thread(engine.submit, call, questions)
    except BaseException:
        call.cancelled = True
        raise
    pieces = _pieces(call, arrived, len(questions))
    envelope = openai_api.envelope(model)
    if asked.stream:
        events = _events(envelope, pieces, include_usage=asked.include_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    answer = asyncio.ensure_future(_whole(envelope, pieces, questions))
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(await answer) if answer.done() else Response(status_code=499)
    finally:
        call.cancelled = True
        answer.cancel()
        gone.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _pieces(
    call: Call, arrived: asyncio.Queue[Piece | Exception], requests: int
) -> AsyncGenerator[Piece]:
    """The pieces of a call until its last request has ended; closed early, the work stops."""
    try:
        while requests:
            piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            requests -= piece.answer is not None
            yield piece
    finally:
        call.cancelled = True


async def _whole(
    envelope: Mapping[str, Any], pieces: AsyncGenerator[Piece], questions: Sequence[Question]
) -> dict[str, Any]:
    answers = {piece.index: piece.answer async for piece in pieces if piece.answer is not None}
    ordered = [answers[place] for place in range(len(questions))]
    return {
        **envelope,
        "choices": [openai_api.choice(i, one.text, one) for i, one in enumerate(ordered)],
        "usage": openai_api.usage(ordered),
    }


async def _events(
    envelope: Mapping[str, Any], pieces: AsyncGenerator[Piece], *, include_usage: bool
) -> AsyncGenerator[str]:
    """Server-sent events: a piece each, then `[DONE]`; an error that ends the answer is one too."""
    answers = []
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                if piece.answer is not None:
                    answers.append(piece.answer)
                choices = [openai_api.choice(piece.index, piece.text, piece.answer)]
                yield _event({**envelope, "choices": choices})
        except Exception as error:  # the status is sent already: the client must read it here
            found = _api_error(error)
            if found.status >= 500:
                _log.error("an answer failed in its stream", exc_info=error)
            yield _event(found.body())
            return
    if include_usage:
        yield _event({**envelope, "choices": [], "usage": openai_api.usage(answers)})
    yield "data: [DONE]\n\n"


def _event(body: Mapping[str, Any]) -> str:
    """In ASCII: many clients end a line wherever `str.splitlines` does, such as at U+2028."""
    return f"data: {json.dumps(body)}\n\n"


# Adapters ---------------------------------------------------------------------------------


def _allowed(adapters_folder: Path | None, path: str) -> Path:
    """A folder below the one that adapters may come from."""
    if adapters_folder is None:
        raise ApiError(403, "this server was started without --adapters-folder: adapters stay.")
    with suppress(ValueError, OSError):  # such as a NUL in the path
        folder = (adapters_folder / path).resolve()
        if folder.is_relative_to(adapters_folder.resolve()):
            return folder
    raise ApiError(403, "lora_path must lie in the server's adapters folder.", param="lora_path")


def _add(engine: Engine, name: str, path: str, folder: Path) -> None:
    if "/" in name:
        raise ApiError(400, "lora_name must have no slash.", param="lora_name")
    try:
        engine.clusters.add(name, folder)
    except AdapterError as error:
        message = str(error).replace(str(folder), path)
        raise ApiError(400, message, param="lora_path") from error
    except OSError as error:
        raise ApiError(400, f"{path} cannot be read.", param="lora_path") from error
