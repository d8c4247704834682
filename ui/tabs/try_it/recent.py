"""The questions that this browser asked last; they are stored in the browser."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from evals.figures.captions import title
from evals.tasks import Language
from ui.components import forms
from ui.components.texts import language_of
from ui.components.widgets import Bilingual, show_lines
from ui.engine.engine import AppEngine
from ui.shell import AT_ONCE, Shell
from ui.tabs.try_it.fields import Choose

_MAX_QUESTIONS = 10
_ANSWER_LENGTH = 24


@dataclass(frozen=True)
class RecentQuestion:
    """The values of a task's fields, and the answer of a cluster's adapter."""

    cluster: str
    task: str
    values: Mapping[str, str]
    answer: str


class Recent:
    """The list of them; a click on one shows it again. `parts` are what `add` updates."""

    def __init__(self, add: Bilingual) -> None:
        # Not a secret: the data stays in the visitor's own browser, and must outlive the server.
        self.kept = gr.BrowserState([], storage_key="cgclora-recent", secret="cgclora")  # noqa: S106
        with gr.Column(visible=False, elem_id="recent") as self._column:
            self._list = add.text_list("recent", "recent-questions")
            self._forget = add(gr.Button, "forget_recent", size="sm", elem_id="forget-recent")
        self.parts = [self.kept, self._column, self._list]

    def wire(self, shell: Shell, engine: AppEngine, choose: Choose, outputs: list[Any]) -> None:
        """Connect the events; `outputs` are the components that `choose` updates."""
        self._engine, self._choose = engine, choose
        shell.on_open(self.open, [self.kept], [self._column, self._list])
        self._forget.click(self.clear, None, self.parts, **AT_ONCE)
        self._list.click(self.show_again, [self._list, self.kept], outputs, **AT_ONCE)

    def add(self, kept: object, newest: RecentQuestion, language: Language) -> dict[Any, Any]:
        """Add a question, in place of an older one with the same input."""
        older = (one for one in read(kept) if _key(one) != _key(newest))
        return self._keep([newest, *older][:_MAX_QUESTIONS], language)

    def _keep(self, questions: list[RecentQuestion], language: Language) -> dict[Any, Any]:
        stored = [asdict(question) for question in questions]
        return {self.kept: stored, **self._show(questions, language)}

    def _show(self, questions: list[RecentQuestion], language: Language) -> dict[Any, Any]:
        lines = [self._line(question, language) for question in questions]
        return {
            self._column: gr.update(visible=bool(lines)),
            self._list: show_lines("recent", lines, language),
        }

    def _line(self, question: RecentQuestion, language: Language) -> str:
        """The task and the beginnings of input and answer."""
        task = forms.task_of(self._engine, question.cluster, question.task)
        answer = forms.shortened(question.answer, _ANSWER_LENGTH)
        return f"{title(task, language)} · {forms.beginning(question.values)} → {answer}"

    def open(self, kept: object, request: gr.Request) -> dict[Any, Any]:
        """Show the questions that the browser has stored."""
        return self._show(read(kept), language_of(request))

    def clear(self, request: gr.Request) -> dict[Any, Any]:
        """Delete all of them."""
        return self._keep([], language_of(request))

    def show_again(self, index: int, kept: object, request: gr.Request) -> Any:
        """Fill the form with one of them."""
        questions = read(kept)
        question = questions[index] if 0 <= index < len(questions) else None
        # The cluster's name may mean another adapter by now.
        if question is None or not self._engine.knows(question.cluster, question.task):
            return gr.skip()
        return self._choose(question.cluster, question.task, request, question.values)


def read(kept: object) -> list[RecentQuestion]:
    """The stored questions, newest first; invalid entries are left out."""
    questions = []
    for entry in kept if isinstance(kept, list) else []:
        try:
            one = RecentQuestion(**entry)
        except TypeError:
            continue
        values = one.values if isinstance(one.values, dict) else {"": None}
        words = (one.cluster, one.task, one.answer, *values, *values.values())
        if all(isinstance(word, str) for word in words):
            questions.append(one)
    return questions


def _key(question: RecentQuestion) -> tuple[str, str, dict[str, str]]:
    return question.cluster, question.task, dict(question.values)
