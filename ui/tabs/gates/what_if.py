"""Compares a task's answers under learned and changed expert weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from gradio.utils import LRUCache

from cgclora.inference.request import Request
from evals.detection.detector import split_fields
from evals.tasks import Task
from ui.components import forms
from ui.engine.engine import AppEngine
from ui.engine.gate_changes import Outcome, Side, outcomes

MAX_TOKENS = 96
"""Longest answer that is compared."""

_CACHE_SIZE = 256


class WhatIf:
    """Compares answers, and caches those under the learned weights."""

    def __init__(self, engine: AppEngine) -> None:
        self._engine = engine
        self._cache: LRUCache[Request, Side] = LRUCache(_CACHE_SIZE)
        self._lock = threading.Lock()

    def compare(
        self,
        cluster: str,
        task: str,
        prompt: str,
        factors: Sequence[float],
        *,
        keep_sum: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[Outcome]:
        """Yield label probabilities first, then both answers as they grow, then the effects.

        The factors scale the weights of the task's experts; experts beyond them keep theirs. For
        `keep_sum` see `scaled_gates`. `stopped` is called before each outcome; True ends the
        comparison.

        Raises:
            EngineError: The model is not loaded, or the prompt is too long.
            DecodingError, ConfigError: The prompt cannot be answered.
        """
        form = forms.task_of(self._engine, cluster, task)
        limit = min(form.max_new_tokens, MAX_TOKENS)
        request = self._engine.request(cluster, task, prompt, limit)
        with self._lock:
            cached = self._cache.get(request)
        labels = labels_of(form, prompt)
        asked = self._engine.models.run(outcomes, request, labels, factors, keep_sum, cached)
        with closing(asked) as found:
            for outcome in found:
                if outcome.original.ended:
                    with self._lock:
                        self._cache[request] = outcome.original
                if stopped():
                    return
                yield outcome


def labels_of(task: Task, prompt: str) -> tuple[str, ...]:
    """Possible answers of a classification: the prompt's choices, else all of the task's labels.

    A prompt that does not follow the template may mention a label by chance, so it offers none.
    """
    if task.kind != "classification":
        return ()
    sample = next((one for one in forms.samples(task) if task.prompt(one.fields) == prompt), None)
    fields = split_fields(task, prompt)
    choices = sample.choices if sample else fields and task.choices(fields)
    return tuple(dict.fromkeys(task.answers(choices or None)))
