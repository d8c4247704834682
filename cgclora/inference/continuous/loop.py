"""Answers to very many greedy requests of any tasks of any adapters: continuous batching.

Hundreds of rows run in one `StaticBatch`; rows that end leave it and others join, whatever their
adapters. The engine uses it on CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cgclora.adapter import folded_in
from cgclora.inference.continuous.expert_slots import ExpertSlots
from cgclora.inference.continuous.static_batch import StaticBatch, rows_that_fit
from cgclora.inference.decoding import Reply
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.inference.request import (
    Answer,
    DecodingError,
    Request,
    encode_requests,
    longest_first,
)
from cgclora.inference.runtime import Runtime
from cgclora.layer import Route
from cgclora.models.backbone import Backbone

ROWS = {"cuda": 1024}
"""Default of the most rows of a batch, by the device's type."""

FEW = 16
"""The same for other devices, and for backbones that `fast_decoder` does not know."""

CHUNK = 4
"""Steps between two checks for ended rows: a row is decoded for up to twice as many steps after its
end, and the surplus tokens are dropped."""

PREFILL_TOKENS = 16_384
"""Most prompt tokens that are read at once, padding included; a longer prompt goes alone."""

MANY = 1000
"""Requests for which compiling the layers on CUDA pays: it takes a minute or so, once a process."""

_JOINING = 16
"""One place of so many is free before others join: reading few prompts costs as many launches."""

_LEAST = 16
"""Fewest rows that a step is made for."""

_ROUND = 64
"""Room for tokens is a multiple of it."""


def default_rows(backbone: Backbone) -> int:
    """Default of the most rows of a batch: `ROWS` or `FEW`."""
    return ROWS.get(backbone.model.device.type, FEW) if Runtime.of(backbone).is_fast else FEW


