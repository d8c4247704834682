"""The supported part of OpenAI's completions API: request bodies, models and responses.

A model is a task. A field that would change the answer but is not supported is refused, not
ignored.
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
"""The model name with which the clusters' routers find each prompt's task."""

MAX_PROMPTS = 256
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 100  # every new token's text is searched for every prefix of every stop text

_NUMBER_LIMIT = 1 << 63

# Unsupported fields with the values that have no effect.
_NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}
_SUPPORTED = {
    "max_tokens", "model", "prompt", "seed", "stop", "stream", "stream_options", "temperature",
    "top_p",
}  # fmt: skip
_IGNORED = {"metadata", "user"}


class ApiError(Exception):
    """An error response in OpenAI's format, with the invalid field and a name for programs."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class CompletionRequest:
    """A validated body of `POST /v1/completions`; defaults are OpenAI's."""

    model: str
    prompts: tuple[str, ...]  # with one answer each
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool  # whether a stream ends with the token counts

    @classmethod
    def parse(cls, body: Any) -> Self:
        """Validate a JSON body.

        Raises:
            ApiError: It is not an object, or a field is missing, of a wrong type or unsupported.
        """
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object.")
        for name, value in body.items():
            if name in _NO_EFFECT and value not in _NO_EFFECT[name]:
                raise ApiError(400, f"{name} is not supported here: leave it out.", param=name)
            if name not in _NO_EFFECT and name not in _SUPPORTED | _IGNORED:
                raise ApiError(400, f"there is no field {name[:100]!r}: leave it out.", param=name)
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise ApiError(400, "stream_options must be an object.", param="stream_options")
        return cls(
            model=text_field(body, "model"),
            prompts=_texts(body, "prompt", MAX_PROMPTS),
            max_tokens=int(_number(body, "max_tokens", 16, whole=True)),
            temperature=_number(body, "temperature", 1.0),
            top_p=_number(body, "top_p", 1.0),
            seed=int(_number(body, "seed", secrets.randbelow(_NUMBER_LIMIT), whole=True)),
            stop=_stops(body),
            stream=_boolean(body, "stream"),
            include_usage=_boolean(options, "include_usage"),
        )


def text_field(body: Any, name: str) -> str:
    """The text of a field of a JSON body.

    Raises:
        ApiError: The body is not an object, or the field is not a non-empty string.
    """
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"{name} must be a non-empty string.", param=name)
    return value


def _texts(body: Mapping[str, Any], name: str, max_texts: int) -> tuple[str, ...]:
    value = body.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ApiError(400, f"{name} must be a string or a list of strings.", param=name)
    if len(texts) > max_texts:
        message = f"{name} has {len(texts)} texts, at most {max_texts} are allowed."
        raise ApiError(400, message, param=name)
    return tuple(texts)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stops = _texts(body, "stop", MAX_STOPS) if body.get("stop") else ()
    if (longest := max(map(len, stops), default=0)) > MAX_STOP_CHARACTERS:
        message = (
            f"stop has a text of {longest} characters, at most {MAX_STOP_CHARACTERS} are allowed."
        )
        raise ApiError(400, message, param="stop")
    return stops


def _number(
    body: Mapping[str, Any], name: str, default: float, *, whole: bool = False
) -> int | float:
    value = default if body.get(name) is None else body[name]
    is_number = isinstance(value, int) if whole else isinstance(value, int | float)
    # NaN is not below the limit either.
    if isinstance(value, bool) or not is_number or not abs(value) < _NUMBER_LIMIT:
        raise ApiError(400, f"{name} must be a {'whole ' * whole}number below 2^63.", param=name)
    return value


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    if not isinstance(value := body.get(name) or False, bool):
        raise ApiError(400, f"{name} must be true or false.", param=name)
    return value


def model_names(clusters: Clusters) -> list[str]:
    """The backbone, `auto` if there are routers, and the tasks.

    A task of several clusters is answered by the first; `<cluster>/<task>` names any of them.
    """
    adapters = clusters.adapters
    counts = Counter(task for adapter in adapters.values() for task in adapter.config.tasks)
    shared = [
        f"{name}/{task}"
        for name, adapter in adapters.items()
        for task in adapter.config.tasks
        if counts[task] > 1
    ]
    automatic = [AUTO] if clusters.has_routers else []
    names = [public_name(clusters.backbone.name), *automatic, *counts, *shared]
    return list(dict.fromkeys(names))


def check_model(model: str, clusters: Clusters) -> None:
    """Accept the names of `model_names`, and `<cluster>/<task>` of any task.

    Raises:
        ApiError: There is no such model.
    """
    if _resolve(model, clusters) is None and model not in model_names(clusters):
        raise _no_model(model)


def to_requests(completion: CompletionRequest, clusters: Clusters) -> tuple[str, list[Request]]:
    """The name of the answering model, and one request per prompt.

    The bare backbone gets a prompt unchanged. Clients of vLLM end a prompt for an adapter with the
    separator of its training, which the engine adds here; so one separator at the end of such a
    prompt is removed.

    Raises:
        ApiError: There is no such model.
        ConfigError, DataError: The model is `auto` and the routers find no task for a prompt.
        DecodingError: A field is out of range.
    """
    resolved = _resolve(completion.model, clusters)
    if resolved is None and completion.model != AUTO:
        raise _no_model(completion.model)
    seed = completion.seed
    requests = []
    for i, prompt in enumerate(completion.prompts):
        if (target := resolved) is None:
            routed = clusters.choose(prompt)
            target = routed.task, routed.cluster
        task, cluster = target
        request = Request(
            task,
            prompt,
            max_new_tokens=completion.max_tokens,
            stop=completion.stop,
            temperature=completion.temperature,
            top_p=completion.top_p,
            seed=(seed + i) % _NUMBER_LIMIT if seed >= 0 else seed,
            cluster=cluster,
            separator="" if task is None else None,
        )
        if task is not None:
            separator = clusters.snapshot().prompt_format(request).separator
            request = replace(request, prompt=prompt.removesuffix(separator))
        requests.append(request)
    names = {f"{request.cluster}/{request.task}" for request in requests}
    is_routed = resolved is None and len(names) == 1
    return names.pop() if is_routed else completion.model, requests


def _resolve(model: str, clusters: Clusters) -> tuple[str | None, str | None] | None:
    """Task and cluster of a model name, both None for the bare backbone; None if unknown."""
    adapters = clusters.adapters
    for name, adapter in adapters.items():
        if model in adapter.config.tasks:
            return model, name
    for name, adapter in adapters.items():
        if (task := model.removeprefix(f"{name}/")) in adapter.config.tasks:
            return task, name
    return (None, None) if model == public_name(clusters.backbone.name) else None


def _no_model(model: str) -> ApiError:
    return ApiError(
        404,
        f"the model {model[:100]!r} does not exist: /v1/models lists the models.",
        param="model",
        code="model_not_found",
    )


def choice(index: int, text: str, answer: Answer | None = None) -> dict[str, Any]:
    """The text of a prompt's answer, or a piece of it; the last piece comes with the answer."""
    finish = None if answer is None else "length" if answer.finish == "length" else "stop"
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Token counts of a completion."""
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def envelope(model: str) -> dict[str, Any]:
    """The fields that all parts of a completion have."""
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
