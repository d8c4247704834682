"""Questions of visitors and programs, answered together in the running batch of one server."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgclora.inference.request import Piece, Request
    from cgclora.serving.scheduler import Batcher

_SECONDS_BETWEEN_LOOKS = 0.25


class EngineError(RuntimeError):
    """A question that cannot be answered here; the message says why and what to do."""


class BusyError(EngineError):
    """More questions than are taken on: ask again later."""


@dataclass(frozen=True)
class Wait:
    """No answer yet.

    Attributes:
        ahead: How many questions come first.
    """

    ahead: int


def ask(batcher: Batcher, requests: Sequence[Request], seconds: float) -> Generator[Piece | Wait]:
    """The pieces of all answers as they come; closing the iterator gives up what is not answered.

    Args:
        batcher: Who answers.
        requests: What is asked, in one batch if there is room.
        seconds: That the answers may take after their first piece.

    Raises:
        BusyError: Too many questions wait, or the end is near.
        EngineError: The answers took too long.
        DecodingError, ConfigError: A request cannot be answered.
    """
    from cgclora.serving.scheduler import Call, QueueFullError  # noqa: PLC0415 - torch is loaded by now

    said: SimpleQueue[Piece | Exception] = SimpleQueue()
    call = Call(said.put)
    try:
        batcher.submit(call, requests)
    except QueueFullError as error:
        raise BusyError(str(error)) from error
    open_answers, begun = len(requests), None
    try:
        while open_answers:
            if begun is not None and time.monotonic() - begun > seconds:
                raise EngineError(
                    f"the answer took longer than {seconds:g} seconds and was given up: ask for "
                    "fewer tokens, or again when there is less to do."
                )
            try:
                piece = said.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except Empty:
                yield Wait(batcher.ahead(call))
                continue
            if isinstance(piece, Exception):
                raise piece
            begun = begun or time.monotonic()
            open_answers -= piece.answer is not None
            yield piece
    finally:
        call.left = True
