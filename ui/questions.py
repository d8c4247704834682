"""What is asked of the engine, and the work on it; on ZeroGPU that happens in a fork."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ui.zero import on_gpu

if TYPE_CHECKING:
    from cgclora.request import Piece
    from ui.engine import Engine

MAX_CHARACTERS = 6000
"""Longest prompt that is read."""

MAX_TOKENS = 512
"""Longest answer that may be asked for."""

BARE_TOKENS = 64
"""Longest answer of the bare backbone, which seldom ends by itself."""

BARE = "backbone"
"""Stands for the backbone without experts where others are adapters."""


class EngineError(RuntimeError):
    """A question that cannot be answered here; the message says why and what to do."""


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


def check_length(prompt: str) -> None:
    """Refuse a prompt that is too long to be read here.

    Raises:
        EngineError: It has more than `MAX_CHARACTERS` characters.
    """
    if len(prompt) > MAX_CHARACTERS:
        raise EngineError(
            f"the prompt has {len(prompt)} characters, at most {MAX_CHARACTERS} are read: "
            "shorten it."
        )


@on_gpu
def answers(engine: Engine, question: Question) -> Generator[Piece]:
    """What `Engine.ask` yields."""
    from cgclora.decoding import stream  # noqa: PLC0415 - torch is loaded by now
    from cgclora.request import Request  # noqa: PLC0415 - torch is loaded by now

    backbone, clusters = engine.resident(question.cluster)
    most = max(1, min(question.max_new_tokens, MAX_TOKENS))
    own = Request(
        question.task, question.prompt, most, choices=question.choices, cluster=question.cluster
    )
    bare = replace(own, task=None, cluster=None, max_new_tokens=min(most, BARE_TOKENS))
    others = [bare if name == BARE else replace(own, cluster=name) for name in question.beside]
    yield from stream(backbone, [own, *others], clusters)


@on_gpu
def label_shares(
    engine: Engine, question: Question, labels: Sequence[str]
) -> Generator[list[float]]:
    """What `Engine.label_probabilities` returns, once."""
    from cgclora.probe import label_probabilities  # noqa: PLC0415
    from cgclora.request import Request  # noqa: PLC0415 - torch is loaded by now

    bare = question.cluster == BARE
    backbone, adapter = engine.loaded(engine.adapters()[0] if bare else question.cluster)
    request = Request(None if bare else question.task, question.prompt)
    yield label_probabilities(backbone, request, labels, None if bare else adapter)
