"""Any text in, and the tasks that it looks like: for those who do not know the tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from evals.detection.detector import Guess, load_detector, split_fields
from evals.tasks import TASKS, Task
from ui.components import forms
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.components.texts import language_of
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, LAST

Choose = Callable[..., dict[Any, Any]]
"""Shows a task; see `TryIt.choose`."""

_GUESSES = 3
_LEAST = 0.01  # what would be shown as 0% is no proposal


class FreeInput:
    """A text box and, below it, the tasks that its text looks like, with their probabilities."""

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
        """Say what happens when.

        Args:
            engine: Whose tasks there are.
            choose: See `Choose`.
            outputs: What it updates.
        """
        self._engine, self._choose = engine, choose
        self._words.change(self._show, self._words, self._choice, **LAST)
        self._words.submit(self._take_best, self._words, outputs, **AT_ONCE)
        self._choice.input(self._take, [self._choice, self._words], outputs, **LAST)

    def _show(self, words: str | None, request: gr.Request) -> Any:
        language = language_of(request)
        choices = [
            (f"{forms.title(TASKS[guess.task], language)} {guess.probability:.0%}", guess.task)
            for guess in self._guesses(words)
        ]
        return gr.update(choices=choices, value=None, visible=bool(choices))

    def _guesses(self, words: str | None) -> list[Guess]:
        tasks = self._known()
        if not (words and words.strip() and tasks):
            return []
        best, *others = load_detector().guesses(words, tasks)[:_GUESSES]
        return [best, *(guess for guess in others if guess.probability >= _LEAST)]

    def _known(self) -> list[str]:
        """The tasks of all clusters that somebody has described."""
        names = self._engine.clusters()
        known = dict.fromkeys(task for name in names for task in self._engine.tasks(name))
        return [task for task in known if task in TASKS]

    def _take_best(self, words: str | None, request: gr.Request) -> Any:
        guesses = self._guesses(words)
        return self._take(guesses[0].task, words, request) if guesses else gr.skip()

    def _take(self, task: str | None, words: str | None, request: gr.Request) -> Any:
        """The form of a task with the text in it."""
        if not words or task is None or task not in self._known():
            return gr.skip()
        form = TASKS[task]
        cluster, values = self._engine.find(task), split_fields(form, words)
        if values is None and load_detector().prompt_probability(words) > 0.5:
            # An instruction in other words: the adapters know such prompts as they are.
            return self._choose(cluster, task, request, _no_values(form), words)
        return self._choose(cluster, task, request, values or {form.fields[0].name: words})


def _no_values(form: Task) -> dict[str, str]:
    return {field.name: "" for field in form.fields}
