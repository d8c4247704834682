"""Requests that arrive at any time, answered in batches of any tasks of any clusters.

Requests that wait are answered together as one batch. While it runs, those that come meanwhile form
the next one, which another thread answers, or join a batch that has room: as answers end, others
take their places. Batches take the backbone's lock token by token, so that a short question does
not wait for a long answer. There are `Limits.workers` threads; what comes when all their batches
are full waits. Where batches cannot be joined (see `Batch.joins`), it waits until one has ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Self

from cgclora.inference.generate import stream
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import (
    DecodingError,
    EncodedRequest,
    Piece,
    Request,
    encode_requests,
)
from cgclora.models.backbone import Backbone

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 32  # of a prompt for each token that it may have: words are shorter
_LATELY = 32  # requests that were begun; how fast that went says how long others will wait
_MOST_SECONDS = 60  # that anybody is told to wait: by then things may be different
_GATHERING = 0.01  # seconds that a batch waits for requests which arrive with its first one


class QueueFullError(RuntimeError):
    """No more requests are taken for now, since too many wait or the end is near: ask again.

    Attributes:
        seconds: When to ask again.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(f"{reason} Ask again in {seconds} s.")
        self.seconds = seconds


@dataclass
class Call:
    """Whoever asked one or more requests.

    Attributes:
        tell: Called in a worker's thread with each piece, whose `index` is the request's place in
            the call, or with the error that ended a request. If it raises, the call has left.
        cancelled: Set when nobody waits any more; its requests stop then.
    """

    tell: Callable[[Piece | Exception], None]
    cancelled: bool = False


@dataclass
class _Waiting:
    """A request on its way."""

    request: EncodedRequest
    place: int
    call: Call
    ended: bool = False

    @property
    def tokens(self) -> int:
        """Of its prompt."""
        return len(self.request.ids)

    def tell(self, piece: Piece) -> None:
        self.ended = piece.answer is not None
        self._say(replace(piece, index=self.place))

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self.ended = True
            self._say(error)

    def _say(self, said: Piece | Exception) -> None:
        try:
            self.call.tell(said)
        except Exception:  # the caller's own: it ends neither the worker nor the rest of the batch
            _log.exception("nobody could be told of an answer")
            self.call.cancelled = True


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Attributes:
        batch_size: Most requests in one batch.
        batch_tokens: Most prompt tokens in one batch, padding included; a longer prompt goes alone.
        queue: Most requests that wait.
        prompt_tokens: Longest prompt.
        answer_tokens: Longest answer.
        workers: Batches under way at once.
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
class Served:
    """What a batcher has done so far.

    Attributes:
        batches: Batches begun.
        requests: Requests in them.
    """

    batches: int = 0
    requests: int = 0


