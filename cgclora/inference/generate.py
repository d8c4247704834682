"""Answers: streamed or whole, one or a batch, each row with its own task, gates and constraints.

    for piece in stream(backbone, [Request("NER", prompt)], adapter):
        print(piece.text, end="")

Rows share one forward pass a token whatever their tasks; a row of task None is answered by the bare
backbone in the same batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cgclora.inference.batch import Batch, may_pad
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.inference.prompt_lookup import Drafts
from cgclora.inference.reply import Reply
from cgclora.inference.request import (
    Answer,
    DecodingError,
    EncodedRequest,
    Piece,
    Request,
    check_folded,
    encode_requests,
)
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone


def stream(
    backbone: Backbone,
    requests: Sequence[Request | EncodedRequest],
    adapter: Adapters = None,
    *,
    cancelled: Callable[[int], bool] = lambda _: False,
    width: int | None = None,
    more: Callable[[int], Sequence[Request | EncodedRequest]] = lambda _: (),
    reference: bool = False,
) -> Generator[Piece]:
    """Answer requests as one batch, a piece as soon as it is known.

    Closing the iterator stops the work. Between pieces the backbone is free for other uses.

    Args:
        backbone: Who answers.
        requests: One or more; their tasks may differ. Those that are encoded were checked before.
        adapter: Whose tasks they name, one or several resident ones; with a task folded in, all
            must be of that task.
        cancelled: Whether nobody waits for a request any more, asked by its place before each
            token: its answer ends there, without a last piece.
        width: Most requests in the batch: as answers end, others take their places. None is all.
        more: Asked for up to so many further requests when there is room for them; their places
            count on from the others'.
        reference: See `Batch`.

    Raises:
        ConfigError: The adapter does not know a task.
        DecodingError: A prompt is empty or longer than the backbone reads, a task is named without
            an adapter or beside another that is folded in, or a task is folded in or out while the
            answer runs.
        AdapterError: A request's gates have a wrong shape.
    """
    if not requests:
        return
    queue = _Queue(backbone, Resident.of(adapter), more, reference)
    queue.admit(requests)
    yield from _answers(queue, len(requests) if width is None else width, cancelled)


def _answers(queue: _Queue, width: int, cancelled: Callable[[int], bool]) -> Generator[Piece]:
    """The pieces of all that wait in a queue, by batches of at most so many rows."""
    rows, batch, hidden = queue.begin(width)
    while True:
        room = width - len(rows)
        # Joining copies the cache, as dropping does below, so both wait until it pays.
        if batch.joins and 4 * room >= width and queue.arrived(room):
            new, other, first = queue.begin(room)
            batch.join(other)
            rows, hidden = [*rows, *new], torch.cat([hidden, first])
        if len(rows) == 1 and not queue.rows and batch.joins:
            rest = yield from _alone(
                batch, rows[0], hidden, cancelled, lambda: queue.arrived(width - 1)
            )
            if rest is None:
                return
            hidden = rest
            continue
        tokens = _choose(batch, rows, hidden)
        for row, token in zip(rows, tokens, strict=True):
            if row.finish is None:
                yield from row.append(token)
        alive = [
            at for at, row in enumerate(rows) if row.finish is None and not cancelled(row.index)
        ]
        if not alive:
            if not queue.rows:
                return
            rows, batch, hidden = queue.begin(width)
            continue
        ended = len(rows) - len(alive)
        if 2 * ended >= len(rows) or (queue.rows and batch.joins and 4 * ended >= width):
            batch.keep(alive)
            rows = [rows[place] for place in alive]
            tokens = [tokens[place] for place in alive]
        hidden = batch.step_hidden(tokens)


@dataclass
class _Queue:
    """Requests that wait for a place in the batch.

    Attributes:
        backbone: Who answers.
        adapters: Whose tasks they name.
        more: As for `stream`.
        reference: See `Batch`.
        rows: Those that wait.
        count: How many there have been.
    """

    backbone: Backbone
    adapters: Resident | None
    more: Callable[[int], Sequence[Request | EncodedRequest]]
    reference: bool
    rows: deque[Reply] = field(default_factory=deque)
    count: int = 0

    def admit(self, new: Sequence[Request | EncodedRequest]) -> None:
        """Let requests wait."""
        plain = [one for one in new if isinstance(one, Request)]
        encoded = iter(encode_requests(self.backbone, plain, self.adapters) if plain else ())
        for one in new:
            ready = one if isinstance(one, EncodedRequest) else next(encoded)
            self.rows.append(Reply(self.count, ready.request, ready.ids, self.backbone))
            self.count += 1

    def arrived(self, room: int) -> bool:
        """Whether requests wait, once more were asked for."""
        if not self.rows and room > 0:
            self.admit(self.more(room))
        return bool(self.rows)

    def begin(self, most: int) -> tuple[list[Reply], Batch, Tensor]:
        """Up to so many rows that waited, their batch, and its hidden states after the prompts.

        Where the backbone takes no padding, those that follow with prompts as long as the first.
        """
        rows = [self.rows.popleft()]
        length = None if may_pad(self.backbone) else len(rows[0].prompt)
        while self.rows and len(rows) < most and length in {None, len(self.rows[0].prompt)}:
            rows.append(self.rows.popleft())
        for row in rows:
            row.started = time.monotonic()
        asked, prompts = [row.request for row in rows], [row.prompt for row in rows]
        check_folded(self.backbone, asked, self.adapters)  # since they were encoded, perhaps
        batch = Batch(self.backbone, self.adapters, asked, prompts, reference=self.reference)
        return rows, batch, batch.prefill_hidden()


def _alone(
    batch: Batch,
    row: Reply,
    hidden: Tensor,
    cancelled: Callable[[int], bool],
    disturbed: Callable[[], bool],
) -> Generator[Piece, None, Tensor | None]:
    """The rest of an answer that has a batch for itself, several tokens a pass where they are sure.

    Args:
        batch: Of one row.
        row: The answer so far.
        hidden: After its last token, [1, H].
        cancelled: As for `stream`.
        disturbed: Asked before each pass whether it is to end sooner, since others have come.

    Returns:
        The hidden state after its last token then; None when the answer has ended.
    """
    drafts = Drafts(row.prompt, Runtime.of(row.backbone).phrases, row.form)
    for token in row.ids:
        drafts.add(token)
    most = batch.most_drafts if row.is_greedy else 0
    tokens = _choose(batch, [row], hidden)
    while True:
        said: list[int] = []
        for token in tokens:  # the last of them was not read yet
            said.append(token)
            drafts.add(token)
            yield from row.append(token)
            if row.finish is not None:
                return None
        while (forced := row.only_choice()) is not None:
            said.append(forced)
            yield from row.append(forced)
            if row.finish is not None:
                return None
        if cancelled(row.index):
            return None
        # All but the last token said in the pass before were read in it, as drafts.
        unread = said[len(tokens) - 1 :]
        if disturbed():
            return batch.read(torch.tensor([unread], device=batch.device))[0, -1:]
        draft = drafts.next(most) if most else []
        hidden = batch.read(torch.tensor([[*unread, *draft]], device=batch.device))[0]
        if not draft:
            tokens = _choose(batch, [row], hidden[-1:])
            continue
        found = batch.argmax(hidden[len(unread) - 1 :])
        right = next((i for i, word in enumerate(draft) if word != found[i]), len(draft))
        batch.forget(len(draft) - right)
        tokens = found[: right + 1]


def _choose(batch: Batch, rows: Sequence[Reply], hidden: Tensor) -> list[int]:
    """The next token of each row, from hidden states [batch, H]; a finished row repeats its last.

    The output head runs for those rows alone that may say anything.
    """
    free = [p for p, row in enumerate(rows) if row.finish is None and row.allowed is None]
    found: dict[int, int] = {}
    if greedy := [p for p in free if rows[p].is_greedy]:
        found.update(zip(greedy, batch.argmax(hidden[greedy]), strict=True))
    if drawn := [p for p in free if p not in found]:
        for place, logits in zip(drawn, batch.logits(hidden[drawn]), strict=True):
            found[place] = rows[place].pick(logits)
    tokens = []
    for place, row in enumerate(rows):
        if place in found:
            tokens.append(found[place])
        elif row.finish is not None:
            tokens.append(row.ids[-1])
        else:
            allowed = torch.tensor(row.allowed_now(), device=hidden.device)
            own = batch.head.of_words(hidden[place : place + 1], allowed)[0]
            tokens.append(int(allowed[row.pick(own)]))
    return tokens


def answers(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Adapters = None,
    *,
    batch_size: int = 16,
) -> Iterator[tuple[int, Answer]]:
    """Answer any number of requests in batches of mixed tasks, those that may say most first.

    Those of like length go together, and among them those of like prompts: little is padding.

    Yields each request's place with its answer, as soon as it has ended.

    Raises:
        DecodingError: `batch_size` is less than 1.
        The errors of `stream`.
    """
    if batch_size < 1:
        raise DecodingError(f"batch_size must be at least 1, got {batch_size}.")
    order = longest_first(requests)
    for piece in stream(backbone, [requests[i] for i in order], adapter, width=batch_size):
        if piece.answer is not None:
            yield order[piece.index], piece.answer


def longest_first(requests: Sequence[Request]) -> list[int]:
    """The places of requests in the order in which `answers` takes them."""
    lengths = [(request.max_new_tokens, len(request.prompt)) for request in requests]
    return sorted(range(len(requests)), key=lengths.__getitem__, reverse=True)


def generate(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Adapters = None,
    *,
    batch_size: int = 16,
) -> list[Answer]:
    """What `answers` yields, all at once and in the order of the requests."""
    found = dict(answers(backbone, requests, adapter, batch_size=batch_size))
    return [found[place] for place in range(len(requests))]
