"""The bounded queue of an engine's waiting requests, and its limits."""

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

_RECENT = 32  # starts of requests from which waiting times are estimated
_MAX_RETRY_SECONDS = 60  # longer estimates are of no use
_GATHER_SECONDS = 0.01  # wait of a batch for requests that arrive with its first


class QueueFullError(RuntimeError):
    """The queue is full, or the engine is shutting down: try again later.

    Attributes:
        seconds: Time after which to try again.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(f"{reason} Ask again in {seconds} s.")
        self.seconds = seconds


@dataclass(frozen=True)
class Limits:
    """Maximum numbers of an engine."""

    batch_size: int = 16  # rows of a batch
    batch_tokens: int = 16384  # of a prefill, padding included; a longer prompt is read alone
    queue: int = 256  # waiting requests
    prompt_tokens: int = 4096
    answer_tokens: int = 2048
    workers: int = 2  # concurrent batches

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise DecodingError(f"{name} must be at least 1, got {value}.")


@dataclass(eq=False)
class Call:
    """The caller of one or more requests.

    Attributes:
        tell: Called in a worker's thread with each piece, whose `index` is that of the request in
            the call, or with the error that ended a request. The call is cancelled if it raises.
        cancelled: Set by the caller to stop its requests.
    """

    tell: Callable[[Piece | Exception], None]
    cancelled: bool = False


@dataclass
class Waiting:
    """A submitted request, with its index in the call."""

    request: EncodedRequest
    index: int
    call: Call
    ended: bool = False  # the caller has received the whole answer or an error

    def tell(self, piece: Piece) -> None:
        """Pass a piece on to the caller."""
        self.ended = piece.answer is not None
        self._tell(replace(piece, index=self.index))

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it has ended."""
        if not self.ended:
            self.ended = True
            self._tell(error)

    def _tell(self, event: Piece | Exception) -> None:
        try:
            self.call.tell(event)
        except Exception:  # of the caller: it must not end the worker or the rest of the batch
            _log.exception("the caller of a request raised an error")
            self.call.cancelled = True


class RequestQueue:
    """Requests in the order of their arrival; safe to use from several threads.

    Args:
        limits: Of the engine.
        pads: Whether prompts of unequal length may share a prefill.

    Attributes:
        closed: Whether the queue was closed and all work must stop.
    """

    def __init__(self, limits: Limits, *, pads: bool = True) -> None:
        self._limits = limits
        self._pads = pads
        self._waiting: deque[Waiting] = deque()
        self._starts: deque[float] = deque(maxlen=_RECENT)  # recent ones, by `time.monotonic`
        self._changed = Condition()  # its lock is reentrant
        self._draining = False
        self._busy = 0  # running batches
        self.closed = False

    def put(self, new: Sequence[Waiting]) -> None:
        """Add all of these requests, or none.

        Raises:
            QueueFullError: The queue has no room for all of them, or is draining or closed.
        """
        with self._changed:
            if len(self._waiting) + len(new) > self._limits.queue:
                self._waiting = deque(one for one in self._waiting if not one.call.cancelled)
            if self._draining or self.closed:
                raise QueueFullError("the server is shutting down.", _MAX_RETRY_SECONDS)
            if len(self._waiting) + len(new) > self._limits.queue:
                raise QueueFullError(
                    f"no room for {len(new)} more requests: {len(self._waiting)} wait, "
                    f"{self._limits.queue} may.",
                    self.seconds_until_room(),
                )
            self._waiting.extend(new)
            self._changed.notify_all()

    def next_batch(self) -> list[Waiting]:
        """Wait for requests and take a batch; empty once the queue is closed.

        The caller must call `batch_ended` when the batch has ended.
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
                if batch := self.take(self._limits.batch_size):
                    self._busy += 1
                    if self._waiting:
                        self._changed.notify_all()
                    return batch

    def batch_ended(self) -> None:
        """Record the end of a batch of `next_batch`."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Accept no more requests, and wait up to `seconds` until all are answered."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not (self._waiting or self._busy), seconds)

    def close(self) -> None:
        """Stop all work."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def waiting(self) -> list[Waiting]:
        """The waiting requests, without cancelled ones."""
        with self._changed:
            return [one for one in self._waiting if not one.call.cancelled]

    def seconds_until_room(self) -> int:
        """Time until a quarter of the queue has started, at the recent pace; at least 1."""
        with self._changed:
            if not self._starts:
                return 1
            pace = (time.monotonic() - self._starts[0]) / len(self._starts)
            return max(1, min(_MAX_RETRY_SECONDS, math.ceil(pace * len(self._waiting) / 4)))

    def take(self, rows: int) -> list[Waiting]:
        """Up to `rows` requests that may share a prefill; empty if none wait."""
        batch: list[Waiting] = []
        longest = 0
        with self._changed:
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
                    self._starts.append(time.monotonic())
            if not self._waiting:  # the next request waits for no other
                self._starts.clear()
        return batch
