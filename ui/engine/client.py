"""Streams answers from the inference engine's workers."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from cgclora.inference.request import Piece, Request
from cgclora.inference.request_queue import Call, QueueFullError

if TYPE_CHECKING:
    from cgclora.inference.engine import Engine

_POLL_SECONDS = 0.25


class EngineError(RuntimeError):
    """The engine cannot answer this request; the message says why and what to do."""


class BusyError(EngineError):
    """The engine takes no more requests for now: ask again later."""


@dataclass(frozen=True)
class Wait:
    """Yielded while a request waits.

    Attributes:
        ahead: Its position in the queue: how many requests come first.
    """

    ahead: int


def stream_pieces(
    engine: Engine, requests: Sequence[Request], seconds: float
) -> Generator[Piece | Wait]:
    """Submit requests and yield the pieces of their answers; closing the iterator cancels them.

    Args:
        engine: Entered by the server.
        requests: Answered in one batch if there is room.
        seconds: Time limit, counted from the first piece.

    Raises:
        BusyError: The queue is full, or the server is shutting down.
        EngineError: The time limit has passed.
        DecodingError, ConfigError: A request cannot be answered.
    """
    received: SimpleQueue[Piece | Exception] = SimpleQueue()
    call = Call(received.put)
    try:
        engine.submit(call, requests)
    except QueueFullError as error:
        raise BusyError(str(error)) from error
    unfinished, started = len(requests), None
    try:
        while unfinished:
            if started is not None and time.monotonic() - started > seconds:
                raise EngineError(
                    f"the answer took longer than {seconds:g} seconds and was cancelled: ask for "
                    "fewer tokens, or try again when the server is less busy."
                )
            try:
                piece = received.get(timeout=_POLL_SECONDS)
            except Empty:
                yield Wait(engine.ahead(call))
                continue
            if isinstance(piece, Exception):
                raise piece
            started = started or time.monotonic()
            unfinished -= piece.answer is not None
            yield piece
    finally:
        call.cancelled = True
