"""What is asked of a backbone and what it answers.

Decoding, serving, evaluation and the app share these types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from torch import Tensor

from cgclora.adapter import folded_in
from cgclora.config import PromptFormat
from cgclora.data.records import encode_prompts
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import readable, unreadable_word

Finish = Literal["end", "stop", "length"]


class DecodingError(ValueError):
    """A request that cannot be answered; the message names the field and the remedy."""


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        task: Whose experts answer; None is the bare backbone.
        prompt: The whole prompt, without what stands around it (`PromptFormat`).
        max_new_tokens: Most tokens of the answer.
        stop: Texts at which the answer ends; they are not part of it.
        temperature: 0 takes the likeliest token, otherwise (1e-6 to 1e6) tokens are drawn.
        top_p: Draw from the likeliest tokens that together have this probability.
        seed: Of the draw.
        choices: The answer is one of these texts, whole unless `stop` or `max_new_tokens` ends it;
            None leaves it free.
        gates: Weights instead of the gate's: [E] for all layers, or [L, E].
        cluster: Whose task it is, where several adapters are resident; None looks it up.
        separator: Text between prompt and answer; None takes that of the adapter's training, and a
            line break for the bare backbone.
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
    separator: str | None = None

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


@dataclass(frozen=True)
class EncodedRequest:
    """A request that was checked, with its prompt as token ids; see `encode_requests`."""

    request: Request
    ids: list[int]


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


def _unreadable_choice(backbone: Backbone, choices: Sequence[str] | None, known: int) -> str | None:
    """The first word of some texts that a backbone cannot say; None if there is none."""
    if not choices or len(backbone.tokenizer) <= known:
        return None
    said = backbone.tokenizer(list(choices), add_special_tokens=False)["input_ids"]
    return unreadable_word(chain.from_iterable(said), known, backbone.tokenizer)


def encode_requests(
    backbone: Backbone, requests: Sequence[Request], adapters: Adapters
) -> list[EncodedRequest]:
    """Requests with the token ids of their prompts, checked.

    Raises:
        ConfigError: No adapter knows a task.
        DecodingError: As `check` says.
    """
    resident = Resident.of(adapters)
    formats = []
    for request in requests:
        around = resident.prompt_format(request) if resident else PromptFormat()
        if request.separator is not None:
            around = replace(around, separator=request.separator)
        formats.append(around)
    prompts = encode_prompts([one.prompt for one in requests], backbone.tokenizer, formats)
    check(backbone, requests, prompts, resident)
    return [EncodedRequest(*pair) for pair in zip(requests, prompts, strict=True)]


def check(
    backbone: Backbone,
    requests: Sequence[Request],
    prompts: Sequence[Sequence[int]],
    adapters: Resident | None,
) -> None:
    """Refuse requests that cannot be answered.

    Raises:
        DecodingError: As `Engine.stream`.
    """
    most = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", math.inf)
    known = readable(backbone.model)
    for request, prompt in zip(requests, prompts, strict=True):
        if not request.prompt.strip():
            raise DecodingError("the prompt is empty: write a question.")
        if len(prompt) + request.max_new_tokens > most:
            raise DecodingError(
                f"prompt ({len(prompt)} tokens) and answer (up to {request.max_new_tokens}) exceed "
                f"the {most} tokens that this backbone reads: shorten the prompt."
            )
        if (word := unreadable_word(prompt, known, backbone.tokenizer)) is not None:
            raise DecodingError(f"this backbone cannot read {word!r}: leave it out of the prompt.")
        if (word := _unreadable_choice(backbone, request.choices, known)) is not None:
            raise DecodingError(f"this backbone cannot say {word!r}: leave it out of the choices.")
        if request.task is not None and adapters is None:
            raise DecodingError(f"task {request.task!r} needs an adapter; none was given.")
        if request.task is None and request.gates is not None:
            raise DecodingError("gates weigh a task's experts: name a task, or leave them out.")
    if adapters is not None and adapters.model is not backbone.model:
        raise DecodingError("the adapter is attached to another backbone: load it onto this one.")
    check_folded(backbone, requests, adapters)


def check_folded(
    backbone: Backbone, requests: Sequence[Request], adapters: Resident | None
) -> None:
    """Refuse requests that a task which is folded in cannot answer.

    Raises:
        DecodingError: There is such a request.
    """
    if (folded := folded_in(backbone.model)) is not None:
        name, task = folded
        of = None if adapters is None else [one.name for one in adapters.adapters.values()]
        if of != [name] or any(r.task != task or r.gates is not None for r in requests):
            raise DecodingError(
                f"task {task!r} of adapter {name!r} is folded in: unfold() to answer other tasks, "
                "the bare backbone, or with gates of your own."
            )


def longest_first(requests: Sequence[Request]) -> list[int]:
    """The indices of requests by decreasing length of answers and prompts."""
    lengths = [(request.max_new_tokens, len(request.prompt)) for request in requests]
    return sorted(range(len(requests)), key=lengths.__getitem__, reverse=True)