def answers(
    backbone: Backbone,
    requests: Sequence[Request],
    adapters: Adapters,
    *,
    batch_size: int | None = None,
    chunk: int = CHUNK,
    prefill_tokens: int = PREFILL_TOKENS,
    backend: str | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answer greedy requests in one `StaticBatch`, those that may say most first.

    Args:
        backbone: Who answers; one that `cgclora.inference.fast_decoder` knows.
        requests: Without choices, and at temperature 0.
        adapters: Whose tasks they name.
        batch_size: Largest number of rows; None takes `default_rows`. There are fewer where memory
            is short.
        chunk: As `CHUNK`.
        prefill_tokens: As `PREFILL_TOKENS`.
        backend: Of `torch.compile`; None compiles with `inductor` on CUDA, from `MANY` requests on.

    Yields each request's place with its answer, as soon as it is known to have ended.

    Raises:
        DecodingError: As `Engine.stream`; `batch_size` is less than 1, the backbone is of
            another family, or a request is not greedy.
        ConfigError: No adapter knows a task.
    """
    rows = default_rows(backbone) if batch_size is None else batch_size
    if rows < 1:
        raise DecodingError(f"batch_size must be at least 1, got {rows}.")
    if not Runtime.of(backbone).is_fast:
        raise DecodingError(f"{backbone.name} is of a family that no static batch is made for.")
    if not requests:
        return
    resident = Resident.of(adapters)
    replies = _replies(backbone, requests, resident)
    if folded_in(backbone.model) is not None:
        resident = None  # it is part of the weights
    slots, routes = _slots(requests, resident)
    decoder = FastDecoder(backbone.model)
    if backend is None and decoder.device.type == "cuda" and len(requests) >= MANY:
        backend = "inductor"
    with torch.inference_mode():
        bank = ExpertSlots(decoder, routes)
    most = max(len(reply.prompt) + reply.request.max_new_tokens for reply in replies)
    # A row is decoded for up to two chunks after its end, see `CHUNK`.
    capacity = -(-(most + 2 * chunk) // _ROUND) * _ROUND
    fitting = rows_that_fit(decoder, Runtime.of(backbone).head, capacity, prefill_tokens)
    places = min(rows, len(requests), len(requests) if fitting is None else fitting)
    batch = StaticBatch(
        decoder, Runtime.of(backbone).head, bank, places, capacity, chunk=chunk, backend=backend
    )
    order = longest_first(requests)
    waiting = deque(_Row(replies[place], slots[place]) for place in order)
    run = _Run(backbone, batch, waiting, prefill_tokens)
    while run.is_unfinished:
        for row in run.step():
            seconds = time.monotonic() - row.reply.started
            yield row.reply.index, row.reply.answer(seconds)


def _replies(
    backbone: Backbone, requests: Sequence[Request], adapters: Resident | None
) -> list[Reply]:
    if any(request.temperature or request.choices is not None for request in requests):
        raise DecodingError("a static batch takes greedy requests without choices only.")
    encoded = encode_requests(backbone, requests, adapters)
    return [Reply(place, one.request, one.ids, backbone) for place, one in enumerate(encoded)]


def _slots(
    requests: Sequence[Request], adapters: Resident | None
) -> tuple[list[int], Iterator[Route]]:
    """The slot of each request, and the routes of the slots from 1 on."""
    known: dict[Hashable, int] = {}
    first: list[Request] = []
    slots = []
    for request in requests:
        if request.task is None or adapters is None:
            slots.append(0)
            continue
        gates = None if request.gates is None else id(request.gates)
        key = (request.cluster, request.task, gates)
        if key not in known:
            first.append(request)
            known[key] = len(first)
        slots.append(known[key])
    return slots, (adapters.plan_rows([request]) for request in first if adapters)


@dataclass(eq=False)
class _Row:
    """A request on its way.

    Attributes:
        reply: What it says.
        slot: Of the bank.
        length: Tokens that its place holds once all steps have run that were begun.
    """

    reply: Reply
    slot: int
    length: int = 0


_Chunk = tuple[list[_Row | None], Callable[[], list[list[int]]]]
"""Whose steps they are, and what waits for the tokens."""


class _Run:
    """Rows that join and leave a batch until all are answered.

    Args:
        backbone: Who answers; its lock is held while work for the device is begun.
        batch: Where.
        waiting: Who, in order.
        prefill_tokens: As for `answers`.
    """

    def __init__(
        self, backbone: Backbone, batch: StaticBatch, waiting: deque[_Row], prefill_tokens: int
    ) -> None:
        self._backbone = backbone
        self._batch = batch
        self._waiting = waiting
        self._prefill_tokens = prefill_tokens
        self._folded = folded_in(backbone.model)
        self._rows: list[_Row | None] = [None] * batch.places
        self._running: _Chunk | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether some request has no answer yet."""
        return bool(self._waiting) or any(self._rows)

    def step(self) -> set[_Row]:
        """Begin a chunk, and read the one before, while it runs; the rows that ended there."""
        with self._backbone.lock:
            if folded_in(self._backbone.model) != self._folded:
                raise DecodingError("a task was folded in or out while answers ran: ask again.")
            self._join()
            running, self._running = self._running, self._begin()
        if running is None:
            return set()
        rows, read = running
        ended: set[_Row] = set()
        for row, tokens in zip(rows, read(), strict=True):
            if row is not None and row.reply.finish is None:
                row.reply.take(tokens)
                if row.reply.finish is not None:
                    ended.add(row)
        if ended:
            self._rows = [None if row in ended else row for row in self._rows]
        return ended

    def _join(self) -> None:
        """Let those that wait take free places, if that pays."""
        free = [place for place, row in enumerate(self._rows) if row is None]
        wanted = min(len(self._waiting), -(-len(self._rows) // _JOINING))
        if not self._waiting or len(free) < wanted:
            return
        while self._waiting and free:
            group: list[_Row] = []
            longest = 0
            while self._waiting and len(group) < len(free):
                longest = max(longest, len(self._waiting[0].reply.prompt))
                if group and longest * (len(group) + 1) > self._prefill_tokens:
                    break
                group.append(self._waiting.popleft())
            places, free = free[: len(group)], free[len(group) :]
            for place, row in zip(places, group, strict=True):
                row.length = len(row.reply.prompt)
                row.reply.started = time.monotonic()
                self._rows[place] = row
            prompts = [row.reply.prompt for row in group]
            self._batch.admit(places, prompts, [row.slot for row in group])

    def _begin(self) -> _Chunk | None:
        """Begin a chunk of all rows; None if there are none."""
        alive = [row for row in self._rows if row is not None]
        if not alive:
            return None
        if not self._waiting:
            self._compact(len(alive))
        longest = max(row.length for row in alive)
        for row in alive:
            row.length += self._batch.chunk
        return [*self._rows], self._batch.run(len(self._rows), longest)

    def _compact(self, count: int) -> None:
        """Halve the number of places as often as the rows still fit."""
        width = len(self._rows)
        while width > _LEAST and 2 * count <= width:
            width = -(-width // 2)
        old = [place for place in range(width, len(self._rows)) if self._rows[place] is not None]
        free = [place for place in range(width) if self._rows[place] is None]
        new = free[: len(old)]
        if old:
            self._batch.move(old, new)
        for source, target in zip(old, new, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[width:]