@dataclass
class Batcher:
    """Answers requests from a bounded queue, in threads of its own while it is entered.

        with Batcher(backbone, clusters) as batcher:
            batcher.submit(Call(print), [Request("NER", prompt)])

    Attributes:
        backbone: Who answers.
        clusters: Whose tasks the requests name; they may come and go meanwhile.
        limits: What is taken on.
        served: What was done so far.
    """

    backbone: Backbone
    clusters: Clusters
    limits: Limits = field(default_factory=Limits)
    served: Served = field(default_factory=Served)

    def __post_init__(self) -> None:
        self._queue: deque[_Waiting] = deque()
        self._begun: deque[float] = deque(maxlen=_LATELY)  # when
        self._changed = Condition()
        self._tokenizer = Lock()
        self._draining = self._closed = False
        self._busy = 0  # workers with a batch
        self._threads: list[Thread] = []

    def __enter__(self) -> Self:
        """Start the workers."""
        self._threads = [
            Thread(target=self._work, name=f"answers-{number}", daemon=True)
            for number in range(self.limits.workers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all work; returns when the last pass has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for waiting in self._queue:
            waiting.fail(DecodingError("the server ends."))

    def drain(self, seconds: float) -> None:
        """Take nothing more, and stop once all that was taken is answered, or so late."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not (self._queue or self._busy), seconds)
        self.__exit__(None, None, None)

    def submit(self, call: Call, requests: Sequence[Request]) -> None:
        """Let requests wait for their answers: all of them or, where one is refused, none.

        Raises:
            QueueFullError: There is no room for all of them, or the batcher is about to end.
            ConfigError: No cluster knows a request's task.
            DecodingError: A prompt is empty, or prompt or answer are longer than allowed, or there
                are more requests than ever may wait.
        """
        if len(requests) > self.limits.queue:
            raise DecodingError(
                f"{len(requests)} prompts are more than the {self.limits.queue} that may wait here "
                "at once: send them in several calls."
            )
        new = [
            _Waiting(self._encode(request), place, call) for place, request in enumerate(requests)
        ]
        with self._changed:
            if len(self._queue) + len(new) > self.limits.queue:
                self._queue = deque(one for one in self._queue if not one.call.cancelled)
            if self._draining or self._closed:
                raise QueueFullError("the server is about to end.", _MOST_SECONDS)
            if len(self._queue) + len(new) > self.limits.queue:
                raise QueueFullError(
                    f"no room for {len(new)} more requests: {len(self._queue)} wait, "
                    f"{self.limits.queue} may.",
                    self._seconds_until_room(),
                )
            self._queue.extend(new)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        with self._changed:
            return sum(not one.call.cancelled for one in self._queue)

    @property
    def seconds_until_room(self) -> int:
        """When whoever finds no room should ask again; at least 1."""
        with self._changed:
            return self._seconds_until_room()

    def _seconds_until_room(self) -> int:
        """Until a quarter of those that wait will have been begun, if it goes on as lately."""
        if not self._begun:
            return 1
        pace = (time.monotonic() - self._begun[0]) / len(self._begun)
        return max(1, min(_MOST_SECONDS, math.ceil(pace * len(self._queue) / 4)))

    def ahead(self, call: Call) -> int:
        """How many requests are to be begun before a call's; none once the first one was."""
        with self._changed:
            queue = [one for one in self._queue if not one.call.cancelled]
        return next((place for place, one in enumerate(queue) if one.call is call), 0)

    def _encode(self, request: Request) -> EncodedRequest:
        """The request with its prompt's tokens, if it can be answered."""
        limits = self.limits
        if request.max_new_tokens > limits.answer_tokens:
            raise DecodingError(
                f"an answer of {request.max_new_tokens} tokens is longer than the "
                f"{limits.answer_tokens} that this server gives."
            )
        if len(request.prompt) > _MOST_CHARACTERS * limits.prompt_tokens:  # not worth the counting
            raise DecodingError(
                f"the prompt's {len(request.prompt)} characters are more than the "
                f"{limits.prompt_tokens} tokens that this server reads: shorten it."
            )
        with self._tokenizer:  # which threads may not share
            (encoded,) = encode_requests(self.backbone, [request], self.clusters)
        if len(encoded.ids) > limits.prompt_tokens:
            raise DecodingError(
                f"the prompt's {len(encoded.ids)} tokens are more than the {limits.prompt_tokens} "
                "that this server reads: shorten it."
            )
        return encoded

    # Workers ------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._next():
            self._answer(batch)
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _next(self) -> list[_Waiting]:
        """Wait for requests and take those that fit into one batch; none when all is over."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return []
                alone = len(self._queue) < self.limits.batch_size
            if alone:
                time.sleep(_GATHERING)
            with self._changed:
                if batch := self._take(self.limits.batch_size):
                    self._busy += 1
                    self.served.batches += 1
                    self.served.requests += len(batch)
                    if self._queue:
                        self._changed.notify_all()
                    return batch

    def _take(self, most: int) -> list[_Waiting]:
        batch: list[_Waiting] = []
        longest = 0
        while self._queue and len(batch) < most:
            longest = max(longest, self._queue[0].tokens)
            if batch and longest * (len(batch) + 1) > self.limits.batch_tokens:
                break
            waiting = self._queue.popleft()
            if not waiting.call.cancelled:
                batch.append(waiting)
                self._begun.append(time.monotonic())
        if not self._queue:  # whoever comes next does not wait for anybody
            self._begun.clear()
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        told = False
        requests = [waiting.request for waiting in batch]
        resident = self.clusters.snapshot().adapters

        def more(room: int) -> list[EncodedRequest]:
            """Those that wait and fit in beside the others, if they know the same clusters."""
            if self.clusters.snapshot().adapters is not resident:
                return []
            with self._changed:
                new = self._take(room)
                self.served.requests += len(new)
            batch.extend(new)
            return [waiting.request for waiting in new]

        try:
            for piece in stream(
                self.backbone,
                requests,
                self.clusters,
                cancelled=lambda place: self._closed or batch[place].call.cancelled,
                width=self.limits.batch_size,
                more=more,
            ):
                told = True
                batch[piece.index].tell(piece)
        except Exception as error:  # whatever it is, it ends these requests and not the server
            if told or len(batch) == 1:
                for waiting in batch:
                    waiting.fail(error)
                return
            # One of them may be to blame, such as one whose cluster has gone: not all of them.
            for waiting in batch:
                self._answer([waiting])
            return
        for waiting in batch:
            waiting.fail(DecodingError("the answer was given up."))
