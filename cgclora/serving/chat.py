"""OpenAI's chat: `POST /v1/chat/completions`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from cgclora.config import ConfigError, PromptFormat
from cgclora.data.chat import ChatError, Message, read_messages
from cgclora.data.template import own_template, with_options
from cgclora.inference.engine import Engine
from cgclora.inference.request import Answer, Piece, Request
from cgclora.serving import logprobs
from cgclora.serving.completions import finish_reason
from cgclora.serving.fields import MAX_LOGPROBS, ApiError, Settings, boolean, whole
from cgclora.serving.models import answering_name, targets
from cgclora.serving.token_text import TokenTexts

MAX_TEMPLATE_OPTIONS = 4000
"""Characters of their JSON; no limit of the prompt counts what a template writes of them."""

_SUPPORTED = {"chat_template_kwargs", "max_completion_tokens", "messages", "top_logprobs"}
_NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (None, True),
    "audio": (None,),
    "continue_final_message": (None, False),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "store": (None, False),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}


@dataclass(frozen=True)
class ChatRequest:
    """A validated body; defaults are OpenAI's."""

    settings: Settings
    messages: tuple[Message, ...]
    max_tokens: int | None  # None: as many as there is room for
    logprobs: int | None
    template_options: Mapping[str, Any]  # as vLLM and SGLang: over those of the adapter

    @classmethod
    def parse(cls, body: Any) -> Self:
        """Validate a JSON body.

        Raises:
            ApiError: It is not an object, or a field is missing, of a wrong type or unsupported.
        """
        settings = Settings.parse(body, _SUPPORTED, _NO_EFFECT)
        try:
            messages = read_messages(body.get("messages"))
        except ChatError as error:
            raise ApiError(400, f"{error}.", param="messages") from error
        top = whole(body, "top_logprobs", 0, least=0, most=MAX_LOGPROBS)
        wanted = boolean(body, "logprobs")
        if top and not wanted:
            message = "top_logprobs needs logprobs: set logprobs to true."
            raise ApiError(400, message, param="top_logprobs")
        scored = top if wanted else None
        return cls(settings, messages, _max_tokens(body), scored, _template_options(body))

    def prepare(self, engine: Engine, texts: TokenTexts) -> Chat:
        """The requests to the engine, checked and encoded, with the form of their responses.

        Raises:
            ApiError: There is no such model, or its template does not take the options.
            ConfigError, DataError: The model is `auto` and the routers find no task.
            DecodingError: A field is out of range, or the model's format has no place for the
                messages.
        """
        settings = self.settings
        question = next((one.content for one in self.messages[::-1] if one.role == "user"), "")
        found = targets(settings.model, [question], engine.clusters)
        request = Request(
            found[0].task,
            messages=self.messages,
            max_new_tokens=1 if self.max_tokens is None else self.max_tokens,
            stop=settings.stop,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            cluster=found[0].cluster,
            logprobs=self.logprobs,
            prompt_logprobs=settings.prompt_logprobs,
        )
        if self.template_options:
            request = replace(request, prompt_format=self._prompt_format(request, engine))
        request = engine.encode(request, fill=self.max_tokens is None)
        requests = [replace(request, seed=settings.seed_of(i)) for i in range(settings.n)]
        return Chat(self, answering_name(settings.model, found), requests, texts)

    def _prompt_format(self, request: Request, engine: Engine) -> PromptFormat:
        """The format that the engine would take, with the template's options of this request."""
        tokenizer = engine.backbone.tokenizer
        if request.task is None:
            known = own_template(tokenizer) or PromptFormat()
        else:
            known = engine.clusters.snapshot().prompt_format(request)
        try:
            return with_options(known, self.template_options, tokenizer)
        except ConfigError as error:
            raise ApiError(400, str(error), param="chat_template_kwargs") from error


def _template_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    value = body.get("chat_template_kwargs")
    options = {} if value is None else value
    wrong = None
    if not isinstance(options, dict):
        wrong = "must be an object with the options of the chat template by name."
    elif len(json.dumps(options)) > MAX_TEMPLATE_OPTIONS:
        wrong = f"has more than {MAX_TEMPLATE_OPTIONS} characters."
    if wrong:
        message = f"chat_template_kwargs {wrong}"
        raise ApiError(400, message, param="chat_template_kwargs")
    return cast(Mapping[str, Any], options)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """The longest answer, under its new name or the old one."""
    names = ("max_completion_tokens", "max_tokens")
    given = {whole(body, name, 0) for name in names if body.get(name) is not None}
    if len(given) > 1:
        message = "max_tokens and max_completion_tokens differ: give one of them."
        raise ApiError(400, message, param="max_tokens")
    return given.pop() if given else None


class Chat:
    """The requests of a chat completion, and its responses.

    Args:
        request: The client's.
        model: Name of the answering model.
        requests: One for each of the `n` answers.
        texts: Of the tokenizer.
    """

    def __init__(
        self, request: ChatRequest, model: str, requests: Sequence[Request], texts: TokenTexts
    ) -> None:
        self.requests = requests
        self.settings = request.settings
        self._request = request
        self._texts = texts
        self._begun: set[int] = set()  # choices that have begun
        self._model = model
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The fields that all parts of a response have."""
        return {
            "id": self._id,
            "object": "chat.completion.chunk" if chunk else "chat.completion",
            "created": self._created,
            "model": self._model,
        }

    def whole(self, answers: Mapping[int, Answer]) -> dict[str, Any]:
        """The fields of a response that is not streamed, without usage."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer),
                "finish_reason": finish_reason(answer),
            }
            for index, answer in sorted(answers.items())
        ]
        if (top := self.settings.prompt_logprobs) is None:
            return {"choices": choices}
        scored = logprobs.prompt_logprobs(self._texts, answers[0].prompt_logprobs or (), top)
        return {"choices": choices, "prompt_logprobs": scored}

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The choices of a piece's events: role, text, and at the end why it ended."""
        found = []
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            found.append(_delta(piece.index, {"role": "assistant", "content": ""}))
        if piece.text or piece.logprobs:
            found.append(_delta(piece.index, {"content": piece.text}, self._logprobs(piece)))
        if piece.answer is not None:
            found.append(_delta(piece.index, {}, finish=finish_reason(piece.answer)))
        return found

    def _logprobs(self, part: Answer | Piece) -> dict[str, Any] | None:
        if (top := self._request.logprobs) is None:
            return None
        return logprobs.chat_logprobs(self._texts, part.logprobs or (), top)


def _delta(
    index: int,
    delta: Mapping[str, str],
    scored: Mapping[str, Any] | None = None,
    finish: str | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": scored, "finish_reason": finish}
