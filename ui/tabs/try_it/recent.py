"""The questions that this browser asked last. They stay in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components import forms
from ui.components.bilingual import Bilingual
from ui.components.texts import language_of, text
from ui.engine.engine import Engine
from ui.shell import AT_ONCE, Shell
from ui.tabs.try_it.free_input import Choose

_MOST = 10
_MOST_OF_ANSWER = 24


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        cluster: Name of the adapter.
        task: Name of the task.
        values: A value for each field.
        answer: What the adapter said.
    """

    cluster: str
    task: str
    values: Mapping[str, str]
    answer: str


class Recent:
    """The list of them, a click on one brings it back.

    Attributes:
        kept: What the browser keeps.
        parts: What `add` updates.
    """

    def __init__(self, add: Bilingual) -> None:
        # No secret: what is kept lies in the visitor's own browser, and must outlive the server.
        self.kept = gr.BrowserState([], storage_key="cgclora-recent", secret="cgclora")  # noqa: S106
        with gr.Column(visible=False, elem_id="recent") as self._part:
            self._list = add(
                gr.Dataset,
                {"label": "recent"},
                components=[gr.Textbox(visible=False)],
                samples=[],
                type="index",
                elem_id="recent-questions",
            )
            self._forget = add(
                gr.Button, {"value": "forget_recent"}, size="sm", elem_id="forget-recent"
            )
        self.parts = [self.kept, self._part, self._list]

    def wire(self, shell: Shell, engine: Engine, choose: Choose, outputs: list[Any]) -> None:
        """Say what happens when.

        Args:
            shell: Around the tab.
            engine: Whose clusters there are.
            choose: See `Choose`.
            outputs: What it updates.
        """
        self._engine, self._choose = engine, choose
        shell.on_open(self._open, [self.kept], [self._part, self._list])
        self._forget.click(self._clear, None, self.parts, **AT_ONCE)
        self._list.click(self._bring_back, [self._list, self.kept], outputs, **AT_ONCE)

    def add(self, kept: object, newest: Asked, language: Language) -> dict[Any, Any]:
        """Updates with one more question; an older one of the same words goes."""
        older = (one for one in read(kept) if _question(one) != _question(newest))
        return self._keep([newest, *older][:_MOST], language)

    def _keep(self, asked: list[Asked], language: Language) -> dict[Any, Any]:
        return {self.kept: [asdict(one) for one in asked], **self._shown(asked, language)}

    def _shown(self, asked: list[Asked], language: Language) -> dict[Any, Any]:
        return {
            self._part: gr.update(visible=bool(asked)),
            self._list: gr.Dataset(
                label=text("recent", language), samples=[[_line(one, language)] for one in asked]
            ),
        }

    def _open(self, kept: object, request: gr.Request) -> dict[Any, Any]:
        return self._shown(read(kept), language_of(request))

    def _clear(self, request: gr.Request) -> dict[Any, Any]:
        return self._keep([], language_of(request))

    def _bring_back(self, index: int, kept: object, request: gr.Request) -> Any:
        asked = read(kept)
        one = asked[index] if 0 <= index < len(asked) else None
        # The cluster may be another adapter of the same name by now.
        if one is None or not self._engine.knows(one.cluster, one.task):
            return gr.skip()
        return self._choose(one.cluster, one.task, request, one.values)


def read(kept: object) -> list[Asked]:
    """What a browser keeps, the newest first; whatever else lies there is left out."""
    found = []
    for entry in kept if isinstance(kept, list) else []:
        try:
            one = Asked(**entry)
        except TypeError:
            continue
        values = one.values if isinstance(one.values, dict) else {"": None}
        words = (one.cluster, one.task, one.answer, *values, *values.values())
        if all(isinstance(word, str) for word in words):
            found.append(one)
    return found


def _question(one: Asked) -> tuple[str, str, dict[str, str]]:
    return one.cluster, one.task, dict(one.values)


def _line(one: Asked, language: Language) -> str:
    """Task, beginning of the input and of the answer."""
    task = forms.title(forms.task_named(one.task), language)
    said = forms.shortened(one.answer, _MOST_OF_ANSWER)
    return f"{task} · {forms.beginning(one.values)} → {said}"
