"""Answers: streamed or whole, one or a batch, each row with its own task, gates and constraints.

    for piece in stream(backbone, [Request("NER", prompt)], adapter):
        print(piece.text, end="")

Rows share one forward pass a token whatever their tasks; a row of task None is answered by the bare
backbone in the same batch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from cgclora import lean
from cgclora.adapter import Row, folded_in
from cgclora.backbone import Backbone
from cgclora.data import encode_prompts
from cgclora.drafts import Drafts
from cgclora.int8 import FEW_ROWS
from cgclora.layer import GatheredRoute, Route
from cgclora.lean import LeanDecoder

Finish = Literal["end", "stop", "length"]


class DecodingError(ValueError):
    """A request that cannot be answered; the message names the field and the remedy."""


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        task: Whose experts answer; None is the bare backbone.
        prompt: The whole prompt, without the separator that the adapter's config adds.
        max_new_tokens: Most tokens of the answer.
        stop: Texts at which the answer ends; they are not part of it.
        temperature: 0 takes the likeliest token, otherwise (1e-6 to 1e6) tokens are drawn.
        top_p: Draw from the likeliest tokens that together have this probability.
        seed: Of the draw.
        choices: The answer is one of these texts, whole unless `stop` or `max_new_tokens` ends it;
            None leaves it free.
        gates: Weights instead of the gate's: [E] for all layers, or [L, E].
        cluster: Whose task it is, where several adapters are resident; None looks it up.
    """

    task: str | None
    prompt: str
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    choices: tuple[str, ...] | None = None
    gates: Tensor | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        """Check every field, since a request may come from a form."""
        if self.max_new_tokens < 1:
            raise DecodingError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 1e6:
            raise DecodingError(
                f"temperature must be 0, or from 1e-6 to 1e6, got {self.temperature}."
            )
        if not 0 <= self.seed < 1 << 63:
            raise DecodingError(f"seed must be in [0, 2^63), got {self.seed}.")
        if not 0 < self.top_p <= 1:
            raise DecodingError(f"top_p must be in (0, 1], got {self.top_p}.")
        if "" in self.stop:
            raise DecodingError("stop holds an empty text, which would end every answer.")
        if self.choices is not None and not all(self.choices or [""]):
            raise DecodingError("choices is empty or holds an empty text: name what may be said.")


class Experts(Protocol):
    """Who knows tasks: an adapter, or several of them (`cgclora.cluster.Clusters`)."""

    model: PreTrainedModel
    name: str

    @property
    def folded_task(self) -> str | None:
        """The task that stands in the weights, so that its rows need no route."""

    def snapshot(self) -> Experts:
        """Those of now: a batch asks them twice, and must not hear of different adapters."""

    def separator(self, row: Row) -> str:
        """Text between a row's prompt and its answer."""

    def plan_rows(self, rows: Sequence[Row]) -> Route | GatheredRoute:
        """The route of a batch."""

    def route(self, tasks: Any) -> AbstractContextManager[None]:
        """Within this context the layers follow a planned route."""


@dataclass(frozen=True)
class Answer:
    """What a request got.

    Attributes:
        text: The answer.
        finish: Why it ended: its `end` token, a `stop` text, or `length`.
        prompt_tokens: Tokens of the prompt.
        tokens: Tokens generated, the end token included.
        seconds: From when it joined a batch to its end.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as it comes.

    Attributes:
        index: Which request it belongs to.
        text: What is new; may be empty.
        answer: The whole answer, with the request's last piece only.
    """

    index: int
    text: str
    answer: Answer | None = None


