"""A task's answers under learned and changed expert weights, computed with the model."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ui.engine.task_gates import TaskGates
from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from torch import Tensor

    from cgclora.adapter import Adapter
    from cgclora.inference.request import Request
    from cgclora.models.backbone import Backbone
    from ui.engine.models import Models

_SECONDS_BETWEEN_VIEWS = 0.15


@dataclass(frozen=True)
class Side:
    """The answer under one set of weights."""

    # weight of each of the task's experts, averaged over layers; the learned ones add up to 1
    split: tuple[float, ...]
    labels: tuple[float, ...] = ()  # a probability a label; empty where there are none, or not yet
    text: str = ""  # the answer so far
    state: str = "waiting"  # `waiting`, `live`, `done`, or `cut` at the limit

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self.state in ("done", "cut")


@dataclass(frozen=True)
class Outcome:
    """The comparison so far."""

    limit: int  # tokens of the longest answer
    labels: tuple[str, ...]  # possible answers of a classification; empty for other tasks
    sides: tuple[Side, ...]  # the learned weights, then the changed ones if any weight is changed
    gates: TaskGates | None = None  # the weights in force
    # size of each expert's update relative to the frozen output; None before it is measured
    effects: TaskGates | None = None

    @property
    def original(self) -> Side:
        """The side with the learned weights."""
        return self.sides[0]

    @property
    def changed(self) -> Side | None:
        """The side with the changed weights."""
        return self.sides[1] if len(self.sides) > 1 else None

    def with_side(self, place: int, side: Side) -> Outcome:
        """The same outcome with another side."""
        return replace(self, sides=(*self.sides[:place], side, *self.sides[place + 1 :]))


@on_gpu
def outcomes(
    models: Models,
    request: Request,
    labels: tuple[str, ...],
    factors: Sequence[float],
    keep_sum: bool,
    cached: Side | None,
) -> Generator[Outcome]:
    """The outcomes of `WhatIf.compare`.

    `labels` are the possible answers of a classification; `cached` is the side with the learned
    weights.
    """
    from cgclora.analysis.probe import contributions, scaled_gates  # noqa: PLC0415 - needs torch

    task = str(request.task)
    backbone, adapter = models.backbone, models.adapter(str(request.cluster))
    count, common = adapter.config.experts_per_task, adapter.config.common
    factors = [*factors[:count], *[1.0] * (count - len(factors))]
    learned = scaled_gates(adapter, task, [1.0] * count)
    gates = scaled_gates(adapter, task, factors, keep_sum=keep_sum)
    requests = [request]
    sides = [cached or _side(adapter, task, learned, learned)]
    if any(factor != 1 for factor in factors):
        requests.append(replace(request, gates=gates))
        sides.append(_side(adapter, task, gates, learned))
    outcome = Outcome(request.max_new_tokens, labels, tuple(sides))
    outcome = yield from _answered(backbone, adapter, outcome, requests)
    measured = contributions(backbone, adapter, task, request.prompt, gates)
    weights, effects = (
        TaskGates(task, measured.layers, values.double().numpy(), common)
        for values in (measured.gates, measured.relative)
    )
    yield replace(outcome, gates=weights, effects=effects)


def _side(adapter: Adapter, task: str, gates: Tensor, learned: Tensor) -> Side:
    """A side without an answer yet; `gates` and the learned ones are [L, E]."""
    config = adapter.config
    usable = np.array(config.access()[config.task_index(task)])
    split = gates.mean(dim=0).double().numpy()[usable] / float(learned.sum(-1).mean())
    return Side(tuple(split.tolist()))


def _answered(
    backbone: Backbone, adapter: Adapter, outcome: Outcome, requests: Sequence[Request]
) -> Generator[Outcome, None, Outcome]:
    """Yield the outcome with label probabilities, then with growing answers; return the last."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415 - needs torch
    from cgclora.inference.engine import stream  # noqa: PLC0415

    for place, (side, request) in enumerate(zip(outcome.sides, requests, strict=True)):
        if outcome.labels and not side.labels:
            shares = label_probabilities(backbone, request, outcome.labels, adapter)
            outcome = outcome.with_side(place, replace(side, labels=tuple(shares)))
    yield outcome
    places = [place for place, side in enumerate(outcome.sides) if not side.ended]
    shown = time.monotonic()
    with closing(stream(backbone, [requests[place] for place in places], adapter)) as pieces:
        for piece in pieces:
            place = places[piece.index]
            state = "live"
            if piece.answer is not None:
                state = "cut" if piece.answer.finish == "length" else "done"
            side = outcome.sides[place]
            side = replace(side, text=side.text + piece.text, state=state)
            outcome = outcome.with_side(place, side)
            if time.monotonic() - shown > _SECONDS_BETWEEN_VIEWS:
                yield outcome
                shown = time.monotonic()
    yield outcome
    return outcome
