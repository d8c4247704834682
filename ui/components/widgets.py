"""Components with translated texts, and groups of components that several tabs use."""

from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from evals.tasks import Language, Task
from ui.components import forms
from ui.components.html import quiet
from ui.components.texts import Word, marker, text

Words = str | Callable[[Word], str]


class Bilingual:
    """Makes components and records which of their properties are translated.

    On first paint the browser inserts the words of its own language; `updates` switches to another.
    """

    def __init__(self) -> None:
        self.components: list[Any] = []
        self._words: list[dict[str, Words]] = []

    def __call__(
        self, kind: Callable[..., Any], words: str | dict[str, Words], **properties: Any
    ) -> Any:
        """Make a component.

        Args:
            kind: Its class.
            words: Properties that are words: a key of `TEXTS`, or a function that builds on keys. A
                key alone is the label, or a button's text.
            properties: The others.
        """
        if isinstance(words, str):
            words = {"value" if kind is gr.Button else "label": words}
        component = kind(**_translated(words, marker), **properties)
        self.components.append(component)
        self._words.append(words)
        return component

    def paragraph(self, key: str, **properties: Any) -> Any:
        """A line of explanation."""
        return self(gr.HTML, {"value": lambda word: quiet(word(key))}, **properties)

    @contextmanager
    def section(self, heading: str, intro: str = "", **column: Any) -> Iterator[None]:
        """A column with a heading and a line of explanation, to be filled."""
        with gr.Column(**{"elem_classes": "step", **column}):
            self(gr.HTML, {"value": lambda word: f"<h2>{word(heading)}</h2>"})
            if intro:
                self.paragraph(intro)
            yield

    def small_button(self, label: str, width: int, **properties: Any) -> Any:
        """A small button that does not grow."""
        return self(gr.Button, label, size="sm", scale=0, min_width=width, **properties)

    def options(self, words: str | dict[str, Words], kind: Any = None, **properties: Any) -> Any:
        """A `Choice`, or another kind of choice, whose options stand in a row."""
        return self(kind or Choice, words, elem_classes="options", **properties)

    def text_list(self, label: str, elem_id: str) -> Any:
        """An empty list of texts, see `show_lines`; a click gives the index of a line."""
        return self(
            gr.Dataset,
            label,
            components=[gr.Textbox(visible=False)],
            samples=[],
            type="index",
            elem_id=elem_id,
        )

    def updates(self, language: Language) -> dict[Any, Any]:
        """An update for each component, with its words in a language."""
        word = partial(text, language=language)
        return {
            component: gr.update(**_translated(words, word))
            for component, words in zip(self.components, self._words, strict=True)
        }


def _translated(words: dict[str, Words], word: Word) -> dict[str, Any]:
    return {name: word(key) if isinstance(key, str) else key(word) for name, key in words.items()}


def plot(elem_id: str | None = None, **properties: Any) -> gr.Plot:
    """Room for a figure."""
    return gr.Plot(show_label=False, container=False, elem_id=elem_id, **properties)


def show_lines(label: str, lines: Iterable[str], language: Language) -> gr.Dataset:
    """An update of a list of texts, which is hidden if there are no lines."""
    samples = [[line] for line in lines]
    return gr.Dataset(label=text(label, language), samples=samples, visible=bool(samples))


def show_samples(label: str, task: Task, language: Language) -> gr.Dataset:
    """An update of a list of texts with the samples of a task."""
    lines = (forms.beginning(sample.fields) for sample in forms.samples(task))
    return show_lines(label, lines, language)


def _unchecked(_: Component, payload: Any) -> Any:
    return payload


def _lenient(kind: type[Component]) -> Any:
    """A component whose choices may be replaced while a visitor chooses.

    The browser applies an update piece by piece, so an event may carry a value of the previous
    choices. Gradio would raise an error; these components leave it to the event's handler.
    """
    # Without the metaclass of Gradio's components, which writes a stub file beside the source.
    members = {"is_template": True, "preprocess": _unchecked, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), members)


Choice: Any = _lenient(gr.Radio)
Choices: Any = _lenient(gr.CheckboxGroup)
Pick: Any = _lenient(gr.Dropdown)
