"""The bounded queue of requests that wait for an engine, and what it takes on."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Condition

from cgclora.inference.request import DecodingError, EncodedRequest, Piece

_log = logging.getLogger(__name__)

_RECENT = 32  # requests whose starts are remembered, to estimate how long others will wait
_MAX_RETRY_SECONDS = 60  # of the estimate: by then the load may be different
_GATHER_SECONDS = 0.01  # a batch waits so long for requests that arrive with its first one


class QueueFullError(RuntimeError):
    """The queue is full, or the engine is shutting down: try again later.

    Attributes:
        seconds: When to try again.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(f"{reason} Ask again in {seconds} s.")
        self.seconds = seconds


@dataclass(frozen=True)
class Limits:
    """What an engine takes on.

    Attributes:
        batch_size: Largest number of rows of a batch.
        batch_tokens: Largest number of prompt tokens that are read at once, padding included; a
            longer prompt is read alone.
        queue: Largest number of waiting requests.
        prompt_tokens: Longest prompt.
        answer_tokens: Longest answer.
        workers: Number of batches that run at once.
    """

    batch_size: int = 16
    batch_tokens: int = 16384
    queue: int = 256
    prompt_tokens: int = 4096
    answer_tokens: int = 2048
    workers: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise DecodingError(f"{name} must be at least 1, got {value}.")


@dataclass
class Call:
    """The caller of one or more requests.

    Attributes:
        tell: Called in a worker's thread with each piece, whose `index` is that of the request in
            the call, or with the error that ended a request. The call is cancelled if it raises.
        cancelled: Set by the caller when it has left; its requests stop then.
    """

    tell: Callable[[Piece | Exception], None]
    cancelled: bool = False


@dataclass
class Waiting:
    """A submitted request.

    Attributes:
        request: With its prompt's tokens.
        index: Of the request in its call.
        call: The caller.
        ended: Whether the caller has got the whole answer or an error.
    """

    request: EncodedRequest
    index: int
    call: Call
    ended: bool = False

    def tell(self, piece: Piece) -> None:
        """Pass a piece on to the caller."""
        self.ended = piece.answer is not None
        self._tell(replace(piece, index=self.index))

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it has ended."""
        if not self.ended:
            self.ended = True
            self._tell(error)

    def _tell(self, news: Piece | Exception) -> None:
        try:
            self.call.tell(news)
        except Exception:  # the caller's own: it ends neither the worker nor the rest of the batch
            _log.exception("the caller of a request raised an error")
            self.call.cancelled = True


class RequestQueue:
    """Requests in the order of their arrival; safe to use from several threads.

    Args:
        limits: Of the engine.
        pads: Whether prompts of unequal length may begin together.

    Attributes:
        closed: Whether all work is to stop.
    """

    def __init__(self, limits: Limits, *, pads: bool = True) -> None:
        self._limits = limits
        self._pads = pads
        self._waiting: deque[Waiting] = deque()
        self._begun: deque[float] = deque(maxlen=_RECENT)  # when, by `time.monotonic`
        self._changed = Condition()
        self._draining = False
        self._busy = 0  # batches that run
        self.closed = False

    def put(self, new: Sequence[Waiting]) -> None:
        """Add all of these requests, or none.

        Raises:
            QueueFullError: There is no room for all of them, or the queue takes no more.
        """
        with self._changed:
            if len(self._waiting) + len(new) > self._limits.queue:
                self._waiting = deque(one for one in self._waiting if not one.call.cancelled)
            if self._draining or self.closed:
                raise QueueFullError("the server is about to end.", _MAX_RETRY_SECONDS)
            if len(self._waiting) + len(new) > self._limits.queue:
                raise QueueFullError(
                    f"no room for {len(new)} more requests: {len(self._waiting)} wait, "
                    f"{self._limits.queue} may.",
                    self._seconds_until_room(),
                )
            self._waiting.extend(new)
            self._changed.notify_all()

    def take(self, rows: int) -> list[Waiting]:
        """The next requests that may begin together, up to so many; none if none wait."""
        with self._changed:
            return self._take(rows)

    def next_batch(self) -> list[Waiting]:
        """Wait for requests, and take those that begin a batch; none once the queue is closed.

        The caller says `batch_ended` when they are done.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.closed)
                if self.closed:
                    return []
                is_small = len(self._waiting) < self._limits.batch_size
            if is_small:
                time.sleep(_GATHER_SECONDS)
            with self._changed:
                if batch := self._take(self._limits.batch_size):
                    self._busy += 1
                    if self._waiting:
                        self._changed.notify_all()
                    return batch

    def batch_ended(self) -> None:
        """Note that a batch of `next_batch` has ended."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Take no more requests, and wait until all are answered, at most so long."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not (self._waiting or self._busy), seconds)

    def close(self) -> None:
        """Stop all work."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def waiting(self) -> list[Waiting]:
        """The requests that wait, without cancelled ones."""
        with self._changed:
            return [one for one in self._waiting if not one.call.cancelled]

    def seconds_until_room(self) -> int:
        """When a caller that found no room should try again; at least 1."""
        with self._changed:
            return self._seconds_until_room()

    def _seconds_until_room(self) -> int:
        """Until a quarter of the queue will have begun, at the recent pace."""
        if not self._begun:
            return 1
        pace = (time.monotonic() - self._begun[0]) / len(self._begun)
        return max(1, min(_MAX_RETRY_SECONDS, math.ceil(pace * len(self._waiting) / 4)))

    def _take(self, rows: int) -> list[Waiting]:
        batch: list[Waiting] = []
        longest = 0
        while self._waiting and len(batch) < rows:
            tokens = len(self._waiting[0].request.ids)
            longest = max(longest, tokens)
            if batch and longest * (len(batch) + 1) > self._limits.batch_tokens:
                break
            if batch and not self._pads and tokens != len(batch[0].request.ids):
                break
            waiting = self._waiting.popleft()
            if not waiting.call.cancelled:
                batch.append(waiting)
                self._begun.append(time.monotonic())
        if not self._waiting:  # the next request will not wait for any other
            self._begun.clear()
        return batch
