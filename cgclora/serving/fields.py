"""The fields of requests: their validation, and those that all kinds of completions share.

A field that would change the answer but is not supported is refused, not ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

MAX_CHOICES = 128
"""Of a prompt, as OpenAI."""

MAX_LOGPROBS = 20
"""Most likely tokens to list, as OpenAI's chat and vLLM."""

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 100  # every new token's text is searched for every prefix of every stop text

NUMBER_LIMIT = 1 << 63

NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "ignore_eos": (None, False),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "service_tier": (None, "auto", "default"),
    "skip_special_tokens": (None, True),
    "top_k": (None, 0, -1),
}
"""Unsupported fields of OpenAI and vLLM with the values that have no effect."""

_SUPPORTED = {
    "logprobs", "max_tokens", "model", "n", "prompt_logprobs", "seed", "stop", "stream",
    "stream_options", "temperature", "top_p",
}  # fmt: skip
_IGNORED = {"metadata", "prompt_cache_key", "safety_identifier", "user"}
_STREAM_OPTIONS = {"include_obfuscation", "include_usage"}


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
class Settings:
    """The fields that all kinds of completions share; defaults are OpenAI's."""

    model: str
    temperature: float
    top_p: float
    seed: int  # of the first answer; each further one has the next
    stop: tuple[str, ...]
    n: int  # answers to a prompt
    stream: bool
    include_usage: bool  # whether a stream ends with the token counts
    prompt_logprobs: int | None  # as vLLM: likeliest tokens to list with each of the prompt

    @classmethod
    def parse(
        cls, body: Any, supported: Collection[str], no_effect: Mapping[str, tuple[Any, ...]]
    ) -> Self:
        """Validate a JSON body.

        Args:
            body: Of the request.
            supported: Further fields, which the caller reads.
            no_effect: Further fields, with the values that have no effect.

        Raises:
            ApiError: It is not an object, or a field is missing, of a wrong type or unsupported.
        """
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object.")
        neutral = {**NO_EFFECT, **no_effect}
        for name, value in body.items():
            if name in neutral and value not in neutral[name]:
                raise ApiError(400, f"{name} is not supported here: leave it out.", param=name)
            if name not in {*neutral, *supported, *_SUPPORTED, *_IGNORED}:
                raise ApiError(400, f"there is no field {name[:100]!r}: leave it out.", param=name)
        options = body.get("stream_options") or {}
        if not isinstance(options, dict) or options.keys() - _STREAM_OPTIONS:
            message = "stream_options must be an object with include_usage alone."
            raise ApiError(400, message, param="stream_options")
        settings = cls(
            model=text_field(body, "model"),
            temperature=number(body, "temperature", 1.0),
            top_p=number(body, "top_p", 1.0),
            seed=whole(body, "seed", secrets.randbelow(NUMBER_LIMIT)),
            stop=_stops(body),
            n=whole(body, "n", 1, least=1, most=MAX_CHOICES),
            stream=boolean(body, "stream"),
            include_usage=boolean(options, "include_usage"),
            prompt_logprobs=logprobs(body, "prompt_logprobs"),
        )
        if settings.stream and settings.prompt_logprobs is not None:
            message = "prompt_logprobs are not streamed: leave out stream, or them."
            raise ApiError(400, message, param="prompt_logprobs")
        return settings

    def seed_of(self, answer: int) -> int:
        """The seed of an answer by its number in the response."""
        return (self.seed + answer) % NUMBER_LIMIT if self.seed >= 0 else self.seed


def text_field(body: Any, name: str) -> str:
    """The text of a field of a JSON body.

    Raises:
        ApiError: The body is not an object, or the field is not a non-empty string.
    """
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"{name} must be a non-empty string.", param=name)
    return value


def number(body: Mapping[str, Any], name: str, default: float) -> float:
    """A number below 2^63; a missing one and null are the default.

    Raises:
        ApiError: It is something else.
    """
    value = default if body.get(name) is None else body[name]
    # NaN is not below the limit either.
    if not isinstance(value, int | float) or is_boolean(value) or not abs(value) < NUMBER_LIMIT:
        raise ApiError(400, f"{name} must be a number below 2^63.", param=name)
    return value


def whole(
    body: Mapping[str, Any],
    name: str,
    default: int,
    *,
    least: int = 1 - NUMBER_LIMIT,
    most: int = NUMBER_LIMIT - 1,
) -> int:
    """A whole number from `least` to `most`; a missing one and null are the default.

    Raises:
        ApiError: It is something else.
    """
    value = default if body.get(name) is None else body[name]
    if not isinstance(value, int) or is_boolean(value) or not least <= value <= most:
        bounds = f"from {least} to {most}" if most < NUMBER_LIMIT - 1 else "below 2^63"
        raise ApiError(400, f"{name} must be a whole number {bounds}.", param=name)
    return value


def logprobs(body: Mapping[str, Any], name: str) -> int | None:
    """How many tokens' log-probabilities to list; None gives no logprobs.

    Raises:
        ApiError: It is no such number.
    """
    return None if body.get(name) is None else whole(body, name, 0, least=0, most=MAX_LOGPROBS)


def boolean(body: Mapping[str, Any], name: str) -> bool:
    """True or false; a missing field and null are false.

    Raises:
        ApiError: It is something else.
    """
    value = False if body.get(name) is None else body[name]
    if not is_boolean(value):
        raise ApiError(400, f"{name} must be true or false.", param=name)
    return bool(value)


def is_boolean(value: Any) -> bool:
    """Whether a JSON value is true or false, which Python also takes for 1 and 0."""
    return isinstance(value, bool)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop") or []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise ApiError(400, "stop must be a string or a list of strings.", param="stop")
    if len(stops) > MAX_STOPS:
        message = f"stop has {len(stops)} texts, at most {MAX_STOPS} are allowed."
        raise ApiError(400, message, param="stop")
    if (longest := max(map(len, stops), default=0)) > MAX_STOP_CHARACTERS:
        message = (
            f"stop has a text of {longest} characters, at most {MAX_STOP_CHARACTERS} are allowed."
        )
        raise ApiError(400, message, param="stop")
    return tuple(stops)
