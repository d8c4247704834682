"""The inference engine: the one way from requests to answers, in this process.

    engine = Engine(backbone, adapter)
    for piece in engine.stream([Request("NER", prompt)]):       # one batch, as it is generated
        print(piece.text, end="")
    answers = engine.generate(requests)                         # any number, in running batches

    with Engine(backbone, clusters) as engine:                  # worker threads, for servers
        engine.submit(Call(print), [Request("NER", prompt)])

Every request is checked and encoded once, waits in a queue, and is answered in a batch of any tasks
of any adapters; as answers end, waiting requests take their rows. Batches hold the backbone's lock
for one token at a time, so a short answer does not wait for a long one. On CUDA `answers` runs
greedy requests in one batch of fixed size, see `cgclora.inference.continuous`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock, Thread
from typing import Self

from cgclora.adapter import Adapter
from cgclora.config import PromptFormat
from cgclora.inference.batch import may_pad
from cgclora.inference.continuous import loop
from cgclora.inference.decoding import decode
from cgclora.inference.multi_adapter import Adapters, Clusters, Resident
from cgclora.inference.request import (
    Answer,
    DecodingError,
    EncodedRequest,
    Piece,
    Request,
    encode_requests,
    longest_first,
    max_tokens,
)
from cgclora.inference.request_queue import Call, Limits, RequestQueue, Waiting
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone

_MAX_CHARACTERS = 32  # per token of the longest prompt: tokens are shorter


@dataclass
class Served:
    """Counts of an engine's workers: batches started, and requests in them."""

    batches: int = 0
    requests: int = 0