def stream(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Experts | None = None,
    *,
    left: Callable[[int], bool] = lambda _: False,
    width: int | None = None,
    more: Callable[[int], Sequence[Request]] = lambda _: (),
    reference: bool = False,
) -> Generator[Piece]:
    """Answer requests as one batch, a piece as soon as it is known.

    Closing the iterator stops the work. Between pieces the backbone is free for other uses.

    Args:
        backbone: Who answers.
        requests: One or more; their tasks may differ.
        adapter: Whose tasks they name, one or several resident ones; with a task folded in, all
            must be of that task.
        left: Whether nobody waits for a request any more, asked by its place before each token: its
            answer ends there, without a last piece.
        width: Most requests in the batch: as answers end, others take their places. None answers
            all from the start.
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
    width = len(requests) if width is None else width
    line = _Line(backbone, adapter.snapshot() if adapter else None, more, reference)
    line.admit(requests)
    rows, batch, hidden = line.begin(width)
    while True:
        room = width - len(rows)
        # Joining copies the cache, as dropping does below, so both wait until it pays.
        if batch.joins and 4 * room >= width and line.arrived(room):
            new, other, first = line.begin(room)
            batch.join(other)
            rows, hidden = [*rows, *new], torch.cat([hidden, first])
        if len(rows) == 1 and not line.rows and batch.joins:
            rest = yield from _alone(batch, rows[0], hidden, left, lambda: line.arrived(width - 1))
            if rest is None:
                return
            hidden = rest
            continue
        tokens = _choose(batch, rows, hidden)
        for row, token in zip(rows, tokens, strict=True):
            if row.finish is None:
                yield from row.say(token)
        alive = [
            place for place, row in enumerate(rows) if row.finish is None and not left(row.index)
        ]
        if not alive:
            if not line.rows:
                return
            rows, batch, hidden = line.begin(width)
            continue
        ended = len(rows) - len(alive)
        if 2 * ended >= len(rows) or (line.rows and batch.joins and 4 * ended >= width):
            batch.keep(alive)
            rows = [rows[place] for place in alive]
            tokens = [tokens[place] for place in alive]
        hidden = batch.step_hidden(tokens)


@dataclass
class _Line:
    """Requests that wait for a place in the batch.

    Attributes:
        backbone: Who answers.
        adapter: Whose tasks they name.
        more: As for `stream`.
        reference: See `Batch`.
        rows: Those that wait.
        count: How many there have been.
    """

    backbone: Backbone
    adapter: Experts | None
    more: Callable[[int], Sequence[Request]]
    reference: bool
    rows: deque[_Row] = field(default_factory=deque)
    count: int = 0

    def admit(self, new: Sequence[Request]) -> None:
        """Let requests wait."""
        if not new:
            return
        tokenizer, adapter = self.backbone.tokenizer, self.adapter
        prompts = encode_prompts(
            [request.prompt for request in new],
            tokenizer,
            [adapter.separator(request) if adapter else "\n" for request in new],
        )
        check(self.backbone, new, prompts, adapter)
        for request, prompt in zip(new, prompts, strict=True):
            self.rows.append(_Row(self.count, request, prompt, tokenizer))
            self.count += 1

    def arrived(self, room: int) -> bool:
        """Whether requests wait, once more were asked for."""
        if not self.rows and room > 0:
            self.admit(self.more(room))
        return bool(self.rows)

    def begin(self, most: int) -> tuple[list[_Row], Batch, Tensor]:
        """Up to so many rows that waited, their batch, and its hidden states after the prompts."""
        rows = [self.rows.popleft() for _ in range(min(most, len(self.rows)))]
        for row in rows:
            row.started = time.monotonic()
        asked, prompts = [row.request for row in rows], [row.prompt for row in rows]
        batch = Batch(self.backbone, self.adapter, asked, prompts, reference=self.reference)
        return rows, batch, batch.prefill_hidden()


def _alone(
    batch: Batch,
    row: _Row,
    hidden: Tensor,
    left: Callable[[int], bool],
    disturbed: Callable[[], bool],
) -> Generator[Piece, None, Tensor | None]:
    """The rest of an answer that has a batch for itself, several tokens a pass where they are sure.

    Args:
        batch: Of one row.
        row: The answer so far.
        hidden: After its last token, [1, H].
        left: As for `stream`.
        disturbed: Asked before each pass whether it is to end sooner, since others have come.

    Returns:
        The hidden state after its last token then; None when the answer has ended.
    """
    drafts = Drafts([*row.prompt, *row.ids])
    most = batch.most_drafts if row.is_greedy else 0
    tokens = _choose(batch, [row], hidden)
    while True:
        said: list[int] = []
        for token in tokens:  # the last of them was not read yet
            said.append(token)
            drafts.add(token)
            yield from row.say(token)
            if row.finish is not None:
                return None
        while (forced := row.only_choice()) is not None:
            said.append(forced)
            yield from row.say(forced)
            if row.finish is not None:
                return None
        if left(row.index):
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
        found = batch.logits(hidden[len(unread) - 1 :]).argmax(-1).tolist()
        right = next((i for i, word in enumerate(draft) if word != found[i]), len(draft))
        batch.forget(len(draft) - right)
        tokens = found[: right + 1]


def _choose(batch: Batch, rows: Sequence[_Row], hidden: Tensor) -> list[int]:
    """The next token of each row, from hidden states [batch, H]; a finished row repeats its last.

    The output head runs for those rows alone that may say anything.
    """
    free = [p for p, row in enumerate(rows) if row.finish is None and row.allowed is None]
    logits = batch.logits(hidden if len(free) == len(rows) else hidden[free]) if free else hidden
    likeliest = logits.argmax(-1).tolist()
    places = {place: among for among, place in enumerate(free)}
    tokens = []
    for place, row in enumerate(rows):
        if row.finish is not None:
            tokens.append(row.ids[-1])
        elif place not in places:
            allowed = torch.tensor(row.allowed_now(), device=hidden.device)
            own = batch.head.of_words(hidden[place : place + 1], allowed)[0]
            tokens.append(int(allowed[row.pick(own)]))
        elif row.is_greedy:
            tokens.append(likeliest[places[place]])
        else:
            tokens.append(row.pick(logits[places[place]]))
    return tokens


def answers(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Experts | None = None,
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
    lengths = [(request.max_new_tokens, len(request.prompt)) for request in requests]
    order = sorted(range(len(requests)), key=lengths.__getitem__, reverse=True)
    for piece in stream(backbone, [requests[i] for i in order], adapter, width=batch_size):
        if piece.answer is not None:
            yield order[piece.index], piece.answer


def generate(
    backbone: Backbone,
    requests: Sequence[Request],
    adapter: Experts | None = None,
    *,
    batch_size: int = 16,
) -> list[Answer]:
    """What `answers` yields, all at once and in the order of the requests."""
    found = dict(answers(backbone, requests, adapter, batch_size=batch_size))
    return [found[place] for place in range(len(requests))]


def check(
    backbone: Backbone,
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    adapter: Experts | None,
) -> None:
    """Refuse requests that cannot be answered.

    Raises:
        DecodingError: As `stream` says.
    """
    most = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", math.inf)
    for request, prompt in zip(requests, prompts, strict=True):
        if not request.prompt.strip():
            raise DecodingError("the prompt is empty: write a question.")
        if len(prompt) + request.max_new_tokens > most:
            raise DecodingError(
                f"prompt ({len(prompt)} tokens) and answer (up to {request.max_new_tokens}) exceed "
                f"the {most} tokens that this backbone reads: shorten the prompt."
            )
        if request.task is not None and adapter is None:
            raise DecodingError(f"task {request.task!r} needs an adapter; none was given.")
        if request.task is None and request.gates is not None:
            raise DecodingError("gates weigh a task's experts: name a task, or leave them out.")
    if adapter is not None and adapter.model is not backbone.model:
        raise DecodingError("the adapter is attached to another backbone: load it onto this one.")
    if (folded := folded_in(backbone.model)) is not None:
        name, task = folded
        other = adapter is None or adapter.name != name
        if other or any(r.task != task or r.gates is not None for r in requests):
            raise DecodingError(
                f"task {task!r} of adapter {name!r} is folded in: unfold() to answer other tasks, "
                "the bare backbone, or with gates of your own."
            )


class Batch:
    """The model's side of a batch: token ids in, hidden states or logits of the next token out.

    Args:
        backbone: Who answers.
        adapter: Whose experts the requests' tasks use.
        requests: Their tasks and gates.
        prompts: Their token ids.
        reference: Take the path of `transformers` where there is a faster one, too.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Experts | None,
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        *,
        reference: bool = False,
    ) -> None:
        self.backbone = backbone
        self.requests = [*requests]
        self.adapter = adapter if adapter and adapter.folded_task is None else None
        self.folded = folded_in(backbone.model)
        self.device = backbone.model.device
        with backbone.lock:  # the head's first use runs the backbone, which no route may touch
            self.head = backbone.head
            decoder = None if reference else backbone.lean
            if decoder is not None and self.folded is not None and decoder.int8:
                decoder = LeanDecoder(backbone.model)  # no 8-bit copy has the folded weights
        with torch.inference_mode():
            route = self.adapter.plan_rows(requests) if self.adapter else None
            if decoder is None:
                self._pass: _LeanPass | _ReferencePass = _ReferencePass(self, route, prompts)
            else:
                most = max(
                    len(prompt) + request.max_new_tokens
                    for prompt, request in zip(prompts, requests, strict=True)
                )
                self._pass = _LeanPass(self, decoder, route, prompts, most)

    def prefill(self) -> Tensor:
        """Logits [batch, V] after the prompts."""
        return self.logits(self.prefill_hidden())

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits [batch, V] after one more token a row."""
        return self.logits(self.step_hidden(tokens))

    def prefill_hidden(self) -> Tensor:
        """Hidden states [batch, H] after the prompts."""
        return self._in_turn(self._pass.prefill)

    def step_hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states [batch, H] after one more token a row."""
        return self.read(torch.tensor(tokens, device=self.device).unsqueeze(1))[:, -1]

    def read(self, ids: Tensor) -> Tensor:
        """Hidden states [batch, N, H] at N more tokens a row, [batch, N]."""
        return self._in_turn(lambda: self._pass.read(ids))

    @property
    def most_drafts(self) -> int:
        """How many tokens to read on trust besides the one that is sure: what a pass can hide."""
        return (FEW_ROWS if self.backbone.int8 else 2 * FEW_ROWS) - 1

    def forget(self, tokens: int) -> None:
        """Take back the last tokens of every row."""
        cast(_LeanPass, self._pass).cache.forget(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] for hidden states [N, H]."""
        with self.backbone.lock, torch.inference_mode():  # two products at once slow each other
            return self.head(hidden)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only; one that is named several times becomes several."""
        self.requests = [self.requests[place] for place in places]
        self._pass.keep(torch.tensor(places, device=self.device))

    @property
    def joins(self) -> bool:
        """Whether others can join it, and tokens that it read can be taken back."""
        return isinstance(self._pass, _LeanPass)

    def join(self, other: Batch) -> None:
        """Take in the rows of another batch of the same adapter, after the own ones."""
        self.requests += other.requests
        with torch.inference_mode():
            route = self.adapter.plan_rows(self.requests) if self.adapter else None
            cast(_LeanPass, self._pass).join(cast(_LeanPass, other._pass), route)

    @torch.inference_mode()
    def _in_turn(self, run: Callable[[], Tensor]) -> Tensor:
        with self.backbone.lock:
            if folded_in(self.backbone.model) != self.folded:
                raise DecodingError("a task was folded in or out while the answer ran: ask again.")
            return run()


