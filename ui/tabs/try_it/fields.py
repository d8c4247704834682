"""The input of a question: the fields of a task, or a text whose task is detected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from evals.detection.detector import Guess, load_detector, split_fields
from evals.figures.captions import title
from evals.tasks import TASKS, Language, Task
from ui.components import forms
from ui.components.texts import language_of
from ui.components.widgets import Bilingual, Choice
from ui.engine.engine import AppEngine
from ui.shell import AT_ONCE, LAST

Choose = Callable[..., dict[Any, Any]]
"""Shows a task, see `TryIt.choose`."""

_MAX_GUESSES = 3
_MIN_PROBABILITY = 0.01  # a guess that would be shown as 0% is left out


class Fields:
    """The input: a text box and a list of options for each field, one of them visible.

    Attributes:
        boxes: Of each field its text box and its options.
        prompt: The prompt, which a visitor may rewrite.
        max_tokens: Longest answer.
        made_prompt: Hidden; the prompt as the fields made it. Kept in the browser as the prompt is,
            since a state on the server could be ahead of it.
        parts: All components.
    """

    def __init__(self, add: Bilingual, engine: AppEngine) -> None:
        self.engine = engine
        limits = engine.limits
        characters = limits.characters
        with gr.Row(elem_id="asking"):
            with gr.Column(min_width=260):
                self.slots = [
                    (
                        gr.Textbox(visible=False, max_length=characters, elem_id=f"field-{place}"),
                        Choice(visible=False, elem_classes="options"),
                    )
                    for place in range(forms.SLOTS)
                ]
            with gr.Column(min_width=260):
                self.prompt = add(
                    gr.Textbox,
                    {"label": "prompt", "placeholder": "prompt_placeholder"},
                    lines=3,
                    max_lines=10,
                    max_length=characters,
                    elem_id="prompt",
                )
                self.max_tokens = add(
                    gr.Slider,
                    "most_tokens",
                    minimum=1,
                    maximum=limits.answer_tokens,
                    step=1,
                    buttons=[],
                )
        self.made_prompt = gr.Textbox(visible="hidden")
        self.boxes = [component for slot in self.slots for component in slot]
        self.parts = [*self.boxes, self.prompt, self.max_tokens, self.made_prompt]

    def values(self, task: Task, boxes: Sequence[str | None]) -> dict[str, str]:
        """The value of each field of a task, given the values of all boxes."""
        return {
            field.name: boxes[2 * place + bool(field.options)] or ""
            for place, field in enumerate(task.fields)
        }

    def show(self, task: Task, values: Mapping[str, str], language: Language) -> dict[Any, Any]:
        """Show the fields of a task with values, or their defaults."""
        whole = {field.name: values.get(field.name, field.default) for field in task.fields}
        prompt = "" if forms.missing_field(task, whole) else task.prompt(whole)
        updates: dict[Any, Any] = {
            self.prompt: prompt,
            self.made_prompt: prompt,
            self.max_tokens: task.max_new_tokens,
        }
        updates |= dict.fromkeys(self.boxes, gr.update(visible=False, value=None))
        for field, (box, options) in zip(task.fields, self.slots, strict=False):
            shown: dict[str, Any] = {
                "visible": True,
                "label": forms.label(field, language),
                "value": whole[field.name],
            }
            if field.options:
                updates[options] = gr.update(choices=list(field.options), **shown)
            else:
                updates[box] = gr.update(lines=3 if field.multiline else 1, **shown)
        return updates

    def fill(self, task: Task, values: Mapping[str, str]) -> dict[Any, Any]:
        """Put values into the fields of the task that is shown."""
        updates: dict[Any, Any] = {
            slot[bool(field.options)]: values[field.name]
            for field, slot in zip(task.fields, self.slots, strict=False)
        }
        updates[self.prompt] = updates[self.made_prompt] = task.prompt(values)
        return updates

    def make_prompt(
        self,
        cluster: str,
        task: str,
        prompt: str | None,
        made_prompt: str | None,
        *boxes: str | None,
    ) -> Any:
        """The prompt and the made prompt once all fields are filled in."""
        form = forms.task_of(self.engine, cluster, task)
        values = self.values(form, boxes)
        if forms.missing_field(form, values):
            is_own = prompt and prompt != made_prompt and not any(values.values())
            return gr.skip() if is_own else ("", "")
        made = form.prompt(values)
        return made, made


# Free input ------------------------------------------------------------------------------------


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
            self._choice = add.options("guesses", visible=False, elem_id="guesses")

    def wire(self, engine: AppEngine, choose: Choose, outputs: list[Any]) -> None:
        """Connect the events; `outputs` are the components that `choose` updates."""
        self._engine, self._choose = engine, choose
        self._words.change(self.show, self._words, self._choice, **LAST)
        self._words.submit(self.take_best, self._words, outputs, **AT_ONCE)
        self._choice.input(self.take, [self._choice, self._words], outputs, **LAST)

    def show(self, words: str | None, request: gr.Request) -> Any:
        """Show the most probable tasks."""
        language = language_of(request)
        choices = [
            (f"{title(guess.task, language)} {guess.probability:.0%}", guess.task)
            for guess in self._guesses(words)
        ]
        return gr.update(choices=choices, value=None, visible=bool(choices))

    def _guesses(self, words: str | None) -> list[Guess]:
        tasks = self._tasks()
        if not (words and words.strip() and tasks):
            return []
        best, *others = load_detector().guesses(words, tasks)[:_MAX_GUESSES]
        return [best, *(guess for guess in others if guess.probability >= _MIN_PROBABILITY)]

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
