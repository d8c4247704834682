"""Requests and answers: the types that decoding, serving, evaluation and the app share.

Importing them takes no torch: the app's page, whose model is in another process, has none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from cgclora.config import PromptFormat
from cgclora.data.chat import ChatError, Message, Prompt, encode_prompts
from cgclora.data.template import own_template
from cgclora.models.vocabulary import readable, unreadable_word

if TYPE_CHECKING:
    from torch import Tensor

    from cgclora.inference.multi_adapter import Adapters, Resident
    from cgclora.models.backbone import Backbone

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
        max_new_tokens: Maximum tokens of the answer; 0 only scores the prompt, see
            `prompt_logprobs`.
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
        prompt_ids: Token ids of a prompt instead of its text; nothing is added to them.
        logprobs: Number of most likely tokens to list beside each token of the answer, with their
            log-probabilities; 0 gives those of the answer's tokens alone, None no logprobs.
        prompt_logprobs: The same for the tokens of the prompt.
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
    prompt_ids: tuple[int, ...] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check every field, since a request may come from a form."""
        given = (bool(self.prompt), bool(self.messages), self.prompt_ids is not None)
        if sum(given) > 1:
            raise DecodingError(
                "there are several of prompt, messages and prompt_ids: give one of them."
            )
        least = 1 if self.prompt_logprobs is None else 0
        if self.max_new_tokens < least:
            raise DecodingError(
                f"max_new_tokens must be at least {least}, got {self.max_new_tokens}."
            )
        if min(self.logprobs or 0, self.prompt_logprobs or 0) < 0:
            raise DecodingError("logprobs and prompt_logprobs must be at least 0, or None.")
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
        """Length of the prompt, or of all messages together; of `prompt_ids`, in tokens."""
        return len(self.prompt_ids or self.prompt) + sum(len(one.content) for one in self.messages)


@dataclass(frozen=True)
class EncodedRequest:
    """A checked request with the token ids of its prompt, see `encode_requests`."""

    request: Request
    ids: list[int]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token after the tokens before it.

    It is that of the model, over the whole vocabulary: temperature, `top_p` and `choices` do not
    change it.
    """

    token: int
    logprob: float  # in nats
    rank: int  # 1 is the most likely token
    top: tuple[tuple[int, float], ...]  # the most likely tokens with theirs, the likeliest first


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    `logprobs` are those of its tokens, the end token included; `prompt_logprobs` those of the
    prompt's tokens from the second on, since none comes before the first. Each is None unless the
    request asked for it.
    """

    text: str
    finish: Finish  # why it ended: its `end` token, a `stop` text, or `length`
    prompt_tokens: int
    tokens: int  # generated, the end token included
    seconds: float  # from joining a batch to the end
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Piece:
    """A piece of the answer to the request with this index."""

    index: int
    text: str  # may be empty
    answer: Answer | None = None  # the whole answer, in the last piece only
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens since the last piece, if requested
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None  # in the first piece only, if requested


def encode_requests(
    backbone: Backbone, requests: Sequence[Request], adapters: Adapters
) -> list[EncodedRequest]:
    """Check requests and encode their prompts.

    Raises:
        ConfigError: No adapter knows a task.
        DecodingError: As `Engine.stream`.
    """
    from cgclora.inference.multi_adapter import Resident  # noqa: PLC0415 - needs torch

    resident = Resident.of(adapters)
    formats = [_format(backbone, request, resident) for request in requests]
    as_text = [i for i, one in enumerate(requests) if one.prompt_ids is None]
    try:
        texts, used = [requests[i].asked for i in as_text], [formats[i] for i in as_text]
        prompts = iter(encode_prompts(texts, backbone.tokenizer, used))
    except ChatError as error:
        raise DecodingError(f"{error}.") from error
    encoded = [
        EncodedRequest(one, next(prompts) if one.prompt_ids is None else [*one.prompt_ids])
        for one in requests
    ]
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


def max_tokens(backbone: Backbone) -> int:
    """The most tokens that prompt and answer may have together."""
    config = backbone.model.config.get_text_config()
    return cast(int, getattr(config, "max_position_embeddings", sys.maxsize))


def _check(backbone: Backbone, encoded: EncodedRequest, adapters: Resident | None) -> None:
    request, ids, tokenizer = encoded.request, encoded.ids, backbone.tokenizer
    most = max_tokens(backbone)
    vocabulary = readable(backbone.model)
    if not (request.prompt_ids or request.messages or request.prompt.strip()):
        raise DecodingError("the prompt is empty: write a question.")
    if len(ids) + request.max_new_tokens > most:
        raise DecodingError(
            f"prompt ({len(ids)} tokens) and answer (up to {request.max_new_tokens}) exceed the "
            f"{most} tokens that this backbone reads: shorten the prompt."
        )
    wrong = (one for one in request.prompt_ids or () if not 0 <= one < vocabulary)
    if (token := next(wrong, None)) is not None:
        raise DecodingError(
            f"there is no token {str(token)[:20]}: this backbone reads 0 to {vocabulary - 1}."
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
    from cgclora.adapter import folded_in  # noqa: PLC0415 - needs torch

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
