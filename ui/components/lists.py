"""Lists of texts that can be clicked."""

from collections.abc import Iterable
from typing import Any

import gradio as gr

from evals.tasks import Language, Task
from ui.components import forms
from ui.components.bilingual import Bilingual
from ui.components.texts import text


def text_list(add: Bilingual, label: str, elem_id: str) -> Any:
    """An empty list; a click gives the index of a line.

    Args:
        add: Makes components.
        label: Key of the list's label.
        elem_id: Id of its element.
    """
    return add(
        gr.Dataset,
        {"label": label},
        components=[gr.Textbox(visible=False)],
        samples=[],
        type="index",
        elem_id=elem_id,
    )


def show_lines(label: str, lines: Iterable[str], language: Language) -> gr.Dataset:
    """An update of a list, which is hidden if there are no lines."""
    samples = [[line] for line in lines]
    return gr.Dataset(label=text(label, language), samples=samples, visible=bool(samples))


def show_samples(label: str, task: Task, language: Language) -> gr.Dataset:
    """An update of a list with the samples of a task."""
    lines = (forms.beginning(sample.fields) for sample in forms.samples(task))
    return show_lines(label, lines, language)
