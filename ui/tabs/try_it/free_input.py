"""Detects the task of any text, for visitors who do not know the tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from evals.detection.detector import Guess, load_detector, split_fields
from evals.tasks import TASKS
from ui.components import forms
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.components.texts import language_of
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, LAST

Choose = Callable[..., dict[Any, Any]]
"""Shows a task, see `TryIt.choose`."""

_GUESSES = 3
_LEAST = 0.01  # a guess that would be shown as 0% is left out


class FreeInput:
    """A text box and, below it, the most probable tasks of its text."""

    def __init__(self, add: Bilingual, characters: int) -> None:
        with gr.Column(elem_id="free"):
            self._words = add(
                gr.Textbox,
                {"label": "free", "placeholder": "free_placeholder"},
                max_length=characters,
                lines=1,
                max_lines=1,  # so that Enter submits
                elem_id="free-input",
            )
            self._choice = add(
                Choice,
                {"label": "guesses"},
                visible=False,
                elem_classes="options",
                elem_id="guesses",
            )

    def wire(self, engine: Engine, choose: Choose, outputs: list[Any]) -> None:
        """Connect the events.

        Args:
            engine: Has the tasks.
            choose: See `Choose`.
            outputs: The components that `choose` updates.
        """
        self._engine, self._choose = engine, choose
        self._words.change(self.show, self._words, self._choice, **LAST)
        self._words.submit(self.take_best, self._words, outputs, **AT_ONCE)
        self._choice.input(self.take, [self._choice, self._words], outputs, **LAST)

    def show(self, words: str | None, request: gr.Request) -> Any:
        """Show the most probable tasks."""
        language = language_of(request)
        choices = [
            (f"{forms.title(TASKS[guess.task], language)} {guess.probability:.0%}", guess.task)
            for guess in self._guesses(words)
        ]
        return gr.update(choices=choices, value=None, visible=bool(choices))

    def _guesses(self, words: str | None) -> list[Guess]:
        tasks = self._tasks()
        if not (words and words.strip() and tasks):
            return []
        best, *others = load_detector().guesses(words, tasks)[:_GUESSES]
        return [best, *(guess for guess in others if guess.probability >= _LEAST)]

    def _tasks(self) -> list[str]:
        """The tasks of all clusters, except those without a description."""
        names = self._engine.clusters()
        tasks = dict.fromkeys(task for name in names for task in self._engine.tasks(name))
        return [task for task in tasks if task in TASKS]

    def take_best(self, words: str | None, request: gr.Request) -> Any:
        """Show the form of the most probable task with the text in it."""
        guesses = self._guesses(words)
        return self.take(guesses[0].task, words, request) if guesses else gr.skip()

    def take(self, task: str | None, words: str | None, request: gr.Request) -> Any:
        """Show the form of a task with the text in it."""
        if not words or task is None or task not in self._tasks():
            return gr.skip()
        form = TASKS[task]
        cluster, values = self._engine.find(task), split_fields(form, words)
        if values is None and load_detector().prompt_probability(words) > 0.5:
            # An instruction that does not follow the template is used as the prompt itself.
            empty = {field.name: "" for field in form.fields}
            return self._choose(cluster, task, request, empty, words)
        return self._choose(cluster, task, request, values or {form.fields[0].name: words})