class Engine:
    """See the module's docstring.

    Args:
        backbone: The model.
        adapters: They know the requests' tasks. Clusters may be added and removed meanwhile.
        limits: Of `submit`; `answers` uses those of a batch only.
        reference: See `Batch`.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters = None,
        limits: Limits | None = None,
        *,
        reference: bool = False,
    ) -> None:
        self.backbone = backbone
        self.adapters = adapters
        self.limits = limits or Limits()
        self.served = Served()
        self._reference = reference
        self._pads = may_pad(backbone)
        self._queue = RequestQueue(self.limits, pads=self._pads)
        self._tokenizer = Lock()
        self._threads: list[Thread] = []

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[int], bool] = lambda _: False
    ) -> Generator[Piece]:
        """Answer requests as one batch; yields pieces as they are generated.

        Closing the iterator stops decoding.

        Args:
            requests: Of any tasks.
            cancelled: Called with a request's index before each token; if true, the answer ends
                without a last piece.

        Raises:
            ConfigError: No adapter knows a task.
            DecodingError: A prompt is empty or too long for the backbone, a task needs an adapter
                or is not the one that is folded in, or a task is folded in or out while the
                answers run.
            AdapterError: A request's gates have a wrong shape.
        """
        yield from self._stream(requests, max(1, len(requests)), cancelled)

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answer any number of requests in mixed batches, longest first, so with little padding.

        Yields:
            Each request's index with its answer, as soon as it has ended.

        Raises:
            The errors of `stream`.
        """
        if self._fits_static_batch(requests):
            yield from loop.answers(
                self.backbone, requests, self.adapters, batch_size=self.limits.batch_size
            )
            return
        order = longest_first(requests)
        ordered = [requests[i] for i in order]
        for piece in self._stream(ordered, self.limits.batch_size, lambda _: False):
            if piece.answer is not None:
                yield order[piece.index], piece.answer

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests."""
        answers = dict(self.answers(requests))
        return [answers[i] for i in range(len(requests))]

    def _fits_static_batch(self, requests: Sequence[Request]) -> bool:
        if len(requests) < 2 or self.backbone.model.device.type not in loop.ROWS:
            return False  # a single answer is faster with drafts
        return all(map(loop.can_answer, requests)) and Runtime.of(self.backbone).is_fast

    def _stream(
        self, requests: Sequence[Request], width: int, cancelled: Callable[[int], bool]
    ) -> Generator[Piece]:
        resident = Resident.of(self.adapters)
        encoded = encode_requests(self.backbone, requests, resident)
        limits = replace(self.limits, queue=max(1, len(encoded)))
        queue, caller = RequestQueue(limits, pads=self._pads), Call(lambda _: None)
        queue.put([Waiting(one, i, caller) for i, one in enumerate(encoded)])
        while batch := queue.take(width):
            running = dict(enumerate(batch))
            for waiting, piece in self._decode(
                running, width, resident, queue.take, lambda waiting: cancelled(waiting.index)
            ):
                yield replace(piece, index=waiting.index)

    def _decode(
        self,
        running: dict[int, Waiting],
        width: int,
        resident: Resident | None,
        take: Callable[[int], list[Waiting]],
        cancelled: Callable[[Waiting], bool],
    ) -> Iterator[tuple[Waiting, Piece]]:
        """Decode a batch; yields pieces with their requests.

        Requests by index: those that join are added, and those that end are removed, since under
        load a batch may run for hours.
        """
        numbers = count(len(running))

        def joining(room: int) -> list[EncodedRequest]:
            new = take(room)
            for waiting in new:
                running[next(numbers)] = waiting
            return [waiting.request for waiting in new]

        def is_cancelled(index: int) -> bool:
            if (waiting := running.get(index)) is not None and cancelled(waiting):
                running.pop(index).fail(DecodingError("the answer was cancelled."))
            return index not in running

        for piece in decode(
            self.backbone,
            resident,
            [waiting.request for waiting in running.values()],
            width=width,
            take=joining,
            cancelled=is_cancelled,
            reference=self._reference,
        ):
            if (waiting := running.get(piece.index)) is not None:
                yield waiting, piece
                if piece.answer is not None:
                    del running[piece.index]

    def __enter__(self) -> Self:
        """Start the workers."""
        self._threads = [
            Thread(target=self._work, name=f"answers-{number}", daemon=True)
            for number in range(self.limits.workers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all workers; returns after the last forward pass."""
        self._queue.close()
        for thread in self._threads:
            thread.join()
        for waiting in self._queue.waiting():
            waiting.fail(DecodingError("the server was shut down."))

    def drain(self, seconds: float) -> None:
        """Accept no more requests, answer the waiting ones within `seconds`, and stop."""
        self._queue.drain(seconds)
        self.__exit__()

    def submit(self, call: Call, requests: Sequence[Request]) -> None:
        """Queue all of these requests for the workers, or none.

        Raises:
            QueueFullError: The queue has no room for all of them, or the engine is shutting down.
            ConfigError: No adapter knows a request's task.
            DecodingError: A prompt is empty, a prompt or answer is longer than allowed, or there
                are more requests than the queue can hold.
        """
        if len(requests) > self.limits.queue:
            raise DecodingError(
                f"{len(requests)} prompts are more than the {self.limits.queue} that may wait here "
                "at once: send them in several calls."
            )
        self._queue.put([Waiting(self._encode(one), i, call) for i, one in enumerate(requests)])

    def encode(self, request: Request, *, fill: bool = False) -> Request:
        """The request with the token ids of its prompt instead of the text.

        Args:
            request: As for `submit`.
            fill: Set `max_new_tokens` to all that this engine allows and the backbone has room for.

        Raises:
            ConfigError, DecodingError: As `submit`.
        """
        encoded = self._encode(replace(request, max_new_tokens=1) if fill else request)
        ids = tuple(encoded.ids)
        tokens = request.max_new_tokens
        if fill:
            tokens = min(self.limits.answer_tokens, max_tokens(self.backbone) - len(ids))
        return replace(request, prompt="", messages=(), prompt_ids=ids, max_new_tokens=tokens)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._queue.waiting())

    @property
    def seconds_until_room(self) -> int:
        """Time after which a refused caller should try again; at least 1."""
        return self._queue.seconds_until_room()

    def ahead(self, call: Call) -> int:
        """Queue position of a call's first request; 0 once it has started."""
        calls = [waiting.call for waiting in self._queue.waiting()]
        return calls.index(call) if call in calls else 0

    @property
    def clusters(self) -> Clusters:
        """The resident clusters.

        Raises:
            TypeError: The engine was created without clusters.
        """
        if not isinstance(self.adapters, Clusters):
            raise TypeError("this engine has no clusters: create it with `Clusters(backbone)`.")
        return self.adapters

    def _encode(self, request: Request) -> EncodedRequest:
        """Check a submitted request against the limits and encode it."""
        limits = self.limits
        if request.max_new_tokens > limits.answer_tokens:
            raise DecodingError(
                f"an answer of {request.max_new_tokens} tokens is longer than the "
                f"{limits.answer_tokens} that this server gives."
            )
        if request.characters > _MAX_CHARACTERS * limits.prompt_tokens:  # not worth encoding
            raise DecodingError(
                f"the prompt's {request.characters} characters are more than the "
                f"{limits.prompt_tokens} tokens that this server reads: shorten it."
            )
        with self._tokenizer:  # not thread-safe
            (encoded,) = encode_requests(self.backbone, [request], self.adapters)
        if len(encoded.ids) > limits.prompt_tokens:
            raise DecodingError(
                f"the prompt's {len(encoded.ids)} tokens are more than the {limits.prompt_tokens} "
                "that this server reads: shorten it."
            )
        return encoded

    def _work(self) -> None:
        while batch := self._queue.next_batch():
            self.served.batches += 1
            self.served.requests += len(batch)
            self._answer(batch)
            self._queue.batch_ended()

    def _answer(self, batch: list[Waiting]) -> None:
        resident = Resident.of(self.adapters)
        running, has_output = dict(enumerate(batch)), False

        def take(room: int) -> list[Waiting]:
            """Waiting requests, unless adapters were added or removed since the batch started."""
            now = Resident.of(self.adapters)
            if now and resident and now.adapters != resident.adapters:
                return []
            new = self._queue.take(room)
            self.served.requests += len(new)
            return new

        try:
            for waiting, piece in self._decode(
                running,
                self.limits.batch_size,
                resident,
                take,
                lambda waiting: self._queue.closed or waiting.call.cancelled,
            ):
                has_output = True
                waiting.tell(piece)
        except Exception as error:  # it must not end the worker
            for waiting in running.values():
                if has_output or len(running) == 1:
                    waiting.fail(error)
                else:  # one of them may be invalid, such as one of a removed cluster
                    self._answer([waiting])


