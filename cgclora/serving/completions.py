"""OpenAI's completions: `POST /v1/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cgclora.inference.engine import Engine
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Answer, Piece, Request, TokenLogprob
from cgclora.serving import logprobs
from cgclora.serving.fields import ApiError, Settings, boolean, whole
from cgclora.serving.fields import logprobs as logprobs_field
from cgclora.serving.logprobs import Placed
from cgclora.serving.models import Target, answering_name, targets
from cgclora.serving.token_text import TextPositions, TokenTexts, typed_ids

MAX_PROMPTS = 256

_SUPPORTED = {"best_of", "echo", "prompt"}
_NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (None, True),
    "suffix": (None, ""),
}

Prompt = str | tuple[int, ...]
"""A text, or token ids, which are read as they are."""


@dataclass(frozen=True)
class CompletionRequest:
    """A validated body; defaults are OpenAI's."""

    settings: Settings
    prompts: tuple[Prompt, ...]
    max_tokens: int
    logprobs: int | None
    echo: bool

    @classmethod
    def parse(cls, body: Any) -> Self:
        """Validate a JSON body.

        Raises:
            ApiError: It is not an object, or a field is missing, of a wrong type or unsupported.
        """
        settings = Settings.parse(body, _SUPPORTED, _NO_EFFECT)
        if whole(body, "best_of", settings.n) != settings.n:
            raise ApiError(400, "best_of must be n: all answers are returned.", param="best_of")
        request = cls(
            settings,
            prompts=_prompts(body.get("prompt")),
            max_tokens=whole(body, "max_tokens", 16),
            logprobs=logprobs_field(body, "logprobs"),
            echo=boolean(body, "echo"),
        )
        if request.max_tokens == 0 and not request.echo and settings.prompt_logprobs is None:
            message = "max_tokens must be at least 1: only echo and prompt_logprobs do with 0."
            raise ApiError(400, message, param="max_tokens")
        if (count := len(request.prompts) * settings.n) > MAX_PROMPTS:
            message = f"{count} answers are wanted, at most {MAX_PROMPTS} are given at once."
            raise ApiError(400, message, param="n" if settings.n > 1 else "prompt")
        return request

    def prepare(self, engine: Engine, texts: TokenTexts) -> Completion:
        """The requests to the engine, checked and encoded, with the form of their responses.

        Raises:
            ApiError: There is no such model, or it cannot route token ids.
            ConfigError, DataError: The model is `auto` and the routers find no task for a prompt.
            DecodingError: A field is out of range.
        """
        questions = [one if isinstance(one, str) else None for one in self.prompts]
        found = targets(self.settings.model, questions, engine.clusters)
        requests: list[Request] = []
        for prompt, target in zip(self.prompts, found, strict=True):
            request = engine.encode(self._request(prompt, target, engine.clusters))
            for _ in range(self.settings.n):
                seed = self.settings.seed_of(len(requests))
                requests.append(replace(request, seed=seed))
        model = answering_name(self.settings.model, found)
        return Completion(self, model, requests, texts)

    def _request(self, prompt: Prompt, target: Target, clusters: Clusters) -> Request:
        """One prompt's request.

        A text is a question in the format of its adapter, except that what is scored is read as it
        is, and the bare backbone adds nothing. Clients of vLLM end a prompt for an adapter with the
        separator of its training, which the engine adds here; so one separator at the end of such
        a prompt is removed.
        """
        settings = self.settings
        scored = None if not self.echo or self.logprobs is None else self.logprobs
        wanted = [one for one in (scored, settings.prompt_logprobs) if one is not None]
        is_raw = bool(wanted) or target.task is None
        request = Request(
            target.task,
            prompt if isinstance(prompt, str) else "",
            max_new_tokens=self.max_tokens,
            stop=settings.stop,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            cluster=target.cluster,
            separator="" if is_raw else None,
            prompt_ids=None if isinstance(prompt, str) else prompt,
            logprobs=self.logprobs,
            # An answer without tokens scores its prompt, whether that is wanted or not.
            prompt_logprobs=max(wanted) if wanted else 0 if self.max_tokens == 0 else None,
        )
        if is_raw or not request.prompt:
            return request
        format_ = clusters.snapshot().prompt_format(request)
        if format_.template is not None:
            return request
        return replace(request, prompt=request.prompt.removesuffix(format_.separator))


