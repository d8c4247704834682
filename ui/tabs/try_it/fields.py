"""The fields of a task as components, and the prompt that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from evals.tasks import Language, Task
from ui.components import forms
from ui.components.bilingual import Bilingual
from ui.components.choices import Choice
from ui.engine.settings import AppLimits


class Fields:
    """The input: a text box and a list of options for each field, one of them visible.

    Attributes:
        boxes: Of each field its text box and its options.
        prompt: The prompt, which a visitor may rewrite.
        most: Longest answer.
        made_prompt: Hidden; the prompt as the fields made it. Kept in the browser as the prompt is,
            since a state on the server could be ahead of it.
        parts: All components.
    """

    def __init__(self, add: Bilingual, limits: AppLimits) -> None:
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
                self.most = add(
                    gr.Slider,
                    {"label": "most_tokens"},
                    minimum=1,
                    maximum=limits.answer_tokens,
                    step=1,
                    buttons=[],
                )
        self.made_prompt = gr.Textbox(visible="hidden")
        self.boxes = [component for slot in self.slots for component in slot]
        self.parts = [*self.boxes, self.prompt, self.most, self.made_prompt]

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
            self.most: task.max_new_tokens,
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
        self, task: str, prompt: str | None, made_prompt: str | None, *boxes: str | None
    ) -> Any:
        """The prompt and the made prompt once all fields are filled in."""
        form = forms.task_named(task)
        values = self.values(form, boxes)
        if forms.missing_field(form, values):
            is_own = prompt and prompt != made_prompt and not any(values.values())
            return gr.skip() if is_own else ("", "")
        made = form.prompt(values)
        return made, made
