"""Tasks of a user's own: what they were recognised as, and a table that corrects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from cgclora.data.records import DataError, Record
from cgclora.data.task_table import TABLE_FILE
from evals.detection.detector import split_fields
from evals.figures.captions import title
from evals.scoring.metrics import metric_title
from evals.tasks import Language, Task
from evals.tasks.recognition import Entry, corrected, task_of, to_toml
from ui.components import render
from ui.components.forms import shortened
from ui.components.html import block, wide_table
from ui.components.texts import text
from ui.components.widgets import Bilingual

Examples = Mapping[str, Sequence[Record]]
"""A few records of each task by its name."""

_LABELS = 4  # of a task that are shown
_PROMPT, _TARGET = 60, 40  # characters of an example that are shown


@dataclass(frozen=True)
class Corrections:
    """A table as a visitor left it.

    Attributes:
        written: The table.
        recognised: What it was before; empty if there was nothing to correct.
    """

    written: str = ""
    recognised: str = ""

    @classmethod
    def of(cls, written: str | None = None, recognised: str | None = None) -> Corrections:
        """From the values of `OwnTasks.inputs`."""
        return cls(written or "", recognised or "")

    def applies(self, own: Sequence[Entry]) -> bool:
        """Whether it is a table of these tasks; else it was written for other data."""
        return bool(own) and self.recognised == to_toml(own)

    def entries(self, own: Sequence[Entry]) -> tuple[Entry, ...]:
        """The recognised entries, corrected.

        Raises:
            DataError: The table is damaged, or describes a task wrongly.
        """
        return corrected(own, self.written) if self.applies(own) else tuple(own)

    def tasks(self, own: Sequence[Entry]) -> dict[str, Task]:
        """The tasks by name, corrected, or as they were recognised while the table is wrong."""
        try:
            entries = self.entries(own)
        except DataError:
            entries = tuple(own)
        return {entry["name"]: task_of(entry) for entry in entries}


class OwnTasks:
    """A list of the tasks and, folded away, the table; made in the column that is open.

    The tab registers `written.change` with a handler that takes `inputs` and returns `show`.

    Attributes:
        written: The table, which a visitor may edit.
        inputs: The values of `Corrections.of`.
        parts: What `show` updates.
    """

    def __init__(self, add: Bilingual, prefix: str) -> None:
        self._list = gr.HTML(visible=False, elem_id=f"{prefix}-own")
        correct = {"visible": False, "open": False, "elem_id": f"{prefix}-own-correct"}
        with add(gr.Accordion, "own_correct", elem_classes="own-correct", **correct) as self._fold:
            add.paragraph("own_correct_note")
            self.written = gr.Textbox(
                label=TABLE_FILE,
                lines=10,
                max_lines=24,
                elem_classes="own-table",
                elem_id=f"{prefix}-own-table",
            )
            self._problem = gr.HTML(visible=False, elem_id=f"{prefix}-own-problem")
        # Kept in the browser as the table is: a state on the server could be ahead of it.
        self._recognised = gr.Textbox(visible="hidden")
        self.inputs = [self.written, self._recognised]
        self.parts = [self._list, self._fold, self._problem, *self.inputs]

    def show(
        self, own: Sequence[Entry], examples: Examples, of: Corrections, language: Language
    ) -> dict[Any, Any]:
        """Show the tasks, corrected if possible; other tasks than before get a fresh table.

        Args:
            own: The entries as they were recognised; empty to show nothing.
            examples: Of these tasks.
            of: The table as it is in the page.
            language: Of the words.
        """
        problem, fresh = "", to_toml(own)
        try:
            of.entries(own)
        except DataError as error:
            problem = render.notice(text("own_wrong", language), verbatim=str(error))
        tasks = [*of.tasks(own).values()]
        # Writing what is there already would still be a `change`.
        is_there = of.applies(own) or of == Corrections(fresh, fresh)
        return {
            self._list: block(listed(tasks, examples, language) if tasks else ""),
            self._fold: gr.update(visible=bool(tasks)),
            self._problem: block(problem),
            **({} if is_there else {self.written: fresh, self._recognised: fresh}),
        }


def listed(tasks: Sequence[Task], examples: Examples, language: Language) -> str:
    """Each task with the form of its answers, its main metric and a few examples, as HTML."""
    columns = [text(f"own_{name}", language) for name in ("tasks", "form", "metric", "examples")]
    rows = [
        (
            _name(task, language),
            escape(_form(task, language)),
            escape(metric_title(task.metrics[0], language)),
            "".join(_example(task, record) for record in examples.get(task.name, ())),
        )
        for task in tasks
    ]
    note = f"<p>{escape(text('own_note', language))}</p>"
    return note + wide_table(text("own_tasks", language), columns, rows, kind="own-list")


def _name(task: Task, language: Language) -> str:
    words = title(task, language)
    name = "" if words == task.name else f"<code>{escape(task.name)}</code>"
    return f"{escape(words)}{name}"


def _form(task: Task, language: Language) -> str:
    """The form of the answers, with a few labels."""
    words = text(f"own_form_{task.parse('').kind}", language)
    if not task.labels:
        return words
    more = " …" if len(task.labels) > _LABELS else ""
    return f"{words} ({' / '.join(task.labels[:_LABELS])}{more})"


def _example(task: Task, record: Record) -> str:
    """The beginning of what the prompt asks about, and that of the answer."""
    fields = split_fields(task, record.prompt)
    asked = " | ".join(fields.values()) if fields else record.prompt
    return (
        f'<p title="{escape(record.prompt)}"><span>{escape(shortened(asked, _PROMPT))} →</span> '
        f"{escape(shortened(record.target, _TARGET))}</p>"
    )
