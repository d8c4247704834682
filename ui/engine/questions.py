"""What is asked of the engine, and the work on it; on ZeroGPU that happens in a fork."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from cgclora.inference.request import Piece, Request
    from ui.engine.engine import Engine

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom ends by itself."""

BARE = "backbone"
"""Stands for the backbone without experts where others are adapters."""


@dataclass(frozen=True)
class Question:
    """One question to an adapter and to those beside it.

    Attributes:
        cluster: The adapter's name.
        task: One of its tasks.
        prompt: The whole prompt.
        max_new_tokens: Most tokens of the adapted answer.
        choices: What the answer must be one of; None leaves it free.
        beside: Who else answers, in this order: names of adapters that know the task, or `BARE`.
    """

    cluster: str
    task: str
    prompt: str
    max_new_tokens: int
    choices: tuple[str, ...] | None = None
    beside: tuple[str, ...] = ()


def requests_of(question: Question, most: int) -> list[Request]:
    """What is asked of the backbone, in the order of the answers.

    Args:
        question: What a visitor asks.
        most: Tokens of the longest answer that is given.

    Raises:
        DecodingError: No choices are left to choose from.
    """
    from cgclora.inference.request import Request  # noqa: PLC0415 - torch is loaded by now

    most = max(1, min(question.max_new_tokens, most))
    own = Request(
        question.task, question.prompt, most, choices=question.choices, cluster=question.cluster
    )
    bare = replace(own, task=None, cluster=None, max_new_tokens=min(most, BARE_TOKENS))
    return [
        own,
        *(bare if name == BARE else replace(own, cluster=name) for name in question.beside),
    ]


@on_gpu
def answers(engine: Engine, question: Question) -> Generator[Piece]:
    """What `Engine.ask` yields where no batch is shared."""
    from cgclora.inference.generate import stream  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident(question.cluster)
    yield from stream(backbone, requests_of(question, engine.limits.answer_tokens), clusters)


@on_gpu
def label_shares(
    engine: Engine, question: Question, labels: Sequence[str]
) -> Generator[list[float]]:
    """What `Engine.label_probabilities` returns, once."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415
    from cgclora.inference.request import Request  # noqa: PLC0415 - torch is loaded by now

    bare = question.cluster == BARE
    backbone, adapter = engine.loaded(engine.adapters()[0] if bare else question.cluster)
    request = Request(None if bare else question.task, question.prompt)
    yield label_probabilities(backbone, request, labels, None if bare else adapter)
