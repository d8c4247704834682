"""Log-probabilities in the forms of OpenAI's completions, OpenAI's chat, and vLLM's prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cgclora.inference.request import TokenLogprob
from cgclora.serving.token_text import TokenTexts

Placed = tuple[int, TokenLogprob | None, int]
"""A token, its log-probability, and where it starts; the first of a prompt has none."""


def completion_logprobs(
    texts: TokenTexts, tokens: Iterable[Placed], top: int
) -> dict[str, list[Any]]:
    """The `logprobs` of a completion.

    Its `top_logprobs` have the `top` most likely tokens and the token itself. Of several tokens
    with the same text, the most likely one is listed.
    """
    form: dict[str, list[Any]] = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for token, scored, offset in tokens:
        likely: dict[str, float] = {}
        for word, logprob in (*scored.top[:top], (token, scored.logprob)) if scored else ():
            likely.setdefault(texts.text_of(word), logprob)
        form["tokens"].append(texts.text_of(token))
        form["token_logprobs"].append(scored and scored.logprob)
        form["top_logprobs"].append(scored and likely)
        form["text_offset"].append(offset)
    return form


def chat_logprobs(texts: TokenTexts, scored: Iterable[TokenLogprob], top: int) -> dict[str, Any]:
    """The `logprobs` of a chat's answer."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        raw = texts.bytes_of(token)
        return {"token": texts.text_of(token), "logprob": logprob, "bytes": [*raw]}

    content = [
        {
            **entry(one.token, one.logprob),
            "top_logprobs": [entry(token, logprob) for token, logprob in one.top[:top]],
        }
        for one in scored
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(
    texts: TokenTexts, scored: Sequence[TokenLogprob], top: int
) -> list[dict[str, Any] | None]:
    """VLLM's `prompt_logprobs`: an object by token id for each token; the first has none."""

    def entry(token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {"logprob": logprob, "rank": rank, "decoded_token": texts.text_of(token)}

    found: list[dict[str, Any] | None] = [None]
    for one in scored:
        likely = enumerate(one.top[:top], start=1)
        found.append(
            {
                str(one.token): entry(one.token, one.logprob, one.rank),
                **{str(token): entry(token, logprob, rank) for rank, (token, logprob) in likely},
            }
        )
    return found
