"""Continuous batching of many greedy requests, of any tasks of any adapters.

Hundreds of rows run in one `StaticBatch`; as answers end, waiting requests take their rows,
whatever their adapters. The engine uses it on CUDA.
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
from cgclora.inference.request import Answer, DecodingError, Request, encode_requests, longest_first
from cgclora.inference.runtime import Runtime
from cgclora.layer import Route
from cgclora.models.backbone import Backbone

ROWS = {"cuda": 1024}
"""Default batch size by device type, for backbones that `FastDecoder` supports."""

DEFAULT_ROWS = 16
"""Default batch size of all others."""

CHUNK = 4
"""Steps between two checks for ended rows: a row is decoded for up to twice as many steps after its
end, and the surplus tokens are dropped."""

PREFILL_TOKENS = 16_384
"""Maximum prompt tokens of a prefill, padding included; a longer prompt is read alone."""

COMPILED_REQUESTS = 1000
"""Number of requests from which compiling the layers on CUDA pays: it takes about a minute, once
per process."""

_JOIN_SHARE = 16  # requests join when 1 / 16 of the rows are free: a small prefill costs as much
_MIN_ROWS = 16  # of a step
_CAPACITY_MULTIPLE = 64  # of the cache, in tokens


def default_rows(backbone: Backbone) -> int:
    """Default batch size, see `ROWS` and `DEFAULT_ROWS`."""
    if not Runtime.of(backbone).is_fast:
        return DEFAULT_ROWS
    return ROWS.get(backbone.model.device.type, DEFAULT_ROWS)


def answers(
    backbone: Backbone,
    requests: Sequence[Request],
    adapters: Adapters,
    *,
    batch_size: int | None = None,
    prefill_tokens: int = PREFILL_TOKENS,
    backend: str | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answer greedy requests in one `StaticBatch`, those with the longest answers first.

    Args:
        backbone: One that `FastDecoder` supports.
        requests: Without choices and logprobs, and at temperature 0.
        adapters: They know the requests' tasks.
        batch_size: Maximum number of rows; None takes `default_rows`. Memory may limit it further.
        prefill_tokens: As `PREFILL_TOKENS`.
        backend: Of `torch.compile`; None compiles with `inductor` on CUDA, from
            `COMPILED_REQUESTS` requests on.

    Yields:
        Each request's index with its answer, as soon as it has ended.

    Raises:
        DecodingError: As `Engine.stream`; `batch_size` is less than 1, the backbone is not
            supported, or a request is not greedy.
        ConfigError: No adapter knows a task.
    """
    rows = default_rows(backbone) if batch_size is None else batch_size
    _check_supported(backbone, requests, rows)
    if not requests:
        return
    runtime, resident = Runtime.of(backbone), Resident.of(adapters)
    encoded = encode_requests(backbone, requests, resident)
    if folded_in(backbone.model) is not None:
        resident = None  # the folded task needs no experts
    slots, routes = _slots(requests, resident)
    decoder = FastDecoder(backbone.model)
    if backend is None and decoder.device.type == "cuda" and len(requests) >= COMPILED_REQUESTS:
        backend = "inductor"
    with torch.inference_mode():
        experts = ExpertSlots(decoder, routes)
    longest = max(len(one.ids) + one.request.max_new_tokens for one in encoded)
    # A row is decoded for up to two chunks after its end, see `CHUNK`.
    capacity = -(-(longest + 2 * CHUNK) // _CAPACITY_MULTIPLE) * _CAPACITY_MULTIPLE
    fitting = rows_that_fit(decoder, runtime.head, capacity, prefill_tokens)
    rows = min(rows, len(requests), len(requests) if fitting is None else fitting)
    batch = StaticBatch(
        decoder, runtime.head, experts, rows, capacity, chunk=CHUNK, backend=backend
    )
    waiting = deque(
        _Row(Reply(i, encoded[i].request, encoded[i].ids, backbone), slots[i])
        for i in longest_first(requests)
    )
    run = _Run(backbone, batch, waiting, prefill_tokens)
    while run.is_unfinished:
        for row in run.step():
            seconds = time.monotonic() - row.reply.started
            yield row.reply.index, row.reply.answer(seconds)


def can_answer(request: Request) -> bool:
    """Whether a request may be in a static batch: it only takes the most likely token."""
    beyond = (request.choices, request.logprobs, request.prompt_logprobs)
    return request.temperature == 0 and all(one is None for one in beyond)


def _check_supported(backbone: Backbone, requests: Sequence[Request], rows: int) -> None:
    if rows < 1:
        raise DecodingError(f"batch_size must be at least 1, got {rows}.")
    if not Runtime.of(backbone).is_fast:
        raise DecodingError(f"{backbone.name} is of a family that static batches do not support.")
    if not all(map(can_answer, requests)):
        raise DecodingError(
            "a static batch takes greedy requests without choices or logprobs only."
        )


def _slots(
    requests: Sequence[Request], adapters: Resident | None
) -> tuple[list[int], Iterator[Route]]:
    """The expert slot of each request, and the routes of the slots from 1 on."""
    numbers: dict[Hashable, int] = {}
    distinct: list[Request] = []
    slots = []
    for request in requests:
        if request.task is None or adapters is None:
            slots.append(0)
            continue
        gates = None if request.gates is None else id(request.gates)
        key = (request.cluster, request.task, gates)
        if key not in numbers:
            distinct.append(request)
            numbers[key] = len(distinct)
        slots.append(numbers[key])
    return slots, (adapters.plan_rows([request]) for request in distinct if adapters)


@dataclass(eq=False)
class _Row:
    """A request with its answer so far and the slot of its experts."""

    reply: Reply
    slot: int
    length: int = 0  # cached tokens after all steps that were started


_Chunk = tuple[list[_Row | None], Callable[[], list[list[int]]]]
"""The rows of a chunk of steps, and a function that waits for their tokens."""


class _Run:
    """Rows that join and leave a batch until all are answered.

    The backbone's lock is held while work is launched on the device.
    """

    def __init__(
        self, backbone: Backbone, batch: StaticBatch, waiting: deque[_Row], prefill_tokens: int
    ) -> None:
        self._backbone = backbone
        self._batch = batch
        self._waiting = waiting
        self._prefill_tokens = prefill_tokens
        self._folded = folded_in(backbone.model)
        self._rows: list[_Row | None] = [None] * batch.max_rows
        self._running: _Chunk | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether some request has no answer yet."""
        return bool(self._waiting) or any(self._rows)

    def step(self) -> set[_Row]:
        """Start a chunk, and read the previous one meanwhile; returns the rows that ended in it."""
        with self._backbone.lock:
            if folded_in(self._backbone.model) != self._folded:
                raise DecodingError("a task was folded in or out while answers ran: ask again.")
            self._join()
            previous, self._running = self._running, self._start_chunk()
        if previous is None:
            return set()
        rows, read_tokens = previous
        ended: set[_Row] = set()
        for row, tokens in zip(rows, read_tokens(), strict=True):
            if row is not None and row.reply.finish is None:
                row.reply.take(tokens)
                if row.reply.finish is not None:
                    ended.add(row)
        if ended:
            self._rows = [None if row in ended else row for row in self._rows]
        return ended

    def _join(self) -> None:
        """Let waiting requests take free rows, once enough are free."""
        free = [i for i, row in enumerate(self._rows) if row is None]
        needed = min(len(self._waiting), -(-len(self._rows) // _JOIN_SHARE))
        if not self._waiting or len(free) < needed:
            return
        while self._waiting and free:
            group: list[_Row] = []
            longest = 0
            while self._waiting and len(group) < len(free):
                longest = max(longest, len(self._waiting[0].reply.prompt))
                if group and longest * (len(group) + 1) > self._prefill_tokens:
                    break
                group.append(self._waiting.popleft())
            indices, free = free[: len(group)], free[len(group) :]
            for i, row in zip(indices, group, strict=True):
                row.length = len(row.reply.prompt)
                row.reply.started = time.monotonic()
                self._rows[i] = row
            prompts = [row.reply.prompt for row in group]
            self._batch.admit(indices, prompts, [row.slot for row in group])

    def _start_chunk(self) -> _Chunk | None:
        """Start a chunk of steps of all rows; None if there are none."""
        active = [row for row in self._rows if row is not None]
        if not active:
            return None
        if not self._waiting:
            self._compact(len(active))
        longest = max(row.length for row in active)
        for row in active:
            row.length += self._batch.chunk
        return [*self._rows], self._batch.run(len(self._rows), longest)

    def _compact(self, active: int) -> None:
        """Halve the number of rows as often as the active ones still fit."""
        width = len(self._rows)
        while width > _MIN_ROWS and 2 * active <= width:
            width = -(-width // 2)
        sources = [i for i in range(width, len(self._rows)) if self._rows[i] is not None]
        free = [i for i in range(width) if self._rows[i] is None]
        targets = free[: len(sources)]
        if sources:
            self._batch.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[width:]