class _LeanPass:
    """By `cgclora.lean`."""

    def __init__(
        self,
        batch: Batch,
        decoder: LeanDecoder,
        route: Route | GatheredRoute | None,
        prompts: Sequence[Sequence[int]],
        most: int,
    ) -> None:
        self.decoder = decoder
        self.experts = lean.Experts.of(decoder, route)
        self.cache = lean.Cache(decoder, len(prompts), most)
        width = max(map(len, prompts))
        pad = batch.backbone.tokenizer.pad_token_id
        self.ids = torch.tensor([[*p, *[pad] * (width - len(p))] for p in prompts])
        self.counts = torch.tensor([len(prompt) for prompt in prompts])

    def prefill(self) -> Tensor:
        hidden = self.decoder(self.ids, self.cache, self.experts, self.counts)
        return hidden[torch.arange(len(hidden)), self.counts - 1]

    def read(self, ids: Tensor) -> Tensor:
        return self.decoder(ids, self.cache, self.experts)

    def keep(self, index: Tensor) -> None:
        self.cache.keep(index)
        self.experts = self.experts.keep(index)

    def join(self, other: _LeanPass, route: Route | GatheredRoute | None) -> None:
        self.cache.join(other.cache)
        self.experts = lean.Experts.of(self.decoder, route)