def generate(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Adapters = None,
    *,
    batch_size: int = 16,
) -> list[Answer]:
    """Answers in the order of the requests, see `Engine.answers`."""
    return Engine(backbone, adapter, Limits(batch_size=batch_size)).generate(requests)


def stream(
    backbone: Backbone, requests: Sequence[Request], adapter: Adapters = None
) -> Generator[Piece]:
    """Pieces of the answers to one batch of requests, see `Engine.stream`."""
    return Engine(backbone, adapter).stream(requests)


def answers_of(
    backbone: Backbone,
    requests: Sequence[Request],
    adapters: Sequence[Adapter | None],
    *,
    batch_size: int | None = None,
    bare_format: PromptFormat | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answer requests in mixed batches, each with its own adapter, see `Engine.answers`.

    Adapters are converted by `Adapter.for_inference`.

    Args:
        backbone: The model.
        requests: The requests; their clusters are ignored.
        adapters: The adapter of each, attached to the backbone; None is the bare backbone, whatever
            the request's task.
        batch_size: Maximum rows of a batch; None takes `default_rows`.
        bare_format: What the bare backbone's prompts get; None is as for any request.

    Raises:
        ConfigError: An adapter does not know its request's task.
        AdapterError: An adapter is attached to another backbone, or gates have a wrong shape.
        DecodingError: As `Engine.stream`, or `batch_size` is less than 1.
    """
    clusters = Clusters(backbone)
    names = {one: str(i) for i, one in enumerate(dict.fromkeys(adapters)) if one is not None}
    for adapter, name in names.items():
        clusters.add(name, adapter)
    named = [
        replace(request, task=None, gates=None, cluster=None, prompt_format=bare_format)
        if adapter is None
        else replace(request, cluster=names[adapter])
        for request, adapter in zip(requests, adapters, strict=True)
    ]
    limits = Limits(batch_size=loop.default_rows(backbone) if batch_size is None else batch_size)
    return Engine(backbone, clusters.snapshot() if names else None, limits).answers(named)
