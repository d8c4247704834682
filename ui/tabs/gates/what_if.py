"""What a task's experts would answer, were their weights others."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from evals.detection.detector import split_fields
from evals.tasks import Task
from ui.components import forms
from ui.engine.engine import Engine
from ui.engine.task_gates import TaskGates
from ui.engine.zero_gpu import on_gpu

if TYPE_CHECKING:
    from torch import Tensor

    from cgclora.adapter import Adapter
    from cgclora.inference.request import Request
    from cgclora.models.backbone import Backbone

MAX_TOKENS = 96
"""Longest answer that is compared."""

_SECONDS_BETWEEN_VIEWS = 0.15
_MOST_KNOWN = 256


@dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
        cluster: The adapter's name.
        task: One of its tasks.
        prompt: The whole prompt.
    """

    cluster: str
    task: str
    prompt: str


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        split: Weight of each of the task's experts, averaged over layers; the learned ones add up
            to 1.
        labels: A probability a label; empty where there are none, or not yet.
        text: The answer as far as it has come.
        state: How far that is: `waiting`, `live`, `done`, or `cut` at `MAX_TOKENS`.
    """

    split: tuple[float, ...]
    labels: tuple[float, ...] = ()
    text: str = ""
    state: str = "waiting"

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self.state in ("done", "cut")


@dataclass(frozen=True)
class Outcome:
    """How far the comparison has come.

    Attributes:
        labels: What a classification may say; empty elsewhere.
        original: With the learned weights.
        changed: With the others; None where none is changed.
        gates: The weights in force.
        effects: What each expert adds with them, relative to the frozen output, in the form of
            gates; None before it is measured.
    """

    labels: tuple[str, ...]
    original: Side
    changed: Side | None = None
    gates: TaskGates | None = None
    effects: TaskGates | None = None


class WhatIf:
    """Compares, and remembers what the learned weights answer.

    Args:
        engine: Who answers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[Case, Side] = OrderedDict()
        self._lock = threading.Lock()

    def compare(
        self,
        case: Case,
        factors: Sequence[float],
        *,
        keep_sum: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[Outcome]:
        """Labels first, then both answers as they grow, then the effects.

        Args:
            case: What is asked.
            factors: For each of the task's experts, in [0, 2] say; 1 is the learned weight.
                Experts beyond the given ones keep theirs.
            keep_sum: See `scaled_gates`.
            stopped: Whether nobody wants to know any more; asked before each outcome.

        Raises:
            EngineError: The model is not loaded, or the prompt is too long.
            DecodingError, ConfigError: The prompt cannot be answered.
        """
        self._engine.check_length(case.prompt)
        self._engine.loaded(case.cluster)
        known = self._remembered(case)
        with closing(_outcomes(self._engine, case, factors, keep_sum, known)) as outcomes:
            for outcome in outcomes:
                if outcome.original.ended:
                    self._remember(case, outcome.original)
                if stopped():
                    return
                yield outcome

    def _remembered(self, case: Case) -> Side | None:
        with self._lock:
            if case in self._known:
                self._known.move_to_end(case)
            return self._known.get(case)

    def _remember(self, case: Case, side: Side) -> None:
        with self._lock:
            self._known[case] = side
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)


@on_gpu
def _outcomes(
    engine: Engine, case: Case, factors: Sequence[float], keep_sum: bool, known: Side | None
) -> Generator[Outcome]:
    """What `WhatIf.compare` yields, where `known` is what the learned weights answer."""
    from cgclora.analysis.probe import contributions, scaled_gates  # noqa: PLC0415
    from cgclora.inference.request import Request  # noqa: PLC0415 - torch is loaded by now

    backbone, adapter = engine.loaded(case.cluster)
    form = forms.task_named(case.task)
    count, common = adapter.config.experts_per_task, adapter.config.common
    factors = [*factors[:count], *[1.0] * (count - len(factors))]
    own = scaled_gates(adapter, case.task, [1.0] * count)
    gates = scaled_gates(adapter, case.task, factors, keep_sum=keep_sum)
    requests = [Request(case.task, case.prompt, min(form.max_new_tokens, MAX_TOKENS))]
    original = known or _side(adapter, case.task, own, own)
    outcome = Outcome(labels_of(form, case.prompt), original)
    if any(factor != 1 for factor in factors):
        requests.append(replace(requests[0], gates=gates))
        outcome = replace(outcome, changed=_side(adapter, case.task, gates, own))
    outcome = _labelled(backbone, adapter, outcome, requests)
    yield outcome
    for more in _answered(backbone, adapter, outcome, requests):
        outcome = more
        yield outcome
    found = contributions(backbone, adapter, case.task, case.prompt, gates)
    weights, effects = (
        TaskGates(case.task, found.layers, values.double().numpy(), common)
        for values in (found.gates, found.relative)
    )
    yield replace(outcome, gates=weights, effects=effects)


def labels_of(task: Task, prompt: str) -> tuple[str, ...]:
    """What a classification may answer: the choices of the prompt, else all of the task's labels.

    A prompt in other words than the template's may name a label by chance, so it counts for none.
    """
    if task.kind != "classification":
        return ()
    sample = next((one for one in forms.samples(task) if task.prompt(one.fields) == prompt), None)
    fields = split_fields(task, prompt)
    choices = sample.choices if sample else fields and task.choices(fields)
    return tuple(dict.fromkeys(task.answers(choices or None)))


def _side(adapter: Adapter, task: str, gates: Tensor, own: Tensor) -> Side:
    """A side that has said nothing; `gates` and the gate's own are [L, E]."""
    config = adapter.config
    usable = np.array(config.access()[config.task_index(task)])
    split = gates.mean(dim=0).double().numpy()[usable] / float(own.sum(-1).mean())
    return Side(tuple(split.tolist()))


def _labelled(
    backbone: Backbone, adapter: Adapter, outcome: Outcome, requests: Sequence[Request]
) -> Outcome:
    """The same outcome with all label probabilities."""
    from cgclora.analysis.probe import label_probabilities  # noqa: PLC0415

    for place, (side, request) in enumerate(zip(_sides(outcome), requests, strict=True)):
        if outcome.labels and not side.labels:
            shares = label_probabilities(backbone, request, outcome.labels, adapter)
            outcome = _with(outcome, place, replace(side, labels=tuple(shares)))
    return outcome


def _answered(
    backbone: Backbone, adapter: Adapter, outcome: Outcome, requests: Sequence[Request]
) -> Iterator[Outcome]:
    """The same outcome with the answers that are not known yet, as they grow."""
    from cgclora.inference.generate import stream  # noqa: PLC0415

    places = [place for place, side in enumerate(_sides(outcome)) if not side.ended]
    shown = time.monotonic()
    with closing(stream(backbone, [requests[place] for place in places], adapter)) as pieces:
        for piece in pieces:
            place = places[piece.index]
            state = "live"
            if piece.answer is not None:
                state = "cut" if piece.answer.finish == "length" else "done"
            side = _sides(outcome)[place]
            side = replace(side, text=side.text + piece.text, state=state)
            outcome = _with(outcome, place, side)
            if time.monotonic() - shown > _SECONDS_BETWEEN_VIEWS:
                yield outcome
                shown = time.monotonic()
    yield outcome


def _sides(outcome: Outcome) -> list[Side]:
    return [outcome.original, *([outcome.changed] if outcome.changed else [])]


def _with(outcome: Outcome, place: int, side: Side) -> Outcome:
    return replace(outcome, **{("original", "changed")[place]: side})  # type: ignore[arg-type]
