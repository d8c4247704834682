"""Decoding: one batch of answers, token by token; rows leave it as they end, and others join it.

Rows of any tasks share one forward pass per token; a row without a task is answered by the bare
backbone in the same batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cgclora.inference.batch import Batch
from cgclora.inference.multi_adapter import Resident
from cgclora.inference.prompt_lookup import PromptLookup
from cgclora.inference.request import (
    Answer,
    EncodedRequest,
    Finish,
    Piece,
    Request,
    TokenLogprob,
    check_folded,
)
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone


def decode(
    backbone: Backbone,
    adapters: Resident | None,
    requests: Sequence[EncodedRequest],
    *,
    width: int,
    take: Callable[[int], Sequence[EncodedRequest]] = lambda _: (),
    cancelled: Callable[[int], bool] = lambda _: False,
    reference: bool = False,
) -> Generator[Piece]:
    """Answer requests in one batch until the last has ended; yields their pieces.

    A piece's index numbers the requests in order of arrival. Between pieces the backbone is
    unlocked.

    Args:
        backbone: The model.
        adapters: They know the requests' tasks.
        requests: The first ones; at most `width`, and of equal length unless `may_pad`.
        width: Maximum number of rows.
        take: Called with the number of free rows, if requests can join; returns up to so many
            further requests, of the same adapters.
        cancelled: Called with a request's index before each token; if true, the answer ends
            without a last piece.
        reference: See `Batch`.

    Raises:
        DecodingError, AdapterError: As `Engine.stream`.
    """
    joining = _Joining(backbone, adapters, take, reference, [*requests])
    rows, batch, hidden = joining.begin()
    yield from _without_tokens(rows)
    while True:
        # Joining copies the cache, as dropping rows does below, so both wait until it pays.
        room = width - len(rows)
        if batch.can_join and 4 * room >= width and joining.arrived(room):
            new, other, first = joining.begin()
            yield from _without_tokens(new)
            batch.join(other)
            rows, hidden = [*rows, *new], torch.cat([hidden, first])
        if len(rows) == 1 and batch.can_drop_last:
            rest = yield from _decode_alone(
                batch, rows[0], hidden, cancelled, lambda: joining.arrived(width - 1)
            )
            if rest is None:
                return
            hidden = rest
            continue
        tokens = _choose(batch, rows, hidden)
        _score(batch, rows, hidden, tokens)
        for row, token in zip(rows, tokens, strict=True):
            if row.finish is None:
                yield from row.append(token)
        alive = [i for i, row in enumerate(rows) if row.finish is None and not cancelled(row.index)]
        if not alive:
            return
        room, ended = width - len(alive), len(rows) - len(alive)
        makes_room = ended and batch.can_join and 4 * room >= width and joining.arrived(room)
        if 2 * ended >= len(rows) or makes_room:
            batch.keep(alive)
            rows, tokens = [rows[i] for i in alive], [tokens[i] for i in alive]
        hidden = batch.step_hidden(tokens)


def _without_tokens(rows: Sequence[Reply]) -> Iterator[Piece]:
    """End the new rows whose prompts are scored only."""
    for row in rows:
        if row.request.max_new_tokens == 0:
            row.finish = "length"
            yield row.piece("")


@dataclass
class _Joining:
    """Requests that are about to join the batch of `decode`."""

    backbone: Backbone
    adapters: Resident | None
    take: Callable[[int], Sequence[EncodedRequest]]
    reference: bool
    pending: list[EncodedRequest]  # taken, but not started yet
    count: int = 0  # of started requests

    def arrived(self, room: int) -> bool:
        """Whether requests are pending; takes up to `room` if none were."""
        if not self.pending and room > 0:
            self.pending = [*self.take(room)]
        return bool(self.pending)

    def begin(self) -> tuple[list[Reply], Batch, Tensor]:
        """Rows and batch of the pending requests, and hidden states after their prompts [n, H]."""
        new, self.pending = self.pending, []
        requests, prompts = [one.request for one in new], [one.ids for one in new]
        rows = [
            Reply(self.count + i, one.request, one.ids, self.backbone) for i, one in enumerate(new)
        ]
        self.count += len(rows)
        for row in rows:
            row.started = time.monotonic()
        check_folded(self.backbone, requests, self.adapters)  # may have changed since encoding
        batch = Batch(self.backbone, self.adapters, requests, prompts, reference=self.reference)
        prompts_states = batch.prefill_states()
        for row, states in zip(rows, prompts_states, strict=True):
            if (top := row.request.prompt_logprobs) is not None:
                scored = batch.logprobs(states[:-1], row.prompt[1:], [top] * (len(states) - 1))
                row.prompt_logprobs = tuple(scored)
        return rows, batch, torch.stack([states[-1] for states in prompts_states])


def _decode_alone(
    batch: Batch,
    row: Reply,
    hidden: Tensor,
    cancelled: Callable[[int], bool],
    interrupted: Callable[[], bool],
) -> Generator[Piece, None, Tensor | None]:
    """Finish the answer of a batch of one row by speculative decoding, see `prompt_lookup`.

    `interrupted` is called before each pass; if true, the hidden state after the last token [1, H]
    is returned, so that requests can join. None is returned once the answer has ended.
    """
    if row.finish is not None:
        return None
    lookup = PromptLookup(row.prompt, Runtime.of(row.backbone).ngrams, row.ngram_group)
    for token in row.ids:
        lookup.add(token)
    max_drafts = batch.max_drafts if row.is_greedy else 0
    tokens = _choose(batch, [row], hidden)
    while True:
        _score(batch, [row] * len(tokens), hidden, tokens)
        new: list[int] = []
        for token in tokens:  # the backbone has read all but the last, as drafts
            new.append(token)
            lookup.add(token)
            yield from row.append(token)
            if row.finish is not None:
                return None
        while (forced := row.only_choice()) is not None:
            new.append(forced)
            yield from row.append(forced)
            if row.finish is not None:
                return None
        if cancelled(row.index):
            return None
        unread = new[len(tokens) - 1 :]
        if interrupted():
            return batch.read(torch.tensor([unread], device=batch.device))[0, -1:]
        draft = lookup.draft(max_drafts) if max_drafts else []
        hidden = batch.read(torch.tensor([[*unread, *draft]], device=batch.device))[0]
        hidden = hidden[len(unread) - 1 :]
        if not draft:
            tokens = _choose(batch, [row], hidden)
            continue
        best = batch.argmax(hidden)
        accepted = next((i for i, token in enumerate(draft) if token != best[i]), len(draft))
        batch.drop_last(len(draft) - accepted)
        tokens, hidden = best[: accepted + 1], hidden[: accepted + 1]


def _choose(batch: Batch, rows: Sequence[Reply], hidden: Tensor) -> list[int]:
    """The next token of each row, from hidden states [batch, H]; an ended row repeats its last.

    Rows with choices compute the logits of their allowed tokens only.
    """
    free = [i for i, row in enumerate(rows) if row.finish is None and row.allowed is None]
    chosen: dict[int, int] = {}
    if greedy := [i for i in free if rows[i].is_greedy]:
        chosen.update(zip(greedy, batch.argmax(hidden[greedy]), strict=True))
    if sampled := [i for i in free if i not in chosen]:
        for i, logits in zip(sampled, batch.logits(hidden[sampled]), strict=True):
            chosen[i] = rows[i].pick(logits)
    for i, row in enumerate(rows):
        if row.finish is not None:
            chosen[i] = (row.ids or row.prompt)[-1]
        elif row.allowed is not None:
            allowed = torch.tensor(row.allowed_now(), device=hidden.device)
            logits = batch.head.of_words(hidden[i : i + 1], allowed)[0]
            chosen[i] = int(allowed[row.pick(logits)])
    return [chosen[i] for i in range(len(rows))]


def _score(batch: Batch, rows: Sequence[Reply], hidden: Tensor, tokens: Sequence[int]) -> None:
    """Add the logprobs of the next tokens after hidden states [n, H] to the rows that want them."""
    wanting = [i for i, row in enumerate(rows) if row.top is not None and row.finish is None]
    if not wanting:
        return
    tops = [rows[i].top or 0 for i in wanting]
    found = batch.logprobs(hidden[wanting], [tokens[i] for i in wanting], tops)
    for i, logprob in zip(wanting, found, strict=True):
        rows[i].logprobs.append(logprob)


@dataclass
class Reply:
    """The state of one answer: its tokens, its text, and whether it has ended."""

    index: int  # of the request
    request: Request
    prompt: Sequence[int]
    backbone: Backbone
    started: float = 0.0  # when it joined a batch, by `time.monotonic`
    finish: Finish | None = None  # None until the answer has ended
    ids: list[int] = field(default_factory=list)
    sent: str = ""  # the part of the text that later tokens cannot change
    logprobs: list[TokenLogprob] = field(default_factory=list)  # may be ahead of the tokens
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    told: int | None = None  # tokens whose logprobs were in a piece; None before the first

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.request.seed)
        self.tokenizer, self.ends = self.backbone.tokenizer, self.backbone.ends
        self.allowed = _allowed_next(self.request.choices, self.tokenizer)
        self.top = self.request.logprobs

    @property
    def ngram_group(self) -> tuple[str | None, str | None]:
        """Answers of the same group share n-grams, see `NgramCache`."""
        return self.request.cluster, self.request.task

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the argmax over the whole vocabulary."""
        return self.request.temperature == 0 and self.allowed is None

    def allowed_now(self) -> list[int]:
        """Ids of the allowed next tokens, if the request has choices."""
        return cast(dict[tuple[int, ...], list[int]], self.allowed)[tuple(self.ids)]

    def only_choice(self) -> int | None:
        """The next token, if the choices leave only one."""
        if self.allowed is None or self.top is not None:  # each logprob needs a hidden state
            return None
        allowed = self.allowed_now()
        return allowed[0] if len(allowed) == 1 else None

    def pick(self, logits: Tensor) -> int:
        """An index into logits [n]: the argmax, or a sample."""
        if self.request.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits / self.request.temperature).softmax(-1)
        ordered, ids = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= self.request.top_p] = 0
        return int(ids[int(torch.multinomial(ordered.cpu(), 1, generator=self.generator))])

    def append(self, token: int) -> Iterator[Piece]:
        """Add a token; yields what it adds to the text."""
        text = self.add(token)
        if self.finish is not None:
            Runtime.of(self.backbone).ngrams.add(self.ngram_group, self.ids)
        if text or self.finish is not None:
            yield self.piece(text)

    def piece(self, text: str) -> Piece:
        """The text with the logprobs of all tokens since the last piece."""
        scored = tuple(self.logprobs[self.told or 0 : len(self.ids)])
        prompt_logprobs = self.prompt_logprobs if self.told is None else None
        self.told = len(self.ids)
        answer = None if self.finish is None else self.answer(time.monotonic() - self.started)
        return Piece(self.index, text, answer, scored, prompt_logprobs)

    def add(self, token: int) -> str:
        """Add a token; returns the new text that later tokens cannot change.

        A character's bytes may come one token each, and until the last one is there they, and with
        some tokenizers the whole characters just before them, decode to U+FFFD. So those at the end
        are never shown, and a text that got shorter adds nothing.
        """
        self.ids.append(token)
        ended = token in self.ends
        ids = self.ids[:-1] if ended else self.ids
        text = cast(str, self.tokenizer.decode(ids, skip_special_tokens=True)).rstrip("\ufffd")
        cut = min((text.find(stop) for stop in self.request.stop if stop in text), default=-1)
        if cut >= 0:
            text, self.finish = text[:cut], "stop"
        elif ended:
            self.finish = "end"
        elif len(self.ids) >= self.request.max_new_tokens:
            self.finish = "length"
        else:
            text = text[: len(text) - self._uncertain(text)]
        new = text[len(self.sent) :]
        self.sent += new
        return new

    def take(self, tokens: Sequence[int]) -> None:
        """Add tokens up to the answer's end, and drop the rest; equals `append` for each.

        Without stop texts the text is decoded at the end only.
        """
        for token in tokens:
            if self.finish is not None:
                return
            if self.request.stop:
                self.add(token)
                continue
            self.ids.append(token)
            ended = token in self.ends
            if ended or len(self.ids) >= self.request.max_new_tokens:
                self._conclude(self.ids[:-1] if ended else self.ids)

    def _conclude(self, text_ids: list[int]) -> None:
        """Decode the text of an ended answer at once."""
        text = cast(str, self.tokenizer.decode(text_ids, skip_special_tokens=True))
        if "\ufffd" not in text:
            self.sent, self.finish = text, "end" if len(text_ids) < len(self.ids) else "length"
            return
        ids, self.ids = self.ids, []
        for token in ids:  # incomplete characters: decode token by token, as `append`
            self.add(token)

    def _uncertain(self, text: str) -> int:
        """Number of last characters that may be the start of a stop text."""
        longest = max(map(len, self.request.stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.request.stop):
                return length
        return 0

    def answer(self, seconds: float) -> Answer:
        """The finished answer."""
        if self.finish is None:
            raise ValueError("the answer has not ended yet")
        scored = None if self.top is None else tuple(self.logprobs[: len(self.ids)])
        return Answer(
            self.sent,
            self.finish,
            len(self.prompt),
            len(self.ids),
            seconds,
            scored,
            self.prompt_logprobs,
        )


def _allowed_next(
    choices: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
) -> dict[tuple[int, ...], list[int]] | None:
    """The token ids that may follow each prefix of a choice, by the prefix's ids."""
    if choices is None:
        return None
    following: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    for ids in tokenizer(list(choices), add_special_tokens=False)["input_ids"]:
        whole = [*ids, tokenizer.eos_token_id]
        for length, token in enumerate(whole):
            following[tuple(whole[:length])].add(token)
    return {prefix: sorted(tokens) for prefix, tokens in following.items()}