class _ReferencePass:
    """By the backbone's own modules and the cache of `transformers`."""

    def __init__(
        self,
        batch: Batch,
        route: Route | GatheredRoute | None,
        prompts: Sequence[Sequence[int]],
    ) -> None:
        self.adapter = batch.adapter
        self.route = route
        self.model = batch.backbone.model
        self.cache = DynamicCache(config=self.model.config)
        width = max(len(prompt) for prompt in prompts)
        pad = batch.backbone.tokenizer.pad_token_id
        self.ids = torch.tensor(
            [[pad] * (width - len(p)) + list(p) for p in prompts], device=batch.device
        )
        self.mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=batch.device
        )

    def prefill(self) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self.ids, positions)[:, -1]

    def read(self, ids: Tensor) -> Tensor:
        first = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        return self._forward(ids, first + torch.arange(ids.shape[1], device=ids.device))

    def keep(self, index: Tensor) -> None:
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        if self.route is not None:
            self.route = self.route.keep(index)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": self.mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        routed: AbstractContextManager[None] = nullcontext()
        if self.adapter is not None and self.route is not None:
            routed = self.adapter.route(self.route)
        with routed:
            output = self.model.get_decoder()(**inputs)
            return cast(Tensor, output.last_hidden_state)


@dataclass
class _Row:
    """The text's side of a request: which token next, what it says, and whether that is the end."""

    index: int
    request: Request
    prompt: Sequence[int]
    tokenizer: PreTrainedTokenizerBase
    started: float = 0.0
    finish: Finish | None = None
    ids: list[int] = field(default_factory=list)
    sent: str = ""

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.request.seed)
        self.allowed = _allowed_next(self.request.choices, self.tokenizer)

    @property
    def is_greedy(self) -> bool:
        """Whether it says the likeliest token of all."""
        return self.request.temperature == 0 and self.allowed is None

    def allowed_now(self) -> list[int]:
        """The token ids that may come next, where the answer is one of some choices."""
        return cast(dict[tuple[int, ...], list[int]], self.allowed)[tuple(self.ids)]

    def only_choice(self) -> int | None:
        """The next token, if what was said leaves no other."""
        allowed = self.allowed_now() if self.allowed is not None else []
        return allowed[0] if len(allowed) == 1 else None

    def pick(self, logits: Tensor) -> int:
        """A place in logits [n], the likeliest or drawn."""
        if self.request.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits / self.request.temperature).softmax(-1)
        ordered, ids = probabilities.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= self.request.top_p] = 0
        return int(ids[int(torch.multinomial(ordered.cpu(), 1, generator=self.generator))])

    def say(self, token: int) -> Iterator[Piece]:
        """Take a token, and give what it adds to the text."""
        text = self.add(token)
        if self.finish is not None:
            yield Piece(self.index, text, self.answer(time.monotonic() - self.started))
        elif text:
            yield Piece(self.index, text)

    def add(self, token: int) -> str:
        """Take a token; returns the text that is now certain.

        A character's bytes may come one token each, and until the last one is there they, and with
        some tokenizers the whole characters just before them, decode to U+FFFD. So those at the end
        are never shown, and a text that got shorter adds nothing.
        """
        self.ids.append(token)
        ended = token == self.tokenizer.eos_token_id
        said = self.ids[:-1] if ended else self.ids
        text = cast(str, self.tokenizer.decode(said, skip_special_tokens=True)).rstrip("\ufffd")
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

    def _uncertain(self, text: str) -> int:
        """How many last characters may turn out to be the start of a stop text."""
        longest = max(map(len, self.request.stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.request.stop):
                return length
        return 0

    def answer(self, seconds: float) -> Answer:
        """The finished answer."""
        if self.finish is None:
            raise ValueError("the answer has not ended yet")
        return Answer(self.sent, self.finish, len(self.prompt), len(self.ids), seconds)


def _allowed_next(
    choices: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase
) -> dict[tuple[int, ...], list[int]] | None:
    """For each beginning of a choice, as token ids, the ids that may follow."""
    if choices is None:
        return None
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in tokenizer(list(choices), add_special_tokens=False)["input_ids"]:
        whole = [*ids, tokenizer.eos_token_id]
        for length, token in enumerate(whole):
            following.setdefault(tuple(whole[:length]), set()).add(token)
    return {start: sorted(tokens) for start, tokens in following.items()}
