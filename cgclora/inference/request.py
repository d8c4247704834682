"""Requests and answers: the types that decoding, serving, evaluation and the app share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Self

from torch import Tensor

from cgclora.adapter import folded_in
from cgclora.config import PromptFormat
from cgclora.data.chat import ChatError, Message, Prompt, encode_prompts
from cgclora.data.template import own_template
from cgclora.inference.multi_adapter import Adapters, Resident
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import readable, unreadable_word

Finish = Literal["end", "stop", "length"]


class DecodingError(ValueError):
    """A request that cannot be answered; the message names the field and the remedy."""


@dataclass(frozen=True)
class Request:
    """A prompt, or a conversation, with its task and decoding settings.

    Attributes:
        task: Its experts answer; None is the bare backbone.
        prompt: The prompt without what its `PromptFormat` adds; with a chat template it is the one
            message of the user.
        max_new_tokens: Maximum tokens of the answer.
        stop: Texts at which the answer ends; they are not part of it.
        temperature: 0 is greedy; otherwise (1e-6 to 1e6) tokens are sampled.
        top_p: Sample from the most likely tokens that together have this probability.
        seed: Of the sampling.
        choices: The answer is one of these texts, complete unless `stop` or `max_new_tokens` ends
            it; None allows any text.
        gates: Weights instead of the gate's: [E] for all layers, or [L, E].
        cluster: Cluster of the task; None takes the first that knows it.
        separator: Text between prompt and answer, which then stands in no chat template; None takes
            the adapter's format, and for the bare backbone a line break.
        messages: A conversation instead of a prompt: turns, and the question to be answered. An
            adapter without chat template reads one question, with any system text before it; the
            bare backbone takes its tokenizer's template.
        prompt_format: What is added to prompt or messages instead; None is as said above.
    """

    task: str | None
    prompt: str = ""
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    choices: tuple[str, ...] | None = None
    gates: Tensor | None = None
    cluster: str | None = None
    separator: str | None = None
    messages: tuple[Message, ...] = ()
    prompt_format: PromptFormat | None = None

    def __post_init__(self) -> None:
        """Check every field, since a request may come from a form."""
        if self.prompt and self.messages:
            raise DecodingError("there are a prompt and messages: give one of them.")
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
            raise DecodingError("stop has an empty text, which would end every answer.")
        if self.choices is not None and not all(self.choices or [""]):
            raise DecodingError("choices is empty or has an empty text: list the allowed answers.")

    @classmethod
    def ask(cls, task: str | None, question: Prompt, **settings: Any) -> Self:
        """A request with a prompt, or with messages; `settings` are further fields."""
        if isinstance(question, str):
            return cls(task, question, **settings)
        return cls(task, messages=tuple(question), **settings)

    @property
    def asked(self) -> Prompt:
        """The conversation, or the prompt if there is none."""
        return self.messages or self.prompt

    @property
    def characters(self) -> int:
        """Length of the prompt, or of all messages together."""
        return len(self.prompt) + sum(len(one.content) for one in self.messages)


@dataclass(frozen=True)
class EncodedRequest:
    """A checked request with the token ids of its prompt, see `encode_requests`."""

    request: Request
    ids: list[int]


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    text: str
    finish: Finish  # why it ended: its `end` token, a `stop` text, or `length`
    prompt_tokens: int
    tokens: int  # generated, the end token included
    seconds: float  # from joining a batch to the end


@dataclass(frozen=True)
class Piece:
    """A piece of the answer to the request with this index."""

    index: int
    text: str  # may be empty
    answer: Answer | None = None  # the whole answer, in the last piece only


def encode_requests(
    backbone: Backbone, requests: Sequence[Request], adapters: Adapters
) -> list[EncodedRequest]:
    """Check requests and encode their prompts.

    Raises:
        ConfigError: No adapter knows a task.
        DecodingError: As `Engine.stream`.
    """
    resident = Resident.of(adapters)
    formats = [_format(backbone, request, resident) for request in requests]
    try:
        prompts = encode_prompts([one.asked for one in requests], backbone.tokenizer, formats)
    except ChatError as error:
        raise DecodingError(f"{error}.") from error
    encoded = [EncodedRequest(*pair) for pair in zip(requests, prompts, strict=True)]
    for one in encoded:
        _check(backbone, one, resident)
    if resident is not None and resident.model is not backbone.model:
        raise DecodingError("the adapter is attached to another backbone: load it onto this one.")
    check_folded(backbone, requests, resident)
    return encoded


def _format(backbone: Backbone, request: Request, resident: Resident | None) -> PromptFormat:
    """What is added to a request's prompt."""
    if request.prompt_format is not None:
        return request.prompt_format
    if resident is None or request.task is None:
        known = PromptFormat()
        if request.messages and request.separator is None:
            known = own_template(backbone.tokenizer) or known
    else:
        known = resident.prompt_format(request)
    if request.separator is None:
        return known
    return PromptFormat(request.separator, known.start)


def _check(backbone: Backbone, encoded: EncodedRequest, adapters: Resident | None) -> None:
    request, ids, tokenizer = encoded.request, encoded.ids, backbone.tokenizer
    config = backbone.model.config.get_text_config()
    max_tokens = getattr(config, "max_position_embeddings", math.inf)
    vocabulary = readable(backbone.model)
    if not request.messages and not request.prompt.strip():
        raise DecodingError("the prompt is empty: write a question.")
    if len(ids) + request.max_new_tokens > max_tokens:
        raise DecodingError(
            f"prompt ({len(ids)} tokens) and answer (up to {request.max_new_tokens}) exceed the "
            f"{max_tokens} tokens that this backbone reads: shorten the prompt."
        )
    if (word := unreadable_word(ids, vocabulary, tokenizer)) is not None:
        raise DecodingError(f"this backbone cannot read {word!r}: leave it out of the prompt.")
    if request.choices and len(tokenizer) > vocabulary:
        choices = tokenizer(list(request.choices), add_special_tokens=False)["input_ids"]
        word = unreadable_word(chain.from_iterable(choices), vocabulary, tokenizer)
        if word is not None:
            raise DecodingError(f"this backbone cannot say {word!r}: leave it out of the choices.")
    if request.task is not None and adapters is None:
        raise DecodingError(f"task {request.task!r} needs an adapter; none was given.")
    if request.task is None and request.gates is not None:
        raise DecodingError("gates weigh a task's experts: name a task, or leave them out.")


def check_folded(
    backbone: Backbone, requests: Sequence[Request], adapters: Resident | None
) -> None:
    """Check that a folded task, if any, can answer all requests.

    Raises:
        DecodingError: It cannot answer some request.
    """
    if (folded := folded_in(backbone.model)) is not None:
        name, task = folded
        names = None if adapters is None else [one.name for one in adapters.adapters.values()]
        if names != [name] or any(r.task != task or r.gates is not None for r in requests):
            raise DecodingError(
                f"task {task!r} of adapter {name!r} is folded in: unfold() to answer other tasks, "
                "the bare backbone, or with gates of your own."
            )


def longest_first(requests: Sequence[Request]) -> list[int]:
    """The indices of requests by decreasing maximum length of answer, then of prompt."""
    lengths = [(request.max_new_tokens, request.characters) for request in requests]
    return sorted(range(len(requests)), key=lengths.__getitem__, reverse=True)