class Completion:
    """The requests of a completion, and its responses.

    Args:
        request: The client's.
        model: Name of the answering model.
        requests: `n` for each prompt, with its token ids.
        texts: Of the tokenizer.
    """

    def __init__(
        self, request: CompletionRequest, model: str, requests: Sequence[Request], texts: TokenTexts
    ) -> None:
        self.requests = requests
        self.settings = request.settings
        self._request = request
        self._texts = texts
        self._positions: dict[int, TextPositions] = {}  # of the answers that have begun
        self._model = model
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def envelope(self, *, chunk: bool) -> dict[str, Any]:
        """The fields that all parts of a response have."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
        }

    def whole(self, answers: Mapping[int, Answer]) -> dict[str, Any]:
        """The fields of a response that is not streamed, without usage."""
        choices = []
        for index, answer in sorted(answers.items()):
            choice = self._choice(index, answer.text, answer, finish_reason(answer))
            if (top := self.settings.prompt_logprobs) is not None:
                scored = answer.prompt_logprobs or ()
                choice["prompt_logprobs"] = logprobs.prompt_logprobs(self._texts, scored, top)
            choices.append(choice)
        return {"choices": choices}

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The choices of a piece's events."""
        finish = None if piece.answer is None else finish_reason(piece.answer)
        return [self._choice(piece.index, piece.text, piece, finish)]

    def _choice(
        self, index: int, text: str, part: Answer | Piece, finish: str | None
    ) -> dict[str, Any]:
        """A choice, which begins with the prompt if it is to be echoed."""
        placed: list[Placed] = []
        if index not in self._positions:
            prompt = ""
            if self._request.echo:
                prompt, placed = self._echo(index, part.prompt_logprobs or ())
            self._positions[index] = TextPositions(self._texts, len(prompt))
            text = prompt + text
        form = None
        if (top := self._request.logprobs) is not None:
            add = self._positions[index].add
            placed += [(one.token, one, add(one.token)) for one in part.logprobs or ()]
            form = logprobs.completion_logprobs(self._texts, placed, top)
        return {"index": index, "text": text, "logprobs": form, "finish_reason": finish}

    def _echo(self, index: int, scored: Sequence[TokenLogprob]) -> tuple[str, list[Placed]]:
        """The text of a prompt with its tokens, of which the tokenizer's own have no text."""
        prompt = self._request.prompts[index // self.settings.n]
        ids = [*(self.requests[index].prompt_ids or ())]
        own = typed_ids(self._texts, ids, prompt) if isinstance(prompt, str) else ids
        text, placed = self._texts.decode(own), []
        if self._request.logprobs is not None:
            positions = TextPositions(self._texts, special=True)
            offsets = [0] * (len(ids) - len(own)) + [positions.add(token) for token in own]
            placed = [*zip(ids, (None, *scored), offsets, strict=True)]
        return text, placed


def _prompts(value: Any) -> tuple[Prompt, ...]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str):
        return (value,)
    message = "prompt must be a string, a list of token ids, or a list of strings or of such lists."
    wrong = ApiError(400, message, param="prompt")
    if not isinstance(value, list) or not value:
        raise wrong
    if _are_ids(value):
        return (tuple(value),)
    if not all(isinstance(one, str) or _are_ids(one) for one in value):
        raise wrong
    return tuple(one if isinstance(one, str) else tuple(one) for one in value)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


def finish_reason(answer: Answer) -> str:
    """Why an answer ended, in OpenAI's words."""
    return "length" if answer.finish == "length" else "stop"


def usage(answers: Mapping[int, Answer], n: int) -> dict[str, int]:
    """Token counts of a response; a prompt with `n` answers counts once."""
    prompt = sum(answer.prompt_tokens for index, answer in answers.items() if index % n == 0)
    completion = sum(answer.tokens for answer in answers.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
