"""OpenAI's completions API as far as it is spoken here: what is asked, which model, what is said.

A model is a task. Only what can be done is taken: a field that would change an answer and cannot be
obeyed is refused, not ignored.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Answer, Request
from cgclora.models.backbone import public_name

AUTO = "auto"
"""The model name that lets the clusters' routers find each prompt's task."""

MOST_STOPS = 16
LONGEST_STOP = 100
"""Characters: each new token's text is searched for all beginnings of all stop texts."""

MOST_PROMPTS = 256

_BEYOND = 1 << 63  # all numbers

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}
_READ = {
    "max_tokens", "model", "prompt", "seed", "stop", "stream", "stream_options", "temperature",
    "top_p",
}  # fmt: skip
_IGNORED = {"metadata", "user"}


class ApiError(Exception):
    """What the server answers instead of a completion, in OpenAI's format.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do.
        param: The field to blame.
        code: A name of the error for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON object that a client of OpenAI's API expects."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class Asked:
    """A checked body of `POST /v1/completions`.

    Attributes:
        model: Name of a model.
        prompts: One or more; an answer each.
        max_tokens: Most tokens of an answer; 16 if not named, as OpenAI has it.
        temperature: 1 if not named, as OpenAI has it.
        top_p: See `Request`.
        seed: Of the draw; drawn itself if not named.
        stop: Texts that end an answer.
        stream: Whether pieces are sent as they come.
        include_usage: Whether a stream ends with the numbers of tokens.
    """

    model: str
    prompts: tuple[str, ...]
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False

    @classmethod
    def read(cls, body: Any) -> Self:
        """Check a body.

        Raises:
            ApiError: It is no object, a field is missing, has a wrong type, or cannot be obeyed.
        """
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object.")
        for name, value in body.items():
            if name in _NEUTRAL and not any(value == neutral for neutral in _NEUTRAL[name]):
                raise ApiError(400, f"{name} is not supported here: leave it out.", param=name)
            if name not in _NEUTRAL and name not in _READ | _IGNORED:
                raise ApiError(400, f"there is no field {name[:100]!r}: leave it out.", param=name)
        seed = _number(body, "seed", secrets.randbelow(_BEYOND), whole=True)
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise ApiError(400, "stream_options must be an object.", param="stream_options")
        return cls(
            model=_text(body, "model"),
            prompts=_texts(body, "prompt", MOST_PROMPTS),
            max_tokens=int(_number(body, "max_tokens", 16, whole=True)),
            temperature=_number(body, "temperature", 1.0),
            top_p=_number(body, "top_p", 1.0),
            seed=int(seed),
            stop=_stops(body),
            stream=_truth(body, "stream"),
            include_usage=_truth(options, "include_usage"),
        )


def _text(body: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := body.get(name), str) or not value:
        raise ApiError(400, f"{name} must be a text.", param=name)
    return value


def _texts(body: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    value = body.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ApiError(400, f"{name} must be a text or a list of texts.", param=name)
    if len(texts) > most:
        raise ApiError(400, f"{name} has {len(texts)} texts, at most {most} go.", param=name)
    return tuple(texts)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stops = _texts(body, "stop", MOST_STOPS) if body.get("stop") else ()
    if (longest := max(map(len, stops), default=0)) > LONGEST_STOP:
        raise ApiError(
            400,
            f"stop has a text of {longest} characters, at most {LONGEST_STOP} go.",
            param="stop",
        )
    return stops


def _number(
    body: Mapping[str, Any], name: str, default: float, *, whole: bool = False
) -> int | float:
    value = default if body.get(name) is None else body[name]
    fits = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not fits or not abs(value) < _BEYOND:  # nor is NaN below it
        raise ApiError(400, f"{name} must be a {'whole ' * whole}number below 2^63.", param=name)
    return value


def _truth(body: Mapping[str, Any], name: str) -> bool:
    if not isinstance(value := body.get(name) or False, bool):
        raise ApiError(400, f"{name} must be true or false.", param=name)
    return value


# Models -----------------------------------------------------------------------------------


def model_names(clusters: Clusters) -> list[str]:
    """The backbone, `auto` if there are routers, and the tasks.

    A task that several clusters have is the first one's; `<cluster>/<task>` names any of them.
    """
    adapters = clusters.adapters
    count = Counter(task for adapter in adapters.values() for task in adapter.config.tasks)
    several = [
        f"{name}/{task}"
        for name, adapter in adapters.items()
        for task in adapter.config.tasks
        if count[task] > 1
    ]
    automatic = [AUTO] if clusters.has_routers else []
    names = [public_name(clusters.backbone.name), *automatic, *count, *several]
    return list(dict.fromkeys(names))


def check_model(model: str, clusters: Clusters) -> None:
    """Pass the names of `model_names`, and `<cluster>/<task>` of a task that one cluster has.

    Raises:
        ApiError: There is no such model.
    """
    if _find(model, clusters) is None and model not in model_names(clusters):
        raise _no_model(model)


def requests(asked: Asked, clusters: Clusters) -> tuple[str, list[Request]]:
    """The name of the model that answers, and a request for each prompt.

    The bare backbone gets a prompt as it is. A client of vLLM ends a prompt for an adapter with the
    separator of its training; ours are asked without it, and it is added. So one separator at the
    end of such a prompt is taken off.

    Raises:
        ApiError: There is no such model.
        ConfigError, DataError: The model is `auto` and a prompt's task cannot be told.
        DecodingError: A field is out of its range.
    """
    named = _find(asked.model, clusters)
    if named is None and asked.model != AUTO:
        raise _no_model(asked.model)
    found = []
    for place, prompt in enumerate(asked.prompts):
        task, cluster = named or _routed(prompt, clusters)
        request = Request(
            task,
            prompt,
            max_new_tokens=asked.max_tokens,
            stop=asked.stop,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=(asked.seed + place) % _BEYOND if asked.seed >= 0 else asked.seed,
            cluster=cluster,
        )
        found.append(_as_trained(request, clusters))
    names = {f"{request.cluster}/{request.task}" for request in found}
    return names.pop() if named is None and len(names) == 1 else asked.model, found


def _find(model: str, clusters: Clusters) -> tuple[str | None, str | None] | None:
    """Task and cluster of a model name, None and None for the bare backbone; None if unknown."""
    adapters = clusters.adapters
    for name, adapter in adapters.items():
        if model in adapter.config.tasks:
            return model, name
    for name, adapter in adapters.items():
        if model.removeprefix(f"{name}/") in adapter.config.tasks:
            return model.removeprefix(f"{name}/"), name
    return (None, None) if model == public_name(clusters.backbone.name) else None


def _routed(prompt: str, clusters: Clusters) -> tuple[str, str]:
    """Task and cluster of a prompt that names none."""
    routed = clusters.choose(prompt)
    return routed.task, routed.cluster


def _no_model(model: str) -> ApiError:
    return ApiError(
        404,
        f"the model {model[:100]!r} does not exist: /v1/models lists those that do.",
        param="model",
        code="model_not_found",
    )


def _as_trained(request: Request, clusters: Clusters) -> Request:
    if request.task is None:
        return replace(request, separator="")
    separator = clusters.snapshot().prompt_format(request).separator
    return replace(request, prompt=request.prompt.removesuffix(separator))


# Answers ----------------------------------------------------------------------------------


def choice(place: int, text: str, answer: Answer | None = None) -> dict[str, Any]:
    """A text, or a piece of it, of the prompt at that place; with its answer, how it ended."""
    finish = None if answer is None else "length" if answer.finish == "length" else "stop"
    return {"index": place, "text": text, "logprobs": None, "finish_reason": finish}


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens read and written."""
    read = sum(answer.prompt_tokens for answer in answers)
    written = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def envelope(model: str) -> dict[str, Any]:
    """What every part of one completion begins with."""
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
